from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import SchemaMismatch
from featurestore.schema import TIMESTAMP
from featurestore.validation import check, normalise

POSITIVE = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0}}


def rows(**columns: object) -> pa.Table:
    return pa.table(columns)


def report_of(table: pa.Table, *expectations: dict) -> object:
    report = check(table, normalise(list(expectations)))
    json.dumps(report.to_json(), allow_nan=False)
    return report


def rule(kind: str, severity: str = "critical", **kwargs: object) -> dict:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


# Suites


def test_all_spellings_of_a_suite_mean_the_same():
    import great_expectations as gx
    import great_expectations.expectations as gxe

    plain = {"name": "rules", "expectations": [{**POSITIVE, "severity": "critical"}]}
    suite = gx.ExpectationSuite(
        name="rules", expectations=[gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0)]
    )
    for spelling in (
        suite,
        plain,
        json.dumps(plain),
        [POSITIVE],
        [gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0)],
        {"expectations": [{"expectation_type": POSITIVE["type"], "kwargs": POSITIVE["kwargs"]}]},
        {"name": "rules", "expectations": [{**POSITIVE, "type": "ExpectColumnValuesToBeBetween"}]},
    ):
        assert normalise(spelling) == plain
    assert normalise(normalise(suite)) == plain
    assert normalise({"expectation_suite_name": "old", "expectations": []}) == {"name": "old", "expectations": []}


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("{", "not JSON"),
        (7, "int is no expectation suite"),
        ({"name": "x"}, "no list of 'expectations'"),
        ([{"kwargs": {}}], "Expectation 0 of the suite lacks a 'type'"),
        (["x"], "Expectation 0 of the suite is 'x'"),
        ([{**POSITIVE, "severity": "fatal"}], "severity 'fatal'"),
        ([{"type": "x", "kwargs": {"min_value": float("nan")}}], "no JSON"),
    ],
)
def test_what_is_no_suite_is_refused(suite, message):
    with pytest.raises(SchemaMismatch, match=message):
        normalise(suite)


def test_times_in_a_suite_become_iso_text():
    suite = normalise([rule("column_values_to_be_between", column="t", min_value=datetime(2026, 1, 1, tzinfo=UTC))])
    assert suite["expectations"][0]["kwargs"]["min_value"] == "2026-01-01T00:00:00+00:00"


