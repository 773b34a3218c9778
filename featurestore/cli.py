"""The `featurestore` command: look at a store, write to it, check it and keep it in order.

Exit codes: 0 all is well; 1 a check found errors; 2 the command could not do what it was asked to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore import records, terminal
from featurestore.arguments import (
    Commands,
    Group,
    GroupOrAll,
    IsView,
    Json,
    Keys,
    Limit,
    Name,
    Version,
    View,
    Yes,
    confirm,
    group_or_view,
    pairs,
    store_of,
)
from featurestore.training_commands import show_training_sets, training

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.feature_view import FeatureView
    from featurestore.findings import Finding
    from featurestore.store import FeatureStore


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
app.add_typer(
    training,
    name="training",
    help="List, show, verify, rebuild or delete training sets.",
    rich_help_panel="Training sets",
)


@app.callback()
def main(
    home: Annotated[
        Path | None,
        typer.Option(help="Where the store is; default FEATURESTORE_HOME, else .triptych/store.", show_default=False),
    ] = None,
) -> None:
    """A feature store on Delta Lake: look at it, write to it, check it, keep it in order."""


# Looking


@app.command("list", rich_help_panel="Look")
def list_all(
    ctx: typer.Context,
    groups: Annotated[bool, typer.Option("--groups", help="Feature groups only.")] = False,
    views: Annotated[bool, typer.Option("--views", help="Feature views only.")] = False,
    json: Json = False,
) -> None:
    """List feature groups and views.

    Example: featurestore list --groups
    """
    store = store_of(ctx)
    both = groups == views
    found_groups = [records.of_group(g) for g in store.get_feature_groups()] if both or groups else []
    found_views = [records.of_view(v) for v in store.get_feature_views()] if both or views else []
    if json:
        return terminal.as_json({"feature_groups": found_groups, "feature_views": found_views})
    if not found_groups and not found_views:
        terminal.line(
            "Nothing here yet. Make a feature group in Python: "
            "fs.get_or_create_feature_group(name, version, primary_key=[...]) and insert a first batch."
        )
    if found_groups:
        terminal.heading("Feature groups")
        columns = ["name", "version", "rows", "online", "written"]
        terminal.table(found_groups, columns, flexible="description")
    if found_groups and found_views:
        terminal.line()
    if found_views:
        terminal.heading("Feature views")
        columns = ["name", "version", "labels", "training_sets", "groups"]
        terminal.table(found_views, columns, flexible="description")


@app.command(rich_help_panel="Look")
def show(
    ctx: typer.Context,
    name: Name,
    version: Version = None,
    view: IsView = False,
    json: Json = False,
) -> None:
    """Show one group or view: schema, statistics, freshness, history.

    Of a view: its query, labels, features, transformations and training sets.

    Example: featurestore show transactions --version 1
    """
    from featurestore.feature_view import FeatureView

    store = store_of(ctx)
    found = group_or_view(store, name, version, view=view)
    if isinstance(found, FeatureView):
        _show_view(found, json=json)
    else:
        _show_group(store, found, json=json)


def _show_group(store: FeatureStore, group: FeatureGroup, *, json: bool) -> None:
    record = records.of_group_in_full(group, store.clock())
    if json:
        return terminal.as_json(record)
    terminal.heading(f"Feature group {group.name} version {group.version}", group.description)
    terminal.facts({
        "primary key": group.primary_key, "event time": group.event_time,
        "online": "yes" if group.online_enabled else "no", "ttl": record["ttl"],
        "partitioned by": record["partition_key"],
        "rows": record["rows"], "newest row": _with_age(record["newest_row"], record["newest_row_age"]),
        "watermark": _with_age(record["watermark"], record["watermark_age"]),
        "gaps": [f"[{terminal.short(gap)})" for gap in record["window_gaps"]], "written": record["written"],
        "tags": record["tags"], "location": record["location"],
    })  # fmt: skip
    if not record["columns"]:
        return terminal.line("No columns yet: the first insert declares them.")
    columns = [
        c | {"nulls": c["statistics"]["null_count"], "values": _values(c["statistics"])} for c in record["columns"]
    ]
    terminal.line()
    terminal.heading("Columns")
    terminal.table(columns, ["name", "type", "unit", "nulls", "values"], flexible="description")
    terminal.line()
    _show_history(record["history"], last=5)


def _with_age(moment: datetime | None, age: timedelta | None) -> str | None:
    if moment is None or age is None:
        return None
    return f"{terminal.short(moment)}, {terminal.length(abs(age))} {'ago' if age >= timedelta(0) else 'ahead'}"


def _values(summary: records.Record) -> str:
    """What a column holds, in a few words."""
    if not summary["count"]:
        return "none"
    if summary["kind"] in ("number", "time"):
        line = records.of_column_statistics("", summary)
        low, high = terminal.short(line["min"]), terminal.short(line["max"])
        return low if low == high else f"{low} to {high}"
    if summary["kind"] == "boolean":
        return f"{summary['mean']:.3g} true"
    distinct = summary["distinct_count"]
    return f"{summary['count']:,} lists" if distinct is None else f"{distinct:,} different"


def _show_history(commits: list[records.Record], *, last: int) -> None:
    terminal.heading("History", f"the last {last} of {len(commits)} commits" if len(commits) > last else "")
    if not commits:
        return terminal.line("  none yet: the first insert makes one.")
    lines = [
        c | {"rows": _changed(c), "window": f"[{terminal.short(c['window'])})" if c["window"] else None}
        for c in commits[:last]
    ]  # fmt: skip
    terminal.table(lines, ["version", "time", "operation", "rows", "who"], flexible="window")


def _changed(commit: records.Record) -> str:
    signs = (("+", "inserted"), ("~", "updated"), ("-", "deleted"))
    return " ".join(f"{sign}{commit[what]:,}" for sign, what in signs if commit[what]) or "none"


def _show_view(view: FeatureView, *, json: bool) -> None:
    record = records.of_view_in_full(view)
    if json:
        return terminal.as_json(record)
    terminal.heading(f"Feature view {view.name} version {view.version}", view.description)
    terminal.facts({"labels": view.labels or "none"})
    for title, lines in (("Query", record["query"]), ("Transformations", record["transformations"])):
        terminal.line()
        terminal.heading(title)
        for line in lines or ["none"]:
            terminal.line(f"  {terminal.literal(line)}")
    terminal.line()
    terminal.heading("Features")
    terminal.table(record["features"], ["name", "type", "unit", "on_demand"], flexible="description")
    terminal.line()
    show_training_sets(record["training_sets"])


@app.command(rich_help_panel="Look")
def history(ctx: typer.Context, name: Group, version: Version = None, json: Json = False) -> None:
    """List the commits of a group, newest first.

    Example: featurestore history transactions
    """
    group = store_of(ctx).get_feature_group(name, version)
    commits = records.of_history(group)
    if json:
        return terminal.as_json(commits)
    _show_history(commits, last=len(commits))


@app.command(rich_help_panel="Look")
def preview(
    ctx: typer.Context,
    name: Group,
    version: Version = None,
    at: Annotated[str | None, typer.Option(help="A Delta version or a time: the rows as they were then.")] = None,
    limit: Limit = 10,
    json: Json = False,
) -> None:
    """Show the first rows of a group, as they are or as they were.

    Example: featurestore preview transactions --at 3
    """
    group = store_of(ctx).get_feature_group(name, version)
    moment = int(at) if at is not None and at.isdecimal() and len(at) < 8 else at  # 20210101 is a day, 12 a version
    query = group.select_all() if moment is None else group.as_of(moment)
    data = query.limit(limit).read("arrow")
    terminal.as_json(data) if json else terminal.rows(data, limit=limit)


@app.command(rich_help_panel="Look")
def stats(
    ctx: typer.Context,
    name: Group,
    version: Version = None,
    commit: Annotated[int | None, typer.Option(help="Of the rows that this Delta version wrote.", min=0)] = None,
    json: Json = False,
) -> None:
    """Show column statistics, of a group or of one commit.

    Example: featurestore stats transactions --commit 3
    """
    found = store_of(ctx).get_feature_group(name, version).get_statistics(commit)
    if json:
        return terminal.as_json(found)
    lines = [records.of_column_statistics(column, summary) for column, summary in found.items()]
    terminal.table(lines, list(lines[0]))


@app.command(rich_help_panel="Look")
def sql(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="A SELECT over groups as tables.", show_default=False)],
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Run one SELECT over the groups.

    Each is a table by its name, or with its version: transactions, transactions_1.

    Example: featurestore sql "SELECT count(*) FROM transactions"
    """
    data = store_of(ctx).sql(query, dataframe_type="arrow")
    terminal.as_json(data) if json else terminal.rows(data, limit=limit)


