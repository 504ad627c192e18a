"""`checkpoint.json`: what a compact checkpoint says of its model, so that `pruning.checkpoint` can build it before it reads the weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PretrainedConfig, PreTrainedModel

from pruning.errors import CheckpointError
from pruning.families.editing import DENSE_LAYERS_FIELD, dense_decoder_layers, dense_layers, listed_layers
from pruning.structure import shapes
from pruning.vocabulary import input_vocabulary
from service.artifact import LayerShape

FORMAT_VERSION: Literal[1] = 1
MANIFEST_NAME = "checkpoint.json"


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
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error


def write_checkpoint_manifest(model: PreTrainedModel, folder: Path) -> None:
    """Write the manifest of a model into a folder."""
    content = _manifest(model).model_dump(exclude_defaults=True)
    (folder / MANIFEST_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_config(folder: Path, config: PretrainedConfig, manifest: CheckpointManifest) -> None:
    """Raise `CheckpointError` where the folder's config and manifest are not of one model."""
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


def check_layers(folder: Path, dense: PreTrainedModel, layers: Sequence[LayerShape]) -> None:
    """Raise `CheckpointError` where a layer has more in the manifest than in the dense model of its config."""
    for index, (most, shape) in enumerate(zip(shapes(dense), layers, strict=True)):
        if shape.heads > most.heads or shape.intermediate > most.intermediate:
            raise CheckpointError(
                f"{folder}: layer {index} has {shape.heads} heads and {shape.intermediate} neurons in {MANIFEST_NAME}, "
                f"its config allows {most.heads} and {most.intermediate}"
            )


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
