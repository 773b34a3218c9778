"""Training datasets under processes that die, run out of disk, or create at once: a whole version or none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from featurestore import FeatureStore, FeatureView, connect
from featurestore.training_dataset import content_hash


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[FeatureStore]:
    store = connect(tmp_path)
    yield store
    store.close()


@pytest.fixture
def view(fs: FeatureStore) -> FeatureView:
    return made_view(fs)


def made_view(fs: FeatureStore) -> FeatureView:
    """Forty labels, an hour apart, with a feature of the same time."""
    number = range(40)
    keys = {"k": [n % 4 for n in number], "at": pd.date_range("2021-01-01", periods=40, freq="h", tz="UTC")}
    labels, features = (
        fs.get_or_create_feature_group(n, 1, primary_key=["k"], event_time="at") for n in ("labels", "features")
    )
    labels.insert(pd.DataFrame(keys | {"y": [n % 2 for n in number]}))
    features.insert(pd.DataFrame(keys | {"x": [n / 3 for n in number]}))
    query = labels.select(["y"]).join(features.select(["x"]))
    return fs.create_feature_view("view", query=query, labels=["y"])


def hashes(view: FeatureView, version: int) -> list[str]:
    frames = view.get_train_test_split(version, dataframe_type="arrow", primary_keys=True, event_time=True)
    return [content_hash(frame) for frame in frames]


_DIE = """
import json, os, signal, sys
import deltalake, duckdb, featurestore, pandas, pyarrow.parquet, sqlalchemy  # once, for all the processes to come
from featurestore.training_dataset import content_hash
home, what = sys.argv[1:]
steps = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "sqlite3.connect")

def process(work):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, json.dumps(work(featurestore.connect(home).get_feature_view("view", 1))).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    with os.fdopen(read) as answer:
        return json.loads(answer.read() or "null")

def dying(step):
    def work(view):
        view.query.read()
        seen = 0
        def count(event, arguments):
            nonlocal seen
            if event in steps:
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        if what == "create":
            view.create_train_test_split(0.3)
        elif what == "recreate":
            view.recreate_training_dataset(1)
        else:
            view.delete_training_dataset(view.training_datasets()[-1].version)
        return seen
    return work

def found(view):
    if not view.training_datasets():
        view.create_train_test_split(0.3)
    options = {"dataframe_type": "arrow", "primary_keys": True, "event_time": True}
    versions = [d.version for d in view.training_datasets()]
    return {v: [content_hash(f) for f in view.get_train_test_split(v, **options)] for v in versions}

total = process(dying(0))
print(json.dumps([total, process(found)]))
for step in range(1, total + 1, max(1, total // 5)):
    killed = process(dying(step)) is None
    print(json.dumps([killed, process(found)]))
"""


@pytest.mark.parametrize("what", ["create", "recreate", "delete"])
def test_a_process_killed_between_two_steps_leaves_a_whole_training_dataset_or_none(
    fs: FeatureStore, view: FeatureView, what: str
) -> None:
    """V2, C3: registered versions give their bytes, from files or pins, and what is left over is cleaned up."""
    view.create_train_test_split(0.3)
    whole = hashes(view, 1)
    command = [sys.executable, "-c", _DIE, str(fs.settings.home), what]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (total, before), *deaths = (json.loads(line) for line in run.stdout.splitlines())
    assert total > 3
    assert len(deaths) >= 4
    assert all(killed for killed, _ in deaths)
    for _, after in deaths:
        assert all(found == whole for found in after.values())
        assert len(after.keys() ^ before.keys()) <= (2 if what == "delete" else 1), "one came, or went and one was made"
        before = after
    version = view.create_train_test_split(0.3)[0]
    left = {p.name for p in (fs.settings.home / "training" / "view_1").iterdir()} - {".writing"}
    assert str(version) in left
    assert left <= {str(d.version) for d in view.training_datasets()}


_FULL = """
import resource, signal, sys, featurestore, pyarrow.parquet
view = featurestore.connect(sys.argv[1]).get_feature_view("view", 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
try:
    view.create_train_test_split(0.3)
except featurestore.FeatureStoreError as error:
    print(error)
"""


def test_a_full_disk_registers_nothing(fs: FeatureStore, view: FeatureView) -> None:
    """V2: no file may grow beyond 600 bytes: a typed error, no version, and nothing left over."""
    command = [sys.executable, "-c", _FULL, str(fs.settings.home)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cannot be written" in said
    assert "Nothing was registered" in said
    assert view.training_datasets() == []
    assert [p.name for p in (fs.settings.home / "training" / "view_1").iterdir()] == [".writing"]
    assert view.create_train_test_split(0.3)[0] == 1


_CREATE = """
import sys, featurestore
fs = featurestore.connect(sys.argv[1], catalog_url=sys.argv[2])
view = fs.get_feature_view("view", 1)
for _ in range(3):
    print(view.create_train_test_split(0.3)[0])
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_processes_that_create_at_once_get_versions_of_their_own(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    """C3, V2: nobody's version is taken, nobody's files are swept away as left over."""
    url = (
        request.getfixturevalue("postgres_url") if database == "postgresql" else f"sqlite:///{tmp_path / 'catalog.db'}"
    )
    fs = connect(tmp_path, catalog_url=url)
    view = made_view(fs)
    command = [sys.executable, "-c", _CREATE, str(tmp_path), url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    given = [int(line) for process in running for line in process.communicate()[0].split()]
    assert sorted(given) == list(range(1, 7))
    assert all(
        path.is_file()
        for version in given
        for path in (tmp_path / name for name in view.training_dataset(version).files)
    )
    assert {tuple(hashes(view, version)) for version in given} == {tuple(hashes(view, 1))}
    names = {p.name for p in (tmp_path / "training" / "view_1").iterdir()}
    assert names == {".writing", *map(str, given)}
    view.delete_training_dataset(6)
    assert view.create_train_test_split(0.3)[0] == 7
    assert view.training_dataset_statistics(7)["train"]["raw"]["y"]["count"] == view.training_dataset(7).rows["train"]
    fs.close()
