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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
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

from pruning.checkpoint_manifest import MANIFEST_NAME, check_config, check_layers, read_checkpoint_manifest, write_checkpoint_manifest
from pruning.checkpoint_weights import load_weights, some_of, write_weights
from pruning.compaction import select
from pruning.errors import CheckpointError
from pruning.families import AttentionBlock, family_of
from pruning.storage import written
from pruning.vocabulary import separate_tables
from service.artifact import LayerShape
from service.errors import SecateurError
from service.model import TOKENIZER_NAME

READING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)


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
    write_weights(model, folder, dtype=dtype)
    write_checkpoint_manifest(model, folder)
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


def _load_own(folder: Path, config: PretrainedConfig, auto_class: Any) -> PreTrainedModel:  # noqa: ANN401
    manifest = read_checkpoint_manifest(folder)
    check_config(folder, config, manifest)
    with no_init_weights():
        model = auto_class.from_config(config) if auto_class else _architecture(folder, manifest.architecture)(config)
        model.tie_weights()
    if type(model).__name__ != manifest.architecture:
        raise CheckpointError(f"{folder}: holds a {manifest.architecture}, where a {type(model).__name__} is needed")
    check_layers(folder, model, manifest.layers)
    _resize(model, manifest.layers)
    if manifest.input_vocabulary is not None:
        separate_tables(model, manifest.input_vocabulary)
    load_weights(model, folder)
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
        raise CheckpointError(f"{source}: weights of another shape: {some_of(mismatched)}; do the labels match its head?")
    encoder = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])
    essential = [name for name in missing if name.startswith(encoder) and "pooler" not in name]
    if essential:
        raise CheckpointError(f"{source}: weights of the encoder are missing: {some_of(essential)}")
    if missing and not new_head:
        raise CheckpointError(f"{source}: not fine-tuned as a {type(model).__name__}: no weights for {some_of(missing)}; train it first")
    return model


def _config(source: str | Path, overrides: Mapping[str, object]) -> PretrainedConfig:
    config, unused = AutoConfig.from_pretrained(str(source), return_unused_kwargs=True, **overrides)
    if unused:
        raise CheckpointError(f"{source}: a {config.model_type} config has no field {sorted(unused)[0]!r}")
    return config


def _check_labels(source: str | Path, labels: Sequence[str]) -> None:
    """A head that is kept has as many outputs as there are labels."""
    found = AutoConfig.from_pretrained(str(source)).num_labels
    if found != len(labels):
        raise CheckpointError(
            f"{source}: its head has {found} labels, {len(labels)} were given ({', '.join(labels)}); name as many as it has"
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


def _config_to_save(model: PreTrainedModel, dtype: torch.dtype) -> PretrainedConfig:
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    if model.can_generate():
        for name in config._get_non_default_generation_parameters():  # they are in the generation config, where they belong
            setattr(config, name, None)
    return config


@contextmanager
def _readable(source: str | Path, errors: tuple[type[Exception], ...] = READING_ERRORS) -> Iterator[None]:
    """Turn what reading can raise into one line that names the source."""
    try:
        yield
    except SecateurError:
        raise
    except errors as error:
        raise CheckpointError(f"{source}: cannot be loaded: {' '.join(str(error).split())}") from error
