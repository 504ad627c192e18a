"""Structural speed-ups of a study's shapes, end to end, on models with random weights: for a machine that does nothing else."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from tqdm import tqdm
from transformers import AutoModel, PreTrainedModel

from pruning import checkpoint
from pruning.bench import StructuralBench
from pruning.config import GenerationTarget, RunConfig, SpeedupTarget
from pruning.generation_bench import GenerationBench
from pruning.latency import Condition
from pruning.ledger import Entry, Ledger, Measured
from pruning.shrinking import shrunk
from pruning.study import Study, pruning_of
from pruning.targets import condition_of
from pruning.tasks import task_named
from pruning.timing import Ratio
from pruning.warm_start import encoder_decoder
from service.artifact import GENERATING_TASKS, Precision


def measure(path: Path, study: Study) -> Ledger:
    """The structural speed-up of every run's shapes, end to end, where the ledger does not have it yet: for a quiet machine.

    Each is written when it is known, so that an interruption loses one at most, and what other processes write meanwhile stays.
    """
    time = _generation_times(study) if study.config_of(study.runs[0]).task in GENERATING_TASKS else _row_times(study)
    for entry in tqdm(Ledger.load(path).entries, desc="speed", unit="run"):
        if entry.measured is None:
            Ledger.add_measured(path, entry.model_copy(update={"measured": time(entry)}))
    return Ledger.load(path)


def _row_times(study: Study) -> Callable[[Entry], Measured]:
    """Measures a row of tokens, as the study's first target of that kind says."""
    first = study.config_of(study.runs[0])
    targets = [target for run in study.runs for target in study.config_of(run).targets if isinstance(target, SpeedupTarget)]
    target = next(iter(targets), SpeedupTarget(speedup=2.0, sequence_length=first.evaluate.sequence_lengths[0]))
    condition = Condition(precision=target.precision, sequence_length=target.sequence_length, runtime=target.runtime)
    bench = StructuralBench(_pretrained(first), first.task, condition)
    return lambda entry: _measured(bench.speedup(entry.layers), target.precision, target.sequence_length)


def _generation_times(study: Study) -> Callable[[Entry], Measured]:
    """The same of generation; each run's model has the layers and the tokens to choose from that its recipe says."""
    configs = {run.name: study.config_of(run) for run in study.runs}
    first = next(iter(configs.values()))
    targets = [target for config in configs.values() for target in config.targets if isinstance(target, GenerationTarget)]
    default = GenerationTarget(speedup=2.0, source_length=first.evaluate.sequence_lengths[0], target_length=first.target_length)
    target = next(iter(targets), default)
    condition, model = condition_of(target), _pretrained(first)

    @cache
    def bench(encoder_layers: int | None, decoder_layers: int | None, outputs: int | None) -> GenerationBench:
        return GenerationBench(shrunk(model, encoder_layers=encoder_layers, decoder_layers=decoder_layers), condition, outputs=outputs)

    def time(entry: Entry) -> Measured:
        config = configs.get(entry.name, first)
        is_pruned = bool(pruning_of(config))
        shrink = config.shrink if is_pruned else None
        layers = (None, None) if shrink is None else (shrink.encoder_layers, shrink.decoder_layers)
        outputs = config.vocabulary.keep if config.vocabulary is not None and is_pruned else None
        return _measured(bench(*layers, outputs).speedup(entry.layers), target.precision, target.source_length, target.target_length)

    return time


def _measured(ratio: Ratio, precision: Precision, tokens: int, target_length: int = 0) -> Measured:
    return Measured(value=ratio.value, low=ratio.low, high=ratio.high, precision=precision, tokens=tokens, target_length=target_length)


def _pretrained(config: RunConfig) -> PreTrainedModel:
    """The model that a recipe starts from, whose weights are not looked at."""
    if config.warm_start is None:
        return checkpoint.load(config.model, auto_class=task_named(config.task).auto_class, new_head=True)
    encoder, tokenizer = checkpoint.load(config.model, auto_class=AutoModel), checkpoint.load_tokenizer(config.model)
    return encoder_decoder(encoder, tokenizer, decoder_layers=config.warm_start.decoder_layers)
