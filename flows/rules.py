"""The words in which a system writes down what a batch must be like before it may be written: Great Expectations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from featurestore.schema import Feature

Rule = dict[str, Any]
"""One expectation, as Great Expectations writes it."""

Suite = dict[str, Any]
"""A name and its rules, as `get_or_create_feature_group(expectation_suite=...)` takes it."""

Severity = Literal["critical", "warning"]
"""A critical rule stops the batch; a warning is in the report and stops nothing."""


def rule(kind: str, *, severity: Severity = "critical", **kwargs: Any) -> Rule:
    """One expectation by its name in Great Expectations, without "expect_".

    >>> rule("column_values_to_be_unique", column="tid")["type"]
    'expect_column_values_to_be_unique'
    """
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


def never_null(*names: str, severity: Severity = "critical") -> list[Rule]:
    """These columns have a value in every row.

    >>> [each["kwargs"]["column"] for each in never_null("tid", "amount")]
    ['tid', 'amount']
    """
    return [rule("column_values_to_not_be_null", column=name, severity=severity) for name in names]


def between(name: str, low: float | None, high: float | None, *, severity: Severity = "critical") -> Rule:
    """Values lie in [low, high], where there is one; None leaves that side open.

    >>> between("hour", 0, 23)["kwargs"]
    {'column': 'hour', 'min_value': 0, 'max_value': 23}
    """
    return rule("column_values_to_be_between", column=name, min_value=low, max_value=high, severity=severity)


def in_set(name: str, values: Sequence[Any], *, severity: Severity = "critical") -> Rule:
    """Values are among these, where there is one.

    >>> in_set("is_fraud", [0, 1])["kwargs"]["value_set"]
    [0, 1]
    """
    return rule("column_values_to_be_in_set", column=name, value_set=list(values), severity=severity)


def later(name: str, than: str) -> Rule:
    """One column's value is greater than the other's in every row that has both.

    >>> later("known_at", than="hour")["kwargs"]
    {'column_A': 'known_at', 'column_B': 'hour'}
    """
    return rule("column_pair_values_a_to_be_greater_than_b", column_A=name, column_B=than)


def columns(features: Sequence[Feature]) -> list[str]:
    """The features' names, in order.

    >>> columns([Feature("cc_num", "string"), Feature("amount", "double")])
    ['cc_num', 'amount']
    """
    return [feature.name for feature in features]
