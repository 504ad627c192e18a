"""Labels of texts and pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.errors import ArtifactError, RequestError
from service.tasks.base import parse_request
from service.tasks.classify import Classification, ClassifyRequest, ClassifyResponse, scores
from service.tokenization import Row, TextTokenizer
from tests.service.builders import bert_tokenizer, manifest_for

TASK = Classification()
TOKENIZER = TextTokenizer(bert_tokenizer())
MANIFEST = manifest_for("text-classification")
logit_arrays = arrays(np.float64, 3, elements=st.floats(-1e3, 1e3))


def _row(**fields: object) -> Row:
    return TASK.preprocess(ClassifyRequest(**{"text": "ada", **fields}), TOKENIZER, MANIFEST)[0]


def _respond(logits: np.ndarray, *, manifest=MANIFEST, **fields: object) -> ClassifyResponse:
    request = ClassifyRequest(text="ada", **fields)
    return TASK.postprocess(request, [_row()], [{"logits": np.array([logits], dtype=np.float32)}], manifest)


@given(logit_arrays)
def test_softmax_is_a_distribution_in_the_order_of_the_logits(logits):
    """Scores sum to one and rank as the logits do."""
    values = np.array(scores(logits, "softmax"))
    assert values.sum() == pytest.approx(1.0)
    assert np.all(np.diff(values[np.argsort(logits)]) >= 0)


@given(logit_arrays)
def test_sigmoid_looks_at_each_label_alone(logits):
    """Each score is the logistic function of its own logit, without overflow."""
    assert scores(logits, "sigmoid") == pytest.approx(1 / (1 + np.exp(-np.clip(logits, -700, 700))), abs=1e-12)


@given(logit_arrays, st.permutations(range(3)))
def test_order_of_the_labels_does_not_matter(logits, order):
    """Permuting labels and logits together changes no label's score."""
    permuted = MANIFEST.model_copy(update={"labels": tuple(MANIFEST.labels[index] for index in order)})
    left, right = _respond(logits), _respond(logits[list(order)], manifest=permuted)
    by_label = {entry.label: entry.score for entry in right.labels}
    assert {entry.label: entry.score for entry in left.labels} == pytest.approx(by_label)


@given(logit_arrays, st.integers(1, 5))
def test_top_k_labels_are_the_first_of_all(logits, top_k):
    """Labels come best first; `top_k` only cuts the list, and more than there are is all."""
    everything = _respond(logits).labels
    assert _respond(logits, top_k=top_k).labels == everything[:top_k]
    assert [entry.score for entry in everything] == sorted((entry.score for entry in everything), reverse=True)


@pytest.mark.parametrize(
    ("changes", "function"),
    [({}, "softmax"), ({"multi_label": True}, "sigmoid")],
)
def test_function_follows_from_the_manifest(changes, function):
    """Labels that do not exclude each other get a sigmoid without being asked."""
    logits = np.array([1.0, 2.0, 3.0])
    assert _respond(logits, manifest=MANIFEST.model_copy(update=changes)) == _respond(logits, function=function)


def test_single_label_gets_a_sigmoid():
    """Softmax over one label would always say 1."""
    manifest = MANIFEST.model_copy(update={"labels": ("spam",)})
    assert _respond(np.array([0.0]), manifest=manifest).labels[0].score == pytest.approx(0.5)


def test_none_gives_logits():
    """Without a function the scores are the logits."""
    assert [entry.score for entry in _respond(np.array([1.0, 5.0, -3.0]), function="none").labels] == [5.0, 1.0, -3.0]


def test_pair_differs_from_single_text():
    """A pair has the second text's tokens and types."""
    single, pair = _row(), _row(text_pair="wrote")
    assert len(pair) == len(single) + 2
    assert pair.token_type_ids.max() == 1


def test_long_text_is_cut_and_said_so_or_refused():
    """Truncation is never silent."""
    assert _row(text="a " * 100).truncated
    assert len(_row(text="a " * 100)) == MANIFEST.max_length
    with pytest.raises(RequestError, match="more than 24 tokens"):
        _row(text="a " * 100, truncation=False)


@pytest.mark.parametrize("fields", [{"text": ""}, {"text": " \n"}, {"text_pair": " "}])
def test_empty_text_is_refused(fields):
    """A text of white space cannot be labelled."""
    with pytest.raises(RequestError, match="is empty"):
        _row(**fields)


@pytest.mark.parametrize("fields", [{"top_k": 0}, {"function": "tanh"}, {"text": 3}])
def test_field_out_of_bounds_is_one_line_that_names_it(fields):
    """A document that is no request becomes a RequestError that names the field."""
    with pytest.raises(RequestError, match=f"^{next(iter(fields))}: "):
        parse_request(ClassifyRequest, {"text": "ada", **fields})


@pytest.mark.parametrize("logits", [[1.0, 2.0], [1.0, np.nan, 2.0]])
def test_outputs_that_do_not_match_the_labels_are_the_artifacts_fault(logits):
    """A wrong number of logits, or NaN, never becomes an answer."""
    with pytest.raises(ArtifactError, match="expected 3 finite"):
        _respond(np.array(logits))