@app.command(rich_help_panel="Look")
def search(
    ctx: typer.Context,
    words: Annotated[list[str], typer.Argument(help="All of them must be there.", show_default=False)],
    json: Json = False,
) -> None:
    """Find groups, views and features by words.

    All words must be in the name, the tags or the description.

    Example: featurestore search amount week
    """
    found = [asdict(one) for one in store_of(ctx).search(" ".join(words))]
    if json:
        return terminal.as_json(found)
    if not found:
        return terminal.line("Nothing found.")
    terminal.table(found, ["kind", "name", "version", "feature"], flexible="description")


@app.command(rich_help_panel="Look")
def quarantine(ctx: typer.Context, name: Group, version: Version = None, limit: Limit = 20, json: Json = False) -> None:
    """Show the rows that the rules of a group rejected.

    Example: featurestore quarantine transactions
    """
    data = store_of(ctx).get_feature_group(name, version).quarantine("arrow")
    if json:
        return terminal.as_json(data)
    if not data.num_rows:
        return terminal.line("No row was ever rejected.")
    columns = [n for n in data.column_names if n not in ("__rule", "__rejected_at")]
    terminal.rows(data.select([*columns, "__rejected_at", "__rule"]), limit=limit, flexible=True)


@app.command(rich_help_panel="Look")
def lineage(ctx: typer.Context, name: Name, version: Version = None, view: IsView = False, json: Json = False) -> None:
    """Show what a view is made of, or what is made of a group.

    Example: featurestore lineage transactions
    """
    tree = group_or_view(store_of(ctx), name, version, view=view).lineage()
    if json:
        return terminal.as_json(tree.to_json())
    for line in str(tree).splitlines():
        terminal.line(terminal.literal(line))


