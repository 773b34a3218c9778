"""What a command prints: tables that fit the terminal, plain columns in a pipe, JSON when asked for.

Values and names come from data, so none of them is ever taken as markup or as a control sequence.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from rich.console import Console

Record = Mapping[str, Any]

_LONGEST_CELL = 48
_NARROWEST_FLEXIBLE = 10
_NAMES_LISTED = 8
_GAP = "  "
_STYLES = {"ok": "green", "info": "cyan", "warning": "yellow", "error": "bold red", "failed": "bold red"}


def literal(text: str) -> str:
    r"""The text on one line, with everything that does not print as an escape.

    >>> print(literal("[bold]x[/bold]" + chr(27) + "[31m"))
    [bold]x[/bold]\x1b[31m
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any, *, null: str = "-") -> str:
    """A value as a cell: times in UTC, numbers in full, anything else as text on one line.

    >>> [shown(v) for v in (None, True, 0.1, 12345, datetime(2021, 1, 1, tzinfo=UTC), ["a", 1], timedelta(days=2))]
    ['-', 'true', '0.1', '12345', '2021-01-01 00:00:00Z', '["a", 1]', '2 days']
    """
    if value is None or value != value:
        return null
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return f"{moment.replace(tzinfo=None).isoformat(sep=' ')}Z"
    if isinstance(value, timedelta):
        return length(value)
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, list | tuple | Mapping):
        import json

        return literal(json.dumps(_jsonable(value), ensure_ascii=False))
    return literal(str(value))


def short(value: Any) -> str:
    """A value as a cell of a summary: numbers in six digits, times to the second or as the day they begin, lists.

    >>> short(1234567.891), short(0.000012345678), short(14.0), short(1200), short(["a", "b"])
    ('1.23457e+06', '1.23457e-05', '14', '1,200', 'a, b')
    >>> short(datetime(2021, 1, 1, tzinfo=UTC)), short(datetime(2021, 1, 1, 8, 30, 0, 999, tzinfo=UTC))
    ('2021-01-01', '2021-01-01 08:30:00Z')
    """
    if isinstance(value, float) and value == value:
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, datetime):
        return shown(value.replace(microsecond=0)).removesuffix(" 00:00:00Z")
    if isinstance(value, list | tuple):
        return ", ".join(map(short, value)) or "-"
    return shown(value)


def length(stretch: timedelta) -> str:
    """A stretch of time in its two largest units.

    >>> length(timedelta(days=3, hours=4, minutes=5)), length(timedelta(seconds=1)), length(timedelta(0))
    ('3 days 4 hours', '1 second', '0 seconds')
    """
    seconds = abs(int(stretch.total_seconds()))
    parts = []
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count:,} {unit}{'s' if count > 1 else ''}")
    return ("-" if stretch < timedelta(0) else "") + (" ".join(parts[:2]) or "0 seconds")


def size(count: int) -> str:
    """A number of bytes for people.

    >>> size(0), size(1_234_567)
    ('0 bytes', '1.2 MB')
    """
    from rich.filesize import decimal

    return decimal(count)


def as_json(data: Any) -> None:
    """Print data as JSON, and nothing else: times as ISO text, decimals and infinities as text, bytes as
    hex, NaN as null."""
    import json

    # Escapes for everything beyond ASCII: a C1 control character would otherwise reach the terminal.
    print(json.dumps(_jsonable(data), indent=2, allow_nan=False))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(v) for v in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None if value != value else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "to_pylist"):
        return _jsonable(value.to_pylist())
    return str(value)


def line(message: str = "") -> None:
    """Print one line of text."""
    _console().print(message, markup=False, highlight=False, emoji=False, soft_wrap=True)


def error(message: str) -> None:
    """Print `Error: ...` in red on stderr, on one line whatever the message holds."""
    from rich.text import Text

    text = Text(f"Error: {literal(' '.join(message.split()))}", style="red")
    _console(stderr=True).print(text, soft_wrap=True)


def heading(title: str, description: str = "") -> None:
    """Print the title of what follows, and a sentence about it."""
    from rich.text import Text

    text = Text(literal(title), style="bold")
    if description:
        text.append(f"{_GAP}{literal(description)}", style="not bold")
    _console().print(text, soft_wrap=True)


def facts(pairs: Mapping[str, Any]) -> None:
    """Print names beside values, leaving out what is None or empty; long values wrap below themselves."""
    there = {_title(name): short(value) for name, value in pairs.items() if value not in (None, "", [], {})}
    width = max(map(len, there), default=0)
    console = _console()
    room = console.width - width - 2 * len(_GAP)
    for name, value in there.items():
        parts = [value]
        if console.is_terminal and room > 0:
            from rich.text import Text

            parts = [str(part) for part in Text(value).wrap(console, room)]
        for label, part in zip([name, *[""] * len(parts)], parts, strict=False):
            line(f"{_GAP}{label.ljust(width)}{_GAP}{part}")


