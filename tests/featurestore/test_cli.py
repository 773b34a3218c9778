"""The `featurestore` command: what it prints, as a table and as JSON, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from typer.testing import CliRunner

import featurestore
from featurestore import Feature, InvalidData, udf
from featurestore.cli import app

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("featurestore")


class Answer(NamedTuple):
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output as JSON: all of it."""
        return json.loads(self.out)


Run = Callable[..., Answer]


def run_in(home: Path, *arguments: str, answer: str | None = None) -> Answer:
    result = CliRunner().invoke(app, ["--home", str(home), *arguments], input=answer)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two groups, a view and two training sets; markup and control characters in names and values."""
    home = tmp_path_factory.mktemp("demo")
    fs = featurestore.connect(home, who="[bold]ada")
    transactions = fs.create_feature_group(
        "transactions", 1, description="Spending of [bold]each customer[/bold].", primary_key=["customer"],
        event_time="day", online_enabled=True, tags={"owner": "risk"},
        features=[
            Feature("customer", "bigint"), Feature("day", "timestamp"),
            Feature("amount", "double", unit="EUR", description="Mean of the last 7 days."),
            Feature("[red]note", "string"),
        ],
        expectation_suite={
            "name": "rules",
            "expectations": [
                {"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0}}
            ],
        },
    )  # fmt: skip
    days = pd.to_datetime(["2021-01-01", "2021-01-07", "2021-01-14"])
    first = pd.DataFrame(
        {"customer": 1, "day": days, "amount": [14.0, 44.0, 78.0], "[red]note": ["[bold]x", "\x1b[31m", None]}
    )
    transactions.insert(first, window=("2021-01-01", "2021-01-15"))
    transactions.insert(first[2:].assign(amount=79.0))
    with pytest.raises(InvalidData):
        transactions.insert(first[:1].assign(amount=-1.0))
    labels = fs.create_feature_group("labels", 1, primary_key=["customer"], event_time="day")
    labels.insert(pd.DataFrame({
        "customer": 1, "day": pd.to_datetime(["2021-01-01", "2021-01-02", "2021-01-16"]),
        "category": ["short", "long", "short"],
    }))  # fmt: skip
    view = fs.create_feature_view(
        "customers", 1, query=labels.select(["category"]).join(transactions.select(["amount"])), labels=["category"],
        description="Which loan.",
        transformation_functions={"amount": fs.get_transformation_function("min_max_scaler")},
    )  # fmt: skip
    view.create_train_test_split(train_end="2021-01-10", description="first")
    view.create_training_data()
    fs.close()
    return home


@pytest.fixture
def run(demo: Path) -> Run:
    """Run a command on the demo store; for commands that only read."""
    return lambda *arguments: run_in(demo, *arguments)


@pytest.fixture
def run_on_copy(demo: Path, tmp_path: Path) -> Run:
    """Run a command on a store of its own."""
    shutil.copytree(demo, tmp_path / "copy")
    return lambda *arguments, answer=None: run_in(tmp_path / "copy", *arguments, answer=answer)


@pytest.fixture
def run_on_empty(tmp_path: Path) -> Run:
    """Run a command on a store without anything in it."""
    featurestore.connect(tmp_path / "empty").close()
    return lambda *arguments: run_in(tmp_path / "empty", *arguments)


READING = [
    ["list"], ["show", "transactions"], ["show", "customers"], ["history", "transactions"],
    ["preview", "transactions"], ["stats", "transactions"], ["quarantine", "transactions"],
    ["lineage", "transactions"], ["lineage", "customers"], ["explain", "customers", "customer=1"],
    ["drift", "transactions", "1", "2"], ["drift", "customers", "1", "2"], ["training", "stats", "customers", "1"],
    ["training", "rebuild", "customers", "1"], ["leakage", "customers"], ["leakage", "customers", "--training", "1"],
    ["sql", "SELECT * FROM transactions"], ["search", "amount"], ["skew", "customers"],
    ["doctor"], ["doctor", "--deep"],
    ["training", "list", "customers"], ["training", "show", "customers", "1"], ["training", "verify", "customers"],
]  # fmt: skip
NAMED = [arguments for arguments in READING if arguments[0] not in ("list", "doctor", "sql", "search")]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_every_reading_command_gives_text_and_json(run: Run, arguments: Sequence[str]) -> None:
    text, data = run(*arguments), run(*arguments, "--json")
    assert (text.code, text.err, data.code, data.err) == (0, "", 0, "")
    assert text.out.strip()
    assert isinstance(data.json, list | dict)


@pytest.mark.parametrize("arguments", NAMED, ids=" ".join)
def test_a_name_that_does_not_exist_is_one_line_on_stderr(
    run: Run, run_on_empty: Run, arguments: Sequence[str]
) -> None:
    place = 2 if arguments[0] == "training" else 1
    renamed = [*arguments[:place], "nope", *arguments[place + 1 :]]
    for answer in (run(*renamed), run(*renamed, "--json"), run_on_empty(*arguments)):
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("Error: There is no feature ")
        assert answer.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [a for a in NAMED if a[0] != "quarantine"], ids=" ".join)
def test_a_version_that_does_not_exist_is_named_with_those_that_do(run: Run, arguments: Sequence[str]) -> None:
    """C1: also through the command line."""
    answer = run(*arguments, "--version", "7")
    assert answer.code == 2
    assert "has no version 7 (versions: 1)" in answer.err


def test_an_empty_store_says_what_to_do_next(run_on_empty: Run) -> None:
    assert "get_or_create_feature_group" in run_on_empty("list").out
    assert run_on_empty("list", "--json").json == {"feature_groups": [], "feature_views": []}


def test_a_home_without_a_store_is_an_error_and_stays_as_it_was(tmp_path: Path) -> None:
    """A slip in --home must not make an empty store that looks like lost data."""
    answer = run_in(tmp_path / "slip", "list")
    assert answer.code == 2
    assert "There is no feature store in" in answer.err
    assert not (tmp_path / "slip").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--home", "HOME", "list"], ["--home=HOME", "list"], ["list", "--home", "HOME"],
     ["list", "--views", "--home=HOME"],
     ["training", "list", "--home", "HOME", "customers"]],
)  # fmt: skip
def test_the_home_is_named_before_or_after_the_command(demo: Path, arguments: Sequence[str]) -> None:
    shown = CliRunner().invoke(app, [word.replace("HOME", str(demo)) for word in arguments])
    assert (shown.exit_code, shown.stderr) == (0, "")


def test_a_store_in_postgresql_is_found_by_its_urls_alone(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no catalog file in the home then, and none is asked for."""
    monkeypatch.setenv("FEATURESTORE_CATALOG_URL", postgresql_url)
    monkeypatch.setenv("FEATURESTORE_ONLINE_URL", postgresql_url)
    with closing(featurestore.connect(tmp_path)) as fs:
        fs.create_feature_group("bare", 1, primary_key=["id"], online_enabled=True)
    csv = write(tmp_path / "first.csv", "id,amount\n1,2.5\n")
    assert run_in(tmp_path, "insert", "bare", "--file", csv, "--json").json["inserted"] == 1
    assert run_in(tmp_path, "list", "--json").json["feature_groups"][0]["rows"] == 1
    assert {f["severity"] for f in run_in(tmp_path, "doctor", "--json").json} == {"info"}
    assert not list(tmp_path.glob("*.db"))


