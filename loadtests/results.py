"""What a comparison found: the schema of `result.json`, which `loadtests.writing` writes.

A class is an object whose members are its attributes; a number that could not be had is null, and `void`, at the top, says why all of it
does not count.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from loadtests.errors import LoadTestError
from loadtests.gates import Ratio, Verdict
from loadtests.machine import Conditions
from loadtests.statistics import Interval, Real, Step

SCHEMA_VERSION = "1.1"
RESULT = "result.json"


@dataclass(frozen=True)
class Difference:
    """Of one score against another variant's, over the same examples, in points."""

    against: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """A score that the artifact says was measured of it, in percent, with its 95 % interval; not measured here."""

    name: str
    value: float
    low: float
    high: float
    examples: int
    dataset: str
    split: str
    difference: Difference | None = None


@dataclass(frozen=True)
class Artifact:
    """What the service says of a variant.

    Attributes:
        model, variant, runtime: who answers, and in what, with its version.
        precision: of the linear layers: fp32, int8, fp16.
        density: encoder weights left over those of the dense model.
        size_bytes: of its files.
        parameters: how many, embeddings included; None where the service does not say, as for what follows.
        macs: multiply-accumulates of one row of the longest of the texts; None for a model that generates.
        revision: of manifest and files.
        sha256: of each file.
    """

    model: str
    variant: str
    runtime: str
    precision: str
    density: float | None
    size_bytes: int
    parameters: int | None
    macs: float | None
    revision: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a service that holds this variant of this task's model alone: before any load, and the most after a visit."""

    loaded_bytes: int
    loaded_peak_bytes: int


@dataclass(frozen=True)
class Split:
    """Where the time of right answers went, in milliseconds each, mean; the parts add up to the mean latency.

    Attributes:
        lag: until it was sent, after it was due.
        queue, tokenize, infer: as the service's headers say.
        post: the rest of what the service took: reading, checking, making the answer.
        http: what was not in the service: connection, transport, both ends' queues.
    """

    lag: Real
    queue: Real
    tokenize: Real
    infer: Real
    post: Real
    http: Real


@dataclass(frozen=True)
class Point:
    """One rate of the rounds, all rounds together.

    Attributes:
        share: of the variant's knee; 1 is the knee itself.
        step: the figures.
        histogram: right answers in each bin of `TaskResult.edges_ms`, [edges - 1]; the first and the last take what lies beyond.
        split: where their time went; None where the service does not say.
    """

    share: float
    step: Step
    histogram: tuple[int, ...]
    split: Split | None


@dataclass(frozen=True)
class SubjectResult:
    """One variant in one task.

    Attributes:
        label: as it was asked for: `compact-int8`, `compact@openvino`.
        artifact: what it is.
        accuracy: the task's own score, on the artifact's first data set; None where nothing was measured.
        scores: all that was measured of it.
        capacity: requests per second of a closed loop.
        rate: the headline: requests per second that keep the objective, 0 for none.
        inside: whether that lies between rates that were visited; otherwise it may be beyond them.
        search: steps of the search for the knee.
        curve: rates of the rounds, ascending.
        memory: None where the service was not started here.
        queue_factor: measured p99 over that of a queue with the same arrivals and service times, where the rate is read off that queue (see
            `loadtests.replay`); None where it is read off straight lines between the rates of the curve.
    """

    label: str
    artifact: Artifact
    accuracy: Accuracy | None
    scores: tuple[Accuracy, ...]
    capacity: Interval
    rate: Interval
    inside: bool
    search: tuple[Step, ...]
    curve: tuple[Point, ...]
    memory: Memory | None
    queue_factor: float | None = None

    @property
    def requests(self) -> int:
        """Of all rounds together, at the rate of the curve that has fewest: p99 rests on so many."""
        return min(point.step.requests for point in self.curve)


@dataclass(frozen=True)
class Layer:
    """One layer of the service in one closed loop, as `secateur-serve bench` says, on all cores.

    Attributes:
        subject: label of the variant.
        layer: `raw` (the session alone), `engine` (with scheduler, tokenizer and answers), `http`, or `raw, 1 caller` and `http, 1 client`.
        requests_per_second: median of its visits.
        p50_ms, p99_ms: of its requests.
        cpu_ms_per_request: processor time of who answers.
        efficiency: over the raw session, within rounds; None for raw itself and where it is not compared.
        tokens: of each text; None where the benchmark did not say.
    """

    subject: str
    layer: str
    requests_per_second: float
    p50_ms: Real
    p99_ms: Real
    cpu_ms_per_request: float
    efficiency: Interval | None
    tokens: int | None = None


@dataclass(frozen=True)
class Session:
    """A raw session, one caller, one thread, one row of so many tokens.

    Attributes:
        subject: label of a variant; with `@torch`, the same weights in torch.
        tokens: of the row.
        latency_ms: median over rounds.
        speedup: over the first subject at this length, within rounds.
    """

    subject: str
    tokens: int
    latency_ms: Interval
    speedup: Interval


