"""What an artifact of an encoder-decoder holds beyond its two graphs: how it generates, and what it must give on any machine.

Parity is that of logits for given targets and that of tokens: what the service's engine generates from the graphs is what transformers
generates from the model, greedily and with beams. Golden outputs are logits for given targets, see `service.generation.golden`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from pydantic import ValidationError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from pruning import structure
from pruning.attention_node import fuse_attention
from pruning.errors import ConfigError, ParityError
from pruning.families.base import Side
from pruning.seq2seq_export import Seq2SeqGraphs, Sessions, check_parity, random_batches, to_onnx
from pruning.vocabulary import OUTPUT_IDS
from service.artifact import (
    DECODER_GRAPH_NAME,
    ENCODER_GRAPH_NAME,
    OUTPUT_IDS_NAME,
    DecoderLayerShape,
    GenerationInfo,
    Golden,
    LayerShape,
)
from service.generation import DecoderSession, EncoderDecoder, GenerationSettings, SpecialTokens, generate
from service.generation.golden import GOLDEN_INPUTS, logits_of
from service.runtime.base import Array
from service.runtime.onnx import OnnxSession

GOLDEN_TOLERANCE = 1e-3
"""Of the largest golden logit."""
COMPARED_TOKENS = 16
COMPARED_BEAMS = 4
SPREAD_IDS = 16
_ONLY_OF_BEAMS = {"length_penalty", "early_stopping"}
_NOT_COMPARED = {"seed", "temperature", "top_k", "top_p", "min_new_tokens", "min_length"}
_TRANSFORMERS = GenerationConfig()
_NOT_SERVED = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_decoder_ids",
    "guidance_scale",
    "max_time",
    "min_p",
    "num_beam_groups",
    "penalty_alpha",
    "renormalize_logits",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "token_healing",
    "typical_p",
    "watermarking_config",
)
"""Fields of transformers' generation config that change what is generated, and that the service's engine has not."""


class Seq2SeqExport:
    """An encoder-decoder on its way into an artifact; see `pruning.export.Exported`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sources: Iterable[Mapping[str, Array]],
        source_length: int,
        target_length: int,
        macs_lengths: tuple[int, int],
    ) -> None:
        """Trace the graphs.

        Args:
            model: in evaluation mode, with the weights that will be written.
            tokenizer: its tokenizer.
            sources: real ones, int64 `input_ids` and `attention_mask` [rows, sequence]: what is compared and recorded.
            source_length, target_length: most tokens that it reads, and that it generates.
            macs_lengths: tokens of source and target that MACs are counted for.
        """
        self.info = generation_info(model, tokenizer, source_length=source_length, target_length=target_length)
        graphs = to_onnx(model)
        encoder = fuse_attention(graphs.encoder)
        self.graphs: Mapping[str, onnx.ModelProto] = {ENCODER_GRAPH_NAME: encoder, DECODER_GRAPH_NAME: graphs.decoder}
        self._model, self._macs_lengths = model, macs_lengths
        self._rows: list[tuple[list[int], list[int]]] = [
            (source, [self.info.start, *self._greedy(source)[:-1]]) for source in _rows(sources)
        ]

    def check(self, folder: Path | None = None) -> None:
        """Compare logits and tokens with those of torch; `ParityError` where they differ."""
        loaded = self._sessions(folder)
        check_parity(loaded, self._model, self._batches())
        check_tokens(loaded, self._model, self.info, [source for source, _ in self._rows])

    def write_extras(self, folder: Path) -> None:
        """Write the tokenizer's id of each output id, where they are not the same."""
        if self.info.output_ids is not None:
            ids = getattr(self._model, OUTPUT_IDS).tolist()
            (folder / self.info.output_ids).write_text(json.dumps(ids) + "\n", encoding="utf-8")

    def facts(self, folder: Path) -> dict[str, object]:
        """Fields of the manifest."""
        source, target = self._macs_lengths
        return {
            "layers": _encoder_shapes(self._model),
            "macs": structure.macs(self._model, source, target).model_copy(update={"target_length": target}),
            "golden": golden(sessions(folder), self._rows, tolerance=GOLDEN_TOLERANCE),
            "generation": self.info,
        }

    def _sessions(self, folder: Path | None) -> Sessions:
        if folder is not None:
            return sessions(folder)
        return Seq2SeqGraphs(self.graphs[ENCODER_GRAPH_NAME], self.graphs[DECODER_GRAPH_NAME]).sessions()

    def _batches(self) -> Iterator[Mapping[str, Array]]:
        """Random batches, one as long as sources may be, and the golden rows."""
        longest, target = self.info.source_length, min(7, self.info.target_length)
        yield from random_batches(self._model, source=min(17, longest), target=target)
        yield from islice(random_batches(self._model, source=longest, target=min(2, target)), 1)
        for source, decoded in self._rows:
            ids = np.array([source], np.int64)
            yield {"input_ids": ids, "attention_mask": np.ones_like(ids), "decoder_input_ids": np.array([decoded], np.int64)}

    def _greedy(self, source: Sequence[int]) -> list[int]:
        return first_tokens(self._model, source, self.info, beams=1)


