"""Settings that cannot be meant are one clear error, wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

import featurestore
from featurestore import FeatureStoreError


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("threads", -1, "threads=-1 cannot be"),
        ("threads", "many", "threads='many' cannot be"),
        ("memory_limit", "abc", "memory_limit='abc' cannot be"),
        ("colour", "red", "There is no setting 'colour'"),
        ("catalog_url", "nonsense", "The catalog cannot be opened at 'nonsense'"),
        ("catalog_url", "foo://me:secret@host/x", "The catalog cannot be opened at 'host/x'"),
        ("online_url", "nonsense", "The online store cannot be opened at 'nonsense'"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, setting: str, value: object, said: str) -> None:
    with pytest.raises(FeatureStoreError, match=said) as refused:
        featurestore.connect(tmp_path, **{setting: value})
    assert "secret" not in str(refused.value)


def test_the_environment_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE_THREADS", "many")
    with pytest.raises(FeatureStoreError, match="FEATURESTORE_THREADS"):
        featurestore.connect(tmp_path)


@pytest.mark.parametrize("limit", ["512MB", "4GB", "1.5 GiB", "80%"])
def test_memory_is_spelled_as_duckdb_does(tmp_path: Path, limit: str) -> None:
    assert featurestore.connect(tmp_path, memory_limit=limit).settings.memory_limit == limit


def test_a_catalog_that_is_no_database_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_text("hello, hello, hello")
    with pytest.raises(FeatureStoreError, match="file is not a database"):
        featurestore.connect(tmp_path)
