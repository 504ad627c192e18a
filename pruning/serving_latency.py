"""Latency of artifacts as they are served, through the runtime's own sessions; what is compared is timed in one interleaved loop.

Two kinds of speed-up come of it. *Structural* is over the dense artifact in the same precision, one caller; *total* is over the dense
fp32 artifact, with as many concurrent callers as asked, one thread each. Of a model that generates, all of it is timed, from the source to
the last token, through the service's engine; everybody writes the same number of tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pruning.timing import Call, Ratio, Timings, interleaved
from service.artifact import Golden, Latency, Manifest, read_manifest
from service.generation import GenerationSettings, generate
from service.model import GRAPH_NAME, GeneratingModel
from service.runtime.onnx import OnnxSession, machine
from service.tasks.summarize import generation_of, merged_settings

DENSE = "dense"


@dataclass(frozen=True)
class Decoding:
    """What is generated while a latency is measured.

    Attributes:
        target_length: tokens of each request.
        beams: of each request.
        requests: that a caller decodes together.
    """

    target_length: int
    beams: int = 1
    requests: int = 1

    @property
    def how(self) -> str:
        """In words: greedily, with 4 beams."""
        return "greedily" if self.beams == 1 else f"with {self.beams} beams"


def measure_latency(
    artifacts: Mapping[str, Path],
    *,
    sequence_lengths: Sequence[int],
    callers: int,
    seconds: float,
    decoding: Decoding | None = None,
    progress: bool = False,
) -> dict[str, tuple[Latency, ...]]:
    """Latencies and speed-ups of every artifact, at every length.

    Args:
        artifacts: Folders by name; `dense` must be among them and is the reference of total speed-ups. The reference of structural ones
            is the artifact named `dense` or `dense-int8`, whichever has the same precision; without it they are left out.
        sequence_lengths: Tokens in the row, or in each source; none of them is padding.
        callers: Concurrent callers for the total speed-up.
        seconds: Of each interleaved loop: one for each length with all artifacts, one for each length and precision.
        decoding: Of models that generate; by default as `own_decoding` says.
        progress: Show progress bars on stderr.
    """
    manifests = {name: read_manifest(folder) for name, folder in artifacts.items()}
    decoding = decoding or own_decoding(manifests[DENSE])
    opened = {name: open_calls(folder, decoding) for name, folder in artifacts.items()}
    found: dict[str, list[Latency]] = {name: [] for name in artifacts}
    for length in sequence_lengths:
        calls = {name: call_at(length) for name, call_at in opened.items()}
        alone = _by_precision(calls, manifests, seconds=seconds, description=f"{length} tokens" if progress else None)
        together = interleaved(
            calls, seconds=seconds, callers=callers, description=f"{length} tokens, {callers} callers" if progress else None
        )
        for name in artifacts:
            found[name] += _latencies(name, manifests, alone[name], together, length=length, callers=callers, decoding=decoding)
    return {name: tuple(latencies) for name, latencies in found.items()}


def _by_precision(
    calls: Mapping[str, Callable[[], object]], manifests: Mapping[str, Manifest], *, seconds: float, description: str | None
) -> dict[str, Timings]:
    """One caller; only what a structural speed-up compares is interleaved, as fp32 weights would push 8-bit ones out of the caches."""
    found: dict[str, Timings] = {}
    for precision in sorted({manifest.precision for manifest in manifests.values()}):
        names = [name for name in calls if manifests[name].precision == precision]
        label = description and f"{description}, {precision}"
        timings = interleaved({name: calls[name] for name in names}, seconds=seconds, callers=1, description=label)
        found |= dict.fromkeys(names, timings)
    return found


def _latencies(
    name: str, manifests: Mapping[str, Manifest], alone: Timings, together: Timings, *, length: int, callers: int, decoding: Decoding | None
) -> list[Latency]:
    """Total and structural latency of one artifact; a dense artifact has no structural one."""
    here, latencies = machine(), []
    generated = {} if decoding is None else asdict(decoding)

    def latency(kind: str, timings: Timings, reference: str, count: int) -> Latency:
        ratio: Ratio = timings.ratio(name, reference)
        return Latency(
            sequence_length=length,
            **generated,
            callers=count,
            latency_ms=timings.median_ms(name),
            reference=f"{manifests[reference].name}/{manifests[reference].variant}",
            speedup=ratio.value,
            speedup_low=ratio.low,
            speedup_high=ratio.high,
            kind="total" if kind == "total" else "structural",
            machine=here,
        )

    if name != DENSE:
        latencies.append(latency("total", together, DENSE, callers))
    reference = next((other for other in (DENSE, f"{DENSE}-int8") if _same_precision(other, name, manifests)), None)
    if reference is not None and not manifests[name].variant.startswith(DENSE):
        latencies.append(latency("structural", alone, reference, 1))
    return latencies


def _same_precision(reference: str, name: str, manifests: Mapping[str, Manifest]) -> bool:
    return reference in manifests and manifests[reference].precision == manifests[name].precision


def open_calls(folder: Path, decoding: Decoding | None = None) -> Callable[[int], Call]:
    """Load an artifact for one thread; gives a call that answers a row of so many tokens, or generates from sources of so many."""
    manifest = read_manifest(folder)
    if (generated := own_decoding(manifest)) is not None:
        model, generated = GeneratingModel.load(folder, threads=1), decoding or generated
        return lambda length: same_generation(model, length, generated)
    session = OnnxSession(folder / GRAPH_NAME, threads=1)
    return lambda length: same_row(session, manifest.golden, length)


def own_decoding(manifest: Manifest) -> Decoding | None:
    """One request, with the beams that a model has by default and as many tokens as it writes at most; None of an encoder alone."""
    if manifest.generation is None:
        return None
    info = generation_of(manifest)
    settings = merged_settings({}, info.settings, most=info.target_length)
    return Decoding(settings.max_new_tokens, settings.num_beams)


def same_generation(model: GeneratingModel, length: int, decoding: Decoding) -> Call:
    """So many requests decoded together, each from that many tokens: the golden source's tokens, over and over."""
    source = np.resize(np.asarray(model.manifest.golden.inputs["input_ids"][0], dtype=np.int64), length).tolist()
    settings = _of_that_length(model.manifest, decoding)
    return lambda: generate(model.generator, [source] * decoding.requests, settings)


def _of_that_length(manifest: Manifest, decoding: Decoding) -> GenerationSettings:
    """The model's own settings, for exactly as many tokens as asked."""
    tokens = decoding.target_length
    asked = {"min_new_tokens": tokens, "max_new_tokens": tokens, "num_beams": decoding.beams, "do_sample": False}
    return merged_settings(asked, generation_of(manifest).settings, most=tokens)


def same_row(session: OnnxSession, golden: Golden, length: int) -> Call:
    """One row of that many tokens: the golden input's tokens, over and over, all attended to."""
    feed = {name: np.resize(np.asarray(rows[0], dtype=np.int64), (1, length)) for name, rows in golden.inputs.items()}
    if "attention_mask" in feed:
        feed["attention_mask"] = np.ones((1, length), dtype=np.int64)
    return lambda: session.run(feed)
