"""Questions get paragraphs that do not hold their answers, and keep what is theirs."""

import pytest

from pruning.distractors import with_distractors, with_wrong_paragraphs
from pruning.examples import AnswerSpan, QuestionExample


@pytest.fixture
def answerable() -> list[QuestionExample]:
    """60 questions on 20 paragraphs; the answer of each stands in its own paragraph and the next."""
    contexts = [f"Town {i} has a mayor called M{i:02}. Its neighbour's is M{(i - 1) % 20:02}." for i in range(20)]
    return [
        QuestionExample(f"{i}-{j}", f"Who is mayor of town {i}?", contexts[i], (AnswerSpan(f"M{i:02}", contexts[i].index(f"M{i:02}")),))
        for i in range(20)
        for j in range(3)
    ]


def test_distractors_surround_the_context_and_answers_move_with_it(answerable: list[QuestionExample]):
    """Each context stands whole among others that hold no gold answer, and each answer is where it says."""
    for before, after in zip(answerable, with_distractors(answerable, 2, seed=3), strict=True):
        assert isinstance(after, QuestionExample)
        assert len(after.context) > len(before.context)
        others = after.context.replace(before.context, "").lower()
        assert not any(answer.text.lower() in others for answer in before.answers)
        assert [after.context[a.start : a.start + len(a.text)] for a in after.answers] == [a.text for a in before.answers]
    assert with_distractors(answerable, 2, seed=3) == with_distractors(answerable, 2, seed=3)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_wrong_paragraphs_are_the_share_asked_for(answerable: list[QuestionExample], share: float):
    """That share of the result has no answer; the questions given all stay as they were."""
    result = with_wrong_paragraphs(answerable, share, seed=3)
    impossible = [example for example in result if isinstance(example, QuestionExample) and not example.answers]
    assert len(impossible) / len(result) == pytest.approx(share, abs=0.01)
    assert result[: len(answerable)] == answerable


def test_wrong_paragraphs_hold_no_gold_answer(answerable: list[QuestionExample]):
    """The paragraph that a question is paired with is another one, and none of its gold answers stands in it."""
    by_id = {example.id: example for example in answerable}
    added = with_wrong_paragraphs(answerable, 0.4, seed=3)[len(answerable) :]
    for example in added:
        assert isinstance(example, QuestionExample)
        original = by_id[example.id.removesuffix("/wrong-paragraph")]
        assert example.context != original.context
        assert all(answer.text.lower() not in example.context.lower() for answer in original.answers)


def test_wrong_paragraphs_are_pure(answerable: list[QuestionExample]):
    """The same seed gives the same pairs, another seed others."""
    assert with_wrong_paragraphs(answerable, 0.2, seed=3) == with_wrong_paragraphs(answerable, 0.2, seed=3)
    assert with_wrong_paragraphs(answerable, 0.2, seed=3) != with_wrong_paragraphs(answerable, 0.2, seed=4)


def test_no_wrong_paragraph_is_made_up_where_there_is_none():
    """With one paragraph there is no other to pair a question with, and nothing is added."""
    only = QuestionExample("q", "Who?", "Ada did.", (AnswerSpan("Ada", 0),))
    assert with_wrong_paragraphs([only], 0.4, seed=1) == [only]
