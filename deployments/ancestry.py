"""Where a model version comes from and what it said; and what is made of a feature group, down to what serves.

source -> groups at their Delta versions -> view -> training dataset -> run and code -> version -> predictions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deployments import inventory
from deployments.inventory import Home
from deployments.status import predictions_of
from featurestore.errors import FeatureStoreError, NotFound
from featurestore.lineage import Lineage
from flows import windows

if TYPE_CHECKING:
    from featurestore import FeatureGroup, FeatureView
    from featurestore.query import GroupRef
    from flows.registry import ModelVersion

_HASH = 12
"""Digits of a hash that are shown."""

Change = Literal["drop", "change"]


# --- a model's ancestors -----------------------------------------------------------------------------


def find_version(home: Home, spoken: str) -> ModelVersion:
    """The version that `name@3`, `name@champion`, or just `name` (its champion) means.

    Raises:
        NotFound: no such model, version or alias; the message lists those there are.
    """
    from flows import registry

    name, at, which = spoken.partition("@")
    versions = home.versions_of(name)
    there = ", ".join(f"{v.version}{''.join(f' ({a})' for a in v.aliases)}" for v in versions)
    wanted = which if at else registry.CHAMPION
    if wanted.isdecimal():
        found = next((v for v in versions if v.version == int(wanted)), None)
    else:
        found = inventory.by(versions, wanted)
    if found is None:
        what = f"version {wanted}" if wanted.isdecimal() else wanted
        raise NotFound(f"Model {name!r} has no {what} (versions: {there}). Name one, as in {name}@1.")
    return found


def of_version(home: Home, model: ModelVersion) -> Lineage:
    """Everything a version was made of, and the predictions that were made with it."""
    lineage = model.lineage
    serves: dict[str, Any] = {"as": ", ".join(model.aliases)} if model.aliases else {}
    code = {"uncommitted_changes": "yes" if lineage.git_dirty else "no", "requirements_lock": lineage.lock_hash[:_HASH]}
    return Lineage(
        "model", model.name, model.version, "", serves | {"decision": model.decision},
        (
            _dataset(home, model),
            Lineage("MLflow run", model.run_id, None, "logged by", {"at": model.created.isoformat(timespec="seconds")}),
            Lineage("git commit", lineage.git_commit, None, "trained by", code),
            Lineage("Prefect flow run", lineage.flow_run_id, None, "trained in"),
            *_predictions(home, model),
        ),
    )  # fmt: skip


def _dataset(home: Home, model: ModelVersion) -> Lineage:
    lineage = model.lineage
    facts: dict[str, Any] = {"hash": lineage.training_dataset_hash[:_HASH], "time": str(lineage.training_window)}
    try:
        view = home.existing_store().get_feature_view(lineage.feature_view, lineage.feature_view_version)
        dataset = view.training_dataset(lineage.training_dataset_version)
    except NotFound:
        facts["in_the_store"] = "no longer"
    else:
        facts |= {f"rows_{split}": rows for split, rows in dataset.rows.items()}
        if dataset.content_hash != lineage.training_dataset_hash:
            facts["in_the_store"] = f"another one, with hash {dataset.content_hash[:_HASH]}"
    groups = [_pinned(home, name, version, lineage.source) for name, version in lineage.delta_versions.items()]
    seen = Lineage("feature view", lineage.feature_view, lineage.feature_view_version, "made with", {}, tuple(groups))
    return Lineage(
        "training dataset", lineage.feature_view, lineage.training_dataset_version, "trained on", facts, (seen,)
    )  # fmt: skip


def _pinned(home: Home, name: str, delta_version: int, source: str) -> Lineage:
    """A group at the Delta version that a training dataset read, and where its rows came from.

    Args:
        name: such as "fraud_labels_v1".
    """
    plain, _, number = name.rpartition("_v")
    group = next((g for g in home.groups if (g.name, str(g.version)) == (plain, number)), None)
    facts: dict[str, Any] = {"Delta_version": delta_version}
    if group is None:
        return Lineage("feature group", plain, int(number), "made of", facts | {"in_the_store": "no longer"})
    commit = next((c for c in reversed(group.history()) if c.version <= delta_version), None)
    facts["now_at"] = group.delta_version
    if commit is not None:
        facts["written"] = commit.time.isoformat(timespec="seconds")
        facts |= {"code": commit.code} if commit.code else {}
    came_from = Lineage("source", group.tags.get("source", source), None, "from")
    return Lineage("feature group", plain, int(number), "made of", facts, (came_from,))


def _predictions(home: Home, model: ModelVersion) -> list[Lineage]:
    """The rows that a version wrote, in the group of its predictions; none when nobody declared where they are."""
    if model.name not in (known := inventory.watched()):
        return []
    found = predictions_of(home, known[model.name][1], windows.now())
    made = found["versions"].get(model.version)
    if made is None:
        return []
    facts = {
        "rows": made["made"], "first": made["first"].isoformat(timespec="seconds"),
        "last": made["last"].isoformat(timespec="seconds"),
    }  # fmt: skip
    group = home.existing_store().get_feature_group(found["group"])
    return [Lineage("predictions", group.name, group.version, "said", facts)]


# --- what is made of a group -------------------------------------------------------------------------


def of_group(home: Home, group: FeatureGroup) -> Lineage:
    """The views that read a group, their training datasets, the models made of those, and what these predicted."""
    tree = group.lineage()
    views = tuple(_with_models(home, view) for view in tree.related)
    return Lineage(tree.kind, tree.name, tree.version, "", {"Delta_version": group.delta_version}, views)


def _with_models(home: Home, view: Lineage) -> Lineage:
    """A view's tree, with the model versions below the training datasets they were trained on."""
    datasets = [
        Lineage(each.kind, each.name, each.version, each.relation, each.facts, tuple(
            Lineage("model", model.name, model.version, "trained", _standing(model), tuple(_predictions(home, model)))
            for model in _trained_on(home, view, each.version)
        ))
        for each in view.related
    ]  # fmt: skip
    return Lineage(view.kind, view.name, view.version, view.relation, view.facts, tuple(datasets))


