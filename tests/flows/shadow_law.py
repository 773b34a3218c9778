"""What holds of every system's challenger: it is heard on the champion's rows, and changes nothing that is served."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import featurestore
from featurestore import FeatureGroup
from featurestore.times import Window
from featurestore.training_dataset import content_hash
from flows import events, registry, shadow, windows
from flows.settings import Settings

VERSIONS = ["model_version", "direction_version"]


def half_of(model: registry.ModelVersion, *, share: float = 0.5, **changes: Any) -> registry.ModelVersion:
    """The next version of a model, and so its challenger: the same with half of the trees (or another share)."""
    loaded = registry.load(model)
    booster = loaded.booster[: max(1, int(loaded.booster.num_boosted_rounds() * share))]
    example = pd.DataFrame([dict.fromkeys(loaded.feature_names, 1.0)])
    return registry.log_model(
        model.name, booster, lineage=replace(model.lineage, **changes), example=example, params={"share": share},
        metrics=model.metrics, model_card="# Half", training_report="# Half",
    )  # fmt: skip


def check(
    trained: Path,
    tmp_path: Path,
    living_in: Callable[[Path], AbstractContextManager[Settings]],
    inference: Callable[..., int],
    groups: Mapping[str, str],
    window: Window,
) -> None:
    """I14: two copies of a home; in one of them is a challenger that cannot be scored, and then one that can.

    Args:
        trained: a home with models; it is not written to.
        groups: each model's group of predictions.
        window: what nobody has predicted yet.
    """

    def run() -> dict[str, list[Any]]:
        """What the summaries say of the shadow, by the end of the column's name."""
        told: dict[str, Any] = {}
        with pytest.MonkeyPatch.context() as patch, windows.frozen(window.end):
            patch.setattr(events, "summary_artifact", lambda key, rows: told.update({key: rows[0]}))
            inference(start=window.start, end=window.end)
        return {
            column: [value for row in told.values() for name, value in row.items() if name.endswith(column)]
            for column in ("shadow_version", "shadow_rows_written", "shadow_failure")
        }

    def group(settings: Settings, name: str) -> FeatureGroup:
        return featurestore.connect(home=settings.store_home).get_feature_group(name, 1)

    def rows_of(settings: Settings, name: str) -> pd.DataFrame:
        return group(settings, name).read(start_time=window.start, end_time=window.end)

    def hashes(settings: Settings) -> dict[str, str]:
        return {name: content_hash(group(settings, name).read(dataframe_type="arrow")) for name in groups.values()}

    alone, beside = (Path(shutil.copytree(trained, tmp_path / name)) for name in ("alone", "beside"))
    with living_in(alone) as settings:
        registry.bootstrap(settings)
        for name in groups:
            if registry.challenger(name) is not None:
                registry._client().delete_registered_model_alias(name, registry.CHALLENGER)
        told = run()
        assert {str(value) for values in told.values() for value in values} == {"None", "0"}
        served = hashes(settings)
    with living_in(beside) as settings:
        registry.bootstrap(settings)
        newest = [registry.versions(name)[-1] for name in groups]
        for each in newest:  # its own training dataset is what it is scored by, and there is no such
            half_of(each, training_dataset_version=999)
        told = run()
        assert set(told["shadow_rows_written"]) == {0}
        assert all("999" in str(failure) for failure in told["shadow_failure"])
        assert hashes(settings) == served

        challengers = [half_of(each) for each in newest]
        told = run()
        assert ", ".join(told["shadow_version"]).split(", ") == [str(each.version) for each in challengers]
        assert set(told["shadow_failure"]) == {None}
        assert hashes(settings) == served
        said = {name: rows_of(settings, shadow.name_of(name)) for name in groups.values()}
        assert sum(told["shadow_rows_written"]) == sum(map(len, said.values()))
        for name, rows in said.items():
            champions = group(settings, name)
            assert not group(settings, shadow.name_of(name)).online_enabled
            key = [column for column in [*champions.primary_key, champions.event_time] if column not in VERSIONS]
            theirs, ours = (some[key].sort_values(key, ignore_index=True) for some in (rows_of(settings, name), rows))
            assert len(ours)
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)

        assert set(run()["shadow_rows_written"]) == {0}
        for name, rows in said.items():
            pd.testing.assert_frame_equal(rows_of(settings, shadow.name_of(name)), rows, check_exact=True)