def test_list_shows_groups_views_or_both(run: Run) -> None:
    both = run("list", "--json").json
    assert [g["name"] for g in both["feature_groups"]] == ["labels", "transactions"]
    assert both["feature_groups"][1] | {"written": None, "who": None} == {
        "name": "transactions", "version": 1, "description": "Spending of [bold]each customer[/bold].",
        "primary_key": ["customer"], "event_time": "day", "online": True, "rows": 3, "delta_version": 2,
        "written": None, "watermark": "2021-01-15T00:00:00+00:00", "who": None,
    }  # fmt: skip
    assert [v["training_sets"] for v in both["feature_views"]] == [[1, 2]]
    assert run("list", "--groups", "--json").json["feature_views"] == []
    assert run("list", "--views", "--json").json["feature_groups"] == []
    assert "customers" not in run("list", "--groups").out
    assert "transactions " not in run("list", "--views").out


def test_show_of_a_group_has_schema_statistics_freshness_and_history(run: Run) -> None:
    """G13, G16: in one record."""
    group = run("show", "transactions", "--json").json
    amount = group["columns"][2]
    assert (amount["name"], amount["type"], amount["unit"]) == ("amount", "double", "EUR")
    assert amount["statistics"]["max"] == 79.0
    assert group["newest_row"] == "2021-01-14T00:00:00+00:00"
    assert group["newest_row_age"] - group["watermark_age"] == 86_400
    assert [c["version"] for c in group["history"]] == [2, 1, 0]
    text = run("show", "transactions").out
    for part in (
        "2021-01-14, ",
        " days ",
        "ago",
        "14 to 79",
        "EUR",
        "+3",
        "~1",
        "[bold]ada",
        "Mean of the last 7 days.",
    ):
        assert part in text


