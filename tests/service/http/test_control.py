"""What surrounds the tasks: health, what is served, metrics, the reload, and who may call from a browser."""

import shutil

import pytest

from service.keys import digest
from tests.service.http.support import QA, assert_problem, metric

DURATIONS = ("request", "queue", "tokenize", "inference", "postprocess")
NAMES = [
    *(f"secateur_{name}_duration_seconds_bucket" for name in DURATIONS),
    *(f"secateur_{name}_total" for name in ("requests", "errors", "tokens", "runner_busy_seconds")),
    *(f"secateur_{name}" for name in ("queue_depth", "queue_tokens", "inflight", "batch_rows_bucket", "batch_tokens_bucket", "model_info")),
    "process_resident_memory_bytes",
]
ORIGIN = {"Origin": "https://garden.example"}


@pytest.mark.parametrize("path", ["/v2/health/live", "/healthz"])
def test_live(client, path):
    """The process says that it runs, at both addresses."""
    assert client.get(path).json() == {"live": True}


@pytest.mark.parametrize("path", ["/v2/health/ready", "/readyz", "/v2/models/qa/ready", "/v2/models/qa/versions/dense/ready"])
def test_ready(client, path):
    """Once started, the service, its models and their variants are ready."""
    response = client.get(path)
    assert (response.status_code, response.json()) == (200, {"ready": True})


@pytest.mark.parametrize("path", ["/v2/health/ready", "/readyz", "/v2/models/qa/ready", "/v2/models/qa/versions/dense/ready"])
def test_not_ready_while_draining(start, path):
    """Readiness turns red, with the reason, before anything else does."""
    client = start()
    client.app.state.serving.draining = True
    response = client.get(path)
    assert (response.status_code, response.json()) == (503, {"ready": False, "reason": "shutting down"})
    assert client.post("/qa", json={"inputs": QA}).status_code == 200


def test_server_says_what_it_is(client):
    """Name and version, as the Open Inference Protocol wants them."""
    assert client.get("/v2").json().keys() == {"name", "version", "extensions"}


def test_models_are_listed_with_what_is_known_of_them(client):
    """Every variant, with its hashes, revision, runtime and machine."""
    listed = client.get("/v2/models").json()
    found = {(each["name"], each["parameters"]["variant"]): each for each in listed["models"]}
    assert set(found) == {(name, variant) for name in ("qa", "sentiment") for variant in ("dense", "compact-int8")} | {
        ("topics", "dense"),
        ("summarize", "dense"),
        ("summarize", "compact-int8"),
        ("summarize", "compact"),
    }
    parameters = found["qa", "dense"]["parameters"]
    assert parameters["sha256"].keys() == {"model.onnx", "tokenizer.json"}
    assert {"density", "metrics", "latency", "revision", "runtime", "machine", "macs"} <= parameters.keys()
    assert listed["left_out"] == []


def test_model_by_its_address_is_the_default_variant(client):
    """A model's address gives what answers by default, a version's the variant of that name."""
    assert client.get("/v2/models/qa").json() == client.get("/v2/models/qa/versions/dense").json()
    int8 = client.get("/v2/models/qa/versions/compact-int8").json()
    assert (int8["name"], int8["parameters"]["precision"]) == ("qa", "int8")
    assert [tensor["name"] for tensor in int8["outputs"]] == ["start_logits", "end_logits"]


@pytest.mark.parametrize(
    "path", ["/v2/models/rose", "/v2/models/rose/ready", "/v2/models/qa/versions/rose", "/v2/models/qa/versions/rose/ready"]
)
def test_unknown_model_or_variant_is_a_404_that_lists_what_there_is(client, path):
    """What is not there is answered with what is."""
    problem = assert_problem(client.get(path), 404)
    assert "topics" in problem["detail"] or "compact-int8" in problem["detail"]


