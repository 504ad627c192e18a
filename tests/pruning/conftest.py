"""Fixtures of the pruning tests: tiny random models made from a config, and a tokenizer to go with them."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertTokenizerFast
from transformers.utils import hub

from tests.pruning import helpers


@pytest.fixture
def tiny_model() -> helpers.ModelFactory:
    """The factory of tiny random models; see `helpers.tiny_model` for what can be chosen."""
    return helpers.tiny_model


@pytest.fixture(params=helpers.FAMILY_NAMES)
def family(request: pytest.FixtureRequest) -> str:
    """Each model family in turn."""
    return str(request.param)


@pytest.fixture(params=helpers.TASK_NAMES)
def task(request: pytest.FixtureRequest) -> str:
    """Each task in turn."""
    return str(request.param)


@pytest.fixture
def tiny_tokenizer(tmp_path: Path) -> BertTokenizerFast:
    """A lower-casing WordPiece tokenizer over letters, digits and a few words; ids stay below `helpers.VOCABULARY`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789", ".", ",", "?", "the", "good", "bad"]
    words += [f"##{letter}" for letter in "aeiourstlnd"]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    path = tmp_path / "tokenizer-source.json"
    tokenizer.save(str(path))
    return BertTokenizerFast(tokenizer_file=str(path))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make hub look-ups fail at once, as they do where there is no network."""
    monkeypatch.setattr(hub, "_is_offline_mode", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
