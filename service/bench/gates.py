"""What the service promises to cost, as a table, and whether a run kept it. The median over rounds decides; the interval is shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.bench.compare import ADDED_CPU, ADDED_P50, BEST_TUNED, EFFICIENCY, OVER, Comparison, Row
from service.bench.layers import HTTP, HTTP_ONE
from service.bench.statistics import Interval
from service.bench.texts import Load


@dataclass(frozen=True)
class Gate:
    """One promise.

    Attributes:
        name: in words.
        comparison: what is bounded.
        applies: to which loads.
        low, high: the bounds; None is no bound.
    """

    name: str
    comparison: str
    applies: Callable[[Load], bool]
    low: float | None = None
    high: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Verdict:
    """A promise, for one variant under one load; `passed` is None where it was not measured."""

    gate: str
    load: str
    variant: str
    interval: Interval | None
    passed: bool | None

    @property
    def line(self) -> str:
        """In one line."""
        word = {True: "pass", False: "FAIL", None: "not measured"}[self.passed]
        where = ", ".join(part for part in (self.load, self.variant) if part)
        value = "" if self.interval is None else f": {self.interval.value:.3f} ({self.interval.low:.3f} to {self.interval.high:.3f})"
        return f"{word}  {self.gate}{f' [{where}]' if where else ''}{value}"


def _long(load: Load) -> bool:
    return load.task == "question-answering"


def _short(load: Load) -> bool:
    return load.task == "text-classification" and load.texts_per_request == 1


def _many(load: Load) -> bool:
    return load.task == "text-classification" and load.texts_per_request > 1


GATES = (
    Gate("at least 0.93 of the raw session at 384 tokens", EFFICIENCY, _long, low=0.93),
    Gate("at most 0.4 ms of server CPU above the raw session at 32 tokens", ADDED_CPU, _short, high=0.4),
    Gate("at least 0.85 of the raw session with 8 texts of 32 tokens", EFFICIENCY, _many, low=0.85),
    Gate("at most 1 ms of p50 added for one client", ADDED_P50, lambda load: not _many(load), high=1.0),
    Gate("at least 1.3x the best tuned peer at 32 tokens", OVER + BEST_TUNED, _short, low=1.3),
    Gate("at least 1.0x the best tuned peer at 384 tokens", OVER + BEST_TUNED, _long, low=1.0),
)
ANSWERS = "every answer is 200 and as expected"


def verdicts(loads: Sequence[Load], comparisons: Sequence[Comparison], gates: Sequence[Gate] = GATES) -> list[Verdict]:
    """One for each promise and all that it applies to."""
    found = []
    for gate in gates:
        names = {load.name for load in loads if gate.applies(load)}
        measured = [each for each in comparisons if each.name == gate.comparison and each.load in names]
        found += [Verdict(gate.name, each.load, each.variant, each.interval, gate.holds(each.interval.value)) for each in measured]
        if not measured:
            found.append(Verdict(gate.name, "", "", None, None))
    return found


def answer_verdict(rows: Sequence[Row]) -> Verdict:
    """Whether the service's answers were right; speed without them is void."""
    ours = [row for row in rows if row.layer in (HTTP, HTTP_ONE)]
    wrong = [row for row in ours if row.failed or row.unexpected]
    return Verdict(ANSWERS, wrong[0].load if wrong else "", wrong[0].variant if wrong else "", None, not wrong if ours else None)
