"""What lies below HTTP, and explains what was seen there; each part is left out with a note where it cannot be measured."""

import math
import os
from dataclasses import dataclass, field, replace

from loadtests.artifacts import Artifacts
from loadtests.bench import Progress
from loadtests.deadline import Deadline
from loadtests.errors import LoadTestError, MeasurementError
from loadtests.layers import Layers, layers_of
from loadtests.machine import Conditions, Cores, conditions, cores_with, on_cores, read
from loadtests.plan import Plan
from loadtests.results import Layer
from loadtests.sessions import GRAPH, Raw, raw_of
from loadtests.texts import Task

SEVERAL_GRAPHS = (
    "raw session, engine and HTTP side by side, what each step won, speed-up against length and the share of the fastest matrix product "
    "are left out: they are measured of models of one graph alone, and one that generates has several"
)

_LEAST_SECONDS = 10.0


@dataclass(frozen=True)
class Below:
    """Layers of the service, raw sessions, and the conditions of both; these are None where neither was measured."""

    layers: tuple[Layer, ...] = ()
    raw: Raw = field(default_factory=Raw)
    conditions: Conditions | None = None


def below(plan: Plan, task: Task, artifacts: Artifacts, *, tokens: int, deadline: Deadline, cores: Cores, progress: Progress) -> Below:
    """All of it, for one task.

    Args:
        plan: what is compared.
        task: of which.
        artifacts: of its model.
        tokens: of the longest text.
        deadline: when it has to be over.
        cores: raw sessions run on the service's.
        progress: is told what begins.
    """
    if not (artifacts.path(plan.subjects[0].variant) / GRAPH).is_file():
        return Below(raw=Raw(notes=(SEVERAL_GRAPHS,)))
    layers = Layers()
    ours, every = [os.getpid()], cores_with([])
    before = read(ours, every)
    progress(f"/{task.name}: layers of the service")
    try:
        layers = layers_of(plan, artifacts, tokens=tokens, within_s=_some(deadline))
    except LoadTestError as error:
        layers = Layers(notes=(f"layers of the service were left out: {error}",))
    progress(f"/{task.name}: raw sessions")
    try:
        with on_cores(cores.service):
            raw = raw_of(plan, task, artifacts, tokens=tokens, within_s=_some(deadline))
    except LoadTestError as error:
        raw = Raw(notes=(f"raw sessions were left out: {error}",))
    found = conditions(before, read(ours, every), lag_p99_ms=math.nan, generator_share=math.nan)
    return Below(layers.layers, replace(raw, notes=(*layers.notes, *raw.notes)), found)


def _some(deadline: Deadline) -> float:
    """Seconds that are left; `MeasurementError` where nothing can be measured in them."""
    if deadline.left < _LEAST_SECONDS:
        raise MeasurementError("loads took all the time")
    return deadline.left
