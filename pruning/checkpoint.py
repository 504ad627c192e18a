"""Save and load a torch model of any structure: safetensors only, shapes from its own manifest, strict.

    config.json                    of the dense model, but for the number of layers
    checkpoint.json                `CheckpointManifest`: what each layer has left
    model-embeddings.safetensors   the embedding tables alone, so that models with the same frozen ones share the file's bytes; rows of
                                 them that a reduced output side keeps are with the other weights
    model-encoder.safetensors      everything else
    model.safetensors.index.json   for `from_pretrained`, which can read the folder while nothing is removed
    generation_config.json         of a model that generates
    tokenizer.json …               the tokenizer's own files

`load` also takes what it has not written: a plain folder or a hub name, through `from_pretrained`.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.modeling_utils import no_init_weights
from transformers.utils import GENERATION_CONFIG_NAME

from pruning.compaction import select
from pruning.errors import CheckpointError
from pruning.families import AttentionBlock, family_of
from pruning.families.editing import DENSE_LAYERS_FIELD, dense_decoder_layers, dense_layers, listed_layers
from pruning.storage import written
from pruning.structure import embedding_tables, shapes
from pruning.vocabulary import input_vocabulary, reduced_table, separate_tables
from service.artifact import LayerShape
from service.errors import SecateurError
from service.model import TOKENIZER_NAME

FORMAT_VERSION: Literal[1] = 1
MANIFEST_NAME = "checkpoint.json"
EMBEDDINGS_NAME = "model-embeddings.safetensors"
ENCODER_NAME = "model-encoder.safetensors"
READABLE = 0o644
INDEX_NAME = "model.safetensors.index.json"
READING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)


class CheckpointManifest(BaseModel):
    """What `load` has to know before it can read the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = Field(description="Version of the folder's layout.")
    model_type: str = Field(description="Family of the model: bert, roberta, distilbert, bart.")
    architecture: str = Field(description="Class of the model in transformers.")
    layers: tuple[LayerShape, ...] = Field(
        description="Heads and neurons left, layer by layer; a decoder layer is two: self-attention; cross-attention and feed-forward."
    )
    head_size: int = Field(gt=0, description="Columns of one attention head.")
    dense_layers: int = Field(gt=0, description="Layers of the dense model that this one comes from, without those of a decoder.")
    dense_decoder_layers: int = Field(0, ge=0, description="Decoder layers of that dense model.")
    input_vocabulary: int | None = Field(None, gt=0, description="Tokens that the encoder reads, where the output has fewer.")


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the model, whole or not at all.

    Args:
        model: Of any structure; it is left as it is.
        tokenizer: Written beside the model, unless None.
        folder: Replaced if it exists.
        dtype: What weights are rounded to: torch.float32 or torch.float16.

    Raises:
        StorageError: The folder could not be written.
        CheckpointError: A weight does not fit in `dtype`.
    """
    with written(folder) as partial:
        write(model, tokenizer, partial, dtype=dtype)


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path, *, dtype: torch.dtype) -> None:
    """`save` into a folder that exists, for a caller that adds files of its own before the folder is moved into its place."""
    weights = _rounded(_own_weights(model), dtype)
    tables = {f"{name}.weight" for name, table in embedding_tables(model).items() if table is not reduced_table(model)}
    shards = {
        EMBEDDINGS_NAME: {name: weights[name] for name in weights if name in tables},
        ENCODER_NAME: {name: weights[name] for name in weights if name not in tables},
    }
    for file_name, shard in shards.items():
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        (folder / file_name).chmod(READABLE)  # safetensors leaves its files to their owner alone; a service runs as another user
    _write_json(folder / INDEX_NAME, _index(shards))
    _write_json(folder / MANIFEST_NAME, _manifest(model).model_dump(exclude_defaults=True))
    _config_to_save(model, dtype).save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_NAME), pretty=False)  # the indentation is a third of the file


def load(
    source: str | Path,
    *,
    auto_class: Any = None,  # noqa: ANN401 - one of transformers' untyped AutoModelFor… classes
    new_head: bool = False,
    labels: Sequence[str] | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    attn_implementation: str | None = None,
    **config_overrides: object,
) -> PreTrainedModel:
    """The model, float32, in evaluation mode.

    Args:
        source: A folder that `save` wrote, a plain transformers folder with safetensors, or the name of a model on the hub.
        auto_class: `AutoModelFor…` of the task; the class that the checkpoint names if None.
        new_head: Allow weights outside the encoder to be missing; they start at random. Only for a source that `save` did not write.
        labels: Names of the classes, by index; those of the checkpoint if None.
        dropout: Rate for dropout of hidden states and of the head's input; those of the checkpoint if None.
        attention_dropout: Rate for dropout of attention probabilities; that of the checkpoint if None.
        attn_implementation: "eager" or "sdpa"; transformers chooses if None.
        config_overrides: Other fields of the config.

    Raises:
        CheckpointError: It cannot be found or read, or its weights are not those that its config and manifest promise.
    """
    overrides = dict(config_overrides)
    if attn_implementation is not None:
        overrides["attn_implementation"] = attn_implementation
    if labels is not None:
        overrides |= {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    with _readable(source):
        config = _config(source, overrides)
        _set_dropout(config, dropout, attention_dropout)
        own = (Path(source) / MANIFEST_NAME).is_file()
        if labels is not None and (own or not new_head):
            _check_labels(source, labels)
        model = _load_own(Path(source), config, auto_class) if own else _load_plain(source, config, auto_class, new_head=new_head)
    return model.float().eval()


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name; a fast one, since the service reads its `tokenizer.json`."""
    with _readable(source, (Exception,)):  # the tokenizers library raises nothing more precise
        tokenizer = AutoTokenizer.from_pretrained(str(source))
    if not tokenizer.is_fast:
        raise CheckpointError(f"{source}: {type(tokenizer).__name__} is not a fast tokenizer; save it with a tokenizer.json")
    return tokenizer


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """Read and check `checkpoint.json`, its version first."""
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CheckpointError(f"{path}: written in format {version}, this version of Secateur reads format {FORMAT_VERSION}")
        return CheckpointManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {_one_line(error)}") from error


