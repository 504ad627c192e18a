"""What a comparison has to show, declared: how many times the rate of the baseline, and whether it did."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.errors import LoadTestError
from loadtests.statistics import Interval


@dataclass(frozen=True)
class Ratio:
    """Of what is compared: `subject` over `baseline`, in one task; `of` says of what."""

    task: str
    subject: str
    baseline: str
    of: str
    interval: Interval


@dataclass(frozen=True)
class Gate:
    """One promise: the rate that keeps the objective is at least so many times the baseline's.

    Attributes:
        task: in which it is made.
        subject, baseline: labels of what is compared.
        least: the ratio.
        lengths: of texts, for which it is made; empty for any.
    """

    task: str
    subject: str
    baseline: str
    least: float
    lengths: str = ""

    def __str__(self) -> str:
        return f"{self.task}: {self.subject} at least {self.least:g}x the rate of {self.baseline}"


@dataclass(frozen=True)
class Verdict:
    """Whether a promise was kept; `passed` is None where it was not measured, or where the baseline has no rate."""

    gate: str
    passed: bool | None
    interval: Interval | None

    @property
    def line(self) -> str:
        """In one line."""
        word = {True: "pass", False: "FAIL", None: "not measured"}[self.passed]
        value = "" if self.interval is None else f": {self.interval.value:.2f}x ({self.interval.low:.2f} to {self.interval.high:.2f})"
        return f"{word}  {self.gate}{value}"


RATE, CAPACITY = "rate within the objective", "capacity"
GATES = (
    Gate("qa", "compact-int8", "dense", 3.5, "384"),
    Gate("qa", "compact@openvino", "dense", 5.0, "384"),
    Gate("classify", "compact-int8", "dense", 4.0, "32"),
)


def verdicts(gates: Sequence[Gate], ratios: Sequence[Ratio], lengths: dict[str, str]) -> tuple[Verdict, ...]:
    """One for each promise; the value decides, and the interval is shown beside it.

    Args:
        gates: the promises.
        ratios: what was measured.
        lengths: of the texts, by task.
    """
    return tuple(_verdict(gate, ratios, lengths) for gate in gates)


def parse_gate(text: str) -> Gate:
    """`qa:compact-int8/dense>=3.5`."""
    found = re.fullmatch(r"(\w+):([^/]+)/([^>]+)>=(\d+\.?\d*)", text.replace(" ", ""))
    if not found:
        raise LoadTestError(f"--gate {text!r}: expected task, variants and ratio, like qa:compact-int8/dense>=3.5")
    return Gate(found[1], found[2], found[3], float(found[4]))


def _verdict(gate: Gate, ratios: Sequence[Ratio], lengths: dict[str, str]) -> Verdict:
    applies = gate.lengths in ("", lengths.get(gate.task))
    wanted = (gate.task, gate.subject, gate.baseline, RATE)
    found = next((each for each in ratios if applies and (each.task, each.subject, each.baseline, each.of) == wanted), None)
    return Verdict(str(gate), None if found is None else found.interval.value >= gate.least, None if found is None else found.interval)
