"""X1: any pipeline may be removed, and the other two of its system go on; what they share is data."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flows

ROOT = Path(flows.__file__).parents[1]
MODULES = {
    "feature": ("feature_pipeline.py",),
    "training": ("training_pipeline.py", "price_training.py"),
    "inference": ("inference_pipeline.py", "price_inference.py"),
}
"""What belongs to a pipeline alone, and goes with it; the second names are electricity's second target."""

# Third-party libraries are imported once; what is ours is imported anew from each folder.
IMPORTS_WHAT_IS_LEFT = """
import importlib, json, sys
from pathlib import Path

found = {}
for folder in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] == "flows"]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    for path in sorted(Path(folder).glob("flows/*/*_pipeline.py")):
        system, pipeline = path.parent.name, path.stem
        module = importlib.import_module(f"flows.{system}.{pipeline}")
        assert module.__file__ == str(path), module.__file__
        step = {"feature": "features"}.get(pipeline.removesuffix("_pipeline"), pipeline.removesuffix("_pipeline"))
        flow = getattr(module, f"{system}_{step}")
        built = flow.to_deployment(name="built", work_pool_name="any")
        found.setdefault(Path(folder).name, []).append([flow.name, sorted(built._parameter_openapi_schema.properties)])
    sys.path.remove(folder)
print(json.dumps(found))
"""


def without(pipeline: str, folder: Path) -> Path:
    """A copy of the flows in which this pipeline of every system is missing."""
    copy = folder / pipeline
    shutil.copytree(ROOT / "flows", copy / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    for name in MODULES[pipeline]:
        for path in copy.glob(f"flows/*/{name}"):
            path.unlink()
    return copy


def test_with_any_pipeline_removed_the_other_two_of_every_system_import_and_can_be_deployed(tmp_path: Path) -> None:
    folders = [str(without(pipeline, tmp_path)) for pipeline in MODULES]
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTS_WHAT_IS_LEFT, *folders], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    steps = {name: {"feature": "features"}.get(name, name) for name in MODULES}
    for removed in MODULES:
        assert {name for name, _ in found[removed]} == {
            f"{system.replace('_', '-')}-{steps[left]}"
            for system in flows.systems() for left in MODULES if left != removed
        }  # fmt: skip
        assert all("end" in parameters for _, parameters in found[removed])


# --- nobody calls a pipeline -------------------------------------------------------------------------


PIPELINES = {Path(names[0]).stem for names in MODULES.values()}
RUNNING = {"run_deployment", "arun_deployment", "create_flow_run_from_deployment", "flow_runs"}


def reaches(text: str) -> list[str]:
    """What a module does to import a pipeline or to run a deployment, as source; empty if it keeps to the wall."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module=module, names=names):
                named = {*(module or "").split("."), *(each.name for each in names)}
            case ast.Import(names=names):
                named = {part for each in names for part in each.name.split(".")}
            case ast.Attribute(attr=name) | ast.Name(id=name):
                named = {name} & RUNNING
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module")):
                named = {pipeline for pipeline in PIPELINES if pipeline in ast.unparse(node)}
            case _:
                continue
        if named & (PIPELINES | RUNNING):
            found.append(ast.unparse(node))
    return found


BESIDE = {"backfill.py", "staleness.py"}
"""Flows that a person starts beside the pipelines: one runs a feature pipeline over the past, the other takes from
inference what scores a version. No pipeline imports them."""


def test_no_flow_module_imports_a_pipeline_or_runs_a_deployment() -> None:
    texts = {path.relative_to(ROOT / "flows").as_posix(): path.read_text() for path in (ROOT / "flows").rglob("*.py")}
    assert {name: found for name, text in texts.items() if name not in BESIDE and (found := reaches(text))} == {}
    importing = re.compile(r"^ *(from|import) .*\b(backfill|staleness)\b", re.MULTILINE)
    assert not [name for name, text in texts.items() if importing.search(text)]


@pytest.mark.parametrize(
    "mistake",
    [
        "from flows.fraud.training_pipeline import fraud_training",
        "from flows.fraud import training_pipeline",
        "import flows.fraud.training_pipeline as t",
        "import_module(f'flows.{system}.training_pipeline')",
        "importlib.import_module('flows.fraud.training_pipeline').fraud_training()",
        "from prefect.deployments import run_deployment",
        "import prefect.deployments\nprefect.deployments.arun_deployment('fraud-training')",
        "from prefect.deployments import flow_runs",
    ],
)
def test_the_wall_would_see(mistake: str) -> None:
    assert reaches(mistake)