def test_variants_side_by_side(start):
    """One line for each, which says what answers by default and how weights share."""
    lines = start(weights={"qa": {"dense": 1.0, "compact-int8": 3.0}}, prefer=("dense",)).get("/v1/variants").json()
    assert {(line["model"], line["variant"]) for line in lines if line["default"]} == {
        (name, "dense") for name in ("qa", "sentiment", "summarize", "topics")
    }
    assert {line["variant"]: line.get("weight") for line in lines if line["model"] == "qa"} == {"dense": 1.0, "compact-int8": 3.0}
    assert all(line["size_bytes"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [("GET", "/rose", 404, None), ("GET", "/qa/", 404, None), ("GET", "/qa", 405, "POST"), ("DELETE", "/v2/models", 405, "GET")],
)
def test_wrong_addresses_and_methods_are_problems_too(client, method, path, status, allowed):
    """404 and 405 are problem documents; 405 says what is allowed."""
    response = client.request(method, path)
    assert_problem(response, status)
    assert response.headers.get("allow") == allowed


def test_reload_needs_an_admin_key(client):
    """Where nobody has a key, nobody may reload over HTTP."""
    response = client.post("/v1/reload")
    assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


def test_reload_that_fails_says_why_and_changes_nothing(start, models, tmp_path):
    """An admin learns what is wrong with the new folder; the old one still answers."""
    here, keys = tmp_path / "models", tmp_path / "keys"
    shutil.copytree(models, here)
    keys.write_text(f"ops {digest('sk-rose')} admin\n")
    client = start(models=here, api_keys=keys)
    key = {"Authorization": "Bearer sk-rose"}
    assert "qa/dense" in client.post("/v1/reload", headers=key).json()["variants"]
    (here / "qa/dense/tokenizer.json").write_text("{")
    problem = assert_problem(client.post("/v1/reload", headers=key), 409)
    assert "tokenizer.json" in problem["detail"]
    assert client.post("/qa", json={"inputs": QA, "variant": "dense"}, headers=key).status_code == 200


def test_pages_of_other_origins_may_not_call_unless_they_are_named(client, start):
    """No CORS header without the setting; with it, for the origins that it names and no other."""
    assert not [name for name in client.get("/v2", headers=ORIGIN).headers if name.startswith("access-control")]
    named = start(cors_origins=("https://garden.example",))
    assert named.get("/v2", headers=ORIGIN).headers["access-control-allow-origin"] == ORIGIN["Origin"]
    assert "access-control-allow-origin" not in named.get("/v2", headers={"Origin": "https://weeds.example"}).headers
    asked = {**ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert named.options("/qa", headers=asked).status_code == 200


def test_refusals_can_be_read_by_pages_of_named_origins(start):
    """A problem document carries the CORS headers too, or a page could not read it."""
    response = start(cors_origins=("https://garden.example",)).post("/qa", json={}, headers=ORIGIN)
    assert_problem(response, 422)
    assert response.headers["access-control-allow-origin"] == ORIGIN["Origin"]


def test_metrics_count_what_happened(start):
    """After a few requests all documented names are there, with what was counted."""
    client = start()
    for body in ({"inputs": QA}, {"inputs": [QA, QA]}, {}):
        client.post("/qa", json=body)
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    text = response.text
    assert [name for name in NAMES if f"\n{name}" not in text] == []
    assert metric(text, "secateur_requests_total") == 3
    assert metric(text, "secateur_queue_duration_seconds_count") == 3
    assert metric(text, "secateur_errors_total") == 1
    assert 'secateur_requests_total{code="422",route="/qa",variant=""} 1.0' in text
    assert 'secateur_request_duration_seconds_count{route="/qa",variant=""} 1.0' in text
    assert 'secateur_request_duration_seconds_count{route="/qa",variant="compact-int8"} 2.0' in text
    assert metric(text, "secateur_inflight") == 1, "the one that reads it"


def test_labels_stay_bounded_whatever_is_sent(start):
    """Paths, variants, models and ids of a client's making add no label: a hundred of them count like two."""

    def series(count: int) -> set[str]:
        for number in range(count):
            headers = {"X-Variant": f"rose{number}", "X-Request-Id": f"rose{number}"}
            client.get(f"/rose{number}")
            client.get(f"/v2/models/rose{number}")
            client.post("/qa", json={"inputs": QA}, headers=headers)
            client.post("/qa", json={"inputs": QA, "model": f"rose{number}"})
        lines = client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    client = start()
    client.get("/metrics")
    few = series(2)
    assert series(25) == few
    assert not [name for name in few if "rose" in name]
