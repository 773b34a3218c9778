"""What a check found: which thing, how bad, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check (`doctor`, `check_leakage`, `check_skew`) has to say.

    Args:
        severity: "error" is wrong now, "warning" probably is, "info" is worth knowing.
        subject: what it is about, such as "feature group cards_v1" or "feature 'amount'".
        message: what was found, with names, values and counts.
        remedy: what to do next; "" where nothing has to be done.

    >>> print(Finding("warning", "feature 'amount'", "It follows the label.", "Check its event time."))
    warning: feature 'amount': It follows the label. Check its event time.
    """

    severity: Severity
    subject: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.subject}: {self.message} {self.remedy}".rstrip()
