"""Values and reports as Prefect's pages show them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any


def slug(key: str) -> str:
    """The key with what Prefect refuses in it made a dash.

    >>> slug("validation-fraud_card_windows")
    'validation-fraud-card-windows'
    """
    return re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")


def as_markdown(report: Mapping[str, Any]) -> str:
    """Single values as a list, lists of mappings as tables; nothing is left out but what is nested deeper."""
    lines = [f"- **{name}**: {_cell(value)}" for name, value in report.items() if _is_single(value)]
    for name, value in report.items():
        rows = [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []
        columns = list(dict.fromkeys(column for row in rows for column, cell in row.items() if _is_single(cell)))
        if columns:
            lines += ["", f"## {name}", "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
            lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _is_single(value: Any) -> bool:
    return not isinstance(value, Mapping | list | tuple | set)


def _cell(value: Any) -> str:
    if value is True or value is False:
        return "yes" if value else "**no**"
    return "" if value is None else str(plain(value)).replace("|", "\\|").replace("\n", " ")


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if hasattr(value, "item"):  # a number of numpy
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
