"""Features point at the answers, batches are padded, and losses are what the task says."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import BertTokenizerFast
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

from pruning.errors import ConfigError, DataError
from pruning.examples import AnswerSpan, QuestionExample, TextExample
from pruning.tasks import TASKS, task_named
from pruning.tasks.base import Feature, batches, collate, inputs_of
from pruning.tasks.classify import Classification
from pruning.tasks.qa import QuestionAnswering, _target

CONTEXT = "the sun is good. " * 3 + "the cat, bad 7, is out. " + "the sea is good. " * 3


def example(answer: str | None, context: str = CONTEXT, **more: str) -> QuestionExample:
    """A question whose answer is the first occurrence of that text."""
    spans = () if answer is None else (AnswerSpan(answer, context.index(answer)),)
    return QuestionExample(more.get("id", "q"), more.get("question", "  is the sun good?"), context, spans)


def answers(features: Sequence[Feature], tokenizer: BertTokenizerFast) -> list[str]:
    """The text between each row's start and end; "" for rows that point to position 0."""
    spans = [
        feature["input_ids"][feature["start_positions"] : feature["end_positions"] + 1]
        for feature in features
        if feature["start_positions"]
    ]
    return [tokenizer.decode(span) for span in spans]


def squeezed(text: str) -> str:
    """Text without spaces, case, or the marks of word pieces."""
    return "".join(text.lower().replace("##", "").split())


@pytest.mark.parametrize("answer", ["the sun", "cat", "bad 7", "bad 7, is out.", "good. ", " the cat, "])
def test_targets_point_at_the_answer(tiny_tokenizer: BertTokenizerFast, answer: str):
    """What stands between the start and the end position, decoded, is the answer."""
    [feature] = QuestionAnswering().features([example(answer)], tiny_tokenizer, max_length=200, stride=0)
    assert squeezed(answers([feature], tiny_tokenizer)[0]) == squeezed(answer)


def test_an_answer_inside_a_word_is_covered(tiny_tokenizer: BertTokenizerFast):
    """An answer that begins or ends within a token takes in the whole token."""
    [feature] = QuestionAnswering().features([example("ood. the c", "it is good. the cat")], tiny_tokenizer, max_length=60, stride=0)
    assert "ood.thec" in squeezed(answers([feature], tiny_tokenizer)[0])


def test_a_long_context_gives_windows(tiny_tokenizer: BertTokenizerFast):
    """Every window is at most `max_length` long, and those that hold the whole answer, at least one, point at it."""
    features = QuestionAnswering().features([example("bad 7")], tiny_tokenizer, max_length=40, stride=12)
    assert len(features) > 2
    assert all(len(feature["input_ids"]) <= 40 for feature in features)
    assert set(answers(features, tiny_tokenizer)) == {"bad 7"}


def test_windows_without_the_answer_point_to_position_zero(tiny_tokenizer: BertTokenizerFast):
    """A window that does not hold all of the answer has (0, 0) as its target, as one of a question without an answer has."""
    features = QuestionAnswering().features([example("bad 7"), example(None)], tiny_tokenizer, max_length=40, stride=12)
    without = [f for f in features if (f["start_positions"], f["end_positions"]) == (0, 0)]
    assert len(answers(features, tiny_tokenizer)) + len(without) == len(features)
    assert len(without) > len(features) // 2


def test_half_an_answer_is_none(tiny_tokenizer: BertTokenizerFast):
    """An answer longer than any window is in none of them."""
    features = QuestionAnswering().features([example(CONTEXT[:100])], tiny_tokenizer, max_length=40, stride=8)
    assert {(f["start_positions"], f["end_positions"]) for f in features} == {(0, 0)}


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_answer_within_the_window_is_covered(data: st.DataObject):
    """Whatever tokens and answer are drawn: the target's characters take in the answer, and no token less would."""
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    starts = [sum(lengths[:i]) + i for i in range(len(lengths))]
    offsets = [(0, 0), *((s, s + n) for s, n in zip(starts, lengths, strict=True)), (0, 0)]
    first, last = sorted(data.draw(st.tuples(st.integers(0, len(lengths) - 1), st.integers(0, len(lengths) - 1))))
    begin = data.draw(st.integers(offsets[first + 1][0], offsets[first + 1][1] - 1))
    stop = data.draw(st.integers(max(begin, offsets[last + 1][0]) + 1, offsets[last + 1][1]))
    target = _target([AnswerSpan("x" * (stop - begin), begin)], offsets, [None, *([1] * len(lengths)), None])
    assert target == (first + 1, last + 1)


def test_a_question_that_fills_the_row_is_one_line(tiny_tokenizer: BertTokenizerFast):
    """A question that leaves its context no room is refused, with what to do."""
    with pytest.raises(DataError, match="raise max_length"):
        QuestionAnswering().features([example("cat", question="why " * 40)], tiny_tokenizer, max_length=40, stride=8)


