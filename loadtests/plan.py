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
QUICK_OVER = 1.15
LEAST_ROUNDS, ROUNDS = 5, 6
QUICK_ROUNDS = 3
SHARES = (0.7, 0.85, 1.0, 1.2, 1.45)
FEW_SHARES = (0.75, 1.15, 1.75)
FEWEST_SHARES = (0.75, 1.7)
AIMED_SHARES = (0.8, 1.0, 1.3)
LONG_MS = 1000.0
DISTINCT = 16
QUICK_DISTINCT = 6
BETWEEN_SECONDS = 0.5
WARM_SHARE = 0.05
SEARCH_STEPS = 4
LEAST_SECONDS = 1.0
LEAST_CONNECTIONS, GENERATING_CONNECTIONS = 4, 16
RUNTIMES = ("onnxruntime", "openvino")

_SEARCH_SHARE, _CLOSED_SHARE = 0.25, 0.1
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
    """Seconds of the parts of a task; see `loadtests.allotment` for how they are divided further.

    Attributes:
        search: of all searches, when these are as long as they mostly are, with the closed loops before them.
        closed: of a closed loop; each subject has one before its search and one in each visit.
        visits: of all open loops of visits.
    """

    search: float
    closed: float
    visits: float


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
        shares: rates of a visit, of the knee; there are fewer where requests are few.
        cores: of the service.
        connections: of closed loops; 0 is as many as the task and the cores ask for.
        distinct: how many different texts.
        seed: of texts and arrivals.
        below: whether to measure what lies below HTTP, too.
        quick: with short loads.
        least_s: seconds of a load, on average over the rates, at the least.
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
    cores: int = 1
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
        """
        return replace(
            self,
            tasks=(task.name,),
            subjects=subjects,
            slo_ms=self.slo_ms or task.slo_ms,
            minutes=self.minutes / len(self.tasks),
            cores=cores,
            connections=self.connections or connections_of(task, cores),
        )

    @property
    def times(self) -> Times:
        """The minutes, divided; after each load some time goes by until the last answers are there."""
        each, subjects = 60.0 * self.minutes / len(self.tasks), len(self.subjects)
        closed = max(self.least_s, _CLOSED_SHARE * each / (subjects * (1 + self.rounds)) - BETWEEN_SECONDS)
        all_closed, least = subjects * (closed + BETWEEN_SECONDS), subjects * (self.least_s + BETWEEN_SECONDS)
        search = max(_SEARCH_SHARE * each, all_closed + SEARCH_STEPS * least)
        visits = max(each - search - self.rounds * all_closed, self.rounds * len(FEWEST_SHARES) * least)
        return Times(search, closed, visits)

    @property
    def seconds(self) -> float:
        """That all loads take: the minutes, or more where loads would be too short."""
        times = self.times
        closed = self.rounds * len(self.subjects) * (times.closed + BETWEEN_SECONDS)
        return len(self.tasks) * (times.search + closed + times.visits)


def connections_of(task: Task, cores: int) -> int:
    """Of a closed loop that keeps so many cores busy; a model that generates answers many requests together."""
    return GENERATING_CONNECTIONS if task.generates else max(LEAST_CONNECTIONS, 2 * cores)


def require_time(plan: Plan) -> None:
    """`LoadTestError` where loads of the least length take a quick run longer than it may."""
    if plan.quick and plan.subjects and plan.seconds > QUICK_OVER * 60.0 * plan.minutes:
        raise LoadTestError(
            f"--quick has no time for {len(plan.subjects)} variants: {plan.seconds / 60:.1f} min in the place of {plan.minutes:g}; "
            "name fewer by --variants, give more --minutes, or leave --quick out"
        )


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
