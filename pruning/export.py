"""Torch to ONNX, and to an artifact that the service loads.

`to_onnx` goes through optimum's exporters (TorchScript, which handles layers of unequal heads) and cleans what they trace.
`check_parity` compares the graph with torch before any file is written. `export_artifact` writes checkpoint, graph and manifest
into one folder, whole or not at all; the graph's weights are the checkpoint's fp16 bytes (`pruning/shared_weights.py`). What is of
encoder-decoders alone is in `pruning/seq2seq_modules.py`, `pruning/seq2seq_export.py` and `pruning/seq2seq_artifact.py`.
"""

import copy
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from optimum.exporters.onnx import OnnxConfig, model_configs  # noqa: F401 - registers the configuration of each family
from optimum.exporters.onnx.convert import export_pytorch
from optimum.exporters.tasks import TasksManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning import checkpoint, onnx_graph, structure
from pruning.attention_node import fuse_attention, gather_attention, separate_attention
from pruning.checkpoint_manifest import read_checkpoint_manifest
from pruning.errors import ParityError
from pruning.seq2seq_artifact import Seq2SeqExport
from pruning.shared_weights import embed, point_to_shards
from pruning.storage import written
from pruning.tracing import OPSET, PARITY_TOLERANCE, evaluating, quiet
from service.artifact import (
    GENERATING_TASKS,
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

GOLDEN_TOLERANCE = 1e-3

Inputs = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class ArtifactSpec:
    """What a manifest says that the model itself does not know; fields are those of `service.artifact.Manifest`.

    Attributes:
        macs_sequence_length: Length of the row that the manifest counts MACs for.
        golden: Real inputs, int64 [rows, sequence] each. Parity is checked on them, and the manifest records their outputs. Of a model
            that generates, they are sources.
        target_length: Most tokens that a model generates.
        macs_target_length: Tokens that the manifest counts MACs of a decoder for; `target_length` if None.
    """

    name: str
    variant: Variant
    task: TaskName
    family: str
    max_length: int
    macs_sequence_length: int
    density: float
    golden: tuple[Inputs, ...]
    target_length: int = 0
    macs_target_length: int | None = None
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    stride: int = 0
    handles_no_answer: bool = False
    null_threshold: float = 0.0
    recipe: str = ""
    parent: str | None = None
    training_data: tuple[TrainingData, ...] = ()


class Exported(Protocol):
    """A model on its way into an artifact.

    Attributes:
        graphs: By the names of their files, fp32 weights inside.
    """

    graphs: Mapping[str, onnx.ModelProto]

    def check(self, folder: Path | None = None) -> None:
        """Compare the graphs, or those that were written to a folder, with torch; `ParityError` where they differ."""
        ...

    def write_extras(self, folder: Path) -> None:
        """Write what the service reads beside graphs and tokenizer."""
        ...

    def facts(self, folder: Path) -> dict[str, object]:
        """Fields of the manifest that depend on the kind of model, of a folder that holds everything else."""
        ...


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
        gather_attention(proto)
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
    exported = _exported(rounded, tokenizer, spec)
    exported.check()
    with written(folder) as partial:
        checkpoint.write(rounded, tokenizer, partial, dtype=torch.float16)
        for name, proto in exported.graphs.items():
            point_to_shards(proto, partial)
            onnx.save(proto, partial / name)
        exported.write_extras(partial)
        exported.check(partial)
        manifest = _manifest(rounded, partial, spec, exported)
        write_manifest(manifest, partial)
    return manifest


def load_fp32(folder: Path) -> onnx.ModelProto:
    """The graph of a `dense` or `compact` artifact with fp32 weights inside, as `to_onnx` gave it."""
    return embed(separate_attention(onnx.load(folder / GRAPH_NAME)))


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


class _EncoderExport:
    """An encoder with its head; see `Exported`."""

    def __init__(self, model: PreTrainedModel, spec: ArtifactSpec) -> None:
        proto = fuse_attention(to_onnx(model, spec.task))
        self.graphs: Mapping[str, onnx.ModelProto] = {GRAPH_NAME: proto}
        self._model, self._spec = model, spec
        self._checked = [*random_inputs(model, onnx_graph.input_names(proto), max_length=spec.max_length), *spec.golden]

    def check(self, folder: Path | None = None) -> None:
        """See `Exported`."""
        check_parity(folder / GRAPH_NAME if folder else self.graphs[GRAPH_NAME], self._model, self._checked)

    def write_extras(self, folder: Path) -> None:
        """Nothing is beside the graph."""

    def facts(self, folder: Path) -> dict[str, object]:
        """See `Exported`."""
        return {
            "layers": structure.shapes(self._model),
            "macs": structure.macs(self._model, self._spec.macs_sequence_length),
            "golden": golden(OnnxSession(folder / GRAPH_NAME), self._spec.golden, tolerance=GOLDEN_TOLERANCE),
        }


def _exported(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: ArtifactSpec) -> Exported:
    if spec.task not in GENERATING_TASKS:
        return _EncoderExport(model, spec)
    return Seq2SeqExport(
        model,
        tokenizer,
        sources=spec.golden,
        source_length=spec.max_length,
        target_length=spec.target_length,
        macs_lengths=(spec.macs_sequence_length, spec.macs_target_length or spec.target_length),
    )


def _manifest(model: PreTrainedModel, folder: Path, spec: ArtifactSpec, exported: Exported) -> Manifest:
    """Manifest of a folder that holds everything else."""
    stated = {name: value for name, value in vars(spec).items() if name in Manifest.model_fields and name != "golden"}
    return Manifest(
        **stated,
        schema_version=f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}",
        precision="fp32",
        opset=OPSET,
        head_size=read_checkpoint_manifest(folder).head_size,
        hidden_size=model.config.hidden_size,
        parameters=structure.parameters(model),
        files=hash_files(folder),
        producer=producer(),
        **exported.facts(folder),
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
    """A copy, in evaluation mode, whose weights, buffers among them, are fp16 values held in fp32."""
    rounded = copy.deepcopy(model).eval()
    for tensor in (*rounded.parameters(), *rounded.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.half().float()
    return rounded


def _rows(batch: Inputs) -> int:
    return len(next(iter(batch.values())))
