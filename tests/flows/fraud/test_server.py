"""The inference server with the fraud system behind it: asked over real HTTP, killed, and given another champion."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

import featurestore
from deployments import answers
from deployments.server import MOST_AT_ONCE, ServerSettings, create_app
from flows import registry
from flows.fraud import schema
from flows.fraud.inference_pipeline import Predictor
from flows.requests import Request
from flows.settings import Settings
from tests.flows.fraud.conftest import copied

ROOT = Path(__file__).parents[3]
ASKED: dict[str, Any] = {
    "cc_num": "4000123400000501", "datetime": "2026-04-01T10:00:00Z", "amount": 20.5, "merchant_id": "m210",
    "category": "grocery", "latitude": 47.5, "longitude": -122.1,
}  # fmt: skip


@contextmanager
def serving(settings: Settings, **own: Any) -> Iterator[httpx.Client]:
    """A server on a port of its own, and a client of it; stopped as Ctrl-C stops it."""
    app = create_app(settings, ServerSettings(**{"watch_seconds": 0.2, "keep_seconds": 60, **own}))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=30) as client:
                while not server.started:
                    assert thread.is_alive(), "the server did not start"
                    time.sleep(0.02)
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def client(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = copied(trained_once, tmp_path_factory.mktemp("served"))
    # It does not watch: there is one registry in a process, and other tests are about to use another one.
    with serving(Settings(home=home, source="simulated", data=None, mlflow_uri=None), watch_seconds=3600) as client:
        yield client


def kept(settings: Settings) -> set[str]:
    fs = featurestore.connect(home=settings.store_home)
    return set(fs.get_feature_group(answers.GROUP, answers.VERSION).read()["request_id"])


def ask(client: httpx.Client, **changed: Any) -> httpx.Response:
    body = {name: value for name, value in {**ASKED, **changed}.items() if value is not ...}
    return client.post("/v1/fraud/predict", json=body)


# --- what it says ------------------------------------------------------------------------------------


def test_says_what_the_predictor_of_the_flows_says(client: httpx.Client, with_champion: Settings) -> None:
    from datetime import datetime

    said = ask(client).json()
    expected = Predictor().predict({**ASKED, "datetime": datetime.fromisoformat(ASKED["datetime"])})
    assert said["prediction"]["score"] == expected.score
    assert [reason["feature"] for reason in said["prediction"]["reasons"]] == [r.feature for r in expected.reasons]
    assert (said["degraded"], said["why"]) == (expected.degraded, list(expected.why))
    assert said["models"][0]["version"] == expected.model_version
    assert said["logged"]


def test_many_are_answered_in_their_order_and_each_as_alone(client: httpx.Client) -> None:
    many = [{**ASKED, "amount": amount} for amount in (5.0, 5_000.0, 50.0)]
    said = client.post("/v1/fraud/predict", json=many).json()
    alone = [client.post("/v1/fraud/predict", json=one).json() for one in many]
    assert [one["prediction"]["score"] for one in said] == [one["prediction"]["score"] for one in alone]
    assert len({one["request_id"] for one in said}) == 3


def test_unknown_card_and_missing_features_give_a_flagged_answer(client: httpx.Client) -> None:
    said = ask(client, cc_num="never seen", merchant_id=None, latitude=..., category="no such thing").json()
    assert said["degraded"]
    assert any("never seen" in why for why in said["why"])
    assert 0 <= said["prediction"]["score"] <= 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"amount": ...}, "amount: Field required"),
        ({"amount": "20"}, "amount: expected a number; got '20'"),
        ({"amount": True}, "amount: expected a number; got True"),
        ({"amount": -1}, "amount = -1.0: expected USD from 0"),
        ({"datetime": "2026-04-01T10:00:00"}, "datetime: Input should have timezone info"),
        ({"datetime": "yesterday"}, "datetime: Input should be a valid datetime"),
        ({"cc_num": None}, "cc_num: Input should be a valid string"),
        ({"latitude": 91}, "latitude = 91.0: expected degrees from -90"),
        ({"card": "4000"}, "card: there is no such field"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_field_and_reason(
    client: httpx.Client, changed: dict[str, Any], told: str
) -> None:
    answer = ask(client, **changed)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"text"', '{"amount": NaN}', "[[[[[[", "\x00"])
def test_body_that_is_no_request_is_refused(client: httpx.Client, body: str) -> None:
    answer = client.post("/v1/fraud/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)


def test_nothing_is_answered_when_one_of_many_cannot_be_meant(client: httpx.Client) -> None:
    answer = client.post("/v1/fraud/predict", json=[ASKED, {**ASKED, "amount": -5}])
    assert (answer.status_code, "Request 1 of 2: amount = -5.0" in answer.json()["detail"]) == (422, True)
    assert client.post("/v1/fraud/predict", json=[ASKED] * (MOST_AT_ONCE + 1)).status_code == 422


def test_other_systems_say_where_their_predictions_are(client: httpx.Client) -> None:
    batches = client.post("/v1/electricity/predict", json={})
    assert (batches.status_code, "/v1/electricity/predictions" in batches.json()["detail"]) == (404, True)
    untrained = client.post("/v1/reddit/predict", json={"title": "a", "subreddit": "b", "time": "2026-01-01T00:00:00Z"})
    assert (untrained.status_code, "reddit_likes" in untrained.json()["detail"]) == (404, True)
    unknown = client.get("/v1/weather/model")
    assert (unknown.status_code, "there are air_quality, electricity, fraud" in unknown.json()["detail"]) == (404, True)


def test_tells_its_models_with_all_they_came_from(client: httpx.Client, with_champion: Settings) -> None:
    (model,) = client.get("/v1/fraud/model").json()
    champion = registry.require_champion(schema.MODEL, trained_by="")
    assert (model["name"], model["version"]) == (schema.MODEL, champion.version)
    assert model["lineage"]["training_dataset_hash"] == champion.lineage.training_dataset_hash
    assert client.get("/v1/electricity/model").status_code == 404


def test_vectors_are_those_of_the_view(client: httpx.Client, with_champion: Settings) -> None:
    fs = featurestore.connect(home=with_champion.store_home)
    model = registry.require_champion(schema.MODEL, trained_by="")
    view = fs.get_feature_view(model.lineage.feature_view, model.lineage.feature_view_version)
    view.init_serving(model.lineage.training_dataset_version)
    entries = [{key: {"cc_num": "4000123400000501", "merchant_id": "m210"}[key] for key in view.serving_keys}]
    passed = [{name: None for name in view.feature_names if view_asks_for(view, name)}]
    body = {"entries": entries, "passed_features": passed, "allow_missing": True}
    said = client.post(f"/v1/features/{view.name}", json=body)
    assert said.status_code == 200, said.text
    expected = view.get_feature_vectors(entries, passed, allow_missing=True, return_type="dict")[0]
    assert {name: nothing(value) for name, value in expected.items()} == said.json()["vectors"][0]
    assert client.post("/v1/features/no_such_view", json=body).status_code == 404
    assert client.post(f"/v1/features/{view.name}", json={"entries": [{"card": "1"}]}).status_code == 422


def view_asks_for(view: Any, name: str) -> bool:
    return any(feature.name == name and feature.on_demand for feature in view.features)


def nothing(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def test_description_has_the_fields_their_units_and_an_example_that_is_answered(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    asked = described["components"]["schemas"]["FraudRequest"]
    assert "[USD]" in asked["properties"]["amount"]["description"]
    assert asked["required"] == schema.REQUEST.required or set(asked["required"]) == set(schema.REQUEST.required)
    body = described["paths"]["/v1/fraud/predict"]["post"]["requestBody"]["content"]["application/json"]
    example = {**body["example"], "datetime": ASKED["datetime"]}
    assert client.post("/v1/fraud/predict", json=example).status_code == 200


def test_request_names_only_fields_that_there_are() -> None:
    with pytest.raises(ValueError, match="which are no fields"):
        Request(["m"], list(schema.REQUEST.fields), required=["price"], example={})


def test_health_says_which_champions_answer_and_metrics_count_by_route(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    ready = client.get("/readyz").json()
    assert ready["champions"]["fraud"][schema.MODEL] >= 1
    assert "reddit" in ready["trouble"]
    ask(client)
    client.get("/v1/made-up/model")
    counted = client.get("/metrics").text
    assert 'triptych_requests_total{route="/v1/fraud/predict",status="200"}' in counted
    assert 'triptych_champion_version{model="fraud_detection",system="fraud"}' in counted
    assert "made-up" not in counted


@pytest.mark.filterwarnings("ignore")
def test_whatever_is_sent_the_answer_is_as_described(client: httpx.Client) -> None:
    """Property-based against its own description: no 500, no undocumented status, no answer of another shape."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    checks = schemathesis.checks
    described = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    for found in described.include(path_regex="^/v1/").get_all_operations():

        @settings(max_examples=6, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=found.ok().as_strategy())
        def ask_anything(case: Any) -> None:
            response = case.call(base_url=str(client.base_url))
            case.validate_response(response, checks=[checks.not_a_server_error])

        ask_anything()


