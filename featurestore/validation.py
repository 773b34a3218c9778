"""Data rules before a write: a Great Expectations suite runs over a batch and says which rows break which rule.

Great Expectations takes seconds to import, so that only `check` does it, and only for what a batch does not evidently
keep. A suite is plain JSON everywhere else:
`{"name": ..., "expectations": [{"type": ..., "kwargs": {...}, "severity": "critical"}]}`.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import re
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore import evident
from featurestore.errors import InvalidTime, SchemaMismatch
from featurestore.times import parse_time

if TYPE_CHECKING:
    import pandas as pd

Suite = dict[str, Any]

SEVERITIES = ("critical", "error", "warning", "info")
EXAMPLES = 5
FAILURES_IN_SUMMARY = 5
_LARGEST_EXACT_INTEGER = 2**53
_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list", "column_set")
_VALUE_ARGUMENTS = ("min_value", "max_value", "value_set")
_SUITE_HELP = (
    'Expected a Great Expectations suite, or JSON such as {"name": "rules", "expectations": [{"type": '
    '"expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0}}]}.'
)
# Great Expectations shares one batch cache per data source; two threads would see each other's frames.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one expectation said about a batch.

    Args:
        type, kwargs, severity: the expectation.
        success: whether the data keep the rule.
        observed_value: what was measured, such as a mean, ready for JSON; None where rows were judged one by one.
        unexpected_count: rows that break a rule for rows; None for rules about the whole.
        examples: up to five different values that break it, ready for JSON.
        exception: why the rule itself could not be applied; None when it could.
        rows: positions of the rows that break it, ascending.
    """

    type: str
    kwargs: dict[str, Any]
    severity: str
    success: bool
    observed_value: Any
    unexpected_count: int | None
    examples: list[Any]
    exception: str | None
    rows: npt.NDArray[np.int64]

    @property
    def column(self) -> str | None:
        """The column, or the columns with commas; None for a rule about the table."""
        named = _columns(self.kwargs)
        return ", ".join(named) if named else None

    @property
    def rule(self) -> str:
        """The rule in one line: `amount: expect_column_values_to_be_between(min_value=0)`."""
        others = {name: value for name, value in self.kwargs.items() if name not in _COLUMN_ARGUMENTS}
        spelled = f"{self.type}({', '.join(f'{name}={value!r}' for name, value in others.items())})"
        return f"{self.column}: {spelled}" if self.column else spelled

    @property
    def is_blocking(self) -> bool:
        """Whether it fails the batch: broken, and more than a warning."""
        return not self.success and self.severity in ("critical", "error")

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON-ready data, without the row positions."""
        return {
            "type": self.type, "column": self.column, "kwargs": self.kwargs, "severity": self.severity,
            "success": self.success, "observed_value": self.observed_value, "unexpected_count": self.unexpected_count,
            "examples": self.examples, "exception": self.exception,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Report:
    """What a suite said about a batch; outcomes in the suite's order.

    Args:
        suite_name: the suite.
        row_count: rows of the batch.
        outcomes: one for each expectation.
    """

    suite_name: str
    row_count: int
    outcomes: tuple[Outcome, ...]

    @property
    def success(self) -> bool:
        """Whether no expectation of severity critical or error failed; broken warnings are only recorded."""
        return not any(outcome.is_blocking for outcome in self.outcomes)

    @property
    def failed_rows(self) -> npt.NDArray[np.bool_]:
        """For each row whether it breaks a failed rule for rows, warnings aside.

        All False although `success` is False: only rules about the whole failed, such as a mean, so no row is to blame.
        """
        mask = np.zeros(self.row_count, dtype=bool)
        for rows in self.rules.values():
            mask[rows] = True
        return mask

    @property
    def rules(self) -> dict[str, npt.NDArray[np.int64]]:
        """For each failed rule for rows, warnings aside, the positions of the rows that break it."""
        return {outcome.rule: outcome.rows for outcome in self.outcomes if outcome.is_blocking and len(outcome.rows)}

    def rules_of(self, row: int) -> list[str]:
        """The rules that a row breaks."""
        return [rule for rule, rows in self.rules.items() if row in rows]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready data, to be kept with the commit."""
        kept = sum(outcome.success for outcome in self.outcomes)
        return {
            "suite": self.suite_name,
            "success": self.success,
            "statistics": {
                "rows": self.row_count,
                "failed_rows": int(self.failed_rows.sum()),
                "evaluated_expectations": len(self.outcomes),
                "successful_expectations": kept,
                "unsuccessful_expectations": len(self.outcomes) - kept,
                "success_percent": 100 * kept / len(self.outcomes) if self.outcomes else 100.0,
            },
            "results": [outcome.to_json() for outcome in self.outcomes],
        }

    def summary(self) -> str:
        """One line for people: which rules were broken, in how many rows, with which values."""
        broken = [outcome for outcome in self.outcomes if not outcome.success]
        if not broken:
            return f"All {len(self.outcomes)} expectations of {self.suite_name!r} hold for {self.row_count} rows."
        broken.sort(key=lambda outcome: SEVERITIES.index(outcome.severity))
        lines = [_told(outcome) for outcome in broken[:FAILURES_IN_SUMMARY]]
        if len(broken) > FAILURES_IN_SUMMARY:
            lines.append(f"and {len(broken) - FAILURES_IN_SUMMARY} more")
        return (
            f"{len(broken)} of {len(self.outcomes)} expectations of {self.suite_name!r} are broken "
            f"({int(self.failed_rows.sum())} of {self.row_count} rows rejected): {'; '.join(lines)}."
        )


