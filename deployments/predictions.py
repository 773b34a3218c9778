"""Predictions by their ids: the newest ones, and for one of them everything that led to it.

An id is `<group>:<column>=<value>,...`: the group of predictions and what names a row in it, as in
`fraud_predictions:tid=812,model_version=1,datetime=2026-03-31T10:00:00Z`. The name of a system stands for its group
where it has one only, and columns may be left out as long as one row is meant: `fraud:tid=812`. Commas, equals and
percent signs inside a value are written as in a web address (%2C, %3D, %25).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from deployments import ancestry, inventory
from deployments.inventory import Home
from featurestore.errors import InvalidData, NotFound
from flows import windows

if TYPE_CHECKING:
    import pandas as pd

    from featurestore import FeatureGroup
    from flows.monitored import Monitored
    from flows.registry import ModelVersion

Record = dict[str, Any]

_MOMENT = timedelta(microseconds=1)


def spelled(group: str, values: Mapping[str, Any]) -> str:
    """The id of a prediction.

    >>> from datetime import UTC
    >>> spelled("sales", {"shop": "A, B", "hour": datetime(2026, 1, 1, 8, tzinfo=UTC), "model_version": 2})
    'sales:shop=A%2C B,hour=2026-01-01T08:00:00Z,model_version=2'
    """
    return f"{group}:" + ",".join(f"{name}={quote(_text(value), safe=' :/+')}" for name, value in values.items())


def _text(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def parsed(identifier: str) -> tuple[str, dict[str, str]]:
    """The group (or system) and the values that an id names.

    Raises:
        InvalidData: it is no id.

    >>> parsed("sales:shop=A%2C B,hour=2026-01-01T08:00:00Z")
    ('sales', {'shop': 'A, B', 'hour': '2026-01-01T08:00:00Z'})
    """
    group, colon, rest = identifier.partition(":")
    pairs = [part.partition("=") for part in rest.split(",")]
    if not (group and colon) or not all(name and equals for name, equals, _ in pairs):
        raise InvalidData(
            f"{identifier!r} names no prediction. An id looks like fraud:tid=812; `triptych predictions` prints ids."
        )
    return group, {name: unquote(value) for name, _, value in pairs}


def newest(home: Home, system: str, limit: int) -> list[Record]:
    """The last predictions of each model of a system, newest first, each with its id and what came of it.

    Those of version 0 no model made: the baseline's stands in.

    Raises:
        NotFound: nothing was predicted yet.
    """
    found: list[Record] = []
    for group in _groups(home, system):
        for watched in _watched(group):
            only = watched.said.only
            wanted = group.select_all() if only is None else group.filter(group[only[0]] == only[1])
            rows = wanted.read(ordered=False).nlargest(limit, watched.said.time)
            found += _listed(home, group, watched, rows)
    return found


def _groups(home: Home, system: str) -> list[FeatureGroup]:
    own = [group for group in home.groups_of(system) if inventory.is_of_predictions(group)]
    groups = [group for group in own if not inventory.is_shadow(group)]
    if not groups:
        name = f"{system.replace('_', '-')}-inference"
        nothing = f"Nothing was predicted yet. prefect deployment run {name}/{name} does, once a version serves."
        raise NotFound(inventory.nothing_yet(home.settings) if home.is_empty else f"{system}: {nothing}")
    return groups


def _watched(group: FeatureGroup) -> list[Monitored]:
    """The models whose predictions a group holds."""
    return [each for _, each in inventory.watched().values() if each.said.group == group.name]


def _listed(home: Home, group: FeatureGroup, watched: Monitored, rows: pd.DataFrame) -> list[Record]:
    joined = _with_truth(home, watched, rows)
    return [
        {
            "id": _id_of(group, row), "model": watched.model, "version": int(row[watched.said.version]),
            "said": inventory.plain(row[watched.said.forecast]), "unit": group.get_feature(watched.said.forecast).unit,
            "state": row["state"], "truth": inventory.plain(row[watched.truth.column]),
            "made_at": inventory.plain(row.get("made_at")), "degraded": inventory.plain(row.get("degraded")),
        }
        for row in joined.to_dict("records")
    ]  # fmt: skip


def _id_of(group: FeatureGroup, row: Mapping[str, Any]) -> str:
    names = dict.fromkeys([*group.primary_key, *([group.event_time] if group.event_time else [])])
    return spelled(group.name, {name: inventory.plain(row[name]) for name in names})


def _with_truth(home: Home, watched: Monitored, rows: pd.DataFrame) -> pd.DataFrame:
    """The predictions with what came, as far as that is known now, and their state."""
    import pandas as pd

    from flows import hindcasting

    truth, now = watched.truth, windows.now()
    group = home.existing_store().get_feature_group(truth.group)
    wanted = list(dict.fromkeys([*truth.key, truth.column, truth.known_at]))
    known = group.select(wanted).read(ordered=False)
    known = known[known[truth.known_at] <= pd.Timestamp(now)]
    return hindcasting.with_truth(
        rows, known, key=truth.key, truth=truth.column, target_time=truth.target_time, at=pd.Timestamp(now),
        expires_after=truth.expires_after,
    )  # fmt: skip


# --- one prediction ----------------------------------------------------------------------------------


def find(home: Home, identifier: str) -> tuple[FeatureGroup, pd.DataFrame]:
    """The group and the one row that an id names.

    Raises:
        InvalidData: it is no id.
        NotFound: there is no such group, column or row, or more than one row; the message says how to name one.
    """
    from featurestore.files import parse_values

    name, texts = parsed(identifier)
    group = _group_of(home, name)
    columns = [feature.name for feature in group.features]
    if unknown := sorted(set(texts) - set(columns)):
        raise NotFound(f"{inventory.name_of(group)} has no column {unknown[0]!r} (columns: {', '.join(columns)}).")
    values = parse_values(texts, group.features)
    rows = group.filter(reduce(lambda a, b: a & b, (group[name] == value for name, value in values.items()))).read()
    if len(rows) == 1:
        return group, rows
    if rows.empty:
        system = group.tags.get("system", "")
        raise NotFound(f"There is no prediction {identifier}. `triptych predictions {system}` lists the newest.")
    ids = [_id_of(group, row) for row in rows.head(5).to_dict("records")]
    raise NotFound(f"{identifier} names {len(rows):,} predictions. Name one of them, such as {'; '.join(ids)}.")


def _group_of(home: Home, name: str) -> FeatureGroup:
    from flows import systems

    if name in systems():
        groups = _groups(home, name)
        if len(groups) > 1:
            names = ", ".join(group.name for group in groups)
            raise NotFound(f"{name} has several groups of predictions ({names}). Begin the id with one of them.")
        return groups[0]
    group = home.find_group(name)
    if not inventory.is_of_predictions(group):
        raise NotFound(f"{inventory.name_of(group)} holds no predictions, but what they are made of.")
    return group


def explained(home: Home, identifier: str) -> Record:
    """One prediction: what was said and why, what the model was given and which rows gave it, and what came.

    Returns:
        id, prediction (its row without key and reasons), and for each model that said something in it: model, version,
        said, unit, state, truth; output (what the model says of the features as they are now), features, and the
        lineage of the version.
    """
    group, rows = find(home, identifier)
    row = rows.iloc[0]
    hidden = {"reasons", *group.primary_key}
    return {
        "id": _id_of(group, row),
        "prediction": {name: inventory.plain(row[name]) for name in rows.columns if name not in hidden},
        "models": [_said_by(home, group, watched, rows) for watched in _watched(group) if _is_of(watched, row)],
    }


def _is_of(watched: Monitored, row: pd.Series) -> bool:
    said = watched.said
    return int(row[said.version]) > 0 and (said.only is None or row[said.only[0]] == said.only[1])


def _said_by(home: Home, group: FeatureGroup, watched: Monitored, rows: pd.DataFrame) -> Record:
    from flows import registry

    [listed] = _listed(home, group, watched, rows)
    found = {name: listed[name] for name in ("model", "version", "said", "unit", "state", "truth")}
    if not home.has_registry:
        raise NotFound(f"The registry that made {listed['id']} is not here. {inventory.nothing_yet(home.settings)}")
    model = registry.version(watched.model, listed["version"])
    return found | _inputs(home, watched, model, rows) | {"lineage": ancestry.of_version(home, model).to_json()}


def _inputs(home: Home, watched: Monitored, model: ModelVersion, rows: pd.DataFrame) -> Record:
    """What the model is given for this row now, beside what it was given then as far as that was kept."""
    from flows import explaining, registry

    row, lineage = rows.iloc[0], model.lineage
    view = home.existing_store().get_feature_view(lineage.feature_view, lineage.feature_view_version)
    spine = home.existing_store().group(view.query.group)
    keys = {name: inventory.plain(row[name]) for name in spine.primary_key}
    time = inventory.plain(row[watched.said.time])
    view.init_batch_scoring(lineage.training_dataset_version)
    batch = view.get_batch_data(time, time + _MOMENT, primary_keys=True, inference_helper_columns=True)
    given = batch[reduce(lambda a, b: a & b, (batch[name] == value for name, value in keys.items()))]
    if given.empty:
        return {"output": None, "features": [], "why_none": f"{spine.name} no longer holds the row {keys}"}
    loaded = registry.load(model)
    values = {name: inventory.plain(given.iloc[0][name]) for name in loaded.feature_names}
    added = {
        reason.feature: reason.contribution
        for reason in explaining.reasons(loaded, {name: _number(value) for name, value in values.items()})
    }
    outputs = view.training_dataset(lineage.training_dataset_version).fitted.outputs_of
    kept = _kept(row)
    made_at = inventory.plain(row.get("made_at"))
    features = []
    for origin in view.explain(keys, time).to_dict("records"):
        raw = {name: inventory.plain(value) for name, value in origin.items()}
        for name in outputs(raw["feature"]):
            if name in values:
                features.append({
                    "feature": name, "raw": raw["value"], "given": values[name], "given_then": kept.get(name),
                    "contribution": added[name], "group": f"{raw['group']}@{raw['group_version']}",
                    "event_time": raw["event_time"], "delta_version": raw["commit_version"],
                    "committed_at": raw["committed_at"], "why_null": raw["reason"],
                    "committed_later": None if made_at is None or raw["committed_at"] is None
                    else raw["committed_at"] > made_at,
                })  # fmt: skip
    return {
        "output": inventory.plain(loaded.score(given)[0]),
        "features": sorted(features, key=lambda feature: -abs(feature["contribution"])),
        "why_none": None,
    }


def _kept(row: pd.Series) -> dict[str, float | None]:
    """The strongest features as they were when the prediction was made, by name; empty where none were kept."""
    import json

    text = row.get("reasons")
    return {each["feature"]: each["value"] for each in json.loads(text)} if isinstance(text, str) and text else {}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def as_they_were(features: Sequence[Record]) -> tuple[int, int]:
    """Of how many features it was kept what the model was given, and how many of these are the same now.

    >>> as_they_were([{"given": 1.0000001, "given_then": 1.0}, {"given": 2, "given_then": 3.0}, {"given_then": None}])
    (2, 1)
    """
    kept = [feature for feature in features if feature["given_then"] is not None]
    same = [
        each for each in kept if each["given"] is not None and f"{each['given']:.6g}" == f"{each['given_then']:.6g}"
    ]
    return len(kept), len(same)
