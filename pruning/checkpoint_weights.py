"""The weights of a checkpoint: two safetensors shards and their index, written as they are named in the model, and loaded strictly."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from pruning.errors import CheckpointError
from pruning.structure import embedding_tables
from pruning.vocabulary import OUTPUT_IDS, reduced_table

EMBEDDINGS_NAME = "model-embeddings.safetensors"
ENCODER_NAME = "model-encoder.safetensors"
INDEX_NAME = "model.safetensors.index.json"
READABLE = 0o644


def write_weights(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype) -> None:
    """Write both shards and their index; `CheckpointError` where a weight does not fit in `dtype`.

    A reduced table that still has the rows of the whole one is not written: `output_ids` says which rows those are.
    """
    weights = _rounded(_own_weights(model), dtype)
    both = _reduced_names(model)
    if both is not None and torch.equal(weights[both.reduced], weights[both.whole][weights[OUTPUT_IDS]]):
        del weights[both.reduced]
    tables = {f"{name}.weight" for name, table in embedding_tables(model).items() if table is not reduced_table(model)}
    shards = {
        EMBEDDINGS_NAME: {name: weights[name] for name in weights if name in tables},
        ENCODER_NAME: {name: weights[name] for name in weights if name not in tables},
    }
    for file_name, shard in shards.items():
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        (folder / file_name).chmod(READABLE)  # safetensors leaves its files to their owner alone; a service runs as another user
    (folder / INDEX_NAME).write_text(json.dumps(_index(shards), indent=2) + "\n", encoding="utf-8")


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Read the weights of a folder into a model of their shapes; `CheckpointError` where one is missing, too many or of another shape."""
    weights, expected = _read_shards(folder), _own_weights(model)
    both = _reduced_names(model)
    if both is not None and both.reduced not in weights and {both.whole, OUTPUT_IDS} <= weights.keys():
        weights[both.reduced] = _rows(weights[both.whole], weights[OUTPUT_IDS], folder)
    for complaint, names in (
        ("weights are missing", expected.keys() - weights.keys()),
        ("weights that the model does not have", weights.keys() - expected.keys()),
        ("weights of another shape", {n for n in expected.keys() & weights.keys() if expected[n].shape != weights[n].shape}),
    ):
        if names:
            raise CheckpointError(f"{folder}: {complaint}: {some_of(sorted(names))}")
    with torch.no_grad():
        for name, target in expected.items():
            target.copy_(weights[name])


def some_of(names: Iterable[str]) -> str:
    """The first of the names, and how many more there are."""
    first, *others = names
    return f"{first} and {len(others)} more" if others else first


class _ReducedNames(NamedTuple):
    """Names of the two tables of a model with a reduced output vocabulary."""

    whole: str
    reduced: str


def _reduced_names(model: PreTrainedModel) -> _ReducedNames | None:
    """Names of the tables; None for a model that is not reduced."""
    table = reduced_table(model)
    if table is None:
        return None
    names = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return _ReducedNames(whole=names[id(model.get_input_embeddings().weight)], reduced=names[id(table.weight)])


def _rows(table: Tensor, ids: Tensor, folder: Path) -> Tensor:
    """Rows of a table; `CheckpointError` where it has not that many."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(table):
        raise CheckpointError(f"{folder}: {OUTPUT_IDS} names rows that a table of {len(table)} has not")
    return table[ids]


def _read_shards(folder: Path) -> dict[str, Tensor]:
    embeddings: dict[str, Tensor] = load_file(folder / EMBEDDINGS_NAME)
    encoder: dict[str, Tensor] = load_file(folder / ENCODER_NAME)
    twice = sorted(embeddings.keys() & encoder.keys())
    if twice:
        raise CheckpointError(f"{folder}: in both shards: {some_of(twice)}")
    return embeddings | encoder


def _own_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state by name, a tied weight under the first of its names only; the tensors share memory with the model."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in first.values()}


def _rounded(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    rounded = {
        name: tensor.to(device="cpu", dtype=dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in weights.items()
    }
    lost = [name for name, tensor in rounded.items() if not tensor.isfinite().all()]
    if lost:
        raise CheckpointError(f"not saved: weights that are not finite as {str(dtype).removeprefix('torch.')}: {some_of(lost)}")
    return rounded


def _index(shards: Mapping[str, Mapping[str, Tensor]]) -> dict[str, object]:
    size = sum(tensor.nbytes for shard in shards.values() for tensor in shard.values())
    places = {name: file_name for file_name, shard in shards.items() for name in shard}
    return {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
