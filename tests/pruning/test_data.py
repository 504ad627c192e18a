"""Datasets become examples, or one line that names the file and what is wrong in it."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pruning.config import DataSource
from pruning.data import check_sources, load_examples, load_source
from pruning.errors import DataError
from pruning.examples import AnswerSpan, QuestionExample, TextExample

QA, TEXT = "question-answering", "text-classification"
LABELS = ("bad", "good")


def write(path: Path, content: object) -> DataSource:
    """A source for a file of that content: text as it is, a list as JSON lines, an object as JSON."""
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return DataSource(path=str(path))


def squad(*questions: dict[str, Any], context: str = "Ada wrote it in London.") -> dict[str, Any]:
    """SQuAD JSON of one paragraph."""
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def question(*spans: tuple[str, int], id: str = "q1", **more: object) -> dict[str, Any]:
    """One question of SQuAD JSON."""
    return {"id": id, "question": "Who?", "answers": [{"text": text, "answer_start": start} for text, start in spans], **more}


def refusal(source: DataSource, task: str, labels: tuple[str, ...] = LABELS) -> str:
    """The one line with which the source is refused, before a run and when it is loaded."""
    with pytest.raises(DataError) as caught:
        load_source(source, task, labels=labels)
    with pytest.raises(DataError, match=re.escape(str(caught.value))):
        check_sources([source], task, labels=labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_squad_v1_is_read(tmp_path: Path):
    """A question keeps its id, context and all gold answers."""
    source = write(tmp_path / "v1.json", squad(question(("Ada", 0), ("Ada wrote", 0))))
    expected = QuestionExample("q1", "Who?", "Ada wrote it in London.", (AnswerSpan("Ada", 0), AnswerSpan("Ada wrote", 0)))
    assert load_source(source, QA) == [expected]


def test_squad_v2_impossible_questions_have_no_answers(tmp_path: Path):
    """An impossible question has no gold answer, whatever plausible ones stand beside it."""
    source = write(tmp_path / "v2.json", squad(question(is_impossible=True, plausible_answers=[{"text": "Ada", "answer_start": 0}])))
    assert [example.answers for example in load_source(source, QA)] == [()]


@pytest.mark.parametrize("answers", [{"text": ["Ada"], "answer_start": [0]}, [{"text": "Ada", "answer_start": 0}]])
def test_questions_in_json_lines_are_read(tmp_path: Path, answers: object):
    """One question a line, with answers as the hub or as SQuAD writes them."""
    source = write(tmp_path / "qa.jsonl", [{"id": 7, "question": "Who?", "context": "Ada did.", "answers": answers}])
    assert load_source(source, QA) == [QuestionExample("7", "Who?", "Ada did.", (AnswerSpan("Ada", 0),))]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", [{"sentence": "fine, really", "label": 1}]),
        ("a.jsonl", [{"text": "fine, really", "label": "good"}]),
        ("a.csv", 'sentence,label\n"fine, really",1\n'),
        ("a.csv", '\ufeffsentence,label\n"fine, really",good\n'),
    ],
)
def test_a_text_with_a_label_is_read(tmp_path: Path, name: str, content: object):
    """JSON lines and CSV, a byte-order mark included; labels are indices or names."""
    assert load_source(write(tmp_path / name, content), TEXT, labels=LABELS) == [TextExample("0", "fine, really", None, 1)]


@pytest.mark.parametrize(("first", "second"), [("premise", "hypothesis"), ("question1", "question2"), ("sentence1", "sentence2")])
def test_pairs_are_found_by_their_usual_names(tmp_path: Path, first: str, second: str):
    """The columns of GLUE's pairs need not be named."""
    source = write(tmp_path / "pairs.jsonl", [{first: "one", second: "two", "label": 0}])
    assert load_source(source, TEXT, labels=LABELS) == [TextExample("0", "one", "two", 0)]