def test_windows_follow_the_order_of_the_examples(tiny_tokenizer: BertTokenizerFast):
    """Many examples are tokenised in pieces; rows come in the order of the examples."""
    examples = [example("cat", f"the cat {' '.join(str(i))}") for i in range(1203)]
    features = QuestionAnswering().features(examples, tiny_tokenizer, max_length=40, stride=0)
    assert [squeezed(tiny_tokenizer.decode(f["input_ids"])).endswith(f"cat{i}[sep]") for i, f in enumerate(features)] == [True] * 1203


def test_each_task_refuses_examples_of_the_other(tiny_tokenizer: BertTokenizerFast):
    """Questions are no texts, and texts no questions."""
    with pytest.raises(DataError, match="SQuAD"):
        QuestionAnswering().features([TextExample("0", "good", None, 1)], tiny_tokenizer, max_length=40)
    with pytest.raises(DataError, match="texts with labels"):
        Classification().features([example("cat")], tiny_tokenizer, max_length=40)


def test_texts_are_cut_and_labelled(tiny_tokenizer: BertTokenizerFast):
    """A row is at most `max_length` long and carries its label."""
    features = Classification().features(
        [TextExample("0", "good " * 90, None, 1), TextExample("1", "bad", None, 0)], tiny_tokenizer, max_length=16
    )
    assert [len(feature["input_ids"]) for feature in features] == [16, 3]
    assert [feature["labels"] for feature in features] == [1, 0]


def test_pairs_share_a_row(tiny_tokenizer: BertTokenizerFast):
    """The second text follows the first, told apart by token types."""
    [feature] = Classification().features([TextExample("0", "good", "bad", 1)], tiny_tokenizer, max_length=16)
    assert tiny_tokenizer.decode(feature["input_ids"]) == "[CLS] good [SEP] bad [SEP]"
    assert feature["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_batch_is_padded_and_masked(tiny_tokenizer: BertTokenizerFast):
    """Rows are padded to the longest, with the mask zero there; targets are one number a row."""
    features = Classification().features(
        [TextExample("0", "good " * 5, None, 1), TextExample("1", "bad", None, 0)], tiny_tokenizer, max_length=16
    )
    batch = collate(features, tiny_tokenizer)
    assert batch["input_ids"].shape == (2, 7)
    assert batch["attention_mask"].sum(1).tolist() == [7, 3]
    assert batch["labels"].tolist() == [1, 0]
    assert set(inputs_of(batch, Classification())) == {"input_ids", "token_type_ids", "attention_mask"}


def test_batches_hold_every_row_once_and_pad_little(tiny_tokenizer: BertTokenizerFast):
    """Batches of like lengths: no row is lost, and less is padding than in the order given."""
    texts = [TextExample(str(i), "good " * (1 + 7 * i % 20), None, i % 2) for i in range(20)]
    features = Classification().features(texts, tiny_tokenizer, max_length=40)
    grouped = batches(features, tiny_tokenizer, batch_size=4)
    assert sorted(n for batch in grouped for n in batch["attention_mask"].sum(1).tolist()) == sorted(len(f["input_ids"]) for f in features)
    in_order = [collate(features[i : i + 4], tiny_tokenizer) for i in range(0, 20, 4)]
    assert sum(b["input_ids"].numel() for b in grouped) < sum(b["input_ids"].numel() for b in in_order)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_cross_entropies(smoothing: float):
    """One value a row: of the class; for spans the mean of the start's and the end's."""
    generator = torch.Generator().manual_seed(1)
    start, end = torch.randn(2, 3, 9, generator=generator)
    positions = {"start_positions": torch.tensor([0, 4, 8]), "end_positions": torch.tensor([0, 5, 8])}
    spans = QuestionAnswering().losses(
        QuestionAnsweringModelOutput(start_logits=start, end_logits=end), positions, label_smoothing=smoothing
    )
    each = [
        F.cross_entropy(logits, p, reduction="none", label_smoothing=smoothing)
        for logits, p in zip((start, end), positions.values(), strict=True)
    ]
    assert_close(spans, (each[0] + each[1]) / 2)
    classes = Classification().losses(
        SequenceClassifierOutput(logits=start), {"labels": positions["end_positions"]}, label_smoothing=smoothing
    )
    assert_close(classes, F.cross_entropy(start, positions["end_positions"], reduction="none", label_smoothing=smoothing))


def test_tasks_are_found_by_name():
    """Every task of the list is found; another name lists those that exist."""
    assert [task_named(task.name) for task in TASKS] == list(TASKS)
    with pytest.raises(ConfigError, match="text-classification"):
        task_named("poetry")