def test_show_of_a_view_has_query_labels_transformations_and_training_sets(run: Run) -> None:
    view = run("show", "customers", "--json").json
    assert view["labels"] == ["category"]
    assert [f["name"] for f in view["features"]] == ["amount"]
    assert view["training_sets"][0]["rows"] == {"train": 2, "test": 1}
    text = run("show", "customers").out
    for part in ("left join transactions_v1 to labels_v1", "min_max_scaler of 'amount'", "train 2, test 1"):
        assert part in text


def test_show_of_a_group_without_columns_says_so(run_on_empty: Run, tmp_path: Path) -> None:
    fs = featurestore.connect(tmp_path / "empty")
    fs.create_feature_group("bare", 1, primary_key=["id"])
    assert "the first insert declares them" in run_on_empty("show", "bare").out
    assert run_on_empty("show", "bare", "--json").json["columns"] == []
    assert run_on_empty("list", "--json").json["feature_groups"][0]["rows"] == 0


def test_a_group_without_columns_is_looked_at_without_a_traceback(run_on_empty: Run, tmp_path: Path) -> None:
    featurestore.connect(tmp_path / "empty").create_feature_group("bare", 1, primary_key=["id"])
    for words in (
        "stats bare",
        "preview bare",
        "drift bare 1 2",
        "optimize bare",
        "vacuum bare",
        "forget bare id=1 -y",
    ):
        answer = run_on_empty(*words.split())
        assert (answer.code, answer.out) == (2, "")
        assert "bare_v1 has no columns yet" in answer.err
    assert "the first insert makes one" in run_on_empty("history", "bare").out
    csv = write(tmp_path / "first.csv", "id,amount\n1,2.5\n")
    assert run_on_empty("insert", "bare", "--file", csv, "--json").json["inserted"] == 1
    assert [c["type"] for c in run_on_empty("show", "bare", "--json").json["columns"]] == ["bigint", "double"]


def test_history_has_one_order_as_table_and_as_json(run: Run) -> None:
    """G13: newest first, as the help says."""
    assert [commit["version"] for commit in run("history", "transactions", "--json").json] == [2, 1, 0]
    table = run("history", "transactions").out.splitlines()
    assert [line.split()[0] for line in table if line.split()[:1] in (["0"], ["1"], ["2"])] == ["2", "1", "0"]


def test_preview_reads_the_past_by_version_and_by_time(run: Run) -> None:
    """G13: as_of a version or a time."""

    def amounts(*at: str) -> list[float]:
        return [row["amount"] for row in run("preview", "transactions", "--json", *at).json]

    first = run("history", "transactions", "--json").json[1]
    assert amounts() == [14.0, 44.0, 79.0]
    assert amounts("--at", "1") == amounts("--at", first["time"]) == [14.0, 44.0, 78.0]
    assert amounts("--at", "1", "--limit", "2") == [14.0, 44.0]
    assert "has no Delta version 9" in run("preview", "transactions", "--at", "9").err
    assert "its first commit is of" in run("preview", "transactions", "--at", "20210101").err