def test_plain_suites_and_imports_leave_great_expectations_and_pandas_out():
    code = (
        "import sys, featurestore.validation as v; v.normalise('[]'); v.normalise([]);"
        "assert not {'great_expectations', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Reports


def test_rows_that_break_a_rule_are_named_with_rule_column_count_and_values():
    table = rows(cc_num=["a", None, "b", "c"], amount=[1.0, -2.0, None, -4.0])
    report = report_of(table, POSITIVE, rule("column_values_to_not_be_null", column="cc_num"))
    assert not report.success
    assert report.failed_rows.tolist() == [False, True, False, True]
    assert {name: positions.tolist() for name, positions in report.rules.items()} == {
        "amount: expect_column_values_to_be_between(min_value=0)": [1, 3],
        "cc_num: expect_column_values_to_not_be_null()": [1],
    }
    assert len(report.rules_of(1)) == 2
    assert report.rules_of(0) == []
    assert report.summary() == (
        "2 of 2 expectations of 'rules' are broken (2 of 4 rows rejected): "
        "amount: expect_column_values_to_be_between(min_value=0): 2 rows (such as -2.0, -4.0); "
        "cc_num: expect_column_values_to_not_be_null(): 1 rows (such as None)."
    )
    result = report.to_json()["results"][0]
    assert (result["type"], result["column"], result["success"]) == (POSITIVE["type"], "amount", False)
    assert (result["unexpected_count"], result["examples"], result["exception"]) == (2, [-2.0, -4.0], None)
    assert report.to_json()["statistics"] == {
        "rows": 4, "failed_rows": 2, "evaluated_expectations": 2, "successful_expectations": 0,
        "unsuccessful_expectations": 2, "success_percent": 0.0,
    }  # fmt: skip


def test_good_data_pass():
    report = report_of(rows(amount=[1.0, None]), POSITIVE)
    assert report.success
    assert not report.failed_rows.any()
    assert report.summary() == "All 1 expectations of 'rules' hold for 2 rows."


def test_a_suite_without_expectations_passes_anything():
    assert report_of(rows(x=[1])).success


def test_warnings_are_recorded_but_reject_nothing():
    report = report_of(rows(amount=[-1.0, 1.0]), {**POSITIVE, "severity": "warning"})
    assert report.success
    assert not report.failed_rows.any()
    assert report.rules == {}
    assert report.to_json()["results"][0]["unexpected_count"] == 1
    assert "[warning]: 1 rows" in report.summary()


def test_severity_error_rejects_like_critical():
    assert not report_of(rows(amount=[-1.0]), {**POSITIVE, "severity": "error"}).success


def test_rules_about_the_whole_blame_no_row():
    report = report_of(rows(amount=[1.0, 3.0]), rule("column_mean_to_be_between", column="amount", max_value=1))
    assert not report.success
    assert not report.failed_rows.any()
    assert report.outcomes[0].observed_value == 2.0
    assert "observed 2.0" in report.summary()


def test_rows_are_kept_when_mostly_is_reached():
    most = rule("column_values_to_be_between", column="amount", min_value=0, mostly=0.5)
    report = report_of(rows(amount=[-1.0, 1.0, 2.0]), most)
    assert report.success
    assert not report.failed_rows.any()
    assert report.outcomes[0].unexpected_count == 1


def test_outcomes_come_in_the_order_of_the_suite():
    limits = [rule("column_values_to_be_between", column=c, min_value=m) for m in (0, 5) for c in ("b", "a")]
    mixed = [
        rule("column_mean_to_be_between", column="a", min_value=0),
        *limits,
        rule("table_row_count_to_equal", value=2),
    ]
    report = report_of(rows(a=[1, 6], b=[1, 2]), *mixed)
    assert [outcome.kwargs for outcome in report.outcomes] == [expectation["kwargs"] for expectation in mixed]
    assert [outcome.success for outcome in report.outcomes] == [True, True, True, False, False, True]
    assert report.outcomes[4].rows.tolist() == [0]


def test_the_same_rule_twice_is_judged_twice():
    report = report_of(rows(amount=[-1.0]), POSITIVE, POSITIVE, {**POSITIVE, "severity": "warning"})
    assert [outcome.success for outcome in report.outcomes] == [False, False, False]


def test_rules_over_several_columns_point_at_rows():
    table = rows(low=[1, 5, None], high=[2, 3, 4])
    ordered = rule("column_pair_values_a_to_be_greater_than_b", column_A="high", column_B="low")
    unique = rule("compound_columns_to_be_unique", column_list=["low", "high"])
    report = report_of(
        table, {**ordered, "kwargs": {**ordered["kwargs"], "ignore_row_if": "either_value_is_missing"}}, unique
    )
    assert report.failed_rows.tolist() == [False, True, False]
    assert report.outcomes[0].column == "high, low"
    assert report.outcomes[1].success


def test_a_rule_for_some_rows_counts_positions_in_the_whole_batch():
    some = rule(
        "column_values_to_be_between",
        column="amount",
        min_value=0,
        row_condition='kind == "sale"',
        condition_parser="pandas",
    )
    report = report_of(rows(kind=["refund", "sale", "sale"], amount=[-1.0, 1.0, -2.0]), some)
    assert report.failed_rows.tolist() == [False, False, True]


# Types


def test_every_stored_type_can_be_validated():
    table = pa.table(
        {
            "i": pa.array([1, None, 3], pa.int32()),
            "big": pa.array([2**62 + 1, None, 5], pa.int64()),
            "f": pa.array([1.0, None, float("inf")], pa.float32()),
            "b": pa.array([True, None, False]),
            "s": pa.array(["a", None, "ccc"]),
            "t": pa.array([datetime(2026, 1, d, tzinfo=UTC) for d in (1, 2, 3)], TIMESTAMP),
            "d": pa.array([date(2026, 1, 1), None, date(2026, 1, 3)]),
            "m": pa.array([Decimal("1.10"), None, Decimal("3.30")], pa.decimal128(10, 2)),
            "l": pa.array([[1.0], None, []]),
            "raw": pa.array([b"a", None, b"\xff"]),
        }
    )
    report = report_of(
        table,
        rule("column_values_to_be_between", column="i", min_value=2),
        rule("column_values_to_be_in_set", column="big", value_set=[2**62 + 1]),
        rule("column_values_to_be_between", column="f", max_value=100),
        rule("column_values_to_be_in_set", column="b", value_set=[True]),
        rule("column_value_lengths_to_be_between", column="s", max_value=2),
        rule("column_values_to_be_between", column="t", min_value="2026-01-02"),
        rule("column_values_to_be_between", column="d", min_value="2026-01-02"),
        rule("column_values_to_be_in_set", column="m", value_set=[1.1]),
        rule("column_values_to_not_be_null", column="l"),
        rule("column_values_to_not_be_null", column="raw"),
    )
    assert [outcome.rows.tolist() for outcome in report.outcomes] == [
        [0], [2], [2], [2], [2], [0], [0], [2], [1], [1],
    ]  # fmt: skip
    assert [outcome.examples for outcome in report.outcomes] == [
        [1], [5], ["inf"], [False], ["ccc"], ["2026-01-01T00:00:00+00:00"], ["2026-01-01"], ["3.30"], [None], [None],
    ]  # fmt: skip


def test_limits_of_times_keep_their_zone_and_work_for_aggregates_and_sets():
    times = pa.array([datetime(2026, 1, 1, 12, tzinfo=UTC)], TIMESTAMP)
    report = report_of(
        pa.table({"t": times}),
        rule("column_values_to_be_between", column="t", min_value="2026-01-01T12:30:00+01:00"),
        rule("column_max_to_be_between", column="t", max_value="2026-01-01T11:00:00Z"),
        rule("column_values_to_be_in_set", column="t", value_set=["2026-01-01T12:00:00"]),
    )
    assert [outcome.success for outcome in report.outcomes] == [True, False, True]
    assert report.outcomes[1].observed_value == "2026-01-01T12:00:00+00:00"


def test_a_batch_without_rows_keeps_rules_about_values_and_breaks_rules_about_the_table():
    empty = rows(amount=pa.array([], pa.float64()))
    report = report_of(empty, POSITIVE, rule("column_mean_to_be_between", column="amount", min_value=0))
    assert report.success
    assert report.failed_rows.tolist() == []
    counted = report_of(empty, POSITIVE, rule("table_row_count_to_be_between", min_value=1))
    assert [outcome.success for outcome in counted.outcomes] == [True, False]


def test_a_column_of_nulls_can_be_validated():
    report = report_of(rows(amount=pa.array([None, None], pa.int64())), POSITIVE)
    assert report.success


# Broken suites


def test_an_unknown_expectation_names_its_neighbours():
    with pytest.raises(SchemaMismatch, match=r"Did you mean .*expect_column_values_to_be_between"):
        report_of(rows(amount=[1.0]), rule("column_values_to_be_betwen", column="amount"))


def test_a_missing_column_is_the_suites_fault():
    with pytest.raises(SchemaMismatch, match=r"names the column 'amuont'.*Columns: \['amount'\]"):
        report_of(rows(amount=[1.0]), rule("column_values_to_be_between", column="amuont", min_value=0))


def test_expecting_a_column_that_is_missing_is_the_datas_fault():
    assert not report_of(rows(amount=[1.0]), rule("column_to_exist", column="tip")).success


def test_bad_arguments_are_the_suites_fault():
    with pytest.raises(SchemaMismatch, match="does not take the arguments"):
        report_of(rows(amount=[1.0]), rule("column_values_to_be_between", column="amount", minimum=0))
    with pytest.raises(SchemaMismatch, match="limit that is no time: 'soon'"):
        report_of(
            pa.table({"t": pa.array([datetime(2026, 1, 1, tzinfo=UTC)], TIMESTAMP)}),
            rule("column_values_to_be_between", column="t", min_value="soon"),
        )


def test_an_expectation_that_raises_is_no_broken_data():
    inapplicable = rule("column_values_to_be_between", column="name", min_value=0)
    with pytest.raises(
        SchemaMismatch, match=r"name: expect_column_values_to_be_between.*cannot be applied.*correct the suite"
    ):
        report_of(rows(name=["a"]), inapplicable)
    report = report_of(rows(name=["a"]), {**inapplicable, "severity": "warning"})
    assert report.success
    assert report.outcomes[0].exception
    assert "could not be applied" in report.summary()


# Manners


def test_nothing_is_printed_or_written(tmp_path):
    code = """
import pyarrow as pa
from featurestore.validation import check, normalise
kind = "expect_column_values_to_be_between"
suite = normalise([{"type": kind, "kwargs": {"column": "x", "min_value": 0}},
                   {"type": kind, "kwargs": {"column": "s", "min_value": 0}, "severity": "info"}])
assert not check(pa.table({"x": [-1], "s": ["a"]}), suite).success
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path)},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_threads_do_not_see_each_others_batches():
    suite = normalise([POSITIVE])
    wrong: list[int] = []

    def run(bad: int) -> None:
        amounts = np.ones(50)
        amounts[:bad] = -1
        if check(rows(amount=amounts), suite).failed_rows.sum() != bad:
            wrong.append(bad)

    threads = [threading.Thread(target=run, args=(bad,)) for bad in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_only_some_different_values_are_examples():
    report = report_of(rows(amount=[-1.0] * 50 + [-float(i) for i in range(1, 9)]), POSITIVE)
    assert report.outcomes[0].unexpected_count == 58
    assert report.outcomes[0].examples == [-1.0, -2.0, -3.0, -4.0, -5.0]
