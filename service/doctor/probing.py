"""The doctor's measurements: every artifact in every runtime that is installed, in a few layouts of callers and threads.

Artifacts are visited one after the other and then in reverse order; within a visit settings are measured forth and back. So a machine
that slows down meanwhile does so for all alike, while one artifact's sessions are in memory at a time. What the service would refuse
to load is not timed: the reason stands in its place. Of a model that generates its encoder is measured; its decoder takes what threads
one call has, in ONNX Runtime.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from service.artifact import Manifest, read_manifest, verify_files
from service.doctor.report import Host, Layout, Refusal, Report, Row, advised
from service.errors import ArtifactError, RuntimeUnavailableError
from service.model import GRAPH_NAME, GeneratingModel, check_golden
from service.packages import version_of
from service.runtime import RuntimeName, RuntimeOptions, open_session
from service.runtime.base import Array, Session
from service.runtime.cuda import has_cuda
from service.runtime.machine import affinity_count, cgroup_quota, core_count, cpu_name, instruction_sets

LENGTHS = (32, 384)
RUNTIME_NAMES: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")
_SHORTEST_SLICE_S = 0.02


@dataclass
class _Tally:
    """What one setting did, over all of its slices.

    Attributes:
        tokens: computed by all callers.
        seconds: of all slices together.
        latencies: seconds of each call.
    """

    tokens: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Setting:
    """What is measured; for the fields see `Row`."""

    artifact: str
    runtime: RuntimeName
    layout: Layout
    tokens: int


Tallies = dict[_Setting, _Tally]
Sessions = dict[tuple[RuntimeName, Layout], Session]


def probe(
    folders: Sequence[Path],
    *,
    seconds: float,
    lengths: Sequence[int] = LENGTHS,
    cores: int | None = None,
    visited: Callable[[], None] = lambda: None,
) -> Report:
    """Measure artifacts on this machine.

    Args:
        folders: of the artifacts.
        seconds: about how long it takes in all. Every setting gets at least one call for each caller, however slow; the way back is
            left out when time is over.
        lengths: tokens in a row, cut to what the model takes.
        cores: to share out; None for those that the process may use.
        visited: called after each of the `2 * len(folders)` visits.
    """
    host = describe_host()
    runtimes = [name for name, found in host.versions.items() if found is not None]
    tallies: Tallies = {}
    refusals: dict[tuple[str, RuntimeName], Refusal] = {}
    visits = [*folders, *reversed(folders)]
    end = time.perf_counter() + seconds
    for index, folder in enumerate(visits):
        left = end - time.perf_counter()
        if left > 0 or index < len(folders):
            until = time.perf_counter() + left / (len(visits) - index)
            for refusal in _visit(folder, runtimes, layouts(cores or host.cores), lengths, tallies, until=until):
                refusals[refusal.artifact, refusal.runtime] = refusal
        visited()
    rows = [_row(setting, tally) for setting, tally in tallies.items() if (setting.artifact, setting.runtime) not in refusals]
    return Report(host, tuple(rows), tuple(refusals.values()), advised(rows))


def layouts(cores: int) -> list[Layout]:
    """Ways to share so many cores: a call on each, two calls with half of them, all in one call, and that with spinning."""
    if cores == 1:
        return [Layout(1, 1)]
    return list(dict.fromkeys([Layout(cores, 1), Layout(2, cores // 2), Layout(1, cores), Layout(1, cores, spinning=True)]))


def describe_host() -> Host:
    """This machine."""
    return Host(
        cpu=cpu_name(),
        cores=core_count(),
        affinity=affinity_count(),
        quota=cgroup_quota(),
        isa=instruction_sets(),
        versions={name: _version(name) for name in RUNTIME_NAMES},
        cuda=has_cuda(),
    )


def _visit(
    folder: Path, runtimes: Sequence[RuntimeName], ways: Sequence[Layout], lengths: Sequence[int], tallies: Tallies, *, until: float
) -> list[Refusal]:
    """Measure one artifact in all settings, forth and back, and add to the tallies; what is refused comes back."""
    artifact = f"{folder.parent.name}/{folder.name}"
    try:
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
    except ArtifactError as error:
        return [Refusal(artifact, name, str(error)) for name in runtimes]
    sessions, refusals = _open_all(folder, manifest, runtimes, ways)
    tokens = sorted({min(length, manifest.max_length) for length in lengths})
    settings = [_Setting(artifact, runtime, layout, length) for runtime, layout in sessions for length in tokens]
    feeds = {length: golden_row(manifest, length) for length in tokens}
    for setting in settings:
        sessions[setting.runtime, setting.layout].run(feeds[setting.tokens])
    slice_s = max(_SHORTEST_SLICE_S, (until - time.perf_counter()) / (2 * len(settings) or 1))
    for setting in [*settings, *reversed(settings)]:
        session = sessions[setting.runtime, setting.layout]
        _measure(session, feeds[setting.tokens], setting, tallies.setdefault(setting, _Tally()), seconds=slice_s)
    return refusals


def _open_all(folder: Path, manifest: Manifest, runtimes: Sequence[RuntimeName], ways: Sequence[Layout]) -> tuple[Sessions, list[Refusal]]:
    """Sessions that passed the golden check, by runtime and layout; a runtime that refuses once is left out."""
    sessions: Sessions = {}
    refusals = []
    for name in runtimes:
        opened: Sessions = {}
        try:
            for layout in _ways_of(name, ways):
                options = RuntimeOptions(name=name, threads=layout.threads, callers=layout.callers, spinning=layout.spinning)
                opened[name, layout] = _open(folder, manifest, options)
        except (ArtifactError, RuntimeUnavailableError) as error:
            refusals.append(Refusal(f"{folder.parent.name}/{folder.name}", name, str(error)))
        else:
            sessions |= opened
    return sessions, refusals


def _open(folder: Path, manifest: Manifest, options: RuntimeOptions) -> Session:
    """A session that passed the golden check."""
    if manifest.generation is None:
        session = open_session(folder / GRAPH_NAME, options)
        check_golden(session, manifest.golden, folder)
        return session
    if options.name != "onnxruntime":
        raise RuntimeUnavailableError("a model that generates runs in onnxruntime only here")
    return GeneratingModel.load(folder, options=options).session


def _ways_of(runtime: RuntimeName, ways: Sequence[Layout]) -> list[Layout]:
    """Only ONNX Runtime can be told to spin."""
    return [layout for layout in ways if runtime == "onnxruntime" or not layout.spinning]


def golden_row(manifest: Manifest, length: int) -> dict[str, Array]:
    """Inputs [1, length] of ordinary tokens: the first golden row, repeated or cut."""
    golden = manifest.golden.inputs.items()
    inputs: dict[str, Array] = {name: np.resize(np.array(rows[0], dtype=np.int64), (1, length)) for name, rows in golden}
    return inputs if manifest.generation is None else {**inputs, "attention_mask": np.ones((1, length), dtype=np.int64)}


def _measure(session: Session, feed: Mapping[str, Array], setting: _Setting, tally: _Tally, *, seconds: float) -> None:
    """Let all callers call for a time, each at least once, and add to the tally."""

    def call(_: int) -> list[float]:
        latencies: list[float] = []
        while not latencies or time.perf_counter() < stop:
            before = time.perf_counter()
            session.run(feed)
            latencies.append(time.perf_counter() - before)
        return latencies

    with ThreadPoolExecutor(setting.layout.callers) as pool:
        start = time.perf_counter()
        stop = start + seconds
        latencies = [value for values in pool.map(call, range(setting.layout.callers)) for value in values]
        tally.seconds += time.perf_counter() - start
    tally.latencies += latencies
    tally.tokens += setting.tokens * len(latencies)


def _row(setting: _Setting, tally: _Tally) -> Row:
    return Row(
        artifact=setting.artifact,
        runtime=setting.runtime,
        layout=setting.layout,
        tokens=setting.tokens,
        tokens_per_s=tally.tokens / tally.seconds,
        latency_ms=median(tally.latencies) * 1e3,
    )


def _version(package: str) -> str | None:
    """Version of an installed distribution: of ONNX Runtime's build for GPUs, too."""
    return version_of(package) or version_of(f"{package}-gpu")
