"""The models that `bench-summarize` compares, as artifacts of ours and as transformers writes them for the peers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice, product
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerFast

from pruning.bench import random_row
from pruning.errors import ConfigError
from pruning.export import ArtifactSpec, export_artifact
from pruning.generation_bench import dimensions_of
from pruning.generation_peers import Precision, write_for_peers
from pruning.quantization import quantize_artifact
from pruning.skeleton import random_model
from pruning.structure import density
from pruning.vocabulary import keep_vocabulary
from service.artifact import LayerShape, Variant, read_manifest

COMPACT = "compact has half the heads, widths and decoder layers of random weights, compact-third a third of the output vocabulary too"
_SMALLEST_ID = 4


def bart_shape(*, width: int, layers: int, heads: int, neurons: int, vocabulary: int) -> dict[str, int]:
    """Fields of a `BartConfig` whose encoder and decoder are alike."""
    side = {"layers": layers, "attention_heads": heads, "ffn_dim": neurons}
    sides = {f"{name}_{part}": value for name in ("encoder", "decoder") for part, value in side.items()}
    return {"d_model": width, "vocab_size": vocabulary, **sides}


BART_BASE = bart_shape(width=768, layers=6, heads=12, neurons=3072, vocabulary=50_265)


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        shape: fields of the `BartConfig` of the random models.
        source_length: tokens of each source.
        new_tokens: written for each source.
        rounds: turns that everybody takes.
        threads: that everybody computes with.
        beams: of beam search; 1 is greedy.
        requests: how many are asked for at a time.
    """

    shape: Mapping[str, int] = field(default_factory=lambda: BART_BASE)
    source_length: int = 256
    new_tokens: int = 32
    rounds: int = 5
    threads: int = 1
    beams: tuple[int, ...] = (1, 4)
    requests: tuple[int, ...] = (1, 16)


QUICK = Plan(
    shape=bart_shape(width=32, layers=2, heads=4, neurons=48, vocabulary=300), source_length=12, new_tokens=6, rounds=1, requests=(1, 3)
)
"""The whole path with a tiny model; its speeds mean nothing."""


@dataclass(frozen=True)
class Subject:
    """A model in all of its forms.

    Attributes:
        name: for people.
        peers: the dense model as transformers writes it.
        ours: artifacts with what they are: variant and precision.
    """

    name: str
    peers: Path
    ours: Mapping[tuple[str, Precision], Path]


def random_subject(folder: Path, plan: Plan) -> Subject:
    """Random models of the plan's shape, exported and quantized; what `compact` and `compact-third` are, `COMPACT` says."""
    tokenizer = letter_tokenizer(plan.shape["vocab_size"])
    ours: dict[tuple[str, Precision], Path] = {("dense", "fp32"): folder / "dense"}
    for name, model in random_models(plan.shape, tokenizer):
        _export(model, tokenizer, folder / name, plan, variant="dense" if name == "dense" else "compact")
        ours[name, "int8"] = folder / f"{name}-int8"
        quantize_artifact(folder / name, ours[name, "int8"])
    write_for_peers(folder / "dense", folder / "peers")
    return Subject("random weights", folder / "peers", ours)


def random_models(shape: Mapping[str, int], tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[str, PreTrainedModel]]:
    """`dense`, `compact` and `compact-third`, one at a time: the last is the one before it, changed in place."""
    with torch.device("meta"):
        skeleton = BartForConditionalGeneration(BartConfig(**shape))
    config, layers = skeleton.config, dimensions_of(skeleton).dense
    yield "dense", random_model(skeleton, layers, decoder_layers=config.decoder_layers, vocabulary=config.vocab_size)
    half = halved(layers, config.encoder_layers, config.decoder_layers)
    compact = random_model(skeleton, half, decoder_layers=config.decoder_layers // 2, vocabulary=config.vocab_size)
    yield "compact", compact
    keep_vocabulary(compact, tokenizer, [ascii_lowercase], config.vocab_size // 3)
    yield "compact-third", compact


def shipped_subject(models: Path, folder: Path, plan: Plan) -> Subject:
    """The model that ships: its artifacts, and its dense one quantized; `ConfigError` when it does not read or write as much."""
    info = read_manifest(models / "dense").generation
    if info is None or plan.source_length > info.source_length or plan.new_tokens > info.target_length:
        lengths = "it does not generate" if info is None else f"it reads {info.source_length} tokens and writes {info.target_length}"
        raise ConfigError(f"{models}: sources of {plan.source_length} tokens and {plan.new_tokens} new ones were asked for, but {lengths}")
    write_for_peers(models / "dense", folder / "peers")
    quantize_artifact(models / "dense", folder / "dense-int8")
    ours: dict[tuple[str, Precision], Path] = {("dense", "fp32"): models / "dense", ("dense", "int8"): folder / "dense-int8"}
    if (models / "compact-int8").is_dir():
        ours["compact", "int8"] = models / "compact-int8"
    return Subject(str(models), folder / "peers", ours)


def halved(layers: Sequence[LayerShape], encoder_layers: int, decoder_layers: int) -> list[LayerShape]:
    """Half the heads and neurons of each layer, and half the decoder layers, which have two entries each."""
    kept = layers[: encoder_layers + 2 * (decoder_layers // 2)]
    return [LayerShape(heads=layer.heads // 2, intermediate=layer.intermediate // 2) for layer in kept]


def letter_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of that many tokens: BART's special ones, letters, and made-up words."""
    words = ("".join(letters) for length in count(2) for letters in product(ascii_lowercase, repeat=length))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    tokens += islice(words, size - len(tokens))
    model = WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="<unk>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def random_sources(requests: int, length: int, vocabulary: int, *, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Random tokens of so many requests, all of one length, so that nobody pads."""
    tokens = np.random.default_rng(seed).integers(_SMALLEST_ID, vocabulary, size=(requests, length))
    return tuple(tuple(row) for row in tokens.tolist())


def _export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, plan: Plan, *, variant: Variant) -> None:
    spec = ArtifactSpec(
        name="random",
        variant=variant,
        task="summarization",
        family="bart",
        max_length=plan.source_length,
        target_length=plan.new_tokens,
        macs_sequence_length=plan.source_length,
        density=density(model),
        golden=({name: values.astype(np.int64) for name, values in random_row(model, plan.source_length).items()},),
    )
    export_artifact(model, tokenizer, folder, spec=spec)
