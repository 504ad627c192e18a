"""Torch to ONNX, and to an artifact that the service loads.

`to_onnx` goes through optimum's exporters (TorchScript, which handles layers of unequal heads) and cleans what they trace.
`check_parity` compares the graph with torch before any file is written. `export_artifact` writes checkpoint, graph and manifest
into one folder, whole or not at all; the graph's weights are the checkpoint's fp16 bytes (`pruning/shared_weights.py`).
"""

import copy
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from optimum.exporters.onnx import OnnxConfig, model_configs  # noqa: F401 - registers the configuration of each family
from optimum.exporters.onnx.convert import export_pytorch
from optimum.exporters.tasks import TasksManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning import checkpoint, onnx_graph, structure
from pruning.errors import ParityError
from pruning.shared_weights import embed, point_to_shards
from pruning.storage import written
from service.artifact import (
    SCHEMA_MAJOR,
    SCHEMA_MINOR,
    Golden,
    Latency,
    Manifest,
    Metric,
    TaskName,
    TrainingData,
    Variant,
    hash_files,
    read_manifest,
    write_manifest,
)
from service.model import GRAPH_NAME
from service.runtime.base import Session
from service.runtime.onnx import OnnxSession

OPSET = 18
PARITY_TOLERANCE = 1e-4
GOLDEN_TOLERANCE = 1e-3

Inputs = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class ArtifactSpec:
    """What a manifest says that the model itself does not know; fields are those of `service.artifact.Manifest`.

    Attributes:
        macs_sequence_length: Length of the row that the manifest counts MACs for.
        golden: Real inputs, int64 [rows, sequence] each. Parity is checked on them, and the manifest records their outputs.
    """

    name: str
    variant: Variant
    task: TaskName
    family: str
    max_length: int
    macs_sequence_length: int
    density: float
    golden: tuple[Inputs, ...]
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    stride: int = 0
    handles_no_answer: bool = False
    null_threshold: float = 0.0
    recipe: str = ""
    parent: str | None = None
    training_data: tuple[TrainingData, ...] = ()


def to_onnx(model: PreTrainedModel, task_name: str, *, clean: bool = True) -> onnx.ModelProto:
    """Export an encoder with its head to an ONNX graph in memory, fp32 weights inside.

    Inputs int64 [batch, sequence]: `input_ids`, `attention_mask`, and `token_type_ids` where the family has them. Outputs fp32:
    `logits` [batch, labels], or `start_logits` and `end_logits` [batch, sequence]. Batch and sequence are dynamic; heads and widths
    may differ from layer to layer, and blocks may be missing. Without `clean` the graph is as the exporter traced it.
    """
    config_class = TasksManager.get_exporter_config_constructor("onnx", model=model, task=task_name, library_name="transformers")
    config: OnnxConfig = config_class(model.config)
    with tempfile.TemporaryDirectory() as folder, evaluating(model), quiet():
        path = Path(folder) / GRAPH_NAME
        names, _ = export_pytorch(model, config, OPSET, path)
        proto = onnx.load(path)
    onnx_graph.require_inputs(proto, names)
    if clean:
        onnx_graph.clean(proto)
    return proto


def check_parity(graph: onnx.ModelProto | Path, model: PreTrainedModel, inputs: Iterable[Inputs]) -> float:
    """Run a graph and the torch model on the same inputs.

    Args:
        graph: In memory, or a file with its external data beside it.
        model: What the graph was exported from.
        inputs: int64 [batch, sequence] by name. Positions under the padding count too.

    Returns:
        The largest absolute difference.

    Raises:
        ParityError: An output differs by more than `PARITY_TOLERANCE` times the largest of torch's values for it.
    """
    session = OnnxSession(graph if isinstance(graph, Path) else graph.SerializeToString())
    return max((_difference(session, model, batch) for batch in inputs), default=0.0)


