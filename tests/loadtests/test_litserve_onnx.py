"""The LitServe peer answers as the model does; only where LitServe is installed."""

import json
from pathlib import Path

import pytest

from tests.service import builders

pytest.importorskip("litserve")

from loadtests.peers.litserve_onnx import OnnxApi
from loadtests.peers.options import Options
from service.model import Model
from service.tasks.classify import ClassifyRequest
from service.tasks.qa import QuestionRequest


def _api(folder: Path, task: str) -> OnnxApi:
    labels = {"0": "negative", "1": "neutral", "2": "positive"}
    (folder / "config.json").write_text(json.dumps({"id2label": labels} if task == "text-classification" else {}))
    api = OnnxApi(Options(str(folder), task, port=1, layout="workers", cores=1))
    api.setup("cpu")
    return api


def test_texts_get_the_models_labels(tmp_path):
    """One answer for each text, alone or in a list."""
    tokenizer = builders.bert_tokenizer()
    model = builders.classify_model(tokenizer.get_vocab_size(), labels=3)
    folder = builders.write_artifact(tmp_path / "s/dense", "text-classification", model, tokenizer)
    api = _api(folder, "text-classification")
    wanted = [Model.load(folder).predict_one(ClassifyRequest(text=text)).labels[0].label for text in ("ada", "wrote it")]
    assert [each["label"] for each in api.predict(api.decode_request({"inputs": ["ada", "wrote it"]}))] == wanted
    assert api.encode_response(api.predict("ada"))[0]["label"] == wanted[0]


def test_questions_get_the_models_spans(tmp_path):
    """The same words at the same place, where there is an answer."""
    tokenizer = builders.bert_tokenizer()
    folder = builders.write_artifact(
        tmp_path / "q/dense", "question-answering", builders.qa_model(tokenizer.get_vocab_size()), tokenizer, max_length=64
    )
    inputs = {"question": "who?", "context": "ada wrote it in the café"}
    wanted = Model.load(folder).predict_one(QuestionRequest(**inputs, handle_no_answer=False)).answers[0]
    (found,) = _api(folder, "question-answering").predict(inputs)
    assert (found["answer"], found["start"], found["end"]) == (wanted.answer, wanted.start, wanted.end)