def test_stats_are_of_the_group_or_of_one_commit(run: Run) -> None:
    """G16: a commit's statistics describe the rows it wrote."""
    assert run("stats", "transactions", "--json").json["amount"]["count"] == 3
    assert run("stats", "transactions", "--commit", "2", "--json").json["amount"]["min"] == 79.0
    assert "commit 0 wrote no rows" in run("stats", "transactions", "--commit", "0").err


def test_lineage_shows_both_directions(run: Run) -> None:
    """V2: which Delta versions a training set pins, seen from the group and from the view."""
    assert "read by feature view customers version 1" in run("lineage", "transactions").out
    view = run("lineage", "customers", "--json").json
    assert [below["kind"] for below in view["related"]] == ["feature group"] * 2 + ["training dataset"] * 2
    assert view["related"][2]["facts"]["pins"] == {"labels_v1": 1, "transactions_v1": 2}


def test_explain_says_which_row_gave_a_feature(run: Run) -> None:
    """J2: the newest row at or before the label's time, and the commit that wrote its value."""
    (amount,) = run("explain", "customers", "customer=1", "--time", "2021-01-02", "--json").json
    assert (amount["value"], amount["event_time"]) == (14.0, "2021-01-01T00:00:00+00:00")
    (newest,) = run("explain", "customers", "customer=1", "--json").json
    assert (newest["value"], newest["commit_version"], newest["group"]) == (79.0, 2, "transactions_v1")
    assert "79.0" in run("explain", "customers", "customer=1", "--training", "1").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["client=1"], "is named by its primary key ['customer']"),
        (["customer=one"], "customer='one' is not a bigint"),
        (["customer=2"], "labels_v1 has no row of {'customer': 2}"),
        (["customer=1", "--time", "soon"], "'soon' is not a time"),
        (["customer=1", "--training", "9"], "has no training dataset 9"),
    ],
)
def test_explain_names_what_it_cannot_find(run: Run, arguments: Sequence[str], said: str) -> None:
    """Before any row is read."""
    answer = run("explain", "customers", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


def test_training_rebuild_writes_the_files_and_names_them(run_on_copy: Run, tmp_path: Path) -> None:
    """V2: the same bytes from the pins."""
    shutil.rmtree(tmp_path / "copy" / "training")
    files = run_on_copy("training", "rebuild", "customers", "1", "--json").json["files"]
    assert [Path(file).stem for file in files] == ["train", "test"]
    assert all(Path(file).is_file() for file in files)
    assert run_on_copy("training", "verify", "customers", "1").code == 0


def test_sql_reads_groups_by_name_and_version(run: Run) -> None:
    query = 'SELECT max(amount) AS most, count(*) AS "[red]rows" FROM transactions JOIN labels_1 USING (customer, day)'
    assert run("sql", query, "--json").json == [{"most": 14.0, "[red]rows": 1}]
    assert run("sql", query).out.split() == ["most", "[red]rows", "14.0", "1"]
    shown = run("sql", "SELECT range AS n FROM range(60)")
    assert shown.out.splitlines()[-1] == "10 more rows. --limit shows more, --json all of them."
    assert len(run("sql", "SELECT range AS n FROM range(60)", "--json").json) == 60


@pytest.mark.parametrize(
    "query",
    ["DROP TABLE transactions", "INSERT INTO transactions SELECT 1", "SELECT 1; SELECT 2", "COPY labels TO 'x.csv'",
     "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM nowhere", "SELECT nothing FROM labels", "", "\x1b[31m"],
)  # fmt: skip
def test_sql_that_writes_reads_files_or_is_none_is_refused_on_one_line(run: Run, query: str) -> None:
    answer = run("sql", query)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("Error: ")
    assert answer.err.count("\n") == 1
    assert "\x1b" not in answer.err


def test_search_finds_features_by_what_is_said_of_them(run: Run) -> None:
    (found,) = run("search", "mean", "7", "days", "--json").json
    assert (found["kind"], found["feature"]) == ("feature", "amount")
    assert run("search", "unheard").out == "Nothing found.\n"


def test_quarantine_shows_the_rule_and_the_row(run: Run) -> None:
    """G15: rejected rows are readable with rule and time."""
    (row,) = run("quarantine", "transactions", "--json").json
    assert row["amount"] == -1.0
    assert "expect_column_values_to_be_between" in row["__rule"]
    assert run("quarantine", "labels").out == "No row was ever rejected.\n"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_insert_takes_csv_and_parquet_and_says_what_it_wrote(run_on_copy: Run, tmp_path: Path) -> None:
    """G2, G3, G9: an upsert with a window, and again it changes nothing."""
    csv = write(tmp_path / "day.csv", "customer,day,amount,[red]note\n1,2021-01-14,80,\n2,2021-01-15,5.5,a\n")
    arguments = ("insert", "transactions", "--file", csv, "--window", "2021-01-15", "2021-01-16")
    commit = run_on_copy(*arguments, "--json").json
    assert (commit["inserted"], commit["updated"], commit["version"]) == (1, 1, 3)
    assert commit["window"] == ["2021-01-15T00:00:00+00:00", "2021-01-16T00:00:00+00:00"]
    again = run_on_copy(*arguments)
    assert again.out == "transactions version 1, Delta version 3: 0 rows inserted, 0 updated, 2 unchanged.\n"
    pd.DataFrame({
        "customer": [3], "day": pd.to_datetime(["2021-01-16"]), "amount": [1.0], "[red]note": ["b"],
    }).to_parquet(tmp_path / "day.parquet")  # fmt: skip
    assert (
        run_on_copy("insert", "transactions", "--file", str(tmp_path / "day.parquet"), "--json").json["inserted"] == 1
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("customer,day,amount\n1,2021-01-14,80\n", "lacks ['[red]note']"),
        ("customer,day,amount,[red]note,x\n1,2021-01-14,80,a,1\n", "also has ['x']"),
        ("customer,day,amount,[red]note\none,2021-01-14,80,a\n", "invalid value 'one'"),
        ("customer,day,amount,[red]note\n,2021-01-14,80,a\n", "'customer' is null in row 0"),
        ("customer,day,amount,[red]note\n1,2021-01-14,-5,a\n", "1 of 1 rows rejected"),
        ("customer,day,amount,[red]note\n1,soon,5,a\n", "'soon' is not a time"),
    ],
)  # fmt: skip
def test_insert_of_a_file_that_breaks_the_contract_writes_nothing(
    run_on_copy: Run, tmp_path: Path, text: str, said: str
) -> None:
    """G5, G6, G15: through the command line too."""
    answer = run_on_copy("insert", "transactions", "--file", write(tmp_path / "bad.csv", text))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("Error: ")
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert run_on_copy("list", "--json").json["feature_groups"][1]["delta_version"] == 2


