"""What is served, what is left out, and which variant answers."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.artifact import read_manifest, write_manifest
from service.errors import ArtifactError, GoldenError, NotFoundError, SettingsError
from service.registry import Registry, drawn
from service.settings import Settings
from tests.service import builders
from tests.service.summarizing import write_summarizer

QA, CLASSIFY = "question-answering", "text-classification"


def put(models: Path, name: str, variant: str, *, task: str = QA, precision: str = "fp32", golden: bool = True, seed: int = 0) -> Path:
    """A tiny artifact in a models folder; without `golden`, one whose outputs are not those that it says."""
    tokenizer = builders.bert_tokenizer()
    vocabulary = tokenizer.get_vocab_size()
    model = builders.qa_model(vocabulary, seed=seed) if task == QA else builders.classify_model(vocabulary, labels=3, seed=seed)
    folder = builders.write_artifact(
        models / name / variant, task, model, tokenizer, name=name, variant=variant, precision=precision, handles_no_answer=True
    )
    if not golden:
        manifest = read_manifest(folder)
        outputs = {name: [[value + 1 for value in row] for row in rows] for name, rows in manifest.golden.outputs.items()}
        write_manifest(manifest.model_copy(update={"golden": manifest.golden.model_copy(update={"outputs": outputs})}), folder)
    return folder


def loaded(models: Path, **settings: object) -> Registry:
    """A registry of that folder."""
    return Registry.load(Settings(models=models, **settings))


def test_the_preferred_variant_answers(tmp_path):
    """Without a word from the request the first of the preferred variants that is there answers; by name, any."""
    for variant in ("dense", "compact"):
        put(tmp_path, "qa", variant)
    registry = loaded(tmp_path)
    assert registry.choose(QA).key == "qa/compact"
    assert registry.choose(QA, variant="dense").key == "qa/dense"
    assert loaded(tmp_path, prefer=("dense",)).choose(QA).key == "qa/dense"


@pytest.mark.parametrize("asked", [{"runtime": {"*": "openvino"}}, {"device": "cuda"}])
def test_model_that_generates_says_where_it_runs(tmp_path, caplog, asked):
    """It runs in ONNX Runtime on the CPU; where all models were asked to run elsewhere, one line says so."""
    write_summarizer(tmp_path / "summarize/dense")
    registry = loaded(tmp_path, **asked)
    assert registry.choose("summarization").model.session.runtime.startswith("onnxruntime")
    (line,) = caplog.messages
    assert line.startswith("summarize/dense generates, so it runs in onnxruntime on the CPU")
    caplog.clear()
    loaded(tmp_path, runtime={"qa/dense": "openvino"})
    assert caplog.messages == []


def test_other_runtime_by_name_of_a_model_that_generates_is_refused(tmp_path):
    """Who names the model is told that it cannot be."""
    write_summarizer(tmp_path / "summarize/dense")
    with pytest.raises(SettingsError, match="the runtime of summarize/dense is openvino, but"):
        loaded(tmp_path, runtime={"summarize/dense": "openvino"})


def test_models_of_a_task_are_told_apart(tmp_path):
    """A request names its model, or gets the first that does its task."""
    put(tmp_path, "qa", "dense")
    put(tmp_path, "squad", "dense")
    put(tmp_path, "topics", "dense", task=CLASSIFY)
    registry = loaded(tmp_path)
    assert registry.models() == ["qa", "squad", "topics"]
    assert [registry.choose(QA).key, registry.choose(QA, model="squad").key, registry.choose(CLASSIFY).key] == [
        "qa/dense",
        "squad/dense",
        "topics/dense",
    ]


@pytest.mark.parametrize(
    ("asked", "known"),
    [({"model": "topics"}, "qa"), ({"model": "nothing"}, "qa"), ({"variant": "compact"}, "dense"), ({"variant": "nothing"}, "dense")],
)
def test_what_is_not_there_is_said_with_what_is(tmp_path, asked: dict[str, str], known: str):
    """An unknown model or variant, or a model of another task, is refused with a list of the known."""
    put(tmp_path, "qa", "dense")
    put(tmp_path, "topics", "dense", task=CLASSIFY)
    with pytest.raises(NotFoundError, match=f"{known}$"):
        loaded(tmp_path).choose(QA, **asked)


def test_a_task_without_a_model_is_said(tmp_path):
    """Nothing loaded for a task is a reason of its own."""
    put(tmp_path, "qa", "dense")
    with pytest.raises(NotFoundError, match="no model for text-classification is loaded"):
        loaded(tmp_path).choose(CLASSIFY)


def test_what_fails_its_golden_check_is_left_out_and_answered_for(tmp_path):
    """An 8-bit variant that this processor computes differently is named with its reason, and another one answers for it."""
    put(tmp_path, "qa", "dense")
    put(tmp_path, "qa", "compact-int8", precision="int8", golden=False)
    registry = loaded(tmp_path)
    assert list(registry.left_out) == [("qa", "compact-int8")]
    assert "golden outputs differ" in registry.left_out["qa", "compact-int8"].reason
    assert registry.choose(QA).key == registry.choose(QA, variant="compact-int8").key == "qa/dense"


def test_a_model_that_nobody_can_answer_for_stops_the_start(tmp_path):
    """Leaving out a model's only variant is refused: that model would be gone without a word."""
    put(tmp_path, "qa", "dense")
    put(tmp_path, "topics", "dense", task=CLASSIFY, golden=False)
    with pytest.raises(GoldenError, match="no other variant of topics"):
        loaded(tmp_path)