@app.command(rich_help_panel="Look")
def explain(
    ctx: typer.Context,
    view: View,
    keys: Keys,
    time: Annotated[
        str | None, typer.Option(help="Of the newest row at or before this time; default the last.")
    ] = None,
    training_set: Annotated[
        int | None, typer.Option("--training", help="As this training set holds it.", min=1)
    ] = None,
    version: Version = None,
    json: Json = False,
) -> None:
    """Explain where the values of one row come from.

    For each feature: the row that was chosen and the commit that wrote it, or why there is none.

    Example: featurestore explain customers customer_id=1 --time 2021-01-16
    """
    from featurestore import files

    store = store_of(ctx)
    found = store.get_feature_view(view, version)
    entry = files.parse_values(pairs(keys), store.group(found.query.group).features)
    explained = records.of_explanation(found.explain(entry, time, training_dataset_version=training_set))
    if json:
        return terminal.as_json(explained)
    lines = [line | {"value": terminal.shown(line["value"])} for line in explained]
    shown = ["feature", "value", "group", "event_time", "commit_version", "committed_at"]
    terminal.table(lines, shown, flexible="reason")


# Writing


@app.command(rich_help_panel="Write")
def insert(
    ctx: typer.Context,
    name: Group,
    file: Annotated[Path, typer.Option("--file", "-f", help="Parquet or CSV.", show_default=False)],
    window: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="START END", help="The time [START, END) that these rows complete.", show_default=False),
    ] = None,
    version: Version = None,
    json: Json = False,
) -> None:
    """Insert the rows of a file into a group.

    New rows are added, rows that differ are updated, the same rows change nothing.

    Example: featurestore insert transactions --file day.parquet --window 2026-01-01 2026-01-02
    """
    from featurestore import files

    group = store_of(ctx).get_feature_group(name, version)
    with terminal.progress(f"Inserting {terminal.literal(file.name)}", total=1) as advance:
        commit = group.insert(files.read(file, group.features, advance=advance), window=window)
    if json:
        return terminal.as_json(records.of_commit(commit))
    terminal.line(
        f"{group.name} version {group.version}, Delta version {commit.version}: {commit.rows_inserted:,} rows "
        f"inserted, {commit.rows_updated:,} updated, {commit.rows_unchanged:,} unchanged."
    )


