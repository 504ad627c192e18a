"""Requests from a seed, of the lengths asked for, and from files."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loadtests
from loadtests.errors import TextsError
from loadtests.lengths import Fixed, Uniform
from loadtests.probe import _HEADS
from loadtests.texts import TASKS, estimated_tokens, file_texts, own_texts, read_rows

tasks = st.sampled_from(sorted(TASKS)).map(TASKS.__getitem__)


def pieces(inputs):
    """A tokenizer's count, of a kind: a long word is several tokens, and marks count."""
    texts = [inputs] if isinstance(inputs, str) else inputs.values()
    return 3 + sum(1 + len(word) // 6 + word.endswith((".", "?")) for text in texts for word in text.split())


@settings(max_examples=20, deadline=None)
@given(tasks, st.integers(20, 400), st.integers(0, 99))
def test_a_text_takes_exactly_the_tokens_asked_for(task, length, seed):
    """Whatever the tokenizer makes of words, fillers make up the rest."""
    texts = own_texts(task, Fixed(length), count=pieces, texts=3, seed=seed)
    assert texts.tokens == (length,) * 3
    assert [pieces(inputs) for inputs in texts.inputs] == [length] * 3


@settings(max_examples=10, deadline=None)
@given(tasks, st.integers(0, 99))
def test_a_seed_gives_the_same_texts_and_another_one_others(task, seed):
    """Texts depend on the seed alone, and differ among themselves."""
    make = [own_texts(task, Uniform(30, 90), count=pieces, texts=4, seed=each).inputs for each in (seed, seed, seed + 1)]
    assert make[0] == make[1] != make[2]
    assert len(set(map(str, make[0]))) == 4


def test_windows_that_overlap_leave_a_text_shorter():
    """Where one word more takes a second window, the text stays at what fits."""
    texts = own_texts(TASKS["classify"], Fixed(60), count=lambda each: pieces(each) + 50 * (pieces(each) > 40), texts=1, seed=0)
    assert texts.tokens == (40,)


def test_a_length_that_not_even_a_word_has_is_refused():
    """One line says so."""
    with pytest.raises(TextsError, match="greater length"):
        own_texts(TASKS["qa"], Fixed(4), count=pieces, texts=1, seed=0)


def test_an_estimate_is_near():
    """Without a service that counts, a text of 100 words is taken for about as many tokens."""
    text = own_texts(TASKS["classify"], Fixed(100), count=estimated_tokens, texts=1, seed=0).inputs[0]
    assert 80 <= len(text.split()) <= 100


def test_squad_is_read(tmp_path):
    """Every question of every paragraph is a request."""
    file = tmp_path / "dev.json"
    paragraph = {"context": "Ada wrote it.", "qas": [{"question": "Who?"}, {"question": "What?"}]}
    file.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    assert read_rows(file, TASKS["qa"]) == [{"question": word, "context": "Ada wrote it."} for word in ("Who?", "What?")]


def test_json_lines_are_read_and_chosen_by_seed(tmp_path):
    """A line's text may have the name that data sets give it; as many are taken as asked for."""
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"sentence": f"text {number}"}) for number in range(9)))
    first, second = (file_texts(TASKS["classify"], file, count=pieces, texts=4, seed=3) for _ in range(2))
    assert first == second
    assert len(set(first.inputs)) == 4


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", "{"), ("a.json", "[]"), ("a.jsonl", ""), ("a.jsonl", '{"other": "x"}'), ("no", None)]
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, text):
    """The error names the file."""
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TextsError, match=name):
        read_rows(tmp_path / name, TASKS["classify"])


def test_few_questions_find_the_length():
    """Each count is a request to the service, so a handful has to do."""
    calls = []
    own_texts(TASKS["qa"], Fixed(384), count=lambda inputs: calls.append(0) or pieces(inputs), texts=10, seed=0)
    assert len(calls) <= 60


def test_a_task_is_one_row():
    """The probe, Locust's users and the score of the headline follow from it."""
    assert {task.served_as: task.head for task in TASKS.values() if not task.generates} == {
        "question-answering": "AutoModelForQuestionAnswering",
        "text-classification": "AutoModelForSequenceClassification",
    }
    assert _HEADS.keys() == {task.served_as for task in TASKS.values()}
    assert all(task.score for task in TASKS.values())
    tree = ast.parse((Path(loadtests.__file__).parent / "locustfile.py").read_text(encoding="utf-8"))
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not named & (set(TASKS) | {task.path for task in TASKS.values()})
