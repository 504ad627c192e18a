"""How fast summaries are generated: our engine beside transformers, optimum and CTranslate2 with the same weights, and compact over dense.

Two models: random weights in BART-base's shape, and the one that ships. Everybody reads the same sources, writes as many tokens, and has
as many threads. All that is compared takes turns in one run, forwards in one round and backwards in the next; a ratio is the median over
rounds of the ratio within a round, with a bootstrap interval.
"""

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from tqdm import tqdm
from transformers import AutoConfig

from pruning.bench import UNQUIET
from pruning.errors import ParityError
from pruning.generation_peers import PEERS, Asked, Generate, Peer, Precision, ServedEngine, Shares, open_engine
from pruning.generation_subjects import COMPACT, Plan, Subject, random_sources, random_subject, shipped_subject
from pruning.timing import Call, Clock, Ratio, Timings
from service.artifact import Machine
from service.packages import versions_of
from service.runtime.onnx import machine

logger = logging.getLogger(__name__)

ENGINE = "secateur"
REFERENCES = ("transformers dense fp32", "ctranslate2 dense int8", "secateur dense int8")
"""What every speed is divided by, where it is there."""
_PACKAGES = ("secateur", "torch", "transformers", "optimum", "optimum-onnx", "onnxruntime", "ctranslate2")


@dataclass(frozen=True)
class Way:
    """One of those that take turns."""

    engine: str
    variant: str
    precision: Precision
    generate: Generate

    @property
    def name(self) -> str:
        """As in `REFERENCES`."""
        return f"{self.engine} {self.variant} {self.precision}"


class GenerationSpeed(BaseModel, frozen=True):
    """One way to generate, under one condition: tokens in a second of the median round, and that over the speed of each reference.

    Of our engine, `spent` says where its time went in one more call.
    """

    model: str
    engine: str
    variant: str
    precision: Precision
    beams: int
    requests: int
    tokens_per_second: float
    over: dict[str, Ratio]
    spent: Shares | None = None


class GenerationSpeeds(BaseModel, frozen=True):
    """All that `bench-summarize` prints; `left_out` says what is not there, and why."""

    source_length: int
    new_tokens: int
    rounds: int
    threads: int
    clock: str
    machine: Machine
    versions: dict[str, str]
    left_out: tuple[str, ...]
    rows: tuple[GenerationSpeed, ...]

    def as_text(self) -> str:
        """A table for people: a part for each model, search and number of requests, a column for each reference."""
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        notes = [
            "Generated tokens per second, and how many times the speed of each reference that is (95 % interval).",
            f"Sources of {self.source_length} tokens, {self.new_tokens} new ones for each; {self.threads} thread(s) each, {self.clock}; "
            f"{self.rounds} interleaved round(s).",
            "The last column has the shares of our time that the encoder, the decoder and the search between them take.",
            f"Of {COMPACT}.",
            f"{self.machine.cpu}, {self.machine.cores} cores ({' '.join(self.machine.isa)}); {packages}",
            *(f"Left out: {each}" for each in self.left_out),
        ]
        parts: dict[tuple[str, int, int], list[GenerationSpeed]] = {}
        for row in self.rows:
            parts.setdefault((row.model, row.beams, row.requests), []).append(row)
        return "\n".join([*notes, *(line for key, rows in parts.items() for line in _part(*key, rows))])


def measure_generation(plan: Plan, *, models: Path, peers: Sequence[Peer] = PEERS, progress: bool = False) -> GenerationSpeeds:
    """Make artifacts of random models, take the model that ships, and time them beside the peers.

    Args:
        plan: what is measured.
        models: folder of the shipped model's variants, `dense` among them; left out where it is not there.
        peers: to compare with; those that are not installed are left out.
        progress: show progress bars on stderr.

    Raises:
        ConfigError: lengths beyond the shipped model's.
        ParityError: somebody wrote fewer tokens than asked for, or more.
    """
    installed, left_out = available(peers)
    with tempfile.TemporaryDirectory() as folder:
        shipped = shipped_subject(models, Path(folder) / "shipped", plan) if (models / "dense").is_dir() else None
        if shipped is None:
            left_out.append(f"the model that ships: there is no {models / 'dense'}")
        subjects = [random_subject(Path(folder) / "random", plan), *([shipped] if shipped else [])]
        opened = [open_ways(subject, plan, peers=installed) for subject in subjects]
        left_out += [line for _, lines in opened for line in lines]
        pairs = zip(subjects, opened, strict=True)
        rows = [row for subject, (ways, _) in pairs for row in measure_subject(subject, plan, ways=ways, progress=progress)]
    return GenerationSpeeds(
        source_length=plan.source_length,
        new_tokens=plan.new_tokens,
        rounds=plan.rounds,
        threads=plan.threads,
        clock="timed by the processor's time" if plan.threads == 1 else "timed by the clock",
        machine=machine(),
        versions=versions_of(_PACKAGES),
        left_out=tuple(left_out),
        rows=tuple(rows),
    )


