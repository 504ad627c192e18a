"""The golden check of a model that generates: logits for given targets, which no tie can turn into other tokens.

Golden inputs are a source (`input_ids`), what the decoder reads (`decoder_input_ids`) and the output ids whose logits were recorded
(`output_ids`), one row per request. The one output is `logits`, fp32 [target, ids] of each row, flattened.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from service.artifact import Golden
from service.errors import GoldenError
from service.generation.scores import Scores
from service.generation.sessions import CachedSession
from service.runtime.base import Array, Session

GOLDEN_INPUTS = ("input_ids", "decoder_input_ids", "output_ids")


def forced_logits(encoder: Session, decoder: CachedSession, batch: Mapping[str, Array]) -> Scores:
    """Logits [requests, target, vocabulary] for given targets, decoded through the cache one token at a time.

    Args:
        encoder: session of the encoder's graph.
        decoder: session of the decoder's graph.
        batch: int64 `input_ids` and `attention_mask` [requests, source], `decoder_input_ids` [requests, target].
    """
    encoded, targets = encoder.run(batch), np.asarray(batch["decoder_input_ids"])
    requests = np.arange(len(targets))[:, np.newaxis]
    own = {name: shape for name, shape in decoder.caches.items() if name.startswith("past_")}
    past: dict[str, Array] = {name: np.zeros((len(targets), shape.heads, 0, shape.head_size), np.float32) for name, shape in own.items()}
    logits: list[Scores] = []
    for position in range(targets.shape[1]):
        outputs = decoder.run(
            {
                "input_ids": targets[:, position : position + 1],
                "position_ids": np.full_like(requests, position),
                "attention_mask": np.ones((len(targets), position + 1), np.int64),
                "encoder_attention_mask": batch["attention_mask"],
                "request_queries": requests,
                "query_slots": requests,
                **past,
                **encoded,
            }
        )
        past = {name: np.concatenate([values, outputs[name.replace("past", "new", 1)]], axis=2) for name, values in past.items()}
        logits.append(outputs["logits"].astype(np.float32, copy=False))
    stacked: Scores = np.stack(logits, axis=1)
    return stacked


def logits_of(encoder: Session, decoder: CachedSession, source: Sequence[int], target: Sequence[int]) -> Scores:
    """Logits [target, vocabulary] of one request for what its decoder is given to read."""
    ids = np.array([source], np.int64)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "decoder_input_ids": np.array([target], np.int64)}
    logits: Scores = forced_logits(encoder, decoder, batch)[0]
    return logits


def check_golden(encoder: Session, decoder: CachedSession, golden: Golden, folder: Path) -> None:
    """Decode the golden targets and compare with the recorded logits; `GoldenError` beyond the tolerance, or when they do not fit."""
    try:
        inputs = zip(*(golden.inputs[name] for name in GOLDEN_INPUTS), strict=True)
        found = [logits_of(encoder, decoder, source, target)[:, ids] for source, target, ids in inputs]
        differences = [_difference(*pair) for pair in zip(found, golden.outputs["logits"], strict=True)]
    except (KeyError, ValueError, IndexError) as error:
        raise GoldenError(f"{folder}: the golden inputs and outputs do not match the graphs'; export the artifact again") from error
    if not differences:
        raise GoldenError(f"{folder}: there are no golden inputs; export the artifact again")
    if not max(differences) <= golden.tolerance:
        raise GoldenError(
            f"{folder}: golden outputs differ by up to {max(differences):.3g} on this machine, tolerance {golden.tolerance:.3g}; "
            f"export or quantize the artifact for this machine, or choose another variant"
        )


def _difference(found: Scores, expected: list[float]) -> float:
    """Largest absolute difference; infinity where a number is not one, so that no order of comparing hides it."""
    difference = np.abs(found.ravel() - np.array(expected, np.float64)).max(initial=0.0)
    return float(difference) if np.isfinite(difference) else float("inf")
