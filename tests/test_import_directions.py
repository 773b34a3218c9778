"""Who may import whom: the contracts of pyproject.toml, and the laws they cannot spell."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("prefect", "mlflow", "great_expectations", "pandas", "polars", "xgboost", "sklearn", "scipy", "matplotlib")


def crossings(graph: grimp.ImportGraph, systems: list[str]) -> list[str]:
    """Imports, direct or not, from the code of one system to that of another."""
    return [
        " -> ".join(chain)
        for one, other in itertools.permutations(systems, 2)
        for chain in graph.find_shortest_chains(importer=f"flows.{one}", imported=f"flows.{other}")
    ]


def test_the_contracts_in_pyproject_hold() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


def test_no_system_imports_the_code_of_another() -> None:
    systems = [path.parent.name for path in (ROOT / "flows").glob("*/feature_pipeline.py")]
    assert crossings(grimp.build_graph("flows", cache_dir=None), systems) == []


def test_a_crossing_would_be_found_also_by_a_detour() -> None:
    graph = grimp.ImportGraph()
    for module in ("flows", "flows.fraud", "flows.fraud.source", "flows.shared", "flows.stock", "flows.stock.source"):
        graph.add_module(module)
    graph.add_import(importer="flows.stock.source", imported="flows.shared")
    graph.add_import(importer="flows.shared", imported="flows.fraud.source")
    assert crossings(graph, ["fraud", "stock"]) == ["flows.stock.source -> flows.shared -> flows.fraud.source"]


@pytest.mark.parametrize("package", ["featurestore", "deployments.up"])
def test_importing_it_loads_nothing_heavy(package: str) -> None:
    """Each flow run is a new process: what `import featurestore` costs, every run and every command line pays."""
    loaded = f"import sys, {package}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    run = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()) == (0, []), run.stderr