def normalise(suite: Any) -> Suite:
    """A suite as plain JSON data: its name, and of each expectation type, kwargs and severity.

    Great Expectations is not imported for it.

    Args:
        suite: an ExpectationSuite; its dict, or that as JSON text; or only the list of expectations, each a dict or an
            Expectation. The older names `expectation_type` and `expectation_suite_name` are understood as well.
    Raises:
        SchemaMismatch: it is none of these, or an expectation lacks a type or has an unknown severity.

    >>> normalise('[{"type": "ExpectColumnValuesToNotBeNull", "kwargs": {"column": "cc_num"}}]')["expectations"]
    [{'type': 'expect_column_values_to_not_be_null', 'kwargs': {'column': 'cc_num'}, 'severity': 'critical'}]
    >>> normalise({"name": "rules"})
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: The expectation suite has no list of 'expectations'. Expected ...
    """
    if hasattr(suite, "to_json_dict"):
        suite = suite.to_json_dict()
    if isinstance(suite, str | bytes):
        try:
            suite = json.loads(suite)
        except ValueError as error:
            raise SchemaMismatch(f"The expectation suite is not JSON ({error}). {_SUITE_HELP}") from error
    if isinstance(suite, Sequence) and not isinstance(suite, str | bytes):
        suite = {"expectations": suite}
    if not isinstance(suite, Mapping):
        raise SchemaMismatch(f"{type(suite).__name__} is no expectation suite. {_SUITE_HELP}")
    expectations = suite.get("expectations")
    if not isinstance(expectations, Sequence) or isinstance(expectations, str):
        raise SchemaMismatch(f"The expectation suite has no list of 'expectations'. {_SUITE_HELP}")
    return {
        "name": str(suite.get("name") or suite.get("expectation_suite_name") or "rules"),
        "expectations": [_normalise_expectation(i, expectation) for i, expectation in enumerate(expectations)],
    }


