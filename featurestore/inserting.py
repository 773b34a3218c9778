"""From a frame to rows that may be written: through the contract and the rules, in order, each identity once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore import data_files, loose_tables, on_demand, validation
from featurestore.engines import staging
from featurestore.engines.staging import Staged
from featurestore.errors import FeatureStoreError, InvalidData, SchemaMismatch
from featurestore.group_definition import GroupDefinition
from featurestore.schema import TIMESTAMP, as_arrow, as_stream, check_index, conform, infer_features
from featurestore.times import Window

if TYPE_CHECKING:
    from featurestore.settings import Settings

ROWS_AT_ONCE, BYTES_AT_ONCE = 1 << 20, 1 << 28
"""A stream of fewer rows, and fewer bytes, is a frame; rules judge a longer one in pieces of about so many."""

Report = dict[str, Any]
Judge = Callable[[pa.Table], Report | None]
"""Says what the rules say of some rows; raises when these may not enter."""


@dataclass(frozen=True)
class Batch:
    """Rows that keep the contract and the rules, ready to be written.

    Args:
        definition: the contract, with the columns that the rows declare where nobody had declared any.
        rows: in memory and in order, each identity once; or staged on disk, for a long stream.
        deduplicated: how many rows gave way to a later one of their identity.
        report: what the expectation suite said; None without one.
    """

    definition: GroupDefinition
    rows: pa.Table | Staged
    deduplicated: int
    report: Report | None


@contextmanager
def prepared(frame: Any, definition: GroupDefinition, settings: Settings, judge: Judge | None) -> Iterator[Batch]:
    """The rows of a frame; staged ones are there until the end of the `with`.

    Args:
        judge: asked about the rows, of a long stream about one piece after the other.
    Raises:
        SchemaMismatch, InvalidData: the frame breaks the contract, or what `judge` raises.
        FeatureStoreError: the disk is full.
    """
    folder = settings.home.resolve() / "staging"
    if folder.exists():
        staging.sweep(folder)
    stream = as_stream(frame)
    if stream is not None:
        held, is_all = _some(stream.batches, stream.schema)
        if not is_all:
            pieces = chain([held], iter(lambda: _some(stream.batches, stream.schema)[0], None))
            with _staged(pieces, definition, settings, judge) as batch:
                yield batch
            return
        frame = held
    what = f"Feature group {definition.ref}"
    check_index(frame, [*definition.identity, *(f.name for f in definition.features)], what)
    declared, rows = _conformed(as_arrow(frame), definition, what)
    unique = data_files.in_order(rows, declared.order, declared.identity)
    report = None if judge is None else judge(unique)
    yield Batch(declared, unique, rows.num_rows - unique.num_rows, report)


def _conformed(rows: pa.Table, definition: GroupDefinition, what: str) -> tuple[GroupDefinition, pa.Table]:
    """Rows as the contract has them, with on-demand features computed; the contract has columns then."""
    rows = on_demand.computed(rows, definition.transformation_functions, definition.features, what)
    declared = definition if definition.features else definition.with_features(infer_features(rows.schema))
    try:
        conformed = conform(rows, declared.features, required=declared.identity, what=what)
    except (SchemaMismatch, InvalidData) as error:
        raise type(error)(
            f"{error} Nothing was written; other columns or types need a new version of the group."
        ) from error
    for name in declared.partition_key:
        if pa.types.is_string(conformed[name].type) and pc.any(pc.equal(conformed[name], "")).as_py():
            raise InvalidData(
                f"{what}: the partition key {name!r} holds an empty text, which other Delta readers take for null. "
                "Nothing was written. Make it null, or give it a name such as 'none'."
            )
    return declared, conformed


def _some(batches: Iterator[pa.Table], schema: pa.Schema) -> tuple[pa.Table, bool]:
    """The next rows of a stream, about as many as may be in memory at once, and whether it ended with them."""
    held, rows, size = [schema.empty_table()], 0, 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
            return pa.concat_tables(held), False
    return pa.concat_tables(held), True


@contextmanager
def _staged(
    pieces: Iterator[pa.Table], definition: GroupDefinition, settings: Settings, judge: Judge | None
) -> Iterator[Batch]:
    ref, folder = definition.ref, settings.home.resolve() / "staging"
    declared, first = _conformed(next(pieces), definition, f"Feature group {ref}")
    try:
        with staging.staged(
            folder, declared.schema, identity=declared.identity, order=declared.order,
            memory_limit=settings.memory_limit, threads=settings.threads,
        ) as stage:  # fmt: skip
            reports, rows = [], first
            while rows.num_rows:
                if judge is not None and (report := judge(rows)) is not None:
                    reports.append(report)
                stage.add(rows)
                what = f"Feature group {ref} (rows counted from row {stage.added} of the stream)"
                _, rows = _conformed(next(pieces), declared, what)
            report = validation.merged(reports) if reports else None
            yield Batch(declared, stage, stage.added - stage.num_rows, report)
    except OSError as error:
        raise FeatureStoreError(
            f"Rows for {ref} cannot be staged below {settings.home}: {error}. Check that the disk has room "
            "and that you may write there. Nothing was committed."
        ) from error


def judged(
    rows: pa.Table, definition: GroupDefinition, *, quarantine: str, window: Window | None,
    clock: Callable[[], datetime],
) -> Report | None:  # fmt: skip
    """What the group's expectation suite says of rows; None without a suite.

    Raises:
        InvalidData: the suite is STRICT and a rule failed; the rows to blame are in the quarantine.
    """
    suite = definition.expectation_suite
    if not suite:
        return None
    report = validation.check(rows, suite)
    if not report.success and definition.validation_ingestion_policy == "STRICT":
        loose_tables.append(quarantine, _rejected(rows, report, clock()))
        raise InvalidData(
            f"{definition.ref}{f', window {window}' if window else ''}: {report.summary()} Nothing was written; "
            "fg.quarantine() shows the rejected rows.",
            report.to_json(),
        )
    return report.to_json()


def _rejected(rows: pa.Table, report: validation.Report, now: datetime) -> pa.Table:
    positions = [int(i) for i in report.failed_rows.nonzero()[0]]
    if not positions:  # a rule about the whole batch: no single row is to blame
        positions = list(range(rows.num_rows))
    batch_rules = "; ".join(o.rule for o in report.outcomes if not o.success and o.is_blocking)
    rules = ["; ".join(report.rules_of(i)) or batch_rules for i in positions]
    rejected = rows.cast(pa.schema([f.with_nullable(True) for f in rows.schema])).take(pa.array(positions, pa.int64()))
    rejected = rejected.append_column("__rule", pa.array(rules, pa.string()))
    return rejected.append_column("__rejected_at", pa.repeat(pa.scalar(now, TIMESTAMP), len(positions)))
