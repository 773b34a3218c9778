"""The `featurestore` command: look at a store, write to it, check it and keep it in order.

Exit codes: 0 all is well; 1 a check found errors; 2 the command could not do what it was asked to.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from featurestore import records, terminal
from featurestore.errors import FeatureStoreError, NotFound, NotReproducible

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.feature_view import FeatureView
    from featurestore.store import FeatureStore


class _Commands(TyperGroup):
    """Ends with one line, not with a traceback, when the store refuses."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (FeatureStoreError, OSError) as error:
            terminal.error(str(error))
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
training = typer.Typer(cls=_Commands, no_args_is_help=True)
app.add_typer(training, name="training", help="Training sets as versions.", rich_help_panel="Training sets")


# What the command line may say


def _groups(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(ctx, incomplete, groups=True)


def _views(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(ctx, incomplete, views=True)


def _everything(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(ctx, incomplete, groups=True, views=True)


def _names(ctx: typer.Context, incomplete: str, *, groups: bool = False, views: bool = False) -> list[str]:
    try:
        store = _store(ctx)
    except FeatureStoreError:  # nothing to complete; the command itself will say why
        return []
    found = [g.name for g in store.get_feature_groups() if groups] + [
        v.name for v in store.get_feature_views() if views
    ]
    return sorted({name for name in found if name.startswith(incomplete)})


Group = Annotated[str, typer.Argument(help="A feature group.", show_default=False, autocompletion=_groups)]
GroupOrAll = Annotated[
    str | None, typer.Argument(help="A feature group; default all.", show_default=False, autocompletion=_groups)
]
View = Annotated[str, typer.Argument(help="A feature view.", show_default=False, autocompletion=_views)]
Name = Annotated[str, typer.Argument(help="A group or view.", show_default=False, autocompletion=_everything)]
Version = Annotated[int | None, typer.Option("--version", "-v", help="Its version; default the newest.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Limit = Annotated[int, typer.Option("--limit", "-n", help="Rows to show.", min=1)]
Keys = Annotated[
    list[str] | None,
    typer.Argument(help="The columns of one key: name=value ...", metavar="NAME=VALUE...", show_default=False),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Training = Annotated[int, typer.Argument(help="A version of its training sets.", show_default=False, min=1)]


@app.callback()
def main(
    home: Annotated[
        Path | None,
        typer.Option(help="Where the store is; default FEATURESTORE_HOME, else .triptych/store.", show_default=False),
    ] = None,
) -> None:
    """A feature store on Delta Lake: look at it, write to it, check it, keep it in order."""


def _store(ctx: typer.Context) -> FeatureStore:
    """The store the command is about. It must exist: a command line makes none by a slip of the keyboard."""
    from featurestore import settings as of_store
    from featurestore.store import connect

    home = ctx.find_root().params.get("home")
    settings = of_store.load() if home is None else of_store.load(home=home)
    if settings.catalog_url is None and not (settings.home / "catalog.db").exists():
        raise NotFound(
            f"There is no feature store in {str(settings.home)!r}. Name another home with --home or FEATURESTORE_HOME, "
            f"or make one in Python: featurestore.connect({str(settings.home)!r})."
        )
    store = connect(home)
    ctx.call_on_close(store.close)
    return store


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
    store = _store(ctx)
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
    view: Annotated[bool, typer.Option("--view", help="The view, where a group has the same name.")] = False,
    json: Json = False,
) -> None:
    """Show a group (schema, statistics, freshness, history) or a view (query, labels, training sets).

    Example: featurestore show transactions --version 1
    """
    store = _store(ctx)
    if not view and any(g.name == name for g in store.get_feature_groups()):
        _show_group(store, store.get_feature_group(name, version), json=json)
    elif any(v.name == name for v in store.get_feature_views()):
        _show_view(store.get_feature_view(name, version), json=json)
    else:
        raise NotFound(
            f"There is no feature {'' if view else 'group or '}view {name!r}. `featurestore list` shows what there is."
        )


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
        "watermark": _with_age(record["watermark"], record["watermark_age"]), "written": record["written"],
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
    lines = [
        c | {"rows": _changed(c), "window": f"[{terminal.short(c['window'])})" if c["window"] else None}
        for c in commits[::-1][:last]
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
    _show_training_sets(record["training_sets"])


@app.command(rich_help_panel="Look")
def history(ctx: typer.Context, name: Group, version: Version = None, json: Json = False) -> None:
    """List every commit of a group, newest first: when, what, how many rows, by whom.

    Example: featurestore history transactions
    """
    group = _store(ctx).get_feature_group(name, version)
    commits = [records.of_commit(c) for c in group.history()]
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
    group = _store(ctx).get_feature_group(name, version)
    query = group.select_all() if at is None else group.as_of(int(at) if at.isdecimal() and len(at) < 8 else at)
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
    """Show column statistics, of the whole group or of one commit.

    Example: featurestore stats transactions --commit 3
    """
    found = _store(ctx).get_feature_group(name, version).get_statistics(commit)
    if json:
        return terminal.as_json(found)
    lines = [records.of_column_statistics(column, summary) for column, summary in found.items()]
    terminal.table(lines, list(lines[0]))


@app.command(rich_help_panel="Look")
def quarantine(ctx: typer.Context, name: Group, version: Version = None, limit: Limit = 20, json: Json = False) -> None:
    """Show the rows that the rules of a group rejected, with the rule and the time.

    Example: featurestore quarantine transactions
    """
    data = _store(ctx).get_feature_group(name, version).quarantine("arrow")
    if json:
        return terminal.as_json(data)
    if not data.num_rows:
        return terminal.line("No row was ever rejected.")
    columns = [n for n in data.column_names if n not in ("__rule", "__rejected_at")]
    terminal.rows(data.select(["__rule", *columns, "__rejected_at"]), limit=limit)


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
    """Insert the rows of a file into a group: new rows are added, changed ones updated.

    Example: featurestore insert transactions --file day.parquet --window 2026-01-01 2026-01-02
    """
    from featurestore import files

    group = _store(ctx).get_feature_group(name, version)
    with terminal.progress(f"Inserting {file.name}"):
        commit = group.insert(files.read(file, group.features), window=window)
    if json:
        return terminal.as_json(records.of_commit(commit))
    terminal.line(
        f"{group.name} version {group.version}, Delta version {commit.version}: {commit.rows_inserted:,} rows "
        f"inserted, {commit.rows_updated:,} updated, {commit.rows_unchanged:,} unchanged."
    )


# Training sets


def _show_training_sets(found: list[records.Record]) -> None:
    terminal.heading("Training sets")
    if not found:
        return terminal.line("  none yet: view.create_train_test_split(...) makes one.")
    lines = [
        d | {"hash": d["content_hash"][:12], "rows": ", ".join(f"{k} {n:,}" for k, n in d["rows"].items())}
        | {"pins": ", ".join(f"{group}@{pin}" for group, pin in d["pins"].items())}
        for d in found
    ]  # fmt: skip
    terminal.table(lines, ["version", "created_at", "rows", "hash", "description"], flexible="pins")


@training.command("list")
def training_list(ctx: typer.Context, view: View, version: Version = None, json: Json = False) -> None:
    """List the training sets of a view: rows, hash, and the Delta versions they pin.

    Example: featurestore training list customers
    """
    found = [records.of_training_set(d) for d in _store(ctx).get_feature_view(view, version).training_datasets()]
    terminal.as_json(found) if json else _show_training_sets(found)


@training.command("show")
def training_show(
    ctx: typer.Context, view: View, training_set: Training, version: Version = None, json: Json = False
) -> None:
    """Show one training set: its splits, what it pins and how it was made. JSON gives the whole manifest.

    Example: featurestore training show customers 1
    """
    dataset = _store(ctx).get_feature_view(view, version).training_dataset(training_set)
    manifest = dataset.manifest
    if json:
        return terminal.as_json({"version": dataset.version} | dict(manifest))
    terminal.heading(f"Training set {dataset.version} of {dataset.view} version {dataset.view_version}")
    split = {name: value for name, value in (manifest["split"] or {}).items() if value}
    terminal.facts({
        "description": manifest["description"], "created": records.of_training_set(dataset)["created_at"],
        "by": manifest["created_by"], "split": split, "labels": manifest["labels"] or "none",
        "hash": dataset.content_hash, "libraries": manifest["libraries"],
    })  # fmt: skip
    terminal.line()
    splits = [{"split": name} | part for name, part in manifest["splits"].items()]
    terminal.table(splits, ["split", "rows"], flexible="content_hash")
    terminal.line()
    pins = [{"group": name} | pin for name, pin in manifest["groups"].items()]
    terminal.table(pins, ["group", "delta_version"], flexible="table_id")


@training.command("verify")
def training_verify(
    ctx: typer.Context,
    view: View,
    training_set: Annotated[int | None, typer.Argument(help="One version; default all.", min=1)] = None,
    version: Version = None,
    json: Json = False,
) -> None:
    """Build training sets again from what they pin and compare the bytes; exit code 1 when one differs.

    Example: featurestore training verify customers 1
    """
    found = _store(ctx).get_feature_view(view, version)
    wanted = [training_set] if training_set is not None else [d.version for d in found.training_datasets()]
    results = []
    with terminal.progress("Verifying", total=len(wanted)) as advance:
        for number in wanted:
            results.append(_verified(found, number))
            advance(1)
    if json:
        terminal.as_json(results)
    elif not results:
        terminal.line(f"{view} has no training sets yet.")
    else:
        terminal.table(results, ["version", "result", "hash"], flexible="reason")
    if any(r["result"] != "ok" for r in results):
        raise typer.Exit(1)


def _verified(view: FeatureView, number: int) -> records.Record:
    try:
        dataset = view.verify_training_dataset(number)
    except NotReproducible as error:
        return {"version": number, "result": "failed", "hash": None, "reason": str(error)}
    return {"version": number, "result": "ok", "hash": dataset.content_hash[:12], "reason": None}


@training.command("delete")
def training_delete(
    ctx: typer.Context, view: View, training_set: Training, version: Version = None, yes: Yes = False
) -> None:
    """Delete a training set and release what it pins.

    Example: featurestore training delete customers 1
    """
    found = _store(ctx).get_feature_view(view, version)
    found.training_dataset(training_set)
    _ask(f"Delete training set {training_set} of {found.name} version {found.version}?", yes)
    found.delete_training_dataset(training_set)
    terminal.line(f"Deleted training set {training_set} of {found.name} version {found.version}.")


# Checking


@app.command(rich_help_panel="Check")
def drift(
    ctx: typer.Context,
    name: Name,
    reference: Annotated[int, typer.Argument(help="A group's commit, or a view's training set.", show_default=False)],
    current: Annotated[int, typer.Argument(help="What is compared with it.", show_default=False)],
    version: Version = None,
    json: Json = False,
) -> None:
    """Compare the rows of two commits of a group, or two training sets of a view, column by column.

    Example: featurestore drift transactions 1 2
    """
    from featurestore.drift import compare

    group = _store(ctx).get_feature_group(name, version)
    found = compare(group.get_statistics(reference), group.get_statistics(current))
    if json:
        return terminal.as_json(found)
    shown = ["column", "psi", "ks", "ks_p_value", "js", "hellinger", "kl", "wasserstein"]
    terminal.table([{"column": column} | distances for column, distances in found.items()], shown)


# Keeping in order


@app.command(rich_help_panel="Keep in order")
def optimize(ctx: typer.Context, name: GroupOrAll = None, version: Version = None, json: Json = False) -> None:
    """Put small files together, so that reads open few of them; rows and history stay as they are.

    Example: featurestore optimize transactions
    """
    groups = _chosen(_store(ctx), name, version)
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
    """Remove files that no current, recent or pinned version needs; show what is pinned and by whom.

    Example: featurestore vacuum transactions --dry-run
    """
    groups = _chosen(_store(ctx), name, version)
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
    """Erase all that the store holds of some keys, for good: rows, old versions, copies in training sets.

    Example: featurestore forget transactions customer_id=7
    """
    from featurestore import files

    group = _store(ctx).get_feature_group(name, version)
    if bool(keys) == (file is not None):
        raise typer.BadParameter("Give the columns of one key as name=value, or many keys with --file.")
    wanted = files.read(file, group.features) if file is not None else files.one_row(_pairs(keys), group.features)
    _ask(f"Erase {file or ' '.join(keys or [])} from {group.name} version {group.version} for good?", yes)
    with terminal.progress("Forgetting"):
        report = records.of_forgotten(group.forget(wanted))
    if json:
        return terminal.as_json(report)
    count = report.pop("keys")
    terminal.heading(f"Forgotten {count:,} key{'' if count == 1 else 's'} of {report.pop('group')}")
    terminal.facts(report)


def _pairs(arguments: list[str] | None) -> dict[str, str]:
    """The names and values of arguments such as customer_id=7."""
    if wrong := [argument for argument in arguments or [] if "=" not in argument]:
        raise typer.BadParameter(f"{wrong[0]!r} is not of the form name=value.")
    return dict(argument.split("=", 1) for argument in arguments or [])


def _chosen(store: FeatureStore, name: str | None, version: int | None) -> list[FeatureGroup]:
    """The group of that name, or all groups that have columns yet."""
    if name is None:
        return [group for group in store.get_feature_groups() if group.features]
    return [store.get_feature_group(name, version)]


def _ask(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


if __name__ == "__main__":
    app()