def test_insert_names_the_file_that_is_missing_and_the_window_that_cannot_be(run_on_copy: Run, tmp_path: Path) -> None:
    assert "There is no file 'nope.csv'" in run_on_copy("insert", "transactions", "--file", "nope.csv").err
    csv = write(tmp_path / "day.csv", "customer,day,amount,[red]note\n")
    backwards = ("insert", "transactions", "--file", csv, "--window", "2021-01-16", "2021-01-15")
    assert "before it starts" in run_on_copy(*backwards).err


def test_training_verify_ends_with_1_when_the_bytes_differ(run_on_copy: Run, tmp_path: Path) -> None:
    """V2: verify proves it, or says which set it cannot prove."""
    assert [r["result"] for r in run_on_copy("training", "verify", "customers", "--json").json] == ["ok", "ok"]
    for file in (tmp_path / "copy" / "lake" / "labels_1").glob("*.parquet"):
        file.unlink()
    answer = run_on_copy("training", "verify", "customers", "1", "--json")
    assert answer.code == 1
    assert answer.json[0]["result"] == "failed"
    assert "cannot be read" in answer.json[0]["reason"]


def test_training_show_and_delete(run_on_copy: Run) -> None:
    manifest = run_on_copy("training", "show", "customers", "1", "--json").json
    assert manifest["groups"]["transactions_v1"]["delta_version"] == 2
    assert "has no training dataset 9 (versions: 1, 2)" in run_on_copy("training", "show", "customers", "9").err
    assert run_on_copy("training", "delete", "customers", "1", answer="n\n").code == 1
    assert [d["version"] for d in run_on_copy("training", "list", "customers", "--json").json] == [1, 2]
    assert run_on_copy("training", "delete", "customers", "1", answer="y\n").code == 0
    assert run_on_copy("training", "delete", "customers", "2", "--yes").code == 0
    assert run_on_copy("training", "list", "customers", "--json").json == []
    assert "none yet" in run_on_copy("training", "list", "customers").out
    assert "no training sets yet" in run_on_copy("training", "verify", "customers").out