def _load_own(folder: Path, config: PretrainedConfig, auto_class: Any) -> PreTrainedModel:  # noqa: ANN401
    manifest = read_checkpoint_manifest(folder)
    _check_config(folder, config, manifest)
    with no_init_weights():
        model = auto_class.from_config(config) if auto_class else _architecture(folder, manifest.architecture)(config)
        model.tie_weights()
    if type(model).__name__ != manifest.architecture:
        raise CheckpointError(f"{folder}: holds a {manifest.architecture}, where a {type(model).__name__} is needed")
    _check_layers(folder, model, manifest.layers)
    _resize(model, manifest.layers)
    if manifest.input_vocabulary is not None:
        separate_tables(model, manifest.input_vocabulary)
    _load_strictly(model, _read_shards(folder), folder)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _load_plain(
    source: str | Path,
    config: PretrainedConfig,
    auto_class: Any,  # noqa: ANN401
    *,
    new_head: bool,
) -> PreTrainedModel:
    if auto_class is None:
        auto_class = _architecture(source, (config.architectures or ["(none named)"])[0])
    model, info = auto_class.from_pretrained(
        str(source), config=config, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        raise CheckpointError(f"{source}: weights of another shape: {_some(mismatched)}; do the labels match its head?")
    encoder = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])
    essential = [name for name in missing if name.startswith(encoder) and "pooler" not in name]
    if essential:
        raise CheckpointError(f"{source}: weights of the encoder are missing: {_some(essential)}")
    if missing and not new_head:
        raise CheckpointError(f"{source}: not fine-tuned as a {type(model).__name__}: no weights for {_some(missing)}; train it first")
    return model


def _config(source: str | Path, overrides: Mapping[str, object]) -> PretrainedConfig:
    config, unused = AutoConfig.from_pretrained(str(source), return_unused_kwargs=True, **overrides)
    if unused:
        raise CheckpointError(f"{source}: a {config.model_type} config has no field {sorted(unused)[0]!r}")
    return config


