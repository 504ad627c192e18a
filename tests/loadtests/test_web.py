"""The FastAPI in front of the pipelines."""

import pytest
from fastapi.testclient import TestClient

from loadtests.peers.options import Options
from loadtests.peers.web import ask_pipeline, make_app


class FakePipeline:
    """Notes how it is called."""

    def __init__(self) -> None:
        """Not yet."""
        self.calls: list[tuple[tuple, dict]] = []

    def __call__(self, *arguments: object, **options: object) -> str:
        """An answer."""
        self.calls.append((arguments, options))
        return "answer"


def _options(layout: str) -> Options:
    return Options(artifact="a", task="text-classification", port=1, layout=layout, cores=2)


@pytest.mark.parametrize("layout", ["default", "threads"])
def test_inputs_are_answered(layout):
    """`inputs` of the body go to the library, and what it says comes back."""
    with TestClient(make_app(_options(layout), lambda inputs: {"seen": inputs})) as client:
        assert client.get("/health").status_code == 200
        assert client.post("/predict", json={"inputs": ["a", "b"]}).json() == {"seen": ["a", "b"]}


@pytest.mark.parametrize(
    ("task", "inputs", "tuned", "call"),
    [
        ("question-answering", {"question": "q", "context": "c"}, True, ((), {"question": "q", "context": "c"})),
        ("text-classification", "a", True, (("a",), {})),
        ("text-classification", ["a", "b"], False, ((["a", "b"],), {})),
        ("text-classification", ["a", "b"], True, ((["a", "b"],), {"batch_size": 2})),
    ],
)
def test_a_pipeline_is_called_as_its_documentation_calls_it(task, inputs, tuned, call):
    """Several texts are one batch only when the peer is tuned."""
    pipe = FakePipeline()
    assert ask_pipeline(pipe, task, inputs, tuned=tuned) == "answer"
    assert pipe.calls == [call]
