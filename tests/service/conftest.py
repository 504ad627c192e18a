"""Artifacts that a test may read or spoil."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from service.tokenization import TextTokenizer
from tests.service import builders

settings.register_profile("secateur", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("secateur")


@pytest.fixture
def qa_folder(tmp_path: Path) -> Path:
    """A question-answering artifact, `models/qa/dense`."""
    tokenizer = builders.bert_tokenizer()
    model = builders.qa_model(tokenizer.get_vocab_size())
    return builders.write_artifact(tmp_path / "models/qa/dense", "question-answering", model, tokenizer, name="qa", handles_no_answer=True)


@pytest.fixture
def classify_folder(tmp_path: Path) -> Path:
    """A classification artifact, `models/sentiment/dense`, of a family without token types."""
    tokenizer = builders.roberta_tokenizer()
    model = builders.classify_model(tokenizer.get_vocab_size(), labels=3)
    return builders.write_artifact(tmp_path / "models/sentiment/dense", "text-classification", model, tokenizer, name="sentiment")


@pytest.fixture(params=["bert", "roberta"])
def text_tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    """Tokenizers of both kinds of template."""
    return TextTokenizer(builders.bert_tokenizer() if request.param == "bert" else builders.roberta_tokenizer())