def test_drift_compares_the_rows_of_two_commits(run: Run) -> None:
    """G16: from the statistics that are kept with each commit."""
    found = run("drift", "transactions", "1", "2", "--json").json
    assert found["amount"]["wasserstein"] == pytest.approx((65 + 35 + 1) / 3)
    assert found["amount"]["reference_count"] == 3
    assert "wrote no rows" in run("drift", "transactions", "0", "2").err
    assert "psi" in run("drift", "transactions", "1", "2").out


def test_optimize_puts_files_together_and_keeps_the_rows(run_on_copy: Run, tmp_path: Path) -> None:
    """G13, V2: no row changes, and training sets stay what they were."""
    for day in ("2021-02-01", "2021-02-02"):
        csv = write(tmp_path / "day.csv", f"customer,day,amount,[red]note\n1,{day},80,\n")
        assert run_on_copy("insert", "transactions", "--file", csv).code == 0
    rows = run_on_copy("preview", "transactions", "--json").json
    done = run_on_copy("optimize", "transactions", "--json").json[0]
    assert (done["files_after"], done["rows"]) == (1, 5)
    assert done["files_before"] > 1
    assert run_on_copy("preview", "transactions", "--json").json == rows
    assert run_on_copy("training", "verify", "customers").code == 0
    assert [d["files_before"] for d in run_on_copy("optimize", "--json").json] == [0, 0]
    assert "files before" in run_on_copy("optimize").out


def test_vacuum_removes_what_nobody_pins_and_shows_who_pins_the_rest(run_on_copy: Run, tmp_path: Path) -> None:
    """V3: a dry run says the same and removes nothing."""
    csv = write(tmp_path / "day.csv", "customer,day,amount,[red]note\n1,2021-01-14,80,\n1,2021-01-07,45,\n")
    assert run_on_copy("insert", "transactions", "--file", csv).code == 0
    assert [r["versions_lost"] for r in run_on_copy("vacuum", "--json").json] == [[], []]
    dry = run_on_copy("vacuum", "transactions", "--days", "0", "--dry-run", "--json").json[0]
    text = run_on_copy("vacuum", "transactions", "--days", "0", "--dry-run").out
    assert run_on_copy("vacuum", "transactions", "--days", "0", "--json").json[0] == dry | {"dry_run": False}
    assert dry["versions_lost"] == [1]
    assert dry["held"] == {"2": ["customers v1, training dataset 1", "customers v1, training dataset 2"]}
    assert "customers v1, training dataset 1, customers v1, training dataset 2" in text
    assert "Nothing was removed" in text
    assert run_on_copy("preview", "transactions", "--at", "1").code == 2
    assert run_on_copy("training", "verify", "customers").code == 0


