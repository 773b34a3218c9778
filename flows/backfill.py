"""Backfill: the pieces of a system's time that are missing, are written in order by the system's own feature flow."""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger

import featurestore
from featurestore.errors import FeatureStoreError
from featurestore.times import Window
from flows import command_line, events, partitions, systems, windows
from flows.settings import Settings
from flows.writing import Writing

if TYPE_CHECKING:
    from flows.partitions import Partition


class UnknownSystem(FeatureStoreError, ValueError):
    """There is no system of that name; the message lists those there are."""


@flow(name="backfill")
def backfill(
    system: str, start: datetime | None = None, end: datetime | None = None, every: int = 30, stale_too: bool = False
) -> int:
    """Write what is missing of a system's features in [start, end), piece by piece; return the rows written.

    A piece is a stretch of `every` days, cut at multiples since 1970. What is all there is left alone; so a backfill
    that was killed goes on where it was, and one that is done does nothing. With stale_too what older code computed is
    written again, too. The artifact `partitions-<system>` shows the pieces before and after. Without start it begins
    where the source does, without end it goes to the last full hour.

    Events tell of the whole as of one run: who waits for new rows starts once, when all of it is written.
    """
    feature_flow, span = _flow_of(system), _span(system, start, end)
    fs = featurestore.connect(home=Settings().store_home)

    def pieces() -> list[Partition]:
        pipeline, source = (import_module(f"flows.{system}.{name}") for name in ("feature_pipeline", "source"))
        groups = pipeline.feature_groups(fs, source=source.source_name()).values()
        found = partitions.of_groups(groups, span, timedelta(days=every), code=partitions.code_of(system))
        table = [{"start": piece.window.start, "end": piece.window.end, "state": piece.state} for piece in found]
        events.summary_artifact(f"partitions-{system}", table)
        return found

    events.name_run(f"{system} {span}")
    before = pieces()
    todo = [piece.window for piece in before if piece.state != "done" and (stale_too or piece.state != "stale")]
    get_run_logger().info("%s: %d of %d pieces of %s are to be written.", system, len(todo), len(before), span)
    rows = 0
    with Writing():  # what the pieces write are parts of this run
        for window in events.progress(todo, f"Backfill of {system}"):
            rows += feature_flow(start=window.start, end=window.end)
    after = pieces() if todo else before
    left = sum(piece.state in ("missing", "partly") for piece in after)
    row = {
        "system": system,
        "window": str(span),
        "pieces_written": len(todo),
        "pieces_left": left,
        "rows_written": rows,
    }
    events.summary_artifact("backfill-summary", [row])
    return rows


def _flow_of(system: str) -> Any:
    if system not in systems():
        raise UnknownSystem(f"There is no system {system!r}. It is one of {', '.join(systems())}.")
    return getattr(import_module(f"flows.{system}.feature_pipeline"), f"{system}_features")


def _span(system: str, start: datetime | None, end: datetime | None) -> Window:
    source = import_module(f"flows.{system}.source")
    until = source.available_until(windows.scheduled_time())
    window = windows.next_window(None, start, end, earliest=source.span().start, at=until)
    return Window(until, until) if window is None else window


if __name__ == "__main__":
    command_line.run(backfill)