def check(rows: pa.Table, suite: Suite) -> Report:
    """Run a suite over a batch.

    Ints with nulls reach Great Expectations as floats (beyond 2**53 as pandas' Int64), decimals as floats, times with
    their time zone. Limits for columns of times may be ISO text and mean UTC. A batch without rows keeps every rule
    about a column's values, so that only rules about the table can break.

    Args:
        rows: the batch.
        suite: what `normalise` returned.
    Raises:
        SchemaMismatch: the suite is at fault: an unknown expectation or column, bad arguments, or an expectation of
            severity critical or error that cannot be applied. Of less severe ones the report keeps the exception.
    """
    suite = normalise(suite)
    expectations = suite["expectations"]
    for expectation in expectations:
        _check_columns_exist(rows, expectation)
    kept = {i for i, each in enumerate(expectations) if evident.is_kept(rows, each["type"], each["kwargs"])}
    judged = [
        i for i, each in enumerate(expectations) if i not in kept and (rows.num_rows or not _is_about_values(each))
    ]
    results = _run(rows, suite["name"], {i: expectations[i] for i in judged}) if judged else {}
    outcomes = [
        _kept(each) if i in kept else _outcome(rows, each, results.get(i)) for i, each in enumerate(expectations)
    ]
    for outcome in outcomes:
        if outcome.exception is not None and outcome.severity in ("critical", "error"):
            raise SchemaMismatch(
                f"The expectation {outcome.rule} of suite {suite['name']!r} cannot be applied: {outcome.exception}. "
                "Nothing is wrong with the data: correct the suite."
            )
    return Report(suite["name"], rows.num_rows, tuple(outcomes))


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report (as JSON) of the reports of a suite over the pieces of a batch, of which there is at least one.

    Rules about the whole, such as a mean, were judged piece by piece: the observed values are a list then.
    """
    if len(reports) == 1:
        return reports[0]
    results = []
    for outcomes in zip(*(report["results"] for report in reports), strict=True):
        counts = [o["unexpected_count"] for o in outcomes if o["unexpected_count"] is not None]
        observed = [o["observed_value"] for o in outcomes]
        results.append({
            **outcomes[0],
            "success": all(o["success"] for o in outcomes),
            "observed_value": None if all(o is None for o in observed) else observed,
            "unexpected_count": sum(counts) if counts else None,
            "examples": _different(example for o in outcomes for example in o["examples"]),
            "exception": next((o["exception"] for o in outcomes if o["exception"] is not None), None),
        })  # fmt: skip
    kept = sum(result["success"] for result in results)
    return {
        "suite": reports[0]["suite"],
        "success": all(report["success"] for report in reports),
        "statistics": {
            "rows": sum(report["statistics"]["rows"] for report in reports),
            "failed_rows": sum(report["statistics"]["failed_rows"] for report in reports),
            "evaluated_expectations": len(results),
            "successful_expectations": kept,
            "unsuccessful_expectations": len(results) - kept,
            "success_percent": 100 * kept / len(results) if results else 100.0,
        },
        "results": results,
    }


def check_expression(suite: Suite | None, schema: pa.Schema) -> str | None:
    """The limits of a suite as one SQL condition that every row keeps, nulls included; None when it has none.

    Only what any Delta reader understands alike: `expect_column_values_to_be_between` with plain limits, of severity
    critical or error, on ints and floats whose names need no quotes.
    """
    conditions = []
    for expectation in (suite or {}).get("expectations", ()):
        kwargs = {name: value for name, value in expectation["kwargs"].items() if value is not None}
        column, limits = kwargs.pop("column", None), [kwargs.pop("min_value", None), kwargs.pop("max_value", None)]
        if (
            expectation["type"] != "expect_column_values_to_be_between" or expectation["severity"] not in SEVERITIES[:2]
            or kwargs or column not in schema.names or not re.fullmatch(r"[a-z][a-z0-9_]*", column)
        ):  # fmt: skip
            continue
        dtype = schema.field(column).type
        is_number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype)
        parts = [
            f"{column} {sign} {limit!r}" for sign, limit in zip((">=", "<="), limits, strict=True)
            if isinstance(limit, int | float) and not isinstance(limit, bool)
        ]  # fmt: skip
        if is_number and parts and len(parts) == sum(limit is not None for limit in limits):
            conditions.append(f"({column} IS NULL OR ({' AND '.join(parts)}))")
    return " AND ".join(conditions) or None


def without_values(report: dict[str, Any]) -> dict[str, Any]:
    """A report (as JSON) that tells nothing of any row: no examples and no observed values."""
    results = [{k: v for k, v in r.items() if k not in ("examples", "observed_value")} for r in report["results"]]
    return {**report, "results": results}


def _normalise_expectation(position: int, expectation: Any) -> dict[str, Any]:
    if hasattr(expectation, "configuration"):
        expectation = expectation.configuration.to_json_dict()
    where = f"Expectation {position} of the suite"
    if not isinstance(expectation, Mapping):
        raise SchemaMismatch(f"{where} is {expectation!r}. {_SUITE_HELP}")
    spelling = expectation.get("type") or expectation.get("expectation_type")
    kwargs = expectation.get("kwargs", {})
    if not isinstance(spelling, str) or not isinstance(kwargs, Mapping):
        raise SchemaMismatch(
            f"{where} lacks a 'type' or its 'kwargs' are no object: {dict(expectation)!r}. {_SUITE_HELP}"
        )
    severity = expectation.get("severity", "critical")
    if severity not in SEVERITIES:
        raise SchemaMismatch(f"{where} has the severity {severity!r}. Expected one of {list(SEVERITIES)}.")
    plain = {name: value for name, value in kwargs.items() if name not in ("batch_id", "result_format")}
    try:
        plain = json.loads(json.dumps(plain, default=_json_value, allow_nan=False))
    except ValueError as error:
        raise SchemaMismatch(f"{where} has arguments that are no JSON: {plain!r} ({error}).") from error
    snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", spelling).lower() if spelling[:1].isupper() else spelling
    return {"type": snake_case, "kwargs": plain, "severity": severity}


def _columns(kwargs: Mapping[str, Any]) -> list[str]:
    """Every column an expectation names."""
    named: list[str] = []
    for argument in _COLUMN_ARGUMENTS:
        value = kwargs.get(argument)
        named += [value] if isinstance(value, str) else list(value or ())
    return named


def _is_about_values(expectation: dict[str, Any]) -> bool:
    """Whether it looks into columns, which must then exist, and not at the table's shape."""
    kind = expectation["type"]
    is_about_shape = kind == "expect_column_to_exist" or kind.startswith("expect_table_")
    return not is_about_shape and bool(_columns(expectation["kwargs"]))