def test_forget_asks_then_erases_and_says_where_the_rows_were(run_on_copy: Run, tmp_path: Path) -> None:
    """G14: what was erased, and which training sets can no longer be made."""
    assert run_on_copy("forget", "transactions", "customer=1", answer="n\n").code == 1
    assert run_on_copy("list", "--json").json["feature_groups"][1]["rows"] == 3
    report = run_on_copy("forget", "transactions", "customer=1", "--yes", "--json").json
    assert (report["keys"], report["rows_deleted"]) == (1, 3)
    assert report["training_datasets"] == ["customers v1, training dataset 1", "customers v1, training dataset 2"]
    assert run_on_copy("list", "--json").json["feature_groups"][1]["rows"] == 0
    verified = run_on_copy("training", "verify", "customers", "--json")
    assert (verified.code, {r["result"] for r in verified.json}) == (1, {"failed"})
    keys = write(tmp_path / "keys.csv", "customer\n1\n2\n")
    shown = run_on_copy("forget", "transactions", "--file", keys, answer="y\n")
    assert "Forgotten 2 keys" in shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["customer=one"], "customer='one' is not a bigint"),
        (["client=1"], "lacks ['customer'] and also has ['client']"),
        (["customer"], "'customer' is not of the form name=value"),
        ([], "name=value, or many keys with --file"),
        (["customer=1", "--file", "keys.csv"], "name=value, or many keys with --file"),
        (["--file", "keys.csv"], "There is no file 'keys.csv'"),
    ],
)
def test_forget_refuses_keys_it_does_not_understand(run_on_copy: Run, arguments: Sequence[str], said: str) -> None:
    """G14: before anything is touched."""
    answer = run_on_copy("forget", "transactions", *arguments, "--yes")
    assert (answer.code, answer.out) == (2, "")
    assert said in re.sub(r"\s*│?\n│?\s*", " ", answer.err)
    assert run_on_copy("list", "--json").json["feature_groups"][1]["rows"] == 3


def test_doctor_ends_with_1_when_something_is_wrong(run_on_copy: Run, tmp_path: Path) -> None:
    assert {f["severity"] for f in run_on_copy("doctor", "--json").json} == {"info"}
    next((tmp_path / "copy" / "lake" / "labels_1").glob("*.parquet")).unlink()
    answer = run_on_copy("doctor", "--json")
    assert (answer.code, answer.json[0]["severity"]) == (1, "error")
    assert "error" in run_on_copy("doctor").out


def test_leakage_ends_with_1_when_a_feature_tells_the_label(run_on_copy: Run, tmp_path: Path) -> None:
    """V12: a copy of the label among the features is an error; late commits are worth knowing."""
    assert {f["severity"] for f in run_on_copy("leakage", "customers", "--json").json} == {"info"}
    fs = featurestore.connect(tmp_path / "copy")
    outcomes = pd.DataFrame({"id": range(60), "day": pd.Timestamp("2021-01-01"), "outcome": [0.0, 1.0, 1.0] * 20})
    made = fs.create_feature_group("outcomes", 1, primary_key=["id"], event_time="day")
    made.insert(outcomes)
    copies = fs.create_feature_group("copies", 1, primary_key=["id"], event_time="day")
    copies.insert(outcomes.rename(columns={"outcome": "copy"}))
    query = made.select(["outcome"]).join(copies.select(["copy"]))
    fs.create_feature_view("leaky", query=query, labels=["outcome"])
    answer = run_on_copy("leakage", "leaky", "--json")
    assert (answer.code, answer.json[0]["severity"]) == (1, "error")
    assert "copy" in run_on_copy("leakage", "leaky").out


def test_skew_ends_with_1_when_online_gives_something_else(run_on_copy: Run, tmp_path: Path) -> None:
    """V10: the same to the bit, or an error that names the feature and both values."""
    assert run_on_copy("skew", "customers", "--sample", "5").out == "Nothing found.\n"
    with sqlite3.connect(tmp_path / "copy" / "online.db") as online:
        (table,) = [
            t for (t,) in online.execute("SELECT name FROM sqlite_master WHERE name LIKE 'fg_%' AND type = 'table'")
        ]
        online.execute(f'UPDATE "{table}" SET "{_column_of(online, table, 79.0)}" = 80.0')
    answer = run_on_copy("skew", "customers", "--json")
    assert answer.code == 1
    assert "79.0" in answer.json[0]["message"]


def _column_of(database: sqlite3.Connection, table: str, value: float) -> str:
    row = database.execute(f'SELECT * FROM "{table}"')
    return next(name[0] for name, found in zip(row.description, row.fetchone(), strict=True) if found == value)