# Checking


@app.command(rich_help_panel="Check")
def drift(
    ctx: typer.Context,
    name: Name,
    reference: Annotated[int, typer.Argument(help="A group's commit, or a view's training set.", show_default=False)],
    current: Annotated[int, typer.Argument(help="What is compared with it.", show_default=False)],
    version: Version = None,
    view: IsView = False,
    json: Json = False,
) -> None:
    """Compare two commits of a group, or two training sets.

    By the statistics of their columns; of training sets, those of the training split.

    Example: featurestore drift transactions 1 2
    """
    from featurestore.drift import compare
    from featurestore.feature_view import FeatureView

    source = group_or_view(store_of(ctx), name, version, view=view)
    if isinstance(source, FeatureView):
        sides = [records.of_training_columns(source.training_dataset_statistics(v)) for v in (reference, current)]
    else:
        sides = [source.get_statistics(v) for v in (reference, current)]
    found = compare(*sides)
    if json:
        return terminal.as_json(found)
    shown = ["column", "psi", "ks", "ks_p_value", "js", "hellinger", "kl", "wasserstein"]
    terminal.table([{"column": column} | distances for column, distances in found.items()], shown)


@app.command(rich_help_panel="Check")
def leakage(
    ctx: typer.Context,
    view: View,
    training_set: Annotated[int | None, typer.Option("--training", help="Of this training set.", min=1)] = None,
    version: Version = None,
    json: Json = False,
) -> None:
    """Look for what a prediction will not know.

    The exit code is 1 when an error is found.

    Example: featurestore leakage customers --training 1
    """
    _show_findings(store_of(ctx).get_feature_view(view, version).check_leakage(training_set), json=json)


@app.command(rich_help_panel="Check")
def skew(
    ctx: typer.Context,
    view: View,
    training_set: Annotated[
        int | None, typer.Option("--training", help="With this one's transformations.", min=1)
    ] = None,
    sample: Annotated[int, typer.Option(help="How many keys to compare.", min=1)] = 100,
    version: Version = None,
    json: Json = False,
) -> None:
    """Compare online vectors with offline rows, to the bit.

    The exit code is 1 when some differ.

    Example: featurestore skew customers --sample 1000
    """
    _show_findings(store_of(ctx).get_feature_view(view, version).check_skew(training_set, sample), json=json)


@app.command(rich_help_panel="Check")
def doctor(
    ctx: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Also build every training set again and compare.")] = False,
    json: Json = False,
) -> None:
    """Look for what is damaged, lagging or left behind.

    The exit code is 1 when an error is found.

    Example: featurestore doctor --deep
    """
    with terminal.progress("Examining"):
        findings = store_of(ctx).check(deep=deep)
    _show_findings(findings, json=json)