def sessions(folder: Path) -> Sessions:
    """Encoder and decoder of an artifact, loaded."""
    return OnnxSession(folder / ENCODER_GRAPH_NAME), DecoderSession(folder / DECODER_GRAPH_NAME)


def generation_info(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, source_length: int, target_length: int
) -> GenerationInfo:
    """How a model generates, from its config and its generation config.

    Raises:
        ConfigError: the lengths are more than it has positions, or it does not say how a sequence starts and ends.
    """
    positions = model.config.max_position_embeddings
    for name, length in (("source", source_length), ("target", target_length)):
        if not 0 < length <= positions:
            raise ConfigError(f"{name}_length is {length}, but the model has positions for 1 to {positions} tokens; choose among these")
    start, end = _special_token(model, "decoder_start_token_id"), _special_token(model, "eos_token_id")
    if start is None or end is None:
        raise ConfigError("the model's generation config has no decoder_start_token_id or no eos_token_id; set them")
    return GenerationInfo(
        start=start,
        end=tuple(end) if isinstance(end, list) else (end,),
        forced_first=_special_token(model, "forced_bos_token_id"),
        forced_last=_special_token(model, "forced_eos_token_id"),
        padding=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else model.config.pad_token_id or 0,
        source_length=source_length,
        target_length=target_length,
        settings=default_settings(model.generation_config, target_length).model_dump(),
        output_ids=OUTPUT_IDS_NAME if hasattr(model, OUTPUT_IDS) else None,
        decoder_layers=_decoder_shapes(model),
        restore_case=_lowercases(tokenizer),
    )


def default_settings(config: GenerationConfig, target_length: int) -> GenerationSettings:
    """The settings that a generation config stands for, of at most `target_length` new tokens.

    Its `max_length` counts the start token; transformers' own default for it, 20, says nothing about the model.

    Raises:
        ConfigError: the service cannot decode so.
    """
    for name in _NOT_SERVED:
        value = getattr(config, name, None)
        if value and value != getattr(_TRANSFORMERS, name, None):
            raise ConfigError(f"the model's generation config sets {name}, which the service cannot do; remove it")
    known = {name: getattr(config, name, None) for name in GenerationSettings.model_fields}
    given = {name: value for name, value in known.items() if value is not None}
    stated = config.max_length - 1 if config.max_length not in (None, _TRANSFORMERS.max_length) else target_length
    longest = min(given.get("max_new_tokens", stated), target_length)
    try:
        return GenerationSettings.model_validate({**given, **_limited(given, longest)})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ConfigError(f"the model's generation config: {'.'.join(map(str, problem['loc']))} {problem['msg']}; change it") from error


def check_tokens(loaded: Sessions, model: PreTrainedModel, info: GenerationInfo, sources: Sequence[Sequence[int]]) -> None:
    """Compare the first tokens that the service's engine and transformers generate, greedily and with beams.

    Raises:
        ParityError: They are not the same.
    """
    generating = EncoderDecoder(*loaded, special_tokens(info), positions=max(info.source_length, info.target_length))
    for beams in (1, COMPARED_BEAMS):
        found = [list(each.tokens) for each in generate(generating, sources, _compared(info, beams))]
        expected = [first_tokens(model, source, info, beams=beams) for source in sources]
        differing = sum(one != other for one, other in zip(found, expected, strict=True))
        if differing:
            raise ParityError(
                f"with {beams} beams, the exported graphs generate other tokens than torch for {differing} of {len(sources)} sources; "
                f"this is a defect of the export, not of the model"
            )


