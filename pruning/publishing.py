"""From a finished run to what ships: the chosen target's artifacts, evaluated once on the test data, with a model card.

Nothing is chosen here: the target was chosen on validation data, and the test data is read once, for the numbers that are published.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pruning.config import RunConfig
from pruning.data_sources import source_name
from pruning.errors import ConfigError
from pruning.evaluation import Evaluation
from pruning.examples import SummaryExample
from pruning.export import update_manifest
from pruning.report import templates
from pruning.results import size_bytes
from pruning.run import Run
from pruning.run_latency import speed_notes
from pruning.scoring import baseline_notes, evaluate_source, unseen_notes
from pruning.serving_latency import own_decoding
from pruning.storage import write_text_atomic, written
from service.artifact import Manifest, Metric, read_manifest
from service.model import load_model
from service.tasks.summarize import SummarizeRequest, SummarizeResponse

CARD_NAME = "README.md"
SAMPLES = 10
SHOWN_CHARACTERS = 300


def publish(current: Run, target: str, output: Path) -> Path:
    """Write `output/{dense,compact,compact-int8}` and `output/README.md`; returns the card's path.

    Args:
        current: A finished run.
        target: Label of the target, as its folder under `artifacts/` is called.
        output: Folder of the model; variants that are there already are replaced.

    Raises:
        ConfigError: the run has no such target.
    """
    folders = _variants(current, target)
    evaluations: dict[str, list[Evaluation]] = {}
    for variant, folder in folders.items():
        model = load_model(folder)
        evaluations[variant] = [found for source in current.config.data.test for found in evaluate_source(current, model, source)]
    for variant, folder in folders.items():
        with written(output / variant) as partial:
            shutil.copytree(folder, partial, dirs_exist_ok=True)
            metrics = _tested(current, evaluations, variant)
            update_manifest(partial, metrics=[*read_manifest(partial).metrics, *metrics])
    manifests = {variant: read_manifest(output / variant) for variant in folders}
    notes = (
        *current.config.notes,
        *unseen_notes(current),
        *unseen_notes(current, "test"),
        *baseline_notes(current),
        *baseline_notes(current, "test"),
        *speed_notes(current),
    )
    card = model_card(manifests, current.config, notes=notes, samples=written_samples(current, folders["compact-int8"]))
    write_text_atomic(output / CARD_NAME, card)
    return output / CARD_NAME


def model_card(
    manifests: Mapping[str, Manifest], config: RunConfig, *, notes: Sequence[str] = (), samples: Sequence[tuple[str, str]] = ()
) -> str:
    """The model card, in markdown: what it is, what it scored and how fast it is, what it has seen, how it was made, its limits.

    Args:
        manifests: By variant.
        config: The recipe: what was trained, validated and reported on.
        notes: What the scores have to be compared with.
        samples: Documents of the validation data with what the model wrote.
    """
    dense = manifests["dense"]
    return (
        templates(autoescape=False)
        .get_template("card.md.j2")
        .render(
            manifests=manifests,
            dense=dense,
            training_data=max((manifest.training_data for manifest in manifests.values()), key=len),
            generation=dense.generation,
            decoding=own_decoding(dense),
            sizes={variant: size_bytes(manifest) for variant, manifest in manifests.items()},
            test=[source_name(source) for source in config.data.test],
            model=config.model,
            keeps_embeddings=config.keeps_embeddings,
            wrong_paragraphs=any(source.wrong_paragraphs for source in config.data.validation),
            notes=notes,
            samples=samples,
        )
    )


def written_samples(current: Run, artifact: Path) -> list[tuple[str, str]]:
    """How the first documents of each validation set begin, `SAMPLES` of them in all, and their summaries; nothing for other tasks."""
    sources = current.config.data.validation
    if current.config.task != "summarization" or not sources:
        return []
    each = math.ceil(SAMPLES / len(sources))
    found = [example for source in sources for example in current.examples([source])[:each]]
    documents = [example.document for example in found if isinstance(example, SummaryExample)][:SAMPLES]
    responses = load_model(artifact).predict([SummarizeRequest(text=document) for document in documents])
    summaries = [response.summary for response in responses if isinstance(response, SummarizeResponse)]
    return [(" ".join(document[:SHOWN_CHARACTERS].split()), summary) for document, summary in zip(documents, summaries, strict=True)]


def _variants(current: Run, target: str) -> dict[str, Path]:
    folders = {
        "dense": current.stages.path("artifacts/dense/dense"),
        "compact": current.stages.path(f"artifacts/{target}/compact"),
        "compact-int8": current.stages.path(f"artifacts/{target}/compact-int8"),
    }
    missing = next((folder for folder in folders.values() if not folder.is_dir()), None)
    if missing is not None:
        targets = sorted(path.name for path in current.stages.path("artifacts").glob("*") if path.name != "dense")
        raise ConfigError(f"{missing}: no such artifact; finished targets of this run: {', '.join(targets) or 'none'}")
    return folders


def _tested(current: Run, evaluations: Mapping[str, Sequence[Evaluation]], variant: str) -> list[Metric]:
    """Metrics on the test data, with paired differences from the dense artifact."""
    if variant == "dense":
        return [metric for evaluation in evaluations[variant] for metric in evaluation.metrics]
    against = f"{current.config.name}/dense"
    pairs = zip(evaluations[variant], evaluations["dense"], strict=True)
    return [metric for evaluation, reference in pairs for metric in evaluation.compared_with(reference, against=against)]
