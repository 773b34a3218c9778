"""The monitor where no model has passed the gate: the same price is measured, and the rejected beside it."""

from __future__ import annotations

from datetime import timedelta

import pytest

import featurestore
from flows import live_metrics, windows
from flows.monitoring import monitor
from flows.settings import Settings
from flows.stock import schema
from flows.stock.inference_pipeline import stock_inference
from tests.flows.stock.conftest import END

pytestmark = pytest.mark.long


def test_what_is_published_without_a_champion_is_measured_and_the_challenger_on_the_same_closes(
    with_rejected: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I14: both on exactly the same rows; and a market that swings is nobody's regression."""
    artifacts: dict[str, str] = {}

    def keep(markdown: str, *, key: str, description: str) -> None:
        artifacts[key] = markdown

    start = END - timedelta(days=80)
    with windows.frozen(start):
        stock_inference(start=start, end=END - timedelta(days=3))
    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", keep)
    with windows.frozen(END):
        assert monitor("stock") == 0
    fs = featurestore.connect(home=with_rejected.store_home)
    rows = fs.get_feature_group(live_metrics.GROUP, live_metrics.VERSION).read()
    whole = rows[rows["slice"] == live_metrics.ALL].set_index("model")
    price = whole.loc[schema.RETURN_MODEL]
    assert (price["model_versions"], price["state"], price["skill"]) == ("0", "fine", 0.0)
    assert price["value"] == price["baseline_value"] > 0
    assert whole.loc[schema.DIRECTION_MODEL, "rows"] == 0  # nobody said anything of it
    report = artifacts["hindcast-stock-return"]
    assert "stock_return has no champion: no version has passed the gate yet." in report
    assert "## The challenger in the shadow, on exactly the same rows" in report
    assert "(version 1)" in report
