"""A model answers from an artifact that it trusts, and refuses any other."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, load, save

from service.artifact import MANIFEST_NAME, Golden, hash_files, read_manifest, write_manifest
from service.errors import ArtifactError, GoldenError, RequestError, SchemaError
from service.model import Model, check_golden
from service.tasks.classify import ClassifyRequest, ClassifyResponse
from service.tasks.qa import QuestionRequest, QuestionResponse
from service.tokenization import TextTokenizer
from tests.service.builders import bert_tokenizer, classify_model, manifest_for, qa_model, roberta_tokenizer, write_artifact

CONTEXT = "Ada wrote it in the café 🙂. " * 5


class FakeSession:
    """Records what it is fed and gives zeros."""

    inputs = ("input_ids", "attention_mask")
    outputs = ("logits",)
    runtime = "fake"

    def __init__(self) -> None:
        """Nothing has been fed yet."""
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Zeros for three labels."""
        self.shapes.append(inputs["input_ids"].shape)
        return {"logits": np.zeros((1, 3), dtype=np.float32)}


def _rehash(folder: Path, **changes: object) -> None:
    manifest = read_manifest(folder)
    write_manifest(manifest.model_copy(update={"files": hash_files(folder), **changes}), folder)


def test_question_is_answered_from_its_context(qa_folder):
    """Responses come in the order of the requests, and answers are slices of their contexts."""
    requests = [QuestionRequest(question=f"who {word}?", context=CONTEXT, handle_no_answer=False) for word in ("wrote", "it")]
    model = Model.load(qa_folder)
    responses = model.predict(requests)
    assert responses == [model.predict_one(request) for request in requests]
    for response in responses:
        assert isinstance(response, QuestionResponse)
        assert response.windows > 1
        assert response.answers[0].answer == CONTEXT[response.answers[0].start : response.answers[0].end] != ""


def test_text_is_classified(classify_folder):
    """A family without token types is served by the same code."""
    (response,) = Model.load(classify_folder).predict([ClassifyRequest(text="ada", text_pair="wrote")])
    assert isinstance(response, ClassifyResponse)
    assert {entry.label for entry in response.labels} == {"negative", "neutral", "positive"}


def test_rows_run_one_per_call():
    """No row sees a neighbour or padding."""
    session = FakeSession()
    model = Model(manifest_for("text-classification"), TextTokenizer(bert_tokenizer()), session)
    model.predict([ClassifyRequest(text=text) for text in ("a", "a b", "a b c")])
    assert session.shapes == [(1, 3), (1, 4), (1, 5)]


def test_threads_get_what_one_caller_gets(qa_folder):
    """Predictions do not depend on who else is calling."""
    model = Model.load(qa_folder)
    requests = [QuestionRequest(question="who?", context=CONTEXT[start:]) for start in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(model.predict_one, requests)) == model.predict(requests)


def test_order_of_the_requests_does_not_matter(classify_folder):
    """Permuting the requests permutes the responses."""
    model = Model.load(classify_folder)
    requests = [ClassifyRequest(text="ada " * count) for count in range(1, 6)]
    assert model.predict(requests[::-1]) == model.predict(requests)[::-1]


def test_request_of_another_task_is_refused(qa_folder):
    """A text to label is not a question."""
    with pytest.raises(RequestError, match="expected QuestionRequest"):
        Model.load(qa_folder).predict([ClassifyRequest(text="ada")])


def _altered_graph(folder: Path) -> None:
    save(qa_model(66, seed=1), folder / "model.onnx")


def _truncated_graph(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])


def _truncated_manifest(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text()[:-100])


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _unlisted_tokenizer(folder: Path) -> None:
    files = read_manifest(folder).files
    _rehash(folder, files={"model.onnx": files["model.onnx"]})


def _hashed_but_truncated_graph(folder: Path) -> None:
    _truncated_graph(folder)
    _rehash(folder)


def _hashed_but_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    _rehash(folder)


def _foreign_operator(folder: Path) -> None:
    model = load(folder / "model.onnx")
    model.graph.node.append(helper.make_node("Evil", ["input_ids"], ["x"], domain="evil"))
    save(model, folder / "model.onnx")
    _rehash(folder)


def _unlisted_external_data(folder: Path) -> None:
    model = load(folder / "model.onnx")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    model.graph.initializer.append(tensor)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    _rehash(folder)
    (folder / "weights.bin").write_bytes(b"\0" * 4)