# --- who may ask, and how much -----------------------------------------------------------------------


def test_token_rate_and_size_are_kept(with_champion: Settings) -> None:
    own = {"token": SecretStr("open sesame"), "rate": "3/minute", "most_bytes": 2_000}
    with serving(with_champion, **own) as client:
        assert ask(client).status_code == 401
        client.headers["authorization"] = "Bearer open says me"
        assert ask(client).status_code == 401
        client.headers["authorization"] = "Bearer open sesame"
        large = client.post("/v1/fraud/predict", json=[ASKED] * 100)
        assert (large.status_code, "at most 2000 are taken" in large.json()["detail"]) == (413, True)
        unmeasured = client.post("/v1/fraud/predict", content=iter([b"{", b"}"]))
        assert unmeasured.status_code == 411
        assert ask(client).status_code == 200
        refused = ask(client)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
        assert client.get("/healthz").status_code == 200


# --- another champion --------------------------------------------------------------------------------


def another_version(settings: Settings) -> registry.ModelVersion:
    """The champion once more, as the next version."""
    registry.bootstrap(settings)
    champion = registry.require_champion(schema.MODEL, trained_by="")
    loaded = registry.load(champion)
    import pandas as pd

    example = pd.DataFrame([dict.fromkeys(loaded.feature_names, 0.0)])
    return registry.log_model(
        schema.MODEL, loaded.booster, lineage=champion.lineage, example=example, params={}, metrics={},
        model_card="the champion once more", training_report="",
    )  # fmt: skip


