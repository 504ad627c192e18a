"""schemathesis: whatever the OpenAPI document allows or forbids is sent, and every answer must be as the document says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.openapi import from_asgi

from service.app import create_app
from service.keys import digest
from service.settings import Settings

KEY = "sk-of-the-tests"

# Every check is on. Answers to what the document allows may still be refusals, for what a schema cannot say:
#   404  the model or the variant is not loaded;
#   413  a text takes more windows or tokens than are taken, which is known when it has been tokenized;
#   422  fields that do not go together (a stride and a window, a pair and windows), or a text of nothing that the model knows;
#   503  X-Request-Timeout-Ms is shorter than the wait that is foreseen;
#   504  it was shorter than it took.
# What the document forbids may be refused with 413 too: a list or a text that is too long.
CHECKS = {
    "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "413", "422", "503", "504"]},
    "negative_data_rejection": {"expected-statuses": ["400", "401", "404", "405", "413", "415", "422", "503", "504"]},
    "not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503", "504"]},
}

SEED = 20
FEW, MANY = 8, 300
OPERATIONS = 14


def complaints(models: Path, keys: Path, examples: int) -> Iterator[str]:
    """What schemathesis finds wrong: examples of the document, values at every boundary, and as many random cases per operation."""
    keys.write_text(f"tests {digest(KEY)} admin\n")
    options = {
        "seed": SEED,
        "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
        "headers": {"Authorization": f"Bearer {KEY}"},
        "checks": CHECKS,
        "cache": {"enabled": False},
    }
    app = create_app(Settings(models=models, runners=2, api_keys=keys))
    schema = from_asgi("/openapi.json", app, config=SchemathesisConfig.from_dict(options))
    tried = 0
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            tried += len(event.recorder.cases)
            for check in (check for checks in event.recorder.checks.values() for check in checks if check.failure_info):
                yield f"{event.recorder.label}: {check.name}: {check.failure_info.failure.message}\n{check.failure_info.code_sample}"
        elif isinstance(event, events.NonFatalError | events.FatalError):
            yield str(event)
    assert tried > 20 * OPERATIONS, "as good as nothing was tried"


def test_every_answer_is_as_documented(models, tmp_path):
    """No check fails on any operation."""
    assert list(complaints(models, tmp_path / "keys", FEW)) == []


def test_refusals_are_documented_as_problems(client):
    """Every refusal that the document knows is a problem document, except where health says why it is not."""
    refusals = [
        (path, status, answer["content"])
        for path, operations in client.get("/openapi.json").json()["paths"].items()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
        if int(status) >= 400 and not (path.endswith("/ready") and status == "503")
    ]
    expected = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert len(refusals) > 20
    assert [refusal for refusal in refusals if refusal[2] != expected] == []


@pytest.mark.slow
def test_every_answer_is_as_documented_for_many_more(models, tmp_path):
    """The same with many more random cases."""
    assert list(complaints(models, tmp_path / "keys", MANY)) == []