def test_columns_can_be_named(tmp_path: Path):
    """A source says which columns hold text, pair and label."""
    source = write(tmp_path / "odd.csv", "body,title,stars,text\nlong,short,1,no\n")
    source = source.model_copy(update={"text": "body", "text_pair": "title", "label": "stars"})
    assert load_source(source, TEXT, labels=LABELS) == [TextExample("0", "long", "short", 1)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", [1], "not SQuAD JSON"),
        ("a.json", {"data": 3}, "expected an object with a list `data`"),
        ("a.json", {"data": [{}]}, "lacks 'paragraphs'"),
        ("a.json", {"data": [{"paragraphs": [{"qas": [{"id": "q", "question": "?", "answers": []}]}]}]}, "lacks 'context'"),
        ("a.json", squad({"id": "q", "question": "?"}), "lacks 'answers'"),
        ("a.json", {"data": [{"paragraphs": [{"context": "c", "qas": ["q"]}]}]}, "is not what it should be"),
        ("a.json", {"data": ["article"]}, "is not what it should be"),
        ("a.json", squad(), "no examples"),
        ("a.json", squad(question(("Ada", 4))), "question 'q1': the context does not hold 'Ada' at 4"),
        ("a.json", squad(question(("London", -7))), "does not hold 'London' at -7"),
        ("a.json", squad(question(("Ada", "start"))), "column 'answers'"),  # type: ignore[arg-type]
        ("a.jsonl", [{"question": "?", "answers": []}], "no column 'context'"),
        ("a.jsonl", [{"question": "?", "context": "c", "answers": None}], "column 'answers'"),
        ("a.jsonl", [{"question": 3, "context": "c", "answers": []}], "no text in column 'question'"),
    ],
)
def test_bad_questions_are_one_line(tmp_path: Path, name: str, content: object, said: str):
    """Malformed SQuAD data is refused with the file's name and the place."""
    source = write(tmp_path / name, json.dumps(content) if name == "a.json" and isinstance(content, list) else content)
    line = refusal(source, QA)
    assert line.startswith(str(tmp_path / name))
    assert said in line


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"sentence": "x", "label": 1}\n{"sentence"\n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("a.jsonl", "\n", "no examples"),
        ("a.jsonl", [{"body": "x", "label": 1}], "no column 'text'; it has body, label"),
        ("a.jsonl", [{"sentence": "x"}], "no column 'label'"),
        ("a.jsonl", [{"premise": "x", "label": 1}], "no column 'hypothesis'"),
        ("a.jsonl", [{"sentence": "x", "label": 1}, {"sentence": None, "label": 1}], "row 1 has no value in column 'sentence'"),
        ("a.jsonl", [{"sentence": "x", "label": 2}], "label 2; expected 0 to 1, or one of bad, good"),
        ("a.jsonl", [{"sentence": "x", "label": -1}], "label -1"),
        ("a.jsonl", [{"sentence": "x", "label": 0.5}], "label 0.5"),
        ("a.jsonl", [{"sentence": "x", "label": float("inf")}], "label inf"),
        ("a.jsonl", [{"sentence": "x", "label": [1]}], r"label [1]"),
        ("a.csv", "sentence,label\nx,great\n", "label 'great'"),
        ("a.csv", "sentence,label\nx\n", "row 0 has no value in column 'label'"),
        ("a.csv", 'sentence,label\n"x,1\n', "cannot be read"),
        ("a.txt", "x", "unknown kind of file"),
    ],
)
def test_bad_texts_are_one_line(tmp_path: Path, name: str, content: object, said: str):
    """Malformed classification data is refused with the file's name, the row and the column."""
    line = refusal(write(tmp_path / name, content), TEXT)
    assert line.startswith(str(tmp_path / name))
    assert said in line


def test_bytes_that_are_not_utf8_are_one_line(tmp_path: Path):
    """A file in another encoding is named."""
    (tmp_path / "latin.csv").write_bytes("sentence,label\ncaf\u00e9,1\n".encode("latin-1"))
    assert "latin.csv: cannot be read" in refusal(DataSource(path=str(tmp_path / "latin.csv")), TEXT)


def test_a_missing_file_is_one_line():
    """A path that is nowhere, without a hub dataset to fall back on, is named."""
    assert "nowhere/at-all.csv: no such file" in refusal(DataSource(path="nowhere/at-all.csv"), TEXT)


def test_an_unknown_hub_dataset_is_one_line(offline: None):
    """A dataset that cannot be loaded is named with its split, and the message says what else to do."""
    line = refusal(DataSource(hub="nobody/nothing", split="validation"), TEXT)
    assert "nobody/nothing, split validation: cannot be loaded" in line
    assert "set `path`" in line


@pytest.mark.parametrize("sample", ["calibration", "evaluation"])
def test_the_samples_that_ship_are_found_and_balanced(sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The smoke samples are found from anywhere; each sentence has 5 to 30 words and stands once, and half are positive."""
    monkeypatch.chdir(tmp_path)
    examples = load_source(DataSource(path=f"samples/sentiment-{sample}.jsonl"), TEXT, labels=LABELS)
    texts = [example.text for example in examples if isinstance(example, TextExample)]
    assert all(5 <= len(text.split()) <= 30 for text in texts)
    assert len(set(texts)) == len(texts)
    assert Counter(example.label for example in examples if isinstance(example, TextExample)) == {0: len(texts) // 2, 1: len(texts) // 2}


def test_the_samples_share_no_sentence(tmp_path: Path):
    """No sentence that is evaluated on was calibrated on."""
    parts = [load_source(DataSource(path=f"samples/sentiment-{part}.jsonl"), TEXT, labels=LABELS) for part in ("calibration", "evaluation")]
    calibration, evaluation = ({example.text for example in part if isinstance(example, TextExample)} for part in parts)
    assert not calibration & evaluation


def test_a_limit_draws_with_the_seed(tmp_path: Path):
    """`limit` takes that many, the same for the same seed and others for another."""
    source = write(tmp_path / "a.jsonl", [{"sentence": f"text {i}", "label": 0} for i in range(50)]).model_copy(update={"limit": 5})
    drawn = load_source(source, TEXT, seed=1)
    assert len(drawn) == 5
    assert drawn == load_source(source, TEXT, seed=1)
    assert drawn != load_source(source, TEXT, seed=2)


def test_sources_are_read_in_order(tmp_path: Path):
    """Examples of several sources follow one another."""
    sources = [write(tmp_path / f"{name}.jsonl", [{"sentence": name, "label": 0}]) for name in ("first", "second")]
    assert [example.text for example in load_examples(sources, TEXT) if isinstance(example, TextExample)] == ["first", "second"]
