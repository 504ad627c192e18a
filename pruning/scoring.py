"""What a run's artifacts score on its validation and test data: each evaluated once, beside what any summarizer has to beat."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from transformers import AutoModel, PreTrainedModel

from pruning import checkpoint
from pruning.baselines import FIRST, MOST_SIMILAR, first_sentences, most_similar_sentences
from pruning.config import DataSource
from pruning.data_sources import source_name
from pruning.evaluation import Evaluation, evaluate, evaluation_of, rescored, rouge
from pruning.examples import SummaryExample
from pruning.report import metric_name
from pruning.run import Run, data_identity, model_identity
from pruning.stages import StageRecord
from service.model import AnyModel, load_model

HEADLINES = {"question-answering": "f1", "text-classification": "accuracy", "summarization": "rougeL"}
UNSEEN = "unseen summaries"
Evaluations = Mapping[tuple[str, str], Evaluation]


def score(current: Run, artifact: StageRecord) -> Evaluations:
    """Evaluations of an artifact on the run's validation sets, by dataset and split."""
    sources = current.config.data.validation

    def make(folder: Path) -> None:
        model = load_model(current.stages.path(artifact.name))
        found = [evaluation for source in sources for evaluation in evaluate_source(current, model, source)]
        for number, evaluation in enumerate(found):
            evaluation.save(folder / f"{number}.json")

    inputs = {
        "artifact": artifact.key,
        "data": data_identity(sources),
        "positive_label": current.config.evaluate.positive_label,
        **_trained_on(current),
    }
    scored = current.stages.get(f"scores/{artifact.name.removeprefix('artifacts/')}", inputs, make)
    paths = sorted(current.stages.path(scored.name).glob("*.json"), key=lambda path: int(path.stem))
    return {(evaluation.dataset, evaluation.split): evaluation for evaluation in map(Evaluation.load, paths)}


def evaluate_source(current: Run, model: AnyModel, source: DataSource) -> list[Evaluation]:
    """Accuracy of an artifact on one dataset; where training has had some of its summaries, also against the others alone."""
    examples, positive = current.examples([source]), current.config.evaluate.positive_label
    whole = evaluate(model, examples, dataset=source_name(source), split=source.split, positive_label=positive)
    unseen = current.unseen(examples)
    return [whole, rescored(whole, unseen, split=unseen_split(source))] if unseen else [whole]


def unseen_split(source: DataSource) -> str:
    """What the part of a split is called whose summaries training has not had."""
    return f"{source.split}, {UNSEEN}"


def unseen_notes(current: Run, split: Literal["validation", "test"] = "validation") -> tuple[str, ...]:
    """How much of each set of the split training has not had, a line for each set of which it has had some."""
    sources = current.config.data.validation if split == "validation" else current.config.data.test
    sets = [(source, examples, current.unseen(examples)) for source in sources for examples in [current.examples([source])]]
    return tuple(
        f"{source_name(source)}, {unseen_split(source)}: {sum(len(each.summaries) for each in unseen)} of the "
        f"{sum(len(each.summaries) for each in examples if isinstance(each, SummaryExample))} summaries, of {len(unseen)} of the "
        f"{len(examples)} documents; each of the others is also the summary of a training document."
        for source, examples, unseen in sets
        if unseen is not None
    )


def baseline_notes(current: Run, split: Literal["validation", "test"] = "validation") -> tuple[str, ...]:
    """What a summarizer has to beat on each set of the split, a line for each baseline; nothing for other tasks."""
    sources = current.config.data.validation if split == "validation" else current.config.data.test
    if current.config.task != "summarization" or not sources:
        return ()

    def make(folder: Path) -> dict[str, list[str]]:
        encoder = None if current.config.warm_start is None else checkpoint.load(current.config.model, auto_class=AutoModel)
        return {"lines": [line for source in sources for line in _baselines(current, source, encoder)]}

    inputs = {
        "data": data_identity(sources),
        "model": model_identity(current.config.model),
        "length": current.config.max_length,
        **_trained_on(current),
    }
    return tuple(current.stages.get(f"baselines/{split}", inputs, make).details["lines"])


def _trained_on(current: Run) -> dict[str, object]:
    """What scores of summaries depend on beside: the summaries that training has had."""
    return {"trained_on": data_identity(current.config.data.train)} if current.config.task == "summarization" else {}


def _baselines(current: Run, source: DataSource, encoder: PreTrainedModel | None) -> list[str]:
    examples = [each for each in current.examples([source]) if isinstance(each, SummaryExample)]
    documents = [each.document for each in examples]
    predictions = {FIRST: first_sentences(documents)}
    if encoder is not None:
        predictions[MOST_SIMILAR] = most_similar_sentences(documents, encoder, current.tokenizer, max_length=current.config.max_length)
    unseen = current.unseen(examples)
    lines = []
    for name, written in predictions.items():
        found = evaluation_of(written, rouge(written, examples), examples, dataset=source_name(source), split=source.split)
        evaluations = [found, rescored(found, unseen, split=unseen_split(source))] if unseen else [found]
        lines += [_baseline_line(name, evaluation) for evaluation in evaluations]
    return lines


def _baseline_line(name: str, found: Evaluation) -> str:
    values = ", ".join(f"{metric_name(metric.name)} {metric.value:.2f} ({metric.low:.2f} to {metric.high:.2f})" for metric in found.metrics)
    return f"Baseline on {found.dataset}, {found.split}, {name} of the document: {values}."