def table(
    records: Sequence[Record], columns: Sequence[str], *, flexible: str = "", styles: Mapping[str, str] = _STYLES
) -> None:
    """Print records as a table of these columns, the most telling first.

    Args:
        flexible: the last column, which wraps when the terminal is narrow.
        styles: how cells that hold just this text are shown.
    """
    wanted = [*columns, flexible] if flexible else list(columns)
    cells = [[short(record.get(name)) for name in wanted] for record in records]
    numeric = {
        _title(name) for name in columns
        if all(isinstance(r.get(name), int | float) and not isinstance(r.get(name), bool) for r in records)
    }  # fmt: skip
    hidden = _print(_Cells([_title(n) for n in wanted], cells, numeric), flexible=bool(flexible), styles=styles)
    if hidden:
        line(f"Too narrow for: {_listed(hidden)}.")


def _title(name: str) -> str:
    return name.replace("_", " ")


def rows(data: pa.Table, *, limit: int, flexible: bool = False) -> None:
    """Print the first rows of a frame: as many columns as fit, the names of the others below.

    Args:
        flexible: the last column wraps when the terminal is narrow, and is always there.
    """
    import pyarrow as pa

    values = [[shown(v, null="null") for v in column.to_pylist()] for column in data.slice(0, limit).columns]
    cells = [list(row) for row in zip(*values, strict=True)]
    numeric = {f.name for f in data.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)}
    hidden = _print(_Cells(data.column_names, cells, numeric), flexible=flexible, styles={})
    if hidden:
        line(f"Too narrow for: {_listed(hidden)}. --json shows all columns.")
    if data.num_rows > limit:
        line(f"{data.num_rows - limit:,} more rows. --limit shows more, --json all of them.")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_LISTED:,} more" if len(names) > _NAMES_LISTED else ""
    return ", ".join(map(literal, names[:_NAMES_LISTED])) + more


@dataclass(frozen=True)
class _Cells:
    columns: list[str]
    rows: list[list[str]]
    numeric: set[str]

    def widths(self) -> list[int]:
        """The width of each column when nothing is cut."""
        from rich.cells import cell_len

        heads = [cell_len(literal(name)) for name in self.columns]
        return [max([head, *(cell_len(row[i]) for row in self.rows)]) for i, head in enumerate(heads)]


def _print(cells: _Cells, *, flexible: bool, styles: Mapping[str, str]) -> list[str]:
    """Print the cells; return the columns that a terminal had no room for."""
    console = _console()
    if not console.is_terminal:
        _print_plain(cells)
        return []
    from rich.table import Table
    from rich.text import Text

    places, widths = _fitting(cells.widths(), console.width, flexible=flexible)
    grid = Table(box=None, show_edge=False, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for place, width in zip(places, widths, strict=True):
        name, wraps = cells.columns[place], flexible and place == len(cells.columns) - 1
        grid.add_column(
            Text(literal(name)), width=width, justify="right" if name in cells.numeric else "left",
            no_wrap=not wraps, overflow="fold" if wraps else "ellipsis",
        )  # fmt: skip
    for row in cells.rows:
        grid.add_row(*(Text(row[place], style=styles.get(row[place], "")) for place in places))
    console.print(grid)
    return [name for place, name in enumerate(cells.columns) if place not in places]


def _fitting(natural: Sequence[int], room: int, *, flexible: bool) -> tuple[list[int], list[int]]:
    """Which columns fit, and how wide each becomes: the first ones, and the flexible last one squeezed.

    >>> _fitting([10, 10, 10], 24, flexible=False)
    ([0, 1], [10, 10])
    >>> _fitting([10, 10, 50], 40, flexible=True)
    ([0, 1, 2], [10, 10, 16])
    """
    widths = [min(width, _LONGEST_CELL) for width in natural]
    places = list(range(len(widths)))
    if flexible:
        widths[-1] = min(natural[-1], _NARROWEST_FLEXIBLE)

    def left() -> int:
        return room - sum(widths[p] for p in places) - len(_GAP) * (len(places) - 1)

    while left() < 0 and len(places) > (2 if flexible else 1):
        places.pop(-2 if flexible else -1)
    if flexible:
        widths[-1] = min(natural[-1], widths[-1] + max(left(), 0))
    return places, [widths[p] for p in places]


def _print_plain(cells: _Cells) -> None:
    from rich.cells import cell_len

    widths = cells.widths()
    for row in [[literal(name) for name in cells.columns], *cells.rows]:
        padded = [
            " " * (width - cell_len(cell)) + cell if name in cells.numeric else cell + " " * (width - cell_len(cell))
            for name, cell, width in zip(cells.columns, row, widths, strict=True)
        ]
        print(_GAP.join(padded).rstrip())


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr while something long runs, in a terminal only; call what it yields with each advance."""
    from rich.progress import Progress

    console = _console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda amount: bar.advance(task, amount)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(file=sys.stderr if stderr else sys.stdout, highlight=False, markup=False, emoji=False)