def _graph_of_another_task(folder: Path) -> None:
    save(classify_model(66, 3), folder / "model.onnx")
    _rehash(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_altered_graph, "altered"),
        (_truncated_graph, "truncated"),
        (_truncated_manifest, "not valid JSON"),
        (_no_tokenizer, "tokenizer.json is missing"),
        (_unlisted_tokenizer, "tokenizer.json is not among"),
        (_hashed_but_truncated_graph, "not a valid ONNX model"),
        (_hashed_but_damaged_tokenizer, "not a tokenizer"),
        (_foreign_operator, "unknown domains evil"),
        (_unlisted_external_data, "weights.bin is not among"),
        (_graph_of_another_task, "gives logits"),
    ],
)
def test_spoiled_artifact_is_refused_with_one_clear_line(qa_folder, spoil: Callable[[Path], None], message):
    """Whatever is wrong with an artifact, it is refused with the reason in one line."""
    spoil(qa_folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        Model.load(qa_folder)
    assert "\n" not in str(caught.value)


def test_newer_schema_is_refused(qa_folder):
    """A newer major version says to upgrade."""
    path = qa_folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": "2.0"}))
    with pytest.raises(SchemaError, match="upgrade secateur"):
        Model.load(qa_folder)


def test_golden_outputs_that_differ_are_refused_with_the_difference(qa_folder):
    """A graph whose outputs are not the recorded ones is refused, with the difference and the tolerance."""
    golden = read_manifest(qa_folder).golden
    outputs = {name: [[value + 0.5 for value in row] for row in rows] for name, rows in golden.outputs.items()}
    _rehash(qa_folder, golden=golden.model_copy(update={"outputs": outputs}))
    with pytest.raises(GoldenError, match=r"up to 0\.5 on this machine, tolerance 0\.0001"):
        Model.load(qa_folder)


def test_golden_difference_within_the_tolerance_is_accepted(qa_folder):
    """A difference below the tolerance loads."""
    golden = read_manifest(qa_folder).golden
    outputs = {name: [[value + 0.5 for value in row] for row in rows] for name, rows in golden.outputs.items()}
    _rehash(qa_folder, golden=golden.model_copy(update={"outputs": outputs, "tolerance": 0.6}))
    assert Model.load(qa_folder).manifest.golden.tolerance == 0.6


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"input_ids": [[1]], "attention_mask": [[1]]}, {"logits": [[0.0, 0.0]]}),
        ({"input_ids": [[1]]}, {"logits": [[0.0, 0.0, 0.0]]}),
        ({"input_ids": [], "attention_mask": []}, {"logits": []}),
        ({"input_ids": [[1]], "attention_mask": [[1], [1]]}, {"logits": [[0.0, 0.0, 0.0]]}),
        ({}, {}),
    ],
    ids=["other shape", "other inputs", "no rows", "ragged", "nothing"],
)
def test_golden_that_does_not_fit_the_graph_is_refused(inputs, outputs):
    """A golden check that checks nothing, or something else, does not pass."""
    with pytest.raises(GoldenError):
        check_golden(FakeSession(), Golden(inputs=inputs, outputs=outputs, tolerance=1.0), Path("artifact"))


def test_nan_never_passes_the_golden_check():
    """An output that is not a number is beyond every tolerance."""

    class NanSession(FakeSession):
        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"logits": np.full((1, 3), np.nan, dtype=np.float32)}

    golden = Golden(inputs={"input_ids": [[1]], "attention_mask": [[1]]}, outputs={"logits": [[0.0] * 3]}, tolerance=1e9)
    with pytest.raises(GoldenError, match="nan"):
        check_golden(NanSession(), golden, Path("artifact"))


def test_artifact_may_be_moved(qa_folder, tmp_path):
    """Nothing in an artifact depends on where it is."""
    request = QuestionRequest(question="who?", context=CONTEXT)
    before = Model.load(qa_folder).predict_one(request)
    moved = tmp_path / "elsewhere"
    shutil.move(qa_folder, moved)
    assert Model.load(moved).predict_one(request) == before


def test_token_types_are_fed_where_the_graph_takes_them(tmp_path):
    """The graph's inputs decide; a RoBERTa tokenizer gives zeros to a graph that wants them."""
    tokenizer = roberta_tokenizer()
    model = classify_model(tokenizer.get_vocab_size(), 3, inputs=("input_ids", "attention_mask", "token_type_ids"))
    folder = write_artifact(tmp_path / "x", "text-classification", model, tokenizer)
    assert Model.load(folder).predict_one(ClassifyRequest(text="ada"))


def test_importing_the_service_loads_no_training_library():
    """The serving process never pays for torch and its friends."""
    heavy = ("torch", "transformers", "onnx", "optimum", "datasets", "pruning")
    code = f"import sys, service.cli; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
