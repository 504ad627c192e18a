"""Made-up results of a comparison, with figures that follow from each variant's speed."""

from dataclasses import replace

import numpy as np

from loadtests.gates import CAPACITY, RATE, Ratio, Verdict
from loadtests.machine import Conditions
from loadtests.results import (
    Accuracy,
    Artifact,
    Difference,
    Factor,
    Gemm,
    Layer,
    Machine,
    Memory,
    Point,
    Result,
    Roofline,
    Session,
    Split,
    SubjectResult,
    TaskResult,
)
from loadtests.statistics import Interval, Step

SPEEDS = {"dense": 1.0, "dense-int8": 1.91, "compact-int8": 3.72, "compact@openvino": 5.13}
ALONE = {"dense@torch": 0.71, "compact": 1.46}
SHARES = (0.7, 0.85, 1.0, 1.2, 1.45)
EDGES_MS = tuple(float(edge) for edge in np.geomspace(1.0, 10_000.0, 41))


def interval_of(value: float) -> Interval:
    """With ends a few percent away."""
    return Interval(value, 0.96 * value, 1.05 * value)


def result_of(*tasks: TaskResult, verdicts: tuple[Verdict, ...] = ()) -> Result:
    """A whole result; without tasks, of `task_of()`."""
    machine = Machine(
        processor="Some Processor 9000",
        system="Linux-6.1-x86_64",
        python="3.11.7",
        cores=4,
        memory_bytes=16_000_000_000,
        isa=("avx2", "avx512_vnni"),
        load_before=0.12,
        packages={"secateur": "0.1.0", "onnxruntime": "1.31.1", "openvino": "2026.4.1"},
        gemms=(Gemm("onnxruntime", "fp32", 61.3), Gemm("onnxruntime", "int8", 148.0)),
    )
    plan = {"tasks": ["qa"], "spacing": "poisson", "rounds": 5, "subjects": [{"label": label} for label in SPEEDS], "slo_ms": None}
    return Result(
        began="2026-05-04T10:20:30+00:00",
        seconds=754.0,
        machine=machine,
        cores="core 0 to 2 for the service, core 3 for the generator, for every variant",
        plan=plan,
        tasks=tasks or (task_of(),),
        verdicts=verdicts,
    )


def task_of(*subjects: SubjectResult, name: str = "qa", void: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> TaskResult:
    """A task with all that can be known of it; without subjects, of four."""
    found = subjects or tuple(subject_of(label) for label in SPEEDS)
    labels = [subject.label for subject in found]
    return TaskResult(
        task=name,
        slo_ms=200.0,
        lengths="384",
        texts="own sentences",
        tokens=(384, 384),
        edges_ms=EDGES_MS,
        subjects=found,
        ratios=tuple(
            Ratio(name, label, labels[0], of, interval_of(SPEEDS[label] * scale))
            for of, scale in ((RATE, 1.0), (CAPACITY, 0.97))
            for label in labels[1:]
        ),
        layers=tuple(layer_of(label, name, share) for label in labels for name, share in (("raw", 1.0), ("engine", 0.96), ("http", 0.93))),
        sessions=tuple(session_of(label, tokens) for label in (*labels, *ALONE) for tokens in (32, 128, 384)),
        factors=factors_of("compact-int8", ("8 bits", "dense-int8", 1.91), ("pruning", "compact-int8", 1.95)),
        rooflines=tuple(roofline_of(label, tokens) for label in labels for tokens in (128, 384)),
        conditions=Conditions(0.83, 0.0123, 0.004, 0.31),
        void=void,
        notes=notes,
    )


def subject_of(label: str) -> SubjectResult:
    """A variant of the speed of that label, with a curve that rises to four times the objective."""
    speed = SPEEDS[label]
    points = tuple(point_of(share, 7.41 * speed * share) for share in SHARES)
    artifact = Artifact(
        model="qa",
        variant=label.partition("@")[0],
        runtime="openvino 2026.4.1" if "@" in label else "onnxruntime 1.31.1",
        precision="int8" if "int8" in label else "fp32",
        density=0.63,
        size_bytes=int(90_300_000 / speed),
        parameters=22_566_146,
        macs=4.76e9,
        revision="a1b2c3d4",
        sha256={"model.onnx": "0f" * 32},
    )
    return SubjectResult(
        label=label,
        artifact=artifact,
        accuracy=accuracy_of(74.6 - 0.3 * speed),
        scores=(accuracy_of(74.6 - 0.3 * speed),),
        capacity=interval_of(9.37 * speed),
        rate=interval_of(7.41 * speed),
        inside=True,
        search=(point_of(0.6, 4.4 * speed).step,),
        curve=points,
        memory=Memory(int(310e6 / speed), int(350e6 / speed)),
    )


def accuracy_of(value: float) -> Accuracy:
    """F1, with a difference against dense."""
    difference = Difference("qa/dense", value - 74.6, value - 75.4, value - 73.9)
    return Accuracy("f1", value, value - 0.7, value + 0.7, 10_570, "SQuAD v1.1", "validation", difference)


def point_of(share: float, rate: float) -> Point:
    """One rate: p99 is 200 ms at the knee and grows with the fifth power of the rate."""
    p99 = 200.0 * share**5
    latencies = np.random.default_rng(round(1000 * rate)).lognormal(np.log(p99 / 2.5), 0.6 / rate**0.3, 400)
    histogram = np.histogram(latencies, EDGES_MS)[0]
    step = Step(rate, 400, 0.0025, p99 / 2.5, p99 / 1.5, p99, 1.3 * p99)
    return Point(share, step, tuple(map(int, histogram)), Split(0.3, p99 / 4, 1.2, p99 / 8, 0.7, 1.1))


def layer_of(label: str, name: str, share: float) -> Layer:
    """One layer, which loses a share of the raw session."""
    efficiency = None if name == "raw" else Interval(share, share - 0.02, share + 0.01)
    return Layer(label, name, 10.0 * SPEEDS[label] * share, 53.6, 70.0, 54.5, efficiency, 384)


def session_of(label: str, tokens: int) -> Session:
    """A raw session, faster for short rows."""
    speedup = {**SPEEDS, **ALONE}[label] * (1.0 + 3.0 / tokens) if label != "dense" else 1.0
    return Session(label, tokens, interval_of(0.25 * tokens / speedup), interval_of(speedup))


def roofline_of(label: str, tokens: int) -> Roofline:
    """What a variant makes of the fastest matrix product."""
    return Roofline(label, "int8" if "int8" in label else "fp32", tokens, 40.0, 0.5 + 0.04 * SPEEDS[label])


def factors_of(chain: str, *steps: tuple[str, str, float]) -> tuple[Factor, ...]:
    """A chain of gains from dense."""
    befores = ("dense", *(after for _, after, _ in steps))
    return tuple(
        Factor(name, before, after, 384, interval_of(value), chain) for before, (name, after, value) in zip(befores, steps, strict=False)
    )


def bare(task: TaskResult, *, curves: bool = False) -> TaskResult:
    """The same task with little more than rates, as an unknown service gives it; without curves there is next to nothing to draw."""
    subjects = tuple(
        replace(
            subject,
            accuracy=None,
            scores=(),
            memory=None,
            curve=tuple(replace(point, split=None) for point in subject.curve if curves),
            artifact=replace(subject.artifact, parameters=None, macs=None, density=None, sha256={}),
        )
        for subject in task.subjects
    )
    return replace(task, subjects=subjects, layers=(), sessions=(), factors=(), rooflines=())