def _show_findings(findings: Sequence[Finding], *, json: bool) -> None:
    if json:
        terminal.as_json([records.of_finding(f) for f in findings])
    elif not findings:
        terminal.line("Nothing found.")
    else:
        lines = [records.of_finding(f) | {"finding": f"{f.message} {f.remedy}".strip()} for f in findings]
        terminal.table(lines, ["severity", "subject"], flexible="finding")
    if any(f.severity == "error" for f in findings):
        raise typer.Exit(1)


# Keeping in order


@app.command(rich_help_panel="Keep in order")
def optimize(ctx: typer.Context, name: GroupOrAll = None, version: Version = None, json: Json = False) -> None:
    """Put small files together; no row changes.

    Example: featurestore optimize transactions
    """
    groups = _chosen(store_of(ctx), name, version)
    with terminal.progress("Optimizing", total=len(groups)) as advance:
        found = []
        for group in groups:
            found.append(records.of_optimized(group, group.optimize()))
            advance(1)
    if json:
        return terminal.as_json(found)
    terminal.table(found, ["group", "delta_version", "files_before", "files_after", "rows"])


@app.command(rich_help_panel="Keep in order")
def vacuum(
    ctx: typer.Context,
    name: GroupOrAll = None,
    version: Version = None,
    days: Annotated[float, typer.Option(help="How long versions that nothing pins stay readable.", min=0)] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove old files; show what is pinned and by whom.

    A file stays while a version needs it that is current, recent, or pinned by a training set or view.

    Example: featurestore vacuum transactions --dry-run
    """
    groups = _chosen(store_of(ctx), name, version)
    with terminal.progress("Vacuuming", total=len(groups)) as advance:
        found = []
        for group in groups:
            found.append(records.of_vacuum(group, group.vacuum(timedelta(days=days), dry_run=dry_run)))
            advance(1)
    if json:
        return terminal.as_json(found)
    lines = [f | {"files": len(f["files"]), "size": terminal.size(f["bytes"])} for f in found]
    terminal.table(lines, ["group", "files", "size"], flexible="versions_lost")
    held = [{"group": f["group"], "version": v, "by": by} for f in found for v, by in f["held"].items()]
    if held:
        terminal.line()
        terminal.heading("Pinned", "versions that stay readable, and who needs them")
        terminal.table(held, ["group", "version"], flexible="by")
    if dry_run:
        terminal.line("Nothing was removed: this is what would be.")


@app.command(rich_help_panel="Keep in order")
def forget(
    ctx: typer.Context,
    name: Group,
    keys: Keys = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="CSV or Parquet of the primary key columns.")
    ] = None,
    version: Version = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Erase all that the store holds of some keys, for good.

    Rows, files of old versions, online rows, quarantine, logs, and training sets made of them.

    Example: featurestore forget transactions customer_id=7
    """
    from featurestore import files

    group = store_of(ctx).get_feature_group(name, version)
    if bool(keys) == (file is not None):
        raise typer.BadParameter("Give the columns of one key as name=value, or many keys with --file.")
    entry = files.parse_values(pairs(keys), group.features)
    wanted = files.read_table(file, group.features) if file is not None else files.one_row(entry, group.features)
    confirm(f"Erase {file or ' '.join(keys or [])} from {group.name} version {group.version} for good?", yes)
    with terminal.progress("Forgetting"):
        report = records.of_forgotten(group.forget(wanted))
    if json:
        return terminal.as_json(report)
    count = report.pop("keys")
    terminal.heading(f"Forgotten {count:,} key{'' if count == 1 else 's'} of {report.pop('group')}")
    terminal.facts(report)


def _chosen(store: FeatureStore, name: str | None, version: int | None) -> list[FeatureGroup]:
    """The group of that name, or all groups that have columns yet."""
    if name is None:
        return [group for group in store.get_feature_groups() if group.features]
    return [store.get_feature_group(name, version)]


if __name__ == "__main__":
    app()