def _trained_on(home: Home, view: Lineage, dataset_version: int | None) -> list[ModelVersion]:
    return [
        model
        for versions in home.versions.values()
        for model in versions
        if (model.tags.get("feature_view"), model.tags.get("feature_view_version")) == (view.name, str(view.version))
        and model.tags.get("training_dataset_version") == str(dataset_version)
    ]


def _standing(model: ModelVersion) -> Mapping[str, Any]:
    return {"as": ", ".join(model.aliases)} if model.aliases else {"decision": model.decision}


# --- what a change of a column would break -----------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """One thing that a change of a column touches.

    Args:
        change, column: what is changed.
        what: such as "model fraud_detection@1".
        how: what it does with the column, in words.
        serves: whether it is what serves now, or what a serving model needs.
    """

    change: Change
    column: str
    what: str
    how: str
    serves: bool


def broken_by(home: Home, group: FeatureGroup, column: str, change: Change) -> list[Broken]:
    """Whom it concerns when a column of a group is dropped, or changes its meaning or type; what serves first.

    Raises:
        NotFound: the group has no such column; the message lists those it has.
    """
    if column not in (names := [feature.name for feature in group.features]):
        raise NotFound(f"{inventory.name_of(group)} has no column {column!r} (columns: {', '.join(names)}).")
    found: list[Broken] = []
    for view in home.existing_store().get_feature_views():
        if group.ref in view.query.groups():
            found += _broken_of(home, view, group.ref, column, change)
    for name, (_, watched) in inventory.watched().items():
        truth, said = watched.truth, watched.said
        if group.name == truth.group and column in {truth.column, truth.known_at, *truth.key}:
            found.append(Broken(change, column, f"monitoring of {name}", "reads the truth from it", serves=False))
        if group.name == said.group and column in {said.forecast, said.baseline, said.version, *truth.key}:
            found.append(Broken(change, column, f"monitoring of {name}", "reads predictions from it", serves=False))
    return sorted(found, key=lambda each: not each.serves)


def _broken_of(home: Home, view: FeatureView, ref: GroupRef, column: str, change: Change) -> list[Broken]:
    """A view that uses the column, its training datasets, and the models that learned from it there."""
    uses, outputs = _uses(home, view, ref, column)
    if not uses:
        return []
    models = [
        model for versions in home.versions.values() for model in versions
        if (model.tags.get("feature_view"), model.tags.get("feature_view_version")) == (view.name, str(view.version))
    ]  # fmt: skip
    is_needed = any(use != "a label" for use in uses)  # what serves needs no label; the next training does
    below = [_broken_model(view, model, outputs, column, change, is_needed=is_needed) for model in models]
    by_view = Broken(
        change, column, f"feature view {view.name}@{view.version}", f"reads it as {' and '.join(uses)}",
        serves=any(each is not None and each.serves for each in below),
    )  # fmt: skip
    datasets = [
        Broken(
            change, column, f"training dataset {each.version} of {view.name}@{view.version}",
            "was made with it", serves=False,
        )
        for each in view.training_datasets()
    ]  # fmt: skip
    return [by_view, *datasets, *(each for each in below if each is not None)]


def _broken_model(
    view: FeatureView, model: ModelVersion, outputs: Sequence[str], column: str, change: Change, *, is_needed: bool
) -> Broken | None:
    """A version that learned from one of the outputs, or whose view cannot be read without the column."""
    from flows import registry

    serves = registry.CHAMPION in model.aliases
    standing = f" ({', '.join(model.aliases)})" if model.aliases else ""
    sizes = registry.explanation(model)
    stand_for = _transformed(view, model, outputs)
    learned = [(place, name) for place, name in enumerate(sizes, start=1) if name in stand_for]
    if learned:
        how = "; ".join(f"learned from {name}: mean effect {sizes[name]:.3g}, {place} of {len(sizes)} in size"
                        for place, name in learned)  # fmt: skip
    elif not sizes and stand_for:
        how = "was registered before it was kept what a model goes by; its view has the column"
    elif is_needed and (change == "drop" or not outputs):
        how = "did not learn from it, but its view cannot be read without it"
    else:
        return None
    return Broken(change, column, f"model {model.name}@{model.version}{standing}", how, serves=serves and is_needed)


def _transformed(view: FeatureView, model: ModelVersion, outputs: Sequence[str]) -> set[str]:
    """The columns that stand for the outputs once the transformations of a version's training dataset are applied."""
    try:
        fitted = view.training_dataset(model.lineage.training_dataset_version).fitted
    except FeatureStoreError:  # it is gone: untransformed names are the best guess there is
        return set(outputs)
    return {name for output in outputs for name in fitted.outputs_of(output)}


def _uses(home: Home, view: FeatureView, ref: GroupRef, column: str) -> tuple[list[str], list[str]]:
    """What a view does with a column, in words, and under which names it gives it as features."""
    from featurestore.point_in_time import plan as plan_of

    plan = plan_of(view.query, home.existing_store().definitions(view.query))
    kinds = {
        **dict.fromkeys(view.labels, "a label"),
        **dict.fromkeys([*view.training_helper_columns, *view.inference_helper_columns], "a helper column"),
    }
    given = [o.name for o in plan.outputs if plan.sources[o.source].definition.ref == ref and o.column == column]
    uses = [kinds.get(name, "a feature") for name in given]
    for place, source in enumerate(plan.sources):
        right, left = {key for _, key in source.keys}, {key for key, _ in source.keys}
        parent = plan.sources[source.parent].definition.ref if place else None
        own = source.definition.ref == ref and column in {*right, source.definition.event_time}
        names_rows = place == 0 and source.definition.ref == ref and column in source.definition.primary_key
        if own or names_rows or (parent == ref and column in left):
            uses.append("a key or time of its join")
    return list(dict.fromkeys(uses)), [name for name in given if name not in kinds]
