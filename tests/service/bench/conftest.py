"""A stub server, and models that are small but real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.model import Model
from tests.service import builders
from tests.service.bench.stub import Stub


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server in this process."""
    with Stub() as server:
        yield server


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with `qa/dense` and `sentiment/dense`, of tokenizers that take a token for each letter."""
    tokenizer = builders.bert_tokenizer()
    qa = builders.qa_model(tokenizer.get_vocab_size())
    classify = builders.classify_model(tokenizer.get_vocab_size(), labels=3)
    folder = tmp_path / "models"
    builders.write_artifact(folder / "qa/dense", "question-answering", qa, tokenizer, name="qa", max_length=160)
    builders.write_artifact(folder / "sentiment/dense", "text-classification", classify, tokenizer, name="sentiment", max_length=160)
    return folder


@pytest.fixture
def qa_model(models: Path) -> Model:
    """Answers questions."""
    return Model.load(models / "qa/dense")


@pytest.fixture
def classify_model(models: Path) -> Model:
    """Labels texts."""
    return Model.load(models / "sentiment/dense")
