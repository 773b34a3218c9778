"""Homes with simulated card transactions in them: made once, by the flows themselves, when the first test asks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows import registry, windows
from flows.fraud import schema
from flows.settings import Settings

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


@contextmanager
def living_in(home: Path, *, source: str = "simulated") -> Iterator[Settings]:
    """Let flows use this home and source, whatever the person who runs the tests has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEATURESTORE_HOME", "TRIPTYCH_DATA", "TRIPTYCH_MLFLOW_URI", "TRIPTYCH_FRAUD_TABLE"):
            patch.delenv(name, raising=False)
        patch.setenv("TRIPTYCH_HOME", str(home))
        patch.setenv("TRIPTYCH_SOURCE", source)
        yield Settings()


@pytest.fixture(scope="session")
def features_of_90_days(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three months of features. Do not write to it: take `with_features`."""
    from flows.fraud.feature_pipeline import fraud_features

    home = tmp_path_factory.mktemp("features")
    with living_in(home):
        fraud_features(start=START, end=END)
    return home


@pytest.fixture
def empty(prefect_api: None, tmp_path: Path) -> Iterator[Settings]:
    """A home with nothing in it."""
    with living_in(tmp_path / "home") as settings:
        yield settings


@pytest.fixture
def with_features(features_of_90_days: Path, tmp_path: Path) -> Iterator[Settings]:
    """A copy of the home with three months of features."""
    home = Path(shutil.copytree(features_of_90_days, tmp_path / "home"))
    with living_in(home) as settings:
        yield settings


@contextmanager
def training_in_a_hurry() -> Iterator[None]:
    """One trial and few trees: what is tested is the pipeline, not the model."""
    from flows.fraud import modelling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelling, "SEARCH", replace(modelling.SEARCH, trials=1))
        patch.setattr(
            modelling, "XGBOOST", {**modelling.XGBOOST, "learning_rate": 0.1, "n_estimators": 150, "n_jobs": 1}
        )
        yield


@pytest.fixture(scope="session")
def trained_once(features_of_90_days: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion. Do not write to it: take `with_champion`, or a copy of `copied`."""
    from flows.fraud.training_pipeline import fraud_training

    home = Path(shutil.copytree(features_of_90_days, tmp_path_factory.mktemp("trained") / "home"))
    with living_in(home) as settings, training_in_a_hurry(), windows.frozen(END):
        number = fraud_training(end=END)
        registry.bootstrap(settings)
        # A model of seven weeks and one trial need not be surely better than the simple ones: then the gate says no.
        registry.promote(registry.version(schema.MODEL, number), why="the tests of inference need a champion")
    return home


def copied(home: Path, folder: Path) -> Path:
    """A copy of a home in a folder. Its registry still reads the first one's model files, which nobody changes."""
    return Path(shutil.copytree(home, folder / "home"))


@pytest.fixture
def with_champion(trained_once: Path, tmp_path: Path) -> Iterator[Settings]:
    """A copy of the home with a champion."""
    with living_in(copied(trained_once, tmp_path)) as settings, training_in_a_hurry():
        yield settings
