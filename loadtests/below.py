"""What lies below HTTP, and explains what was seen there; each part is left out with a note where it cannot be measured."""

from dataclasses import dataclass, field, replace

from loadtests.artifacts import Artifacts
from loadtests.compare import Progress
from loadtests.errors import LoadTestError
from loadtests.layers import layers_of
from loadtests.machine import Cores, on_cores
from loadtests.plan import Plan
from loadtests.results import Layer
from loadtests.sessions import GRAPH, Raw, raw_of
from loadtests.texts import Task


@dataclass(frozen=True)
class Below:
    """Layers of the service, and raw sessions."""

    layers: tuple[Layer, ...] = ()
    raw: Raw = field(default_factory=Raw)


def below(plan: Plan, task: Task, artifacts: Artifacts, *, tokens: int, cores: Cores, progress: Progress) -> Below:
    """All of it, for one task.

    Args:
        plan: what is compared.
        task: of which.
        artifacts: of its model.
        tokens: of the longest text.
        cores: raw sessions run on the service's.
        progress: is told what begins.
    """
    if not (artifacts.path(plan.subjects[0].variant) / GRAPH).is_file():
        return Below(raw=Raw(notes=("what lies below HTTP is measured of models of one graph alone",)))
    layers, notes = tuple[Layer, ...](), list[str]()
    progress(f"/{task.name}: layers of the service")
    try:
        layers = layers_of(plan, artifacts)
    except LoadTestError as error:
        notes.append(f"layers of the service were left out: {error}")
    progress(f"/{task.name}: raw sessions")
    try:
        with on_cores(cores.service):
            raw = raw_of(plan, task, artifacts, tokens=tokens)
    except LoadTestError as error:
        raw = Raw(notes=(f"raw sessions were left out: {error}",))
    return Below(layers, replace(raw, notes=(*notes, *raw.notes)))
