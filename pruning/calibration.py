"""Ranges of activations for quantization, from a calibration sample.

Three methods, to be compared on the model at hand since reports disagree: `minmax` keeps everything seen, `percentile` cuts the
rarest values off both ends, `entropy` clips where the 8-bit histogram diverges least from the full one (Migacz, 8-bit inference with
TensorRT, GTC 2017). Histograms are streamed: memory does not grow with the sample.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from pruning import onnx_graph
from pruning.config import Method
from pruning.errors import ConfigError
from service.runtime.onnx import OnnxSession

Inputs = Mapping[str, NDArray[np.int64]]
Range = tuple[float, float]
Counts = NDArray[np.int64]

BINS = 2048
PERCENTILE = 99.995
_LEVELS_PER_SIGN = 128
_CANDIDATE_STEP = 16


def calibrate(model: onnx.ModelProto, values: Sequence[str], inputs: Sequence[Inputs], *, method: Method) -> dict[str, Range]:
    """Lowest and highest value to represent, for each inner value of the graph.

    Args:
        model: fp32 graph.
        values: Names of inner values, float [batch, sequence, columns].
        inputs: Calibration sample, int64 [rows, sequence] by name. Give rows without padding: padding would be counted.
        method: How the range is drawn.
    """
    if not inputs:
        raise ConfigError("static quantization needs calibration inputs; got none")
    session = OnnxSession(_with_outputs(model, values).SerializeToString())
    extremes = _extremes(session, values, inputs)
    if method == "minmax":
        return extremes
    magnitudes = method == "entropy"
    counts = {name: np.zeros(BINS, np.int64) for name in values}
    for name, array in _activations(session, values, inputs):
        span = (0.0, _largest(extremes[name])) if magnitudes else _not_empty(extremes[name])
        counts[name] += np.histogram(np.abs(array) if magnitudes else array, BINS, range=span)[0]
    clip = entropy_range if magnitudes else percentile_range
    return {name: clip(counts[name], extremes[name]) for name in values}


def channel_maxima(model: onnx.ModelProto, values: Sequence[str], inputs: Sequence[Inputs]) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude in each channel of each inner value of the graph, [columns]; the arguments are those of `calibrate`."""
    if not inputs:
        raise ConfigError("scaling outlier channels needs calibration inputs; got none")
    session = OnnxSession(_with_outputs(model, values).SerializeToString())
    found: dict[str, NDArray[np.float32]] = {}
    for name, array in _activations(session, values, inputs):
        largest = np.abs(array).max(axis=tuple(range(array.ndim - 1)))
        found[name] = np.maximum(found[name], largest) if name in found else largest
    return found


def percentile_range(counts: Counts, extremes: Range, *, percentile: float = PERCENTILE) -> Range:
    """The range that holds the central `percentile` % of the values.

    Args:
        counts: Histogram over `extremes`, [bins].
        extremes: Lowest and highest value.
        percentile: Share kept; what is cut comes in halves from both ends.
    """
    edges = np.linspace(*_not_empty(extremes), len(counts) + 1)
    cumulative, cut = np.cumsum(counts) / counts.sum(), (1 - percentile / 100) / 2
    lowest = edges[np.searchsorted(cumulative, cut, side="right")]
    highest = edges[np.searchsorted(cumulative, 1 - cut) + 1]
    return max(float(lowest), extremes[0]), min(float(highest), extremes[1])


def entropy_range(counts: Counts, extremes: Range) -> Range:
    """The symmetric clip whose 8-bit histogram has the least Kullback-Leibler divergence from the full one, within `extremes`.

    Args:
        counts: Histogram of magnitudes over [0, largest], [bins].
        extremes: Lowest and highest value.
    """
    kept = range(_LEVELS_PER_SIGN, len(counts) + 1, _CANDIDATE_STEP)
    best = min(kept, key=lambda bins: _divergence(counts, bins))
    limit = best / len(counts) * _largest(extremes)
    return max(extremes[0], -limit), min(extremes[1], limit)


def _divergence(counts: Counts, kept: int) -> float:
    """Divergence of the first `kept` bins, what lies beyond clipped into the last, from the same quantized to the 8-bit levels."""
    reference = counts[:kept].astype(np.float64)
    level = np.arange(kept) * _LEVELS_PER_SIGN // kept
    occupied = reference > 0
    mass = np.bincount(level, reference, _LEVELS_PER_SIGN)
    members = np.bincount(level, occupied, _LEVELS_PER_SIGN)
    quantized = np.where(occupied, mass[level] / np.maximum(members[level], 1), 0)
    reference[-1] += counts[kept:].sum()
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1)
    both = (p > 0) & (q > 0)
    if (p[~both] > 0).any():
        return float("inf")
    return float((p[both] * np.log(p[both] / q[both])).sum())


def _extremes(session: OnnxSession, values: Sequence[str], inputs: Sequence[Inputs]) -> dict[str, Range]:
    lowest, highest = dict.fromkeys(values, np.inf), dict.fromkeys(values, -np.inf)
    for name, array in _activations(session, values, inputs):
        lowest[name], highest[name] = min(lowest[name], float(array.min())), max(highest[name], float(array.max()))
    return {name: (lowest[name], highest[name]) for name in values}


def _largest(extremes: Range) -> float:
    """Largest magnitude in a range; never 0."""
    return max(abs(extremes[0]), abs(extremes[1])) or 1.0


def _not_empty(extremes: Range) -> Range:
    lowest, highest = extremes
    return (lowest, highest) if highest > lowest else (lowest, lowest + 1)


def _activations(session: OnnxSession, values: Sequence[str], inputs: Sequence[Inputs]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for batch in inputs:
        outputs = session.run(batch)
        for name in values:
            yield name, outputs[name].astype(np.float32)


def _with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """A copy that also gives the values as outputs."""
    widened = copy.deepcopy(model)
    present = set(onnx_graph.output_names(model))
    widened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in present)
    return widened