def random_inputs(model: PreTrainedModel, names: Sequence[str], *, max_length: int, seed: int = 0) -> Iterator[Inputs]:
    """Random inputs of several batch sizes and lengths up to `max_length`; rows but the first end in padding."""
    rng = np.random.default_rng(seed)
    padding = model.config.pad_token_id or 0
    for rows, length in ((1, 1), (1, max_length), (2, (max_length + 1) // 2), (3, min(17, max_length))):
        ids = rng.integers(0, model.config.vocab_size, (rows, length))
        ids[ids == padding] = model.config.vocab_size - 1
        mask = np.ones_like(ids)
        for row in range(1, rows):
            end = int(rng.integers(1, length + 1))
            ids[row, end:], mask[row, end:] = padding, 0
        types = rng.integers(0, max(1, getattr(model.config, "type_vocab_size", 1)), (rows, length))
        offered = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        yield {name: offered[name] for name in names}


def export_artifact(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, spec: ArtifactSpec) -> Manifest:
    """Write an artifact, whole or not at all, and give its manifest.

    Weights are rounded to fp16 first, so that torch and the graph have the same; computation stays fp32.

    Raises:
        ParityError: The graph's outputs are not torch's; nothing was written, or what was written is gone.
        StorageError: The folder could not be written; nothing of it is left.
    """
    rounded = _rounded(model)
    proto = to_onnx(rounded, spec.task)
    names = onnx_graph.input_names(proto)
    checked = [*random_inputs(rounded, names, max_length=spec.max_length), *spec.golden]
    check_parity(proto, rounded, checked)
    with written(folder) as partial:
        checkpoint.write(rounded, tokenizer, partial, dtype=torch.float16)
        point_to_shards(proto, partial)
        onnx.save(proto, partial / GRAPH_NAME)
        check_parity(partial / GRAPH_NAME, rounded, checked)
        manifest = _manifest(rounded, partial, spec)
        write_manifest(manifest, partial)
    return manifest


def load_fp32(folder: Path) -> onnx.ModelProto:
    """The graph of a `dense` or `compact` artifact with fp32 weights inside, as `to_onnx` gave it."""
    return embed(onnx.load(folder / GRAPH_NAME))


def update_manifest(
    folder: Path,
    *,
    metrics: Sequence[Metric] | None = None,
    latency: Sequence[Latency] | None = None,
    null_threshold: float | None = None,
) -> Manifest:
    """Put measurements into an artifact's manifest, in one step; what is not given stays."""
    given = {
        "metrics": None if metrics is None else tuple(metrics),
        "latency": None if latency is None else tuple(latency),
        "null_threshold": null_threshold,
    }
    updated = read_manifest(folder).model_copy(update={field: value for field, value in given.items() if value is not None})
    write_manifest(updated, folder)
    return updated


def golden(session: Session, inputs: Iterable[Inputs], *, tolerance: float) -> Golden:
    """Record the outputs of golden inputs, each row in a call of its own, as `service.model.check_golden` will compare them.

    Args:
        session: The artifact's graph.
        inputs: int64 [rows, sequence] by name.
        tolerance: Largest absolute difference allowed, in units of the largest golden output (of 1, if that is smaller).
    """
    rows = [{name: np.asarray(batch[name])[row : row + 1] for name in session.inputs} for batch in inputs for row in range(_rows(batch))]
    outputs = [session.run(row) for row in rows]
    scale = max(1.0, *(float(np.abs(values).max()) for output in outputs for values in output.values()))
    return Golden(
        inputs={name: [row[name][0].tolist() for row in rows] for name in session.inputs},
        outputs={name: [output[name][0].tolist() for output in outputs] for name in session.outputs},
        tolerance=tolerance * scale,
    )


def producer() -> str:
    """Who writes manifests: `secateur <version>`."""
    return f"secateur {version('secateur')}"


def _manifest(model: PreTrainedModel, folder: Path, spec: ArtifactSpec) -> Manifest:
    """Manifest of a folder that holds everything else."""
    graph = folder / GRAPH_NAME
    stated = {name: value for name, value in vars(spec).items() if name in Manifest.model_fields and name != "golden"}
    return Manifest(
        **stated,
        schema_version=f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}",
        precision="fp32",
        opset=onnx_graph.opset(onnx.load(graph, load_external_data=False)),
        layers=structure.shapes(model),
        head_size=checkpoint.read_checkpoint_manifest(folder).head_size,
        hidden_size=model.config.hidden_size,
        parameters=structure.parameters(model),
        macs=structure.macs(model, spec.macs_sequence_length),
        files=hash_files(folder),
        golden=golden(OnnxSession(graph), spec.golden, tolerance=GOLDEN_TOLERANCE),
        producer=producer(),
    )


def _difference(session: Session, model: PreTrainedModel, batch: Inputs) -> float:
    """Largest absolute difference of the outputs on one batch; `ParityError` beyond the tolerance."""
    found = session.run(batch)
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(np.asarray(batch[name], np.int64)) for name in session.inputs})
    largest = 0.0
    for name in session.outputs:
        values = expected[name].numpy()
        difference = float(np.abs(values - found[name]).max()) if values.shape == found[name].shape else np.inf
        if not difference <= PARITY_TOLERANCE * float(np.abs(values).max()):
            shape = "x".join(map(str, batch["input_ids"].shape))
            raise ParityError(
                f"{name} of the exported graph differs from torch by {difference:.2g} on a batch of {shape} tokens, where torch's "
                f"largest value is {np.abs(values).max():.2g}; this is a defect of the export, not of the model"
            )
        largest = max(largest, difference)
    return largest


def _rounded(model: PreTrainedModel) -> PreTrainedModel:
    """A copy, in evaluation mode, whose parameters are fp16 values held in fp32."""
    rounded = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.data = parameter.half().float()
    return rounded


def _rows(batch: Inputs) -> int:
    return len(next(iter(batch.values())))


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