def test_new_champion_answers_without_restart_and_without_a_failed_request(with_champion: Settings) -> None:
    with serving(with_champion) as client:
        new = another_version(with_champion)
        statuses: list[int] = []
        versions: list[int] = []
        stop = threading.Event()

        def hammer() -> None:
            with httpx.Client(base_url=client.base_url, timeout=30) as own:
                while not stop.is_set():
                    answer = ask(own)
                    statuses.append(answer.status_code)
                    versions.append(answer.json()["models"][0]["version"])

        with ThreadPoolExecutor(4) as pool:
            hammering = [pool.submit(hammer) for _ in range(4)]
            registry.promote(new, why="a test exchanges the champion under load")
            deadline = time.monotonic() + 30
            while new.version not in versions and time.monotonic() < deadline:
                time.sleep(0.05)
            stop.set()
            for each in hammering:
                each.result()
        assert set(statuses) == {200}
        assert versions[-1] == new.version
        registry.rollback(schema.MODEL, why="as it was")


def test_champion_that_cannot_be_loaded_leaves_the_old_one_answering(
    with_champion: Settings, trained_once: Path
) -> None:
    with serving(with_champion) as client:
        before = ask(client).json()["models"][0]["version"]
        broken = another_version(with_champion)
        files = (trained_once / "mlflow" / "artifacts").rglob("model.ubj")  # the registry was copied, its folder not
        newest = max(files, key=lambda path: path.stat().st_mtime_ns)
        newest.write_bytes(b"no model")
        registry.promote(broken, why="a test promotes what cannot be loaded")
        try:
            deadline = time.monotonic() + 30
            while "fraud" not in client.get("/readyz").json()["trouble"] and time.monotonic() < deadline:
                time.sleep(0.05)
            assert "fraud" in client.get("/readyz").json()["trouble"]
            assert ask(client).json()["models"][0]["version"] == before
        finally:
            registry.rollback(schema.MODEL, why="as it was")


# --- nothing that was said is lost -------------------------------------------------------------------


def test_clean_stop_loses_no_answer_and_the_record_has_what_was_asked_and_said(with_champion: Settings) -> None:
    with serving(with_champion) as client, ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda amount: ask(client, amount=amount).json(), range(1, 101)))
    assert {answer["request_id"] for answer in said} <= kept(with_champion)
    fs = featurestore.connect(home=with_champion.store_home)
    rows = fs.get_feature_group(answers.GROUP, answers.VERSION).read().set_index("request_id")
    one = rows.loc[said[6]["request_id"]]
    assert json.loads(one["inputs"])["amount"] == 7
    assert json.loads(one["prediction"]) == said[6]["prediction"]
    assert json.loads(one["features"])["amount"] == 7
    assert one["models"] == f"{schema.MODEL}@{said[6]['models'][0]['version']}"


def test_killed_server_has_lost_no_answer_that_said_it_was_logged(with_champion: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "deployments.server", "--port", str(port)],
        cwd=ROOT, env={**os.environ, "TRIPTYCH_SERVER_KEEP_SECONDS": "600"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    acknowledged: list[str] = []
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            threading.Timer(0.5, lambda: server.send_signal(signal.SIGKILL)).start()
            with contextlib.suppress(httpx.TransportError):
                while True:
                    answer = ask(client).json()
                    acknowledged += [answer["request_id"]] if answer["logged"] else []
    finally:
        server.kill()
        server.wait()
    assert server.returncode == -signal.SIGKILL
    assert acknowledged
    with serving(with_champion):  # the next one moves what the killed one has left
        pass
    assert set(acknowledged) <= kept(with_champion)
