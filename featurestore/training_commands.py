"""`featurestore training`: training sets as versions, listed, shown, verified, rebuilt, deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featurestore import records, terminal
from featurestore.arguments import Commands, Json, Training, Version, View, Yes, confirm, store_of
from featurestore.errors import NotReproducible

if TYPE_CHECKING:
    from featurestore.feature_view import FeatureView

training = typer.Typer(cls=Commands, no_args_is_help=True)


def show_training_sets(found: list[records.Record]) -> None:
    """Print training sets as a table, or what makes the first one."""
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
    """List the training sets of a view.

    With rows, hash, and the Delta versions they pin.

    Example: featurestore training list customers
    """
    found = [records.of_training_set(d) for d in store_of(ctx).get_feature_view(view, version).training_datasets()]
    terminal.as_json(found) if json else show_training_sets(found)


@training.command("show")
def training_show(
    ctx: typer.Context, view: View, training_set: Training, version: Version = None, json: Json = False
) -> None:
    """Show one training set: its splits, pins and how it was made.

    JSON gives the whole manifest.

    Example: featurestore training show customers 1
    """
    dataset = store_of(ctx).get_feature_view(view, version).training_dataset(training_set)
    manifest, late = dataset.manifest, dataset.late_cells
    if json:
        return terminal.as_json({"version": dataset.version} | dict(manifest) | {"late_cells": late})
    terminal.heading(f"Training set {dataset.version} of {dataset.view} version {dataset.view_version}")
    split = {name: value for name, value in (manifest["split"] or {}).items() if value}
    terminal.facts({
        "description": manifest["description"], "created": records.of_training_set(dataset)["created_at"],
        "by": manifest["created_by"], "split": split, "labels": manifest["labels"] or "none",
        "late cells": "unknown" if late is None else {name: n for name, n in late.items() if n} or "none",
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
    """Build training sets again and compare the bytes.

    The exit code is 1 when one differs or cannot be built.

    Example: featurestore training verify customers 1
    """
    found = store_of(ctx).get_feature_view(view, version)
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


@training.command("stats")
def training_stats(
    ctx: typer.Context, view: View, training_set: Training, version: Version = None, json: Json = False
) -> None:
    """Show column statistics of each split.

    Raw, and transformed as the model sees it.

    Example: featurestore training stats customers 1
    """
    found = store_of(ctx).get_feature_view(view, version).training_dataset_statistics(training_set)
    if json:
        return terminal.as_json(found)
    lines = [
        {"split": split, "form": form} | records.of_column_statistics(column, summary)
        for split, forms in found.items() for form, columns in forms.items() for column, summary in columns.items()
    ]  # fmt: skip
    terminal.table(lines, list(lines[0]))


@training.command("rebuild")
def training_rebuild(
    ctx: typer.Context, view: View, training_set: Training, version: Version = None, json: Json = False
) -> None:
    """Write the files of a training set again from its pins.

    Example: featurestore training rebuild customers 1
    """
    store = store_of(ctx)
    found = store.get_feature_view(view, version)
    with terminal.progress("Rebuilding"):
        found.recreate_training_dataset(training_set)
    files = [str(store.settings.home.resolve() / name) for name in found.training_dataset(training_set).files]
    if json:
        return terminal.as_json({"version": training_set, "files": files})
    for file in files:
        terminal.line(file)


@training.command("delete")
def training_delete(
    ctx: typer.Context, view: View, training_set: Training, version: Version = None, yes: Yes = False
) -> None:
    """Delete a training set and release what it pins.

    Example: featurestore training delete customers 1
    """
    found = store_of(ctx).get_feature_view(view, version)
    found.training_dataset(training_set)
    confirm(f"Delete training set {training_set} of {found.name} version {found.version}?", yes)
    found.delete_training_dataset(training_set)
    terminal.line(f"Deleted training set {training_set} of {found.name} version {found.version}.")
