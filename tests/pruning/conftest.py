"""Fixtures of the pruning tests: tiny random models made from a config, and a tokenizer to go with them."""

import gc
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from torch import Tensor
from transformers import BertTokenizerFast, Trainer
from transformers.utils import hub

from tests.pruning import helpers


def pytest_collection_finish() -> None:
    """Spare the collector what is imported: a training collects garbage as it begins, and would look through all of it."""
    gc.collect()
    gc.freeze()


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
def tiny_tokenizer() -> BertTokenizerFast:
    """A small tokenizer; see `helpers.tiny_tokenizer`."""
    return helpers.tiny_tokenizer()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make hub look-ups fail at once, as they do where there is no network."""
    monkeypatch.setattr(hub, "_is_offline_mode", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Call a command line in this process; what it writes to stdout and to stderr stays apart."""
    return CliRunner().invoke


@pytest.fixture
def interrupted_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the Trainer stop, as by Ctrl-C, once it has done that many steps more."""
    original = Trainer.training_step

    def arrange(steps: int) -> None:
        left = iter(range(steps))

        def step_or_stop(self: Trainer, *arguments: object, **options: object) -> Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return original(self, *arguments, **options)

        monkeypatch.setattr(Trainer, "training_step", step_or_stop)

    return arrange
