"""What the exports of every kind of model share: the operator set, the tolerance of parity, and how a model is traced."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

OPSET = 18
PARITY_TOLERANCE = 1e-4
"""Of the largest of torch's values."""


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """The exporter switches the model to evaluation; put its mode back afterwards."""
    training = model.training
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what the TorchScript exporter always warns of: that it is the older one, and that it records constants."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript-based ONNX export", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        yield
