"""Torch to ONNX. (artifact writing follows.)"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from optimum.exporters.onnx import OnnxConfig, model_configs  # noqa: F401 - model_configs registers the families' configurations
from optimum.exporters.onnx.convert import export_pytorch
from optimum.exporters.tasks import TasksManager
from transformers import PreTrainedModel

from pruning import onnx_graph

OPSET = 18


def to_onnx(model: PreTrainedModel, task_name: str) -> onnx.ModelProto:
    """Export an encoder with its head to an ONNX graph in memory, fp32 weights inside.

    Inputs int64 [batch, sequence]: `input_ids`, `attention_mask`, and `token_type_ids` where the family has them. Outputs fp32:
    `logits` [batch, labels], or `start_logits` and `end_logits` [batch, sequence]. Batch and sequence are dynamic; heads and widths
    may differ from layer to layer, and blocks may be missing.
    """
    config: OnnxConfig = TasksManager.get_exporter_config_constructor("onnx", model=model, task=task_name, library_name="transformers")(
        model.config
    )
    with tempfile.TemporaryDirectory() as folder, _evaluating(model), _quiet():
        path = Path(folder) / "model.onnx"
        export_pytorch(model, config, OPSET, path)
        proto = onnx.load(path)
    onnx_graph.clean(proto)
    return proto


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """The exporter switches the model to evaluation; put its mode back afterwards."""
    training = model.training
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the TorchScript exporter always warns of: that it is the older one, and that it records constants."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript-based ONNX export", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        yield
