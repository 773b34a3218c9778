"""The ML Test Score of a system (Breck et al., 2017): four sections of seven tests, each with evidence looked up here.

A test earns 1 where it runs by itself again and again, 0.5 where a person has to do it, 0 where nothing was found. The
score is the lowest of the four sections. Points come from what is there: files, groups, suites, versions, measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from deployments import inventory, status
from deployments.inventory import Home
from deployments.stack import ROOT
from flows import windows

if TYPE_CHECKING:
    from featurestore import FeatureGroup
    from flows.monitored import Monitored
    from flows.registry import ModelVersion

AUTOMATED, BY_HAND, NOTHING = 1.0, 0.5, 0.0


class Earned(NamedTuple):
    """The points of a test and what they are for: a path, or a fact."""

    points: float
    evidence: str


@dataclass(frozen=True)
class Question:
    """One of the 28."""

    section: str
    name: str
    look: Callable[[Seen], Earned]


@dataclass
class Seen:
    """What the tests look at: the code of this folder, and what a home has of the system."""

    home: Home
    system: str

    @cached_property
    def models(self) -> list[Monitored]:
        """What the system declares about its models."""
        return [watched for owner, watched in inventory.watched().values() if owner == self.system]

    @cached_property
    def versions(self) -> list[ModelVersion]:
        """All versions of its models."""
        return [version for each in self.models for version in self.home.versions.get(each.model, [])]

    @cached_property
    def newest(self) -> ModelVersion | None:
        """The version registered last."""
        return max(self.versions, key=lambda version: version.created, default=None)

    @cached_property
    def groups(self) -> list[FeatureGroup]:
        """Its feature groups, predictions included."""
        return [group for group in self.home.groups_of(self.system) if not inventory.is_shadow(group)]

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """What `status` says of its models."""
        return status.of_system(self.home, self.system)["models"] if self.groups else []

    @cached_property
    def deployments(self) -> dict[str, Any]:
        """prefect.yaml, by name."""
        import yaml

        plan = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
        return {each["name"]: each for each in plan["deployments"]}

    def is_scheduled(self, pipeline: str) -> bool:
        """Whether a deployment of the system runs by schedule."""
        found = self.deployments.get(f"{self.system.replace('_', '-')}-{pipeline}")
        return found is not None and bool(found.get("schedules"))

    def first(self, *paths: str) -> str | None:
        """The first of these files that is there; {} is the system."""
        named = [path.format(self.system) for path in paths]
        return next((path for path in named if (ROOT / path).is_file()), None)

    def has(self, path: str, word: str) -> bool:
        """Whether a file is there and says this."""
        file = ROOT / path.format(self.system)
        return file.is_file() and word in file.read_text(encoding="utf-8")


def scored(home: Home, system: str) -> dict[str, Any]:
    """Every test with its points and evidence, the sum of each section, and the score: the lowest of them."""
    seen = Seen(home, system)
    tests: list[dict[str, Any]] = [
        {"section": test.section, "test": test.name} | test.look(seen)._asdict() for test in TESTS
    ]
    sums: dict[str, float] = {}
    for test in tests:
        sums[test["section"]] = sums.get(test["section"], 0.0) + test["points"]
    return {"system": system, "score": min(sums.values()), "sections": sums, "tests": tests}


def _file(path: str | None, points: float, what: str, missing: str) -> Earned:
    return Earned(NOTHING, missing) if path is None else Earned(points, f"{path}: {what}")


# --- data --------------------------------------------------------------------------------------------


def _schema(seen: Seen) -> Earned:
    ruled = sum(group.expectation_suite is not None for group in seen.groups)
    if not ruled:
        return Earned(NOTHING, "no group with rules in this home")
    points = AUTOMATED if ruled == len(seen.groups) else BY_HAND
    return Earned(points, f"{ruled} of {len(seen.groups)} groups have rules that are checked before each write")


def _beneficial(seen: Seen) -> Earned:
    from flows import registry

    sizes = registry.explanation(seen.newest) if seen.newest else {}
    if not sizes:
        return Earned(NOTHING, "no version that keeps what each feature adds")
    idle = sum(size == 0 for size in sizes.values())
    return Earned(BY_HAND, f"{seen.newest} keeps what each of {len(sizes)} features adds; {idle} add nothing")


def _cost(_: Seen) -> Earned:
    return Earned(NOTHING, "nothing measures what a feature costs")


def _meta(seen: Seen) -> Earned:
    listed = import_module(f"flows.{seen.system}").feature_functions()
    path = seen.first("tests/flows/test_every_system.py") if listed else None
    return _file(path, AUTOMATED, f"the laws for {len(listed)} functions (only the past, own entity)", "no laws apply")


def _privacy(seen: Seen) -> Earned:
    return _file(seen.first("tests/featurestore/test_forget.py"), BY_HAND, "erasure, when a person asks for it",
                 "no erasure is tested")  # fmt: skip


def _added(seen: Seen) -> Earned:
    return _file(seen.first("tests/featurestore/test_contract_changes.py"), BY_HAND, "a group takes new columns",
                 "no test that a group takes new columns")  # fmt: skip


def _features_tested(seen: Seen) -> Earned:
    return _file(seen.first("tests/flows/{}/test_features.py"), AUTOMATED, "feature functions", "no tests of features")


# --- model -------------------------------------------------------------------------------------------


def _committed(seen: Seen) -> Earned:
    if seen.newest is None:
        return Earned(NOTHING, "no version is registered")
    lineage = seen.newest.lineage
    if lineage.git_commit == "unknown" or lineage.git_dirty:
        return Earned(BY_HAND, f"{seen.newest} was trained by code that no commit holds")
    return Earned(AUTOMATED, f"{seen.newest} was trained by commit {lineage.git_commit[:12]}")


def _online(seen: Seen) -> Earned:
    live = [model for model in seen.records if model["live"] and model["live"]["value"] is not None]
    if not live:
        return Earned(NOTHING, "no live metric to compare with the test's")
    return Earned(
        BY_HAND, f"live {live[0]['live']['metric']} {live[0]['live']['value']:.3g} beside the training report"
    )


def _tuned(seen: Seen) -> Earned:
    if not seen.has("flows/{}/modelling.py", "SEARCH"):
        return Earned(NOTHING, "no search of parameters")
    points = AUTOMATED if seen.versions else NOTHING
    return Earned(points, f"flows/{seen.system}/modelling.py: SEARCH, in each of {len(seen.versions)} trainings")


def _staleness(seen: Seen) -> Earned:
    name = next((name for name, each in seen.deployments.items() if "staleness" in name and each["schedules"]), None)
    if name is not None:
        return Earned(AUTOMATED, f"prefect.yaml: {name}")
    return _file(seen.first("flows/staleness.py"), BY_HAND, "a study, when a person runs it", "no study of staleness")


def _simpler(seen: Seen) -> Earned:
    judged = [version for version in seen.versions if any("better than" in line for line in version.history)]
    if not judged:
        return Earned(NOTHING, "no version was compared with a baseline")
    return Earned(AUTOMATED, f"the gate compared {judged[-1]}: {judged[-1].history[0].partition(': ')[2][:80]} ...")


def _slices(seen: Seen) -> Earned:
    if any(model["live"] for model in seen.records):
        names = {name for each in seen.models for name in each.measure.slices}
        if names:
            return Earned(AUTOMATED, f"live metrics of {', '.join(sorted(names))}")
    if seen.has("flows/{}/modelling.py", "slices"):
        return Earned(
            BY_HAND, f"flows/{seen.system}/modelling.py: slices in the training report; nothing measured live"
        )
    return Earned(NOTHING, "no slices")


def _inclusion(seen: Seen) -> Earned:
    if seen.has("flows/{}/modelling.py", "parity"):
        return Earned(BY_HAND, f"flows/{seen.system}/modelling.py: parity")
    return Earned(NOTHING, "no parity between groups of people is looked at")


# --- infrastructure ----------------------------------------------------------------------------------


def _reproducible(seen: Seen) -> Earned:
    if seen.newest is None:
        return Earned(NOTHING, "no version is registered")
    lineage = seen.newest.lineage
    view = seen.home.existing_store().get_feature_view(lineage.feature_view, lineage.feature_view_version)
    hashes = [dataset.content_hash for dataset in view.training_datasets()]
    if lineage.training_dataset_hash not in hashes:
        return Earned(NOTHING, f"the training dataset of {seen.newest} is gone")
    path = seen.first("tests/featurestore/test_training_laws.py")
    return _file(path, AUTOMATED, f"its dataset is pinned, hash {lineage.training_dataset_hash[:12]}", "not tested")


def _unit_tested(seen: Seen) -> Earned:
    path = seen.first("tests/flows/{}/test_modelling.py")
    if path is not None:
        return Earned(AUTOMATED, path)
    by_pipeline = seen.first("tests/flows/{}/test_training_pipeline.py", "tests/flows/{}/test_pipelines.py")
    return _file(by_pipeline, BY_HAND, "only through its pipeline", "no tests of the model")


def _integrated(seen: Seen) -> Earned:
    path = seen.first("tests/flows/{}/test_pipelines.py", "tests/flows/{}/test_inference_pipeline.py")
    return _file(path, AUTOMATED, "features, training, inference on one store", "no test of the pipelines together")


def _validated(seen: Seen) -> Earned:
    judged = [version for version in seen.versions if version.decision != status.UNDECIDED]
    if not judged:
        return Earned(NOTHING, "no version was decided about")
    by_gate = sum("by flow run" in version.history[0] for version in judged)
    points = AUTOMATED if by_gate == len(judged) else BY_HAND
    return Earned(points, f"the gate decided about {by_gate} of {len(judged)} versions before they could serve")


def _debuggable(seen: Seen) -> Earned:
    groups = [group for group in seen.groups if inventory.is_of_predictions(group)]
    if not groups:
        return Earned(NOTHING, "nothing was predicted in this home")
    return Earned(BY_HAND, f"triptych explain takes any row of {groups[0].name} apart")


def _canaried(seen: Seen) -> Earned:
    shadows = [group.name for group in seen.home.groups_of(seen.system) if inventory.is_shadow(group)]
    if shadows:
        return Earned(AUTOMATED, f"{shadows[0]}: challengers score the same rows and serve nobody")
    return _file(seen.first("flows/shadow.py"), BY_HAND, "no challenger has run in the shadow here", "no shadow")


def _rolled_back(seen: Seen) -> Earned:
    path = seen.first("tests/flows/test_promotion.py") if "rollback" in seen.deployments else None
    return _file(path, AUTOMATED, "rollback, as a deployment and one command", "no rollback")


# --- monitoring --------------------------------------------------------------------------------------


def _dependencies(seen: Seen) -> Earned:
    if seen.newest is None or seen.newest.lineage.lock_hash == "unknown":
        return Earned(NOTHING, "no version says by which libraries it was trained")
    return Earned(BY_HAND, f"{seen.newest} keeps the hash of requirements.lock; a change is told to nobody")


def _invariants(seen: Seen) -> Earned:
    judged = [group for group in seen.groups if group.validation_reports()]
    if not judged:
        return Earned(NOTHING, "no batch was judged in this home")
    return Earned(AUTOMATED, f"{len(judged)} of {len(seen.groups)} groups keep a report of each batch")


def _skew(seen: Seen) -> Earned:
    return _file(seen.first("tests/featurestore/test_no_skew.py"), BY_HAND, "in tests; no flow compares",
                 "nothing compares training and serving")  # fmt: skip


def _not_too_old(seen: Seen) -> Earned:
    if not seen.is_scheduled("training"):
        return Earned(NOTHING, "training is not scheduled")
    ages = [model["champion"]["age_hours"] for model in seen.records if model["champion"]]
    age = f"; the champion is {status.hours(min(ages))} old" if ages else "; no champion"
    return Earned(AUTOMATED, f"prefect.yaml: training is scheduled{age}")


def _stable(seen: Seen) -> Earned:
    wanted = {each.said.group: each.said.forecast for each in seen.models}
    for group in [group for group in seen.groups if group.name in wanted]:
        rules = (group.expectation_suite or {}).get("expectations", [])
        if any(rule.get("kwargs", {}).get("column") == wanted[group.name] for rule in rules):
            return Earned(AUTOMATED, f"{group.name}: rules refuse forecasts that are null or out of range")
    return Earned(NOTHING, "no rule about forecasts in this home")


def _performance(seen: Seen) -> Earned:
    return _file(seen.first("docs/benchmarks.md"), BY_HAND, "make bench, when a person runs it", "no benchmark")


def _quality(seen: Seen) -> Earned:
    if not seen.is_scheduled("monitor"):
        return Earned(NOTHING, "no monitor is scheduled")
    live = [model["live"] for model in seen.records if model["live"]]
    if not live:
        return Earned(NOTHING, "prefect.yaml has a monitor, and it has measured nothing here")
    age = status.hours((windows.now() - live[0]["measured_at"]).total_seconds() / 3600)
    return Earned(AUTOMATED, f"{len(live)} of {len(seen.records)} models are measured, the last time {age} ago")


_SECTIONS: dict[str, dict[str, Callable[[Seen], Earned]]] = {
    "data": {
        "feature expectations are in a schema": _schema, "all features are beneficial": _beneficial,
        "no feature costs too much": _cost, "features keep meta-level requirements": _meta,
        "privacy is controlled": _privacy, "new features are added quickly": _added,
        "all feature code is tested": _features_tested,
    },
    "model": {
        "specifications are committed": _committed, "offline and online metrics correlate": _online,
        "hyper-parameters are tuned": _tuned, "the effect of staleness is known": _staleness,
        "a simpler model is not better": _simpler, "quality is sufficient on slices": _slices,
        "inclusion is tested": _inclusion,
    },
    "infrastructure": {
        "training is reproducible": _reproducible, "models are unit tested": _unit_tested,
        "the pipeline is integration tested": _integrated, "quality is validated before serving": _validated,
        "a single example can be debugged": _debuggable, "models are canaried": _canaried,
        "serving can be rolled back": _rolled_back,
    },
    "monitoring": {
        "changes of dependencies are told": _dependencies, "data invariants hold for inputs": _invariants,
        "training and serving are not skewed": _skew, "models are not too old": _not_too_old,
        "models are numerically stable": _stable, "computing performance has not regressed": _performance,
        "prediction quality has not regressed": _quality,
    },
}  # fmt: skip

TESTS = [Question(section, name, look) for section, tests in _SECTIONS.items() for name, look in tests.items()]
