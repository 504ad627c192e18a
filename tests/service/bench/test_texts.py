"""Texts of exactly so many tokens, and answers that are compared with the expected ones."""

import json
import random

import pytest

from service.bench.texts import answers_in, exact_text, expected, make_load, same, same_words, sentences
from service.errors import BenchError

SPAN = {"answer": "Ada", "score": 0.5, "start": 0, "end": 3}


@pytest.mark.parametrize("tokens", [40, 97, 160])
def test_questions_take_exactly_their_tokens(qa_model, tokens):
    """Question, context and special tokens together fill one window of that length."""
    load = make_load(qa_model, tokens=tokens)
    rows = [qa_model.rows(request) for (request,) in load.requests]
    assert {(len(row), len(row[0])) for row in rows} == {(1, tokens)}
    assert load.tokens_per_request == tokens


@pytest.mark.parametrize("tokens", [3, 32, 160])
def test_texts_take_exactly_their_tokens(classify_model, tokens):
    """Nothing is cut, and nothing is missing."""
    load = make_load(classify_model, tokens=tokens)
    rows = [classify_model.rows(request)[0] for (request,) in load.requests]
    assert {(len(row), row.truncated) for row in rows} == {(tokens, False)}


def test_length_is_what_the_task_is_measured_with_or_the_most_there_is(qa_model, classify_model):
    """384 tokens do not fit a model of 160, 32 do."""
    assert make_load(qa_model).tokens == 160
    assert make_load(classify_model).tokens == 32


def test_texts_differ_and_come_from_the_seed(qa_model):
    """The same seed gives the same texts, another one gives others."""
    first, again, other = (make_load(qa_model, seed=seed).bodies for seed in (0, 0, 1))
    assert first == again != other
    assert len({json.dumps(body) for body in first}) > 10


def test_several_texts_are_one_list(classify_model):
    """A request of 8 texts holds 8 different ones, and is worth their tokens."""
    load = make_load(classify_model, texts_per_request=8)
    assert {len(body) for body in load.bodies} == {8}
    assert load.tokens_per_request == 8 * 32
    assert [request.text for request in load.requests[3]] == load.bodies[3]


def test_messages_name_the_variant_for_us_and_nothing_for_peers(classify_model):
    """Both get the same inputs."""
    load = make_load(classify_model)
    (path, ours), (peer_path, theirs) = load.messages("compact")[0], load.messages(None, "/predict")[0]
    assert (path, peer_path) == ("/classify", "/predict")
    assert json.loads(ours) == {**json.loads(theirs), "model": "sentiment", "variant": "compact"}


def test_no_text_fits_is_said():
    """A tokenizer that makes many tokens of each word has no text of three."""
    with pytest.raises(BenchError, match="exactly 3 tokens"):
        exact_text(lambda text: 100 * len(text), sentences(random.Random(0)), 3)


def test_expected_answers_are_the_models_own(classify_model):
    """One for each text of each request."""
    load = make_load(classify_model, texts_per_request=8)
    wanted = expected(load, classify_model)
    first = classify_model.predict_one(load.requests[0][0]).labels[0]
    assert wanted[0][0] == {"label": first.label, "score": first.score}
    assert {len(group) for group in wanted} == {8}


@pytest.mark.parametrize("document", [SPAN, [SPAN], [[SPAN, {"answer": "it"}]]])
def test_the_best_answer_is_found_in_every_servers_shape(document):
    """An object, a list of answers, or a list of lists, best first."""
    assert answers_in(document) == [SPAN]


@pytest.mark.parametrize(
    ("found", "alike", "words"),
    [
        (SPAN, True, True),
        ({**SPAN, "score": 0.5005}, True, True),
        ({**SPAN, "score": 0.6}, False, True),
        ({**SPAN, "start": 1}, False, True),
        ({**SPAN, "answer": "ada"}, False, False),
        ({"error": "no"}, False, False),
        ("Ada", False, False),
    ],
)
def test_an_answer_is_right_by_words_place_and_score(found, alike, words):
    """We have to give all of it; of a peer only the words are asked."""
    assert same(found, SPAN) == alike
    assert same_words(found, SPAN) == words