@torch.inference_mode()
def first_tokens(model: PreTrainedModel, source: Sequence[int], info: GenerationInfo, *, beams: int) -> list[int]:
    """What transformers generates for a source behind the start token, up to the end or `COMPARED_TOKENS`, with the model's settings."""
    settings = _compared(info, beams)
    asked = settings.model_dump(exclude=_NOT_COMPARED | (_ONLY_OF_BEAMS if beams == 1 else set()))
    config = GenerationConfig(
        **asked,
        min_length=settings.fewest_new_tokens + 1,
        decoder_start_token_id=info.start,
        eos_token_id=list(info.end),
        pad_token_id=model.config.pad_token_id,
        bos_token_id=info.start,
        forced_bos_token_id=info.forced_first,
        forced_eos_token_id=info.forced_last,
    )
    ids = torch.tensor([source])
    generated = cast(Any, model).generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, use_model_defaults=False)
    tokens: list[int] = generated[0, 1:].tolist()
    ended = next((place + 1 for place, token in enumerate(tokens) if token in info.end), len(tokens))
    return tokens[:ended]


def special_tokens(info: GenerationInfo) -> SpecialTokens:
    """The tokens that steer the engine."""
    return SpecialTokens(start=info.start, end=info.end, forced_first=info.forced_first, forced_last=info.forced_last, padding=info.padding)


def golden(loaded: Sessions, rows: Iterable[tuple[Sequence[int], Sequence[int]]], *, tolerance: float) -> Golden:
    """Record logits for given sources and decoder inputs, for `service.generation.golden.check_golden`.

    Of each row they are those of the best id at each position, and of others spread over the vocabulary.

    Args:
        loaded: the artifact's graphs.
        rows: token ids of source and decoder input.
        tolerance: Largest absolute difference allowed, in units of the largest golden logit (of 1, if that is smaller).
    """
    inputs, outputs = dict[str, list[list[int]]]({name: [] for name in GOLDEN_INPUTS}), list[list[float]]()
    for source, target in rows:
        logits = logits_of(*loaded, source, target)
        spread = np.linspace(0, logits.shape[1] - 1, SPREAD_IDS).astype(int)
        ids = np.union1d(logits.argmax(axis=1), spread)
        for name, values in zip(GOLDEN_INPUTS, (source, target, ids.tolist()), strict=True):
            inputs[name].append(list(values))
        outputs.append(logits[:, ids].ravel().tolist())
    largest = max((abs(value) for values in outputs for value in values), default=0.0)
    return Golden(inputs=inputs, outputs={"logits": outputs}, tolerance=tolerance * max(1.0, largest))


def _compared(info: GenerationInfo, beams: int) -> GenerationSettings:
    """The model's settings for a few tokens, by search alone."""
    settings = GenerationSettings.model_validate({**info.settings, "do_sample": False})
    longest = min(COMPARED_TOKENS, settings.max_new_tokens)
    return GenerationSettings.model_validate({**settings.model_dump(), **_limited(settings.model_dump(), longest), "num_beams": beams})


def _limited(settings: Mapping[str, Any], longest: int) -> dict[str, int | None]:
    """The settings' limits, none above `longest` new tokens."""
    fewest, shortest = settings.get("min_new_tokens"), settings.get("min_length") or 0
    return {
        "max_new_tokens": longest,
        "min_new_tokens": None if fewest is None else min(fewest, longest),
        "min_length": min(shortest, longest + 1),
    }


def _rows(sources: Iterable[Mapping[str, Array]]) -> list[list[int]]:
    """Token ids of each source, without padding."""
    return [
        np.asarray(ids)[np.asarray(mask) != 0].tolist()
        for batch in sources
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def _special_token(model: PreTrainedModel, name: str) -> Any:  # noqa: ANN401 - one id, several, or none
    """From the generation config, else from the config, where older checkpoints have it."""
    values = [getattr(config, name, None) for config in (model.generation_config, model.config)]
    return next((value for value in values if value is not None), None)


def _encoder_shapes(model: PreTrainedModel) -> tuple[LayerShape, ...]:
    return tuple(shape for shape, side in _shapes(model) if side == "encoder")


def _decoder_shapes(model: PreTrainedModel) -> tuple[DecoderLayerShape, ...]:
    own, cross = ([shape for shape, side in _shapes(model) if side == wanted] for wanted in ("decoder", "cross"))
    return tuple(
        DecoderLayerShape(heads=first.heads, cross_heads=second.heads, intermediate=second.intermediate)
        for first, second in zip(own, cross, strict=True)
    )


def _shapes(model: PreTrainedModel) -> Iterator[tuple[LayerShape, Side]]:
    return zip(structure.shapes(model), structure.sides(model), strict=True)


def _lowercases(tokenizer: PreTrainedTokenizerBase) -> bool:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str("A") == "a"