def _check_columns_exist(rows: pa.Table, expectation: dict[str, Any]) -> None:
    if not _is_about_values(expectation):
        return
    if missing := [name for name in _columns(expectation["kwargs"]) if name not in rows.column_names]:
        raise SchemaMismatch(
            f"The expectation {expectation['type']} names the column {missing[0]!r}, which the batch does not have. "
            f"Columns: {rows.column_names}. Correct the suite."
        )


@cache
def _context() -> Any:
    """Great Expectations' context: in memory, silent, one per process (importing it takes seconds)."""
    import great_expectations

    logger = logging.getLogger("great_expectations")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]  # it takes a plain dict
    return context


@contextmanager
def _batch(frame: pd.DataFrame) -> Iterator[Any]:
    """A batch in a data source of its own, which is deleted afterwards: otherwise the frame would stay in memory."""
    name = f"triptych-{uuid.uuid4().hex}"
    sources = _context().data_sources
    definition = sources.add_pandas(name).add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    try:
        yield definition.get_batch(batch_parameters={"dataframe": frame})
    finally:
        sources.delete(name)


def _run(rows: pa.Table, suite_name: str, expectations: dict[int, dict[str, Any]]) -> dict[int, Any]:
    """Great Expectations' result for each expectation, by its position in the suite."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations

        built = [_build(rows, position, expectation) for position, expectation in expectations.items()]
        suite = great_expectations.ExpectationSuite(name=suite_name, expectations=built)
        with _batch(_to_pandas(rows)) as batch:
            found = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    return {result.expectation_config.meta["position"]: result for result in found.results}


def _build(rows: pa.Table, position: int, expectation: dict[str, Any]) -> Any:
    """Great Expectations' object; the position goes along as metadata, because results come back in another order."""
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError
    from great_expectations.expectations import registry

    kind = expectation["type"]
    try:
        implementation = registry.get_expectation_impl(kind)
    except ExpectationNotFoundError as error:
        close = difflib.get_close_matches(kind, registry.list_registered_expectation_implementations(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise SchemaMismatch(f"Great Expectations has no expectation {kind!r}.{hint}") from error
    kwargs = _timed_arguments(rows, expectation)
    try:
        return implementation(**kwargs, meta={"position": position})
    except (ValueError, TypeError) as error:  # pydantic's error is a ValueError
        text = " ".join(str(error).split())
        raise SchemaMismatch(
            f"The expectation {kind} does not take the arguments {expectation['kwargs']}: {text}."
        ) from error


def _timed_arguments(rows: pa.Table, expectation: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with limits of time columns as times: Great Expectations would compare with text or dates."""
    kwargs = dict(expectation["kwargs"])
    column = kwargs.get("column")
    if column not in rows.column_names or not pa.types.is_temporal(rows.schema.field(column).type):
        return kwargs
    is_date = pa.types.is_date(rows.schema.field(column).type)

    def time_of(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        moment = parse_time(value)
        return moment.date() if is_date else moment

    try:
        for argument in _VALUE_ARGUMENTS:
            if argument in kwargs:
                value = kwargs[argument]
                kwargs[argument] = [time_of(v) for v in value] if isinstance(value, list) else time_of(value)
    except InvalidTime as error:
        raise SchemaMismatch(
            f"The expectation {expectation['type']} on {column!r} has a limit that is no time: {error}"
        ) from error
    return kwargs


def _to_pandas(rows: pa.Table) -> pd.DataFrame:
    """The frame as rules see it; its index counts rows from 0.

    Nullable integers only where floats would lose digits: comparing two columns with a pandas NA raises inside
    Great Expectations.
    """
    import pandas as pd

    arrays: dict[str, Any] = {}
    for name in rows.column_names:
        column = rows[name]
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        if pa.types.is_integer(column.type) and column.null_count:
            bounds = pc.min_max(column).as_py()
            largest = max(abs(bounds["min"] or 0), abs(bounds["max"] or 0))
            if largest > _LARGEST_EXACT_INTEGER:
                arrays[name] = column.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
                continue
        arrays[name] = column.to_pandas()
    return pd.DataFrame(arrays, index=pd.RangeIndex(rows.num_rows), columns=rows.column_names)


def _kept(expectation: dict[str, Any]) -> Outcome:
    """What Great Expectations says of a rule for rows that every row keeps."""
    nothing = np.array([], dtype=np.int64)
    return Outcome(
        **expectation, success=True, observed_value=None, unexpected_count=0, examples=[], exception=None, rows=nothing
    )


def _outcome(rows: pa.Table, expectation: dict[str, Any], result: Any) -> Outcome:
    kwargs, details = expectation["kwargs"], {} if result is None else dict(result.result)
    exception = None if result is None else _exception(result.exception_info)
    positions = np.array(sorted(details.get("unexpected_index_list") or ()), dtype=np.int64)
    column = kwargs.get("column")
    if len(positions) and column in rows.column_names:
        values = rows[column].take(positions[: 20 * EXAMPLES]).to_pylist()
    else:
        values = list(details.get("partial_unexpected_list") or ())
    return Outcome(
        type=expectation["type"],
        kwargs=kwargs,
        severity=expectation["severity"],
        success=result is None or (bool(result.success) and exception is None),
        observed_value=_json_value(details.get("observed_value")),
        unexpected_count=details.get("unexpected_count"),
        examples=_different(_json_value(value) for value in values),
        exception=exception,
        rows=positions,
    )


def _exception(info: Mapping[str, Any]) -> str | None:
    """The message of what was raised; Great Expectations nests it by metric when one failed."""
    entries = [info] if "raised_exception" in info else [entry for entry in info.values() if isinstance(entry, Mapping)]
    raised = [str(entry.get("exception_message")) for entry in entries if entry.get("raised_exception")]
    return " ".join(" / ".join(dict.fromkeys(raised)).split()) if raised else None


def _different(values: Iterator[Any]) -> list[Any]:
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(json.dumps(value), value)
        if len(found) == EXAMPLES:
            break
    return list(found.values())


def _json_value(value: Any) -> Any:
    """A value as JSON holds it: times as ISO text, bytes as hex, infinities and everything unknown as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, datetime | date):
        return None if value != value else value.isoformat()  # pandas' NaT differs from itself
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    if isinstance(value, Sequence | set | frozenset | np.ndarray):
        return [_json_value(inner) for inner in value]
    return str(value)


def _told(outcome: Outcome) -> str:
    if outcome.exception is not None:
        found = f"could not be applied ({outcome.exception})"
    elif outcome.unexpected_count:
        examples = ", ".join(repr(example) for example in outcome.examples)
        found = f"{outcome.unexpected_count} rows" + (f" (such as {examples})" if examples else "")
    else:
        found = f"observed {outcome.observed_value!r}"
    severity = "" if outcome.severity in ("critical", "error") else f" [{outcome.severity}]"
    return f"{outcome.rule}{severity}: {found}"
