"""How fast a run's artifacts are: all timed once, in one interleaved run, under the conditions that its targets state."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pruning.config import GenerationTarget, RunConfig, chosen
from pruning.errors import ConfigError
from pruning.report import length_of
from pruning.run import Run
from pruning.serving_latency import Decoding, measure_latency, own_decoding
from pruning.stages import StageRecord
from pruning.stages.artifacts import short_name
from service.artifact import Latency, read_manifest
from service.runtime.onnx import machine


def time_artifacts(current: Run, artifacts: Sequence[StageRecord]) -> dict[str, tuple[Latency, ...]]:
    """Latency of all artifacts of the run, measured in one interleaved run; by stage name."""
    config = current.config
    asked = {each for target in config.targets if (each := length_of(target)) is not None}
    lengths = sorted({*config.evaluate.sequence_lengths, *asked})
    decoding = decoding_of(current)

    def make(folder: Path) -> Mapping[str, Any]:
        folders = {short_name(record.name): current.stages.path(record.name) for record in artifacts}
        found = measure_latency(
            folders,
            sequence_lengths=lengths,
            callers=config.evaluate.callers,
            seconds=config.evaluate.seconds,
            decoding=decoding,
            progress=True,
        )
        return {name: [latency.model_dump(mode="json") for latency in latencies] for name, latencies in found.items()}

    inputs = {
        "artifacts": [record.key for record in artifacts],
        "evaluate": chosen(config.evaluate),
        "machine": machine().model_dump(),
        **({} if decoding is None else {"decoding": asdict(decoding)}),
    }
    timed = current.stages.get("latency", inputs, make)
    return {record.name: tuple(Latency.model_validate(each) for each in timed.details[short_name(record.name)]) for record in artifacts}


def decoding_of(current: Run) -> Decoding | None:
    """What is generated while the run's latencies are measured: what its targets say, else what the dense model does; None for encoders."""
    return asked_decoding(current.config) or own_decoding(read_manifest(current.stages.path("artifacts/dense/dense")))


def asked_decoding(config: RunConfig) -> Decoding | None:
    """What the recipe's targets expect to be generated; None where they do not say.

    Raises:
        ConfigError: they differ; a run measures what it has made under one condition.
    """
    targets = [target for target in config.targets if isinstance(target, GenerationTarget)]
    found = {Decoding(target.target_length, target.beams, target.requests) for target in targets}
    if len(found) > 1:
        raise ConfigError("targets of one run differ in `target_length`, `beams` or `requests`; give all the same, or make two runs")
    return next(iter(found), None)


def speed_notes(current: Run) -> tuple[str, ...]:
    """What was timed, of a model that generates."""
    decoding = decoding_of(current)
    if decoding is None:
        return ()
    several = "" if decoding.requests == 1 else f", {decoding.requests} requests together"
    return (
        f"Latencies are of generation through the engine that serves, from the source, whose tokens are stated, to the last of "
        f"{decoding.target_length} tokens {decoding.how}{several}.",
    )
