"""What a comparison measures, and how its time is divided."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.arrivals import Spacing
from loadtests.errors import LoadTestError
from loadtests.lengths import Lengths
from loadtests.texts import Task

DEFAULT_VARIANTS = "dense,compact-int8,compact@openvino"
MINUTES_PER_TASK = 10.0
QUICK_MINUTES_PER_TASK = 1.75
LEAST_ROUNDS, ROUNDS = 5, 6
SHARES = (0.7, 0.85, 1.0, 1.2, 1.45)
FEW_SHARES = (0.75, 1.0, 1.35)
FEWEST_SHARES = (0.8, 1.25)
LONG_MS = 1000.0
DISTINCT = 16
QUICK_DISTINCT = 6
BETWEEN_SECONDS = 0.5
LEAST_SECONDS = 1.0
LEAST_CONNECTIONS, GENERATING_CONNECTIONS = 4, 16
RUNTIMES = ("onnxruntime", "openvino")

_KNEE_SHARE = 0.3
_KNEE_STEPS = 7.0
_CLOSED_SHARE = 0.15
_BESIDE_MINUTES, _BESIDE_MINUTES_PER_TASK = 4.0, 2.0
_QUICK_BESIDE_MINUTES_PER_TASK = 1.9


@dataclass(frozen=True)
class Subject:
    """A variant in a runtime; `label` is how it is asked for and shown."""

    label: str
    variant: str
    runtime: str


@dataclass(frozen=True)
class Times:
    """Seconds of each part.

    Attributes:
        knee: of a step of the search.
        closed: of a visit's closed loop.
        step: of each rate of a visit.
        warm: of a step that are not counted, at its beginning.
    """

    knee: float
    closed: float
    step: float
    warm: float


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        tasks: names of the tasks, measured one after another.
        subjects: what is compared; the first is what the others are compared with. Empty for what a service lists.
        named: whether the subjects were asked for by name: one that a task cannot have is then an error.
        lengths: of texts; None is each task's own.
        texts: a file in the place of own sentences.
        slo_ms: of p99; None is each task's own.
        failures: share of requests that may fail.
        spacing: of arrivals.
        minutes: that all of it should take.
        rounds: visits of each subject.
        shares: rates of a visit, of the knee.
        connections: of closed loops; 0 is as many as the task and the cores ask for.
        distinct: how many different texts.
        seed: of texts and arrivals.
        below: whether to measure what lies below HTTP, too.
        quick: with short loads.
        least_s: seconds of a load, at the least.
    """

    tasks: tuple[str, ...]
    subjects: tuple[Subject, ...] = ()
    named: bool = False
    lengths: Lengths | None = None
    texts: Path | None = None
    slo_ms: float | None = None
    failures: float = 0.001
    spacing: Spacing = "poisson"
    minutes: float = MINUTES_PER_TASK
    rounds: int = ROUNDS
    shares: tuple[float, ...] = SHARES
    connections: int = 0
    distinct: int = DISTINCT
    seed: int = 0
    below: bool = True
    quick: bool = False
    least_s: float = LEAST_SECONDS

    def of_task(self, task: Task, subjects: tuple[Subject, ...], *, cores: int) -> "Plan":
        """Of one of the tasks, in its share of the minutes.

        Args:
            task: which.
            subjects: that it can have.
            cores: of the service.

        There are fewer rates where the objective is long, so that a load at each is long beside it, and where loads would be too short.
        """
        slo_ms = self.slo_ms or task.slo_ms
        plan = replace(
            self,
            tasks=(task.name,),
            subjects=subjects,
            slo_ms=slo_ms,
            minutes=self.minutes / len(self.tasks),
            connections=self.connections or connections_of(task, cores),
        )
        most = len(self.shares) if slo_ms < LONG_MS else len(FEW_SHARES)
        fewer = [replace(plan, shares=shares) for shares in (self.shares, FEW_SHARES, FEWEST_SHARES) if len(shares) <= most]
        return next((each for each in fewer if each.times.step > each.least_s), fewer[-1]) if subjects else plan

    @property
    def times(self) -> Times:
        """The minutes, divided among tasks and subjects; after each load some time goes by until the last answers are there."""
        each = 60.0 * self.minutes / (len(self.tasks) * len(self.subjects))
        visit = (1 - _KNEE_SHARE) * each / self.rounds
        step = max(self.least_s, (1 - _CLOSED_SHARE) * visit / len(self.shares) - BETWEEN_SECONDS)
        return Times(
            knee=max(self.least_s, _KNEE_SHARE * each / _KNEE_STEPS - BETWEEN_SECONDS),
            closed=max(self.least_s, _CLOSED_SHARE * visit - BETWEEN_SECONDS),
            step=step,
            warm=min(0.5, 0.1 * step),
        )

    @property
    def seconds(self) -> float:
        """That all loads take, when the search is as long as it mostly is: about the minutes, or more where loads would be too short."""
        times = self.times
        loads = _KNEE_STEPS + self.rounds * (1 + len(self.shares))
        visits = self.rounds * (times.closed + len(self.shares) * times.step)
        return len(self.tasks) * len(self.subjects) * (_KNEE_STEPS * times.knee + visits + loads * BETWEEN_SECONDS)


def connections_of(task: Task, cores: int) -> int:
    """Of a closed loop that keeps so many cores busy; a model that generates answers many requests together."""
    return GENERATING_CONNECTIONS if task.generates else max(LEAST_CONNECTIONS, 2 * cores)


def most_seconds(plans: Sequence[Plan]) -> float:
    """That the loads of these tasks may take with all that is beside them: starting, quantizing, and what lies below HTTP."""
    quick = any(plan.quick for plan in plans)
    beside = _QUICK_BESIDE_MINUTES_PER_TASK * len(plans) if quick else _BESIDE_MINUTES + _BESIDE_MINUTES_PER_TASK * len(plans)
    return sum(plan.seconds for plan in plans) + 60.0 * beside


def parse_subjects(text: str) -> tuple[Subject, ...]:
    """`dense,compact-int8,compact@openvino`: variants, and a runtime where it is not ONNX Runtime."""
    labels = tuple(label.strip() for label in text.split(",") if label.strip())
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise LoadTestError(f"--variants {text!r}: expected two or more different ones, the first being what others are compared with")
    return tuple(map(parse_subject, labels))


def parse_subject(label: str) -> Subject:
    """`compact` or `compact@openvino`."""
    variant, _, runtime = label.partition("@")
    if not variant or (runtime or RUNTIMES[0]) not in RUNTIMES:
        raise LoadTestError(f"{label!r} is no variant with its runtime; expected one of {', '.join(RUNTIMES)} behind the @")
    return Subject(label, variant, runtime or RUNTIMES[0])