def _check_config(folder: Path, config: PretrainedConfig, manifest: CheckpointManifest) -> None:
    facts = {
        "model type": (config.model_type, manifest.model_type),
        "number of layers": (listed_layers(config), len(manifest.layers)),
        "head size": (config.hidden_size // config.num_attention_heads, manifest.head_size),
        "number of dense layers": (getattr(config, DENSE_LAYERS_FIELD, config.num_hidden_layers), manifest.dense_layers),
        "number of dense decoder layers": (dense_decoder_layers(config), manifest.dense_decoder_layers),
    }
    for fact, (in_config, in_manifest) in facts.items():
        if in_config != in_manifest:
            raise CheckpointError(f"{folder}: {fact} is {in_config} in config.json and {in_manifest} in {MANIFEST_NAME}")


def _check_labels(source: str | Path, labels: Sequence[str]) -> None:
    """A head that is kept has as many outputs as there are labels."""
    found = AutoConfig.from_pretrained(str(source)).num_labels
    if found != len(labels):
        raise CheckpointError(
            f"{source}: its head has {found} labels, {len(labels)} were given ({', '.join(labels)}); name as many as it has"
        )


def _check_layers(folder: Path, dense: PreTrainedModel, layers: Sequence[LayerShape]) -> None:
    for index, (most, shape) in enumerate(zip(shapes(dense), layers, strict=True)):
        if shape.heads > most.heads or shape.intermediate > most.intermediate:
            raise CheckpointError(
                f"{folder}: layer {index} has {shape.heads} heads and {shape.intermediate} neurons in {MANIFEST_NAME}, "
                f"its config allows {most.heads} and {most.intermediate}"
            )


def _set_dropout(config: PretrainedConfig, hidden: float | None, attention: float | None) -> None:
    for field in config.to_dict():
        if field.endswith(("dropout", "dropout_prob")):
            rate = attention if field.startswith("attention") else hidden
            setattr(config, field, getattr(config, field) if rate is None else rate)


def _architecture(source: str | Path, name: str) -> Any:  # noqa: ANN401
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise CheckpointError(f"{source}: transformers has no model class {name!r}; say which task the model is for")
    return found


def _resize(model: PreTrainedModel, layers: Sequence[LayerShape]) -> None:
    """Give every layer of a dense skeleton the shape that the manifest states; values are read afterwards."""
    family = family_of(model)
    for index, (layer, shape) in enumerate(zip(family.layers(model), layers, strict=True)):
        attention, feed_forward = layer.attention, layer.feed_forward
        if attention and shape.heads == 0:
            family.remove_attention(model, index, attention.output.bias)
        elif attention and shape.heads != attention.heads:
            family.set_attention(model, index, _first_heads(attention, shape.heads))
        if feed_forward and shape.intermediate == 0:
            family.remove_feed_forward(model, index, feed_forward.down.bias)
        elif feed_forward and shape.intermediate != feed_forward.neurons:
            kept = torch.arange(shape.intermediate)
            family.set_feed_forward(model, index, select(feed_forward.up, rows=kept), select(feed_forward.down, columns=kept))


def _first_heads(block: AttentionBlock, heads: int) -> AttentionBlock:
    kept = torch.arange(heads * block.head_size)
    query, key, value = (select(linear, rows=kept) for linear in (block.query, block.key, block.value))
    return AttentionBlock(block.name, query, key, value, select(block.output, columns=kept), block.head_size)


def _read_shards(folder: Path) -> dict[str, Tensor]:
    embeddings: dict[str, Tensor] = load_file(folder / EMBEDDINGS_NAME)
    encoder: dict[str, Tensor] = load_file(folder / ENCODER_NAME)
    twice = sorted(embeddings.keys() & encoder.keys())
    if twice:
        raise CheckpointError(f"{folder}: in both shards: {_some(twice)}")
    return embeddings | encoder


def _load_strictly(model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    expected = _own_weights(model)
    for complaint, names in (
        ("weights are missing", expected.keys() - weights.keys()),
        ("weights that the model does not have", weights.keys() - expected.keys()),
        ("weights of another shape", {n for n in expected.keys() & weights.keys() if expected[n].shape != weights[n].shape}),
    ):
        if names:
            raise CheckpointError(f"{folder}: {complaint}: {_some(sorted(names))}")
    with torch.no_grad():
        for name, target in expected.items():
            target.copy_(weights[name])


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
        raise CheckpointError(f"not saved: weights that are not finite as {str(dtype).removeprefix('torch.')}: {_some(lost)}")
    return rounded


def _manifest(model: PreTrainedModel) -> CheckpointManifest:
    return CheckpointManifest(
        format_version=FORMAT_VERSION,
        model_type=model.config.model_type,
        architecture=type(model).__name__,
        layers=shapes(model),
        head_size=model.config.hidden_size // model.config.num_attention_heads,
        dense_layers=dense_layers(model),
        dense_decoder_layers=dense_decoder_layers(model.config),
        input_vocabulary=input_vocabulary(model),
    )


def _index(shards: Mapping[str, Mapping[str, Tensor]]) -> dict[str, object]:
    size = sum(tensor.nbytes for shard in shards.values() for tensor in shard.values())
    places = {name: file_name for file_name, shard in shards.items() for name in shard}
    return {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}


def _config_to_save(model: PreTrainedModel, dtype: torch.dtype) -> PretrainedConfig:
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    if model.can_generate():
        for name in config._get_non_default_generation_parameters():  # they are in the generation config, where they belong
            setattr(config, name, None)
    return config


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _readable(source: str | Path, errors: tuple[type[Exception], ...] = READING_ERRORS) -> Iterator[None]:
    """Turn what reading can raise into one line that names the source."""
    try:
        yield
    except SecateurError:
        raise
    except errors as error:
        raise CheckpointError(f"{source}: cannot be loaded: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _some(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