def available(peers: Sequence[Peer]) -> tuple[list[Peer], list[str]]:
    """The peers that are installed, and a line for each of the others."""
    lines = [f"{peer.name} is not installed; make bench-summarize installs it" for peer in peers if not peer.installed]
    return [peer for peer in peers if peer.installed], lines


def open_ways(subject: Subject, plan: Plan, *, peers: Sequence[Peer]) -> tuple[list[Way], list[str]]:
    """All ways to generate with one model, before anything is timed; and a line for each peer that cannot read it."""
    ways = [Way(ENGINE, *kind, open_engine(artifact, plan.threads)) for kind, artifact in subject.ours.items()]
    lines: list[str] = []
    for peer in peers:
        try:
            ways.append(Way(peer.name, "dense", peer.precision, peer.open(subject.peers, plan.threads)))
        except Exception as error:  # each library has errors of its own
            lines.append(f"{peer.name} cannot read {subject.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return ways, lines


def measure_subject(subject: Subject, plan: Plan, *, ways: Sequence[Way], progress: bool = False) -> list[GenerationSpeed]:
    """Speeds of these ways to generate with one model, for every number of beams and requests."""
    vocabulary, rows = AutoConfig.from_pretrained(subject.peers).vocab_size, list[GenerationSpeed]()
    for beams, requests in product(plan.beams, plan.requests):
        asked = Asked(random_sources(requests, plan.source_length, vocabulary), beams, plan.new_tokens)
        label = f"{subject.name}, {_search(beams)}, {requests} at a time"
        stopwatch = time.process_time_ns if plan.threads == 1 else time.perf_counter_ns
        timings = take_turns(
            {way.name: _call(way, asked) for way in ways},
            rounds=plan.rounds,
            stopwatch=stopwatch,
            description=label if progress else None,
        )
        _warn_of_noise(timings)
        spent = {way.name: way.generate.shares(asked, stopwatch) for way in ways if isinstance(way.generate, ServedEngine)}
        rows += [_speed(subject, way, asked, timings, spent.get(way.name)) for way in ways]
    return rows


def take_turns(calls: Mapping[str, Call], *, rounds: int, stopwatch: Clock, description: str | None = None) -> Timings:
    """Time each call once a round, forwards in one and backwards in the next, after one call that is not timed.

    `timing.interleaved` makes bursts of calls, each with a warm-up of its own. Here one call is hundreds, and a second or more.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in tqdm(range(rounds), desc=description, unit="round", disable=None if description else True):
        for name in list(calls)[:: -1 if turn % 2 else 1]:
            start = stopwatch()
            calls[name]()
            samples[name].append((stopwatch() - start) / 1e6)
    return Timings({name: np.asarray(values, dtype=np.float64) for name, values in samples.items()})


def _call(way: Way, asked: Asked) -> Call:
    def call() -> None:
        written = {len(tokens) for tokens in way.generate(asked)}
        if written != {asked.new_tokens}:
            raise ParityError(f"{way.name} wrote {sorted(written)} tokens where {asked.new_tokens} were asked for: speeds do not compare")

    return call


def _speed(subject: Subject, way: Way, asked: Asked, timings: Timings, spent: Shares | None) -> GenerationSpeed:
    return GenerationSpeed(
        model=subject.name,
        engine=way.engine,
        variant=way.variant,
        precision=way.precision,
        beams=asked.beams,
        requests=len(asked.sources),
        tokens_per_second=asked.tokens / (timings.median_ms(way.name) / 1e3),
        over={each: timings.ratio(way.name, each) for each in REFERENCES if each in timings.samples and each != way.name},
        spent=spent,
    )


def _warn_of_noise(timings: Timings) -> None:
    spread = float(np.median([timings.spread(name) for name in timings.samples]))
    if spread > UNQUIET:
        logger.warning("the machine was busy: times varied by %.0f %%; measure again when it is quiet", 100 * spread)


def _part(model: str, beams: int, requests: int, rows: Sequence[GenerationSpeed]) -> list[str]:
    references = [each for each in REFERENCES if any(each in row.over for row in rows)]
    title = f"{model}, {_search(beams)}, {requests} at a time"
    heading = _line("", "tokens/s", *(f"over {each}" for each in references), "time spent in")
    lines = [
        _line(
            f"{row.engine} {row.variant} {row.precision}",
            f"{row.tokens_per_second:.1f}",
            *(_interval(row, each) for each in references),
            "" if row.spent is None else f"{row.spent.encoder:.0%}, {row.spent.decoder:.0%}, {row.spent.search:.0%}",
        ).rstrip()
        for row in rows
    ]
    return ["", title, heading, *lines]


def _search(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"


def _interval(row: GenerationSpeed, reference: str) -> str:
    ratio = row.over.get(reference)
    return "1x" if ratio is None else f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


def _line(name: str, speed: str, *cells: str) -> str:
    return f"{name:<46}{speed:>10}" + "".join(f"  {cell:>28}" for cell in cells)
