"""Gates: what a comparison has to show, declared as how many times the rate of the baseline, and whether it did."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtests.errors import LoadTestError
from loadtests.statistics import Interval

Bound = Literal["", "at least", "at most", "about"]


@dataclass(frozen=True)
class Ratio:
    """Of what is compared: `subject` over `baseline`, in one task; `of` says of what.

    `bound` is empty where both rates lie between rates that were visited; otherwise the ratio is at least or at most so much, or about so.
    """

    task: str
    subject: str
    baseline: str
    of: str
    interval: Interval
    bound: Bound = ""


@dataclass(frozen=True)
class Gate:
    """The rate that keeps the objective is at least so many times the baseline's.

    Attributes:
        task: in which.
        subject, baseline: labels of what is compared.
        least: the ratio.
        lengths: of texts, for which it is declared; empty for any.
        processors: instruction sets of which one is needed for it to be declared; empty for any.
    """

    task: str
    subject: str
    baseline: str
    least: float
    lengths: str = ""
    processors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.task}: {self.subject} at least {self.least:g}x the rate of {self.baseline}"


@dataclass(frozen=True)
class Verdict:
    """Whether a gate was passed.

    Attributes:
        gate: in words.
        passed: None where that is open: no rate of one of both, or a `bound` that leaves it open; and where it is not declared.
        interval: of the ratio; None where there is none.
        bound: of the ratio.
        declared: whether the gate is of this processor and these lengths.
    """

    gate: str
    passed: bool | None
    interval: Interval | None
    bound: Bound = ""
    declared: bool = True

    @property
    def line(self) -> str:
        """In one line."""
        word = {True: "pass", False: "FAIL", None: "not measured" if self.declared else "not declared here"}[self.passed]
        return f"{word}  {self.gate}" if self.interval is None else f"{word}  {self.gate}: {self.measured(self.interval)}"

    def measured(self, interval: Interval) -> str:
        """The ratio and its interval, and whether a rate at the end of what was visited bounds it."""
        value = f"{interval.value:.2f}x ({interval.low:.2f} to {interval.high:.2f})"
        return f"{self.bound} {value}, as a rate lies at the end of what was visited" if self.bound else value


RATE, CAPACITY = "rate within the objective", "capacity"
GATES = (
    Gate("qa", "compact-int8", "dense", 3.5, "384"),
    Gate("qa", "compact@openvino", "dense", 5.0, "384", ("amx_int8", "avx512_vnni", "avx_vnni")),
    Gate("classify", "compact-int8", "dense", 4.0, "32"),
)


SHIPPED_FOLDER = "models"
SHIPPED = {"qa": "qa", "classify": "sentiment", "summarize": "summarize"}


def shipped_gates(folder: Path | None, models: Mapping[str, str], labels: Sequence[str]) -> tuple[Gate, ...]:
    """The project's gates for what it ships, and none for anybody else's models.

    Args:
        folder: of the models; None where a service runs already.
        models: names of those that are measured, by task.
        labels: of what is asked for, the first being what others are compared with.
    """
    if folder is None or folder.name != SHIPPED_FOLDER:
        return ()
    return tuple(gate for gate in GATES if models.get(gate.task) == SHIPPED[gate.task] and _is_planned(gate, labels))


def require_planned(gates: Sequence[Gate], labels: Mapping[str, Sequence[str]]) -> None:
    """`LoadTestError` where a gate is of what is not compared.

    Args:
        gates: what is asked for.
        labels: of what is compared, by task, the first being what others are compared with; empty where that is not known yet.
    """
    for gate in gates:
        if labels and not _is_planned(gate, labels.get(gate.task, ())):
            compared = "; ".join(f"{task}: {', '.join(found[1:])} over {found[0]}" for task, found in labels.items())
            raise LoadTestError(f"--gate {gate.task}:{gate.subject}/{gate.baseline} is not of what is compared ({compared})")


def verdicts(gates: Sequence[Gate], ratios: Sequence[Ratio], lengths: Mapping[str, str], isa: Sequence[str]) -> tuple[Verdict, ...]:
    """One for each gate; the value decides, and the interval is shown beside it.

    Args:
        gates: what is asked for.
        ratios: what was measured.
        lengths: of the texts, by task.
        isa: instruction sets of the machine.
    """
    return tuple(_verdict(gate, ratios, lengths, isa) for gate in gates)


def parse_gate(text: str) -> Gate:
    """`qa:compact-int8/dense>=3.5`."""
    found = re.fullmatch(r"(\w+):([^/]+)/([^>]+)>=(\d+\.?\d*)", text.replace(" ", ""))
    if not found:
        raise LoadTestError(f"--gate {text!r}: expected task, variants and ratio, like qa:compact-int8/dense>=3.5")
    return Gate(found[1], found[2], found[3], float(found[4]))


def _is_planned(gate: Gate, labels: Sequence[str]) -> bool:
    return gate.baseline in labels[:1] and gate.subject in labels[1:]


def _verdict(gate: Gate, ratios: Sequence[Ratio], lengths: Mapping[str, str], isa: Sequence[str]) -> Verdict:
    of_length = gate.lengths in ("", lengths.get(gate.task))
    declared = of_length and (not gate.processors or not set(gate.processors).isdisjoint(isa))
    wanted = (gate.task, gate.subject, gate.baseline, RATE)
    found = next((each for each in ratios if of_length and (each.task, each.subject, each.baseline, each.of) == wanted), None)
    machine = f" (declared for {' or '.join(gate.processors)}; this machine has {', '.join(isa) or 'none of those known'})"
    text = f"{gate}{f' (declared for {gate.lengths} tokens)' if gate.lengths else ''}{machine if gate.processors else ''}"
    if found is None:
        return Verdict(text, None, None, declared=declared)
    passed = found.interval.value >= gate.least
    is_open = found.bound in ("about", "at most" if passed else "at least")
    return Verdict(text, passed if declared and not is_open else None, found.interval, found.bound, declared)