def test_a_damaged_artifact_stops_the_start(tmp_path):
    """A file that was altered is never passed over."""
    put(tmp_path, "qa", "dense")
    (put(tmp_path, "qa", "compact") / "model.onnx").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        loaded(tmp_path)


def test_only_what_is_wanted_is_loaded(tmp_path):
    """Variants are picked by name, by variant, and by pattern; a pattern that fits nothing lists what there is."""
    for name in ("qa", "squad"):
        for variant in ("dense", "compact"):
            put(tmp_path, name, variant)
    assert set(loaded(tmp_path, variants=("dense",)).served) == {("qa", "dense"), ("squad", "dense")}
    assert set(loaded(tmp_path, variants=("qa/*", "squad/dense")).served) == {("qa", "dense"), ("qa", "compact"), ("squad", "dense")}
    with pytest.raises(SettingsError, match="qa/compact, qa/dense, squad/compact, squad/dense"):
        loaded(tmp_path, variants=("tiny",))


def test_an_empty_folder_is_refused(tmp_path):
    """Nothing to serve is said with what was expected."""
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        loaded(tmp_path)


def test_the_same_artifact_twice_is_refused(tmp_path):
    """Two folders that say that they are the same variant are not guessed between."""
    put(tmp_path, "qa", "dense")
    put(tmp_path, "qa", "dense").rename(tmp_path / "qa/copy")
    put(tmp_path, "qa", "dense")
    with pytest.raises(ArtifactError, match="twice"):
        loaded(tmp_path)


@pytest.mark.parametrize("weights", [{"dense": -1.0, "compact": 2.0}, {"dense": 0.0}, {"tiny": 1.0}, {}])
def test_weights_that_cannot_be_are_refused(tmp_path, weights: dict[str, float]):
    """Shares are positive, and of variants that are served."""
    for variant in ("dense", "compact"):
        put(tmp_path, "qa", variant)
    with pytest.raises(SettingsError, match="weights of qa"):
        loaded(tmp_path, weights={"qa": weights})


def test_weights_decide_where_the_request_does_not(tmp_path):
    """Requests are shared out by weight, the same id always to the same variant; a named variant goes before."""
    for variant in ("dense", "compact"):
        put(tmp_path, "qa", variant)
    registry = loaded(tmp_path, weights={"qa": {"dense": 1, "compact": 3}})
    counts = Counter(registry.choose(QA, sticky=str(index)).key for index in range(2000))
    assert 0.7 < counts["qa/compact"] / 2000 < 0.8
    assert registry.choose(QA, variant="dense", sticky="1").key == "qa/dense"


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e6), min_size=1).filter(lambda w: sum(w.values()) > 0), st.text())
def test_a_draw_is_one_of_the_positive_weights(weights: dict[str, float], sticky: str):
    """Whatever the id, the variant has a weight, and the same id draws it again."""
    assert weights[drawn(weights, sticky)] > 0
    assert drawn(weights, sticky) == drawn(weights, sticky)
