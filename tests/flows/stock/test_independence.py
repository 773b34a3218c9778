"""X1: with any pipeline of the system removed, the other two really run on the home as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import featurestore
import flows
from flows.settings import Settings
from flows.stock import schema
from tests.flows.stock.conftest import END

pytestmark = pytest.mark.long

ROOT = Path(flows.__file__).parents[1]

# Each folder lacks one pipeline. Third-party libraries are imported once, our own modules anew from each folder.
RUN_WHAT_IS_LEFT = """
import json, sys
from dataclasses import replace
from datetime import datetime
from importlib import import_module
from pathlib import Path

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

def run(folder, steps):
    for name in [name for name in sys.modules if name.split(".")[0] == "flows"]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    modelling = import_module("flows.stock.modelling")
    assert modelling.__file__.startswith(folder), modelling.__file__
    modelling.SEARCH = replace(modelling.SEARCH, trials=1, folds=2)
    quick = {"learning_rate": 0.15, "n_estimators": 60, "n_jobs": 1}
    modelling.RETURN, modelling.DIRECTION = modelling.RETURN | quick, modelling.DIRECTION | quick
    said = {}
    for step, at in steps:
        pipeline = {"features": "feature"}.get(step, step)
        flow = getattr(import_module(f"flows.stock.{pipeline}_pipeline"), f"stock_{step}")
        with import_module("flows.windows").frozen(datetime.fromisoformat(at)):
            said[step] = flow()
    sys.path.remove(folder)
    return said

with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}):
    print(json.dumps([run(*each) for each in json.loads(sys.argv[1])]))
"""


def without(pipeline: str, folder: Path) -> str:
    """A folder with the flows, in which this pipeline is missing."""
    shutil.copytree(ROOT / "flows", folder / pipeline / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / pipeline / "flows" / "stock" / f"{pipeline}_pipeline.py").unlink()
    return str(folder / pipeline)


def test_with_any_pipeline_removed_the_other_two_run(with_features: Settings, tmp_path: Path) -> None:
    """One home after another week: each run finds in store and registry what the one that is missing has left."""
    from prefect.settings import PREFECT_API_URL

    weeks = [(END + timedelta(days=7 * n)).isoformat() for n in range(3)]
    scenarios = [
        (without("feature", tmp_path), [("training", weeks[0]), ("inference", weeks[0])]),
        (without("training", tmp_path), [("features", weeks[1]), ("inference", weeks[1])]),
        (without("inference", tmp_path), [("features", weeks[2]), ("training", weeks[2])]),
    ]
    ran = subprocess.run(
        [sys.executable, "-c", RUN_WHAT_IS_LEFT, json.dumps(scenarios)], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value() or "", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    without_features, without_training, without_inference = json.loads(ran.stdout.splitlines()[-1])
    assert without_features == {"training": 1, "inference": 4}  # a first version, and the newest closes
    assert without_training["features"] > 0
    assert without_training["inference"] == 5  # the week that the features had gone on
    assert without_inference["features"] > 0
    assert without_inference["training"] == 2  # a week more to learn from
    predictions = featurestore.connect(home=with_features.store_home).get_feature_group(schema.PREDICTIONS_GROUP, 1)
    assert len(predictions.read()) == 9
