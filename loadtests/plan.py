"""What a comparison measures, and how its time is divided."""

from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.arrivals import Spacing
from loadtests.errors import LoadTestError
from loadtests.lengths import Lengths

MINUTES_PER_TASK = 10.5
QUICK_MINUTES = 1.75
LEAST_ROUNDS = 5
SHARES = (0.7, 0.85, 1.0, 1.2, 1.45)
FEW_SHARES = (0.75, 1.0, 1.35)
LONG_MS = 1000.0
DISTINCT = 16
QUICK_DISTINCT = 6
BETWEEN_SECONDS = 0.5
RUNTIMES = ("onnxruntime", "openvino")

_KNEE_SHARE = 0.3
_KNEE_STEPS = 7.0
_CLOSED_SHARE = 0.15
_LEAST_SECONDS = 0.3


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
        subjects: what is compared; the first is what the others are compared with.
        lengths: of texts; None is each task's own.
        texts: a file in the place of own sentences.
        slo_ms: of p99; None is each task's own.
        failures: share of requests that may fail.
        spacing: of arrivals.
        minutes: that all of it should take.
        rounds: visits of each subject.
        shares: rates of a visit, of the knee.
        connections: of closed loops.
        distinct: how many different texts.
        seed: of texts and arrivals.
        below: whether to measure what lies below HTTP, too.
        quick: with few visits.
    """

    tasks: tuple[str, ...]
    subjects: tuple[Subject, ...]
    lengths: Lengths | None = None
    texts: Path | None = None
    slo_ms: float | None = None
    failures: float = 0.001
    spacing: Spacing = "poisson"
    minutes: float = MINUTES_PER_TASK
    rounds: int = LEAST_ROUNDS
    shares: tuple[float, ...] = SHARES
    connections: int = 4
    distinct: int = DISTINCT
    seed: int = 0
    below: bool = True
    quick: bool = False

    def within(self, slo_ms: float) -> "Plan":
        """For an objective of so many milliseconds: fewer rates where it is long, so that a load at each is long beside it."""
        return replace(self, slo_ms=slo_ms, shares=self.shares if slo_ms < LONG_MS else FEW_SHARES)

    @property
    def times(self) -> Times:
        """The minutes, divided among tasks and subjects; after each load some time goes by until the last answers are there."""
        each = 60.0 * self.minutes / (len(self.tasks) * len(self.subjects))
        visit = (1 - _KNEE_SHARE) * each / self.rounds
        step = max(_LEAST_SECONDS, (1 - _CLOSED_SHARE) * visit / len(self.shares) - BETWEEN_SECONDS)
        return Times(
            knee=max(_LEAST_SECONDS, _KNEE_SHARE * each / _KNEE_STEPS - BETWEEN_SECONDS),
            closed=max(_LEAST_SECONDS, _CLOSED_SHARE * visit - BETWEEN_SECONDS),
            step=step,
            warm=min(0.5, 0.1 * step),
        )


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