@dataclass(frozen=True)
class Factor:
    """A step of the way from a slower to a faster raw session; factors of one chain multiply to all of it.

    Attributes:
        name: what is changed: `ONNX Runtime`, `8 bits`, `pruning`, `second runtime`.
        before, after: labels of the subjects.
        tokens: of the row.
        ratio: latency before over latency after.
        chain: factors of one chain share it: the label at its end.
    """

    name: str
    before: str
    after: str
    tokens: int
    ratio: Interval
    chain: str


@dataclass(frozen=True)
class Gemm:
    """The fastest matrix product found on one core: 10^9 operations per second, a multiply-accumulate being two."""

    runtime: str
    precision: str
    giga_per_second: float


@dataclass(frozen=True)
class Roofline:
    """What a variant makes of that.

    Attributes:
        subject: label.
        precision: of the matrix products: that of the `Gemm` it is compared with.
        tokens: of the rows.
        giga_per_second: 2 x multiply-accumulates of a row over its time in the raw session, on one core.
        share: of the fastest matrix product.
    """

    subject: str
    precision: str
    tokens: int
    giga_per_second: float
    share: float


@dataclass(frozen=True)
class TaskResult:
    """One task.

    Attributes:
        task: its name.
        slo_ms: the objective for p99.
        lengths: distribution of the texts' tokens, as it was asked for; empty for a file.
        texts: where they come from.
        tokens: of each text, as the service counts them.
        edges_ms: ends of the histograms' bins, ascending, evenly spaced in the logarithm.
        subjects: what was compared.
        ratios: over the first subject.
        layers, sessions, factors, rooflines: what `secateur-serve bench` and `loadtests.probe` found; empty where they were not asked.
        conditions: of the rounds.
        conditions_search: of the search for the knees; None in results of before it was looked at.
        conditions_below: of what lies below HTTP; None where that was not measured.
        void: why it does not count; empty where it does.
        notes: what a reader should know.
    """

    task: str
    slo_ms: float
    lengths: str
    texts: str
    tokens: tuple[int, ...]
    edges_ms: tuple[float, ...]
    subjects: tuple[SubjectResult, ...]
    ratios: tuple[Ratio, ...]
    layers: tuple[Layer, ...]
    sessions: tuple[Session, ...]
    factors: tuple[Factor, ...]
    rooflines: tuple[Roofline, ...]
    conditions: Conditions
    void: tuple[str, ...]
    notes: tuple[str, ...]
    conditions_below: Conditions | None = None
    conditions_search: Conditions | None = None


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    Attributes:
        processor, system, python: names.
        cores: that this process may use.
        memory_bytes: of the machine.
        isa: instruction sets that matter to matrix products.
        load_before: processes that wanted to run in the minute before.
        packages: versions.
        gemms: matrix products on one core; empty where they were not measured.
    """

    processor: str
    system: str
    python: str
    cores: int
    memory_bytes: int
    isa: tuple[str, ...]
    load_before: float
    packages: dict[str, str]
    gemms: tuple[Gemm, ...] = ()


@dataclass(frozen=True)
class Result:
    """All of it.

    Attributes:
        began: in ISO 8601.
        seconds: how long it took.
        machine: where.
        cores: which were whose, in words.
        plan: what was asked for.
        tasks: one after another.
        verdicts: of the gates.
        notes: tasks that were left out, and why.
        stopped: why tasks are missing that were to be measured; empty where none is.
        schema_version: of this document; the major part changes when a field goes or changes its meaning.
    """

    began: str
    seconds: float
    machine: Machine
    cores: str
    plan: dict[str, Any]
    tasks: tuple[TaskResult, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    stopped: str = ""
    schema_version: str = SCHEMA_VERSION

    @property
    def void(self) -> tuple[str, ...]:
        """Why it does not count; empty where it does."""
        missing = (f"incomplete: {self.stopped}",) if self.stopped else ()
        return (*missing, *(f"{task.task}: {reason}" for task in self.tasks for reason in task.void))

    @property
    def failed(self) -> bool:
        """Whether a gate was missed."""
        return any(verdict.passed is False for verdict in self.verdicts)

    @property
    def is_open(self) -> bool:
        """Whether a gate that is declared here could not be measured."""
        return any(verdict.passed is None and verdict.declared for verdict in self.verdicts)


def read_result(folder: Path) -> Result:
    """What `write` wrote; `LoadTestError` where it is not there or is of another version."""
    path = folder / RESULT
    try:
        text = path.read_text(encoding="utf-8")
        found = str(json.loads(text).get("schema_version"))
        if found.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            raise LoadTestError(f"{path} is of version {found}; expected {SCHEMA_VERSION}: measure again")
        return TypeAdapter(Result).validate_json(text)
    except OSError as error:
        raise LoadTestError(f"{path} cannot be read ({error.strerror}); name a folder that `compare` made") from error
    except (ValueError, AttributeError) as error:
        raise LoadTestError(f"{path} is no result of `compare`: {' '.join(str(error).split())[:200]}") from error