def test_show_tells_the_gaps_between_windows(run_on_copy: Run, tmp_path: Path) -> None:
    """G9: windows that are missing between those committed."""
    empty = write(tmp_path / "day.csv", "customer,day,amount,[red]note\n")
    assert run_on_copy("insert", "transactions", "--file", empty, "--window", "2021-01-16", "2021-01-17").code == 0
    gaps = run_on_copy("show", "transactions", "--json").json["window_gaps"]
    assert gaps == [["2021-01-15T00:00:00+00:00", "2021-01-16T00:00:00+00:00"]]
    assert "[2021-01-15, 2021-01-16)" in run_on_copy("show", "transactions").out


# The real thing: a process, its streams and its terminal


def command(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "featurestore.cli", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FEATURESTORE_HOME": str(home), **environment},
    )  # fmt: skip


def on_terminal(*arguments: str, home: Path, columns: int, **environment: str) -> str:
    """What a terminal of that width shows, colours included."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "featurestore.cli", *arguments], stdout=theirs, stderr=theirs, stdin=theirs,
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "FEATURESTORE_HOME": str(home), "COLUMNS": str(columns),
            "TERM": "xterm-256color", **environment,
        },
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    process.wait()
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how a pseudo-terminal says that the other side is closed
        return b""


def test_in_a_pipe_there_is_plain_text_and_nothing_is_taken_as_markup(demo: Path, run: Run) -> None:
    shown = command("preview", "transactions", home=demo)
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert shown.stdout.splitlines()[0].split() == ["customer", "day", "amount", "[red]note"]
    assert [line.split("  ")[-1].strip() for line in shown.stdout.splitlines()[1:]] == ["[bold]x", r"\x1b[31m", "null"]
    assert "Spending of [bold]each customer[/bold]." in run("list").out


def test_a_view_whose_function_is_elsewhere_is_still_listed_and_shown(demo: Path, tmp_path: Path) -> None:
    """V7: its own functions are imported where they are needed, and only there."""

    @udf(float)
    def halved(amount: float) -> float:
        return amount / 2

    shutil.copytree(demo, tmp_path / "copy")
    with closing(featurestore.connect(tmp_path / "copy")) as fs:
        query = fs.get_feature_view("customers").query
        fs.create_feature_view("own", query=query, labels=["category"], transformation_functions={"amount": halved})
    shown = command("show", "own", home=tmp_path / "copy")
    assert shown.returncode == 0
    assert "Move it to the top of a module that can be imported" in shown.stdout


def test_tables_fit_the_terminal_and_keep_control_characters_out(demo: Path) -> None:
    shown = on_terminal("show", "transactions", home=demo, columns=80)
    assert "\x1b[1m" in shown
    assert "\x1b[31m" not in shown
    table = shown[shown.index("Columns") :]
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in table.splitlines()) <= 80
    assert "[red]note" in table


def test_an_error_is_red_on_a_terminal_unless_colour_is_unwanted(demo: Path) -> None:
    assert on_terminal("show", "nope", home=demo, columns=80).startswith("\x1b[31mError: ")
    assert on_terminal("show", "nope", home=demo, columns=80, NO_COLOR="1").startswith("Error: ")


def test_names_complete_in_the_shell(demo: Path) -> None:
    asked = {"_FEATURESTORE_COMPLETE": "complete_bash", "COMP_WORDS": "featurestore show tr", "COMP_CWORD": "2"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEATURESTORE_HOME": str(demo), **asked}
    shown = subprocess.run([SCRIPT], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.split() == ["transactions"]


def test_the_console_script_is_this_command() -> None:
    shown = subprocess.run(
        [SCRIPT, "--help"], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert "training" in shown.stdout


def test_usage_errors_end_with_2(demo: Path) -> None:
    assert (
        run_in(demo, "show").code
        == run_in(demo, "nonsense").code
        == run_in(demo, "stats", "x", "--commit", "y").code
        == 2
    )


def every_command() -> list[list[str]]:
    names = [[c.name or c.callback.__name__] for c in app.registered_commands if c.callback]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        names += [[str(group.name), str(c.name)] for c in group.typer_instance.registered_commands]
    return names


@pytest.mark.parametrize("name", every_command(), ids=" ".join)
def test_every_command_explains_itself_with_an_example(name: Sequence[str]) -> None:
    shown = CliRunner().invoke(app, [*name, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert f"Example: featurestore {' '.join(name)}" in shown.stdout
