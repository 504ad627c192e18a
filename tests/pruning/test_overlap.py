"""What training and held-out data share is found, and left out."""

from dataclasses import replace

import pytest

from pruning.examples import SummaryExample
from pruning.overlap import unseen_summaries, without_documents


def test_held_out_documents_are_left_out():
    """A document that differs in spaces and case alone is the same."""
    held_out = SummaryExample("9", "The Sea   is GOOD!", ("x",))
    examples = [SummaryExample("1", "the good dog ran.", ("dog",)), SummaryExample("2", "the sea is good.", ("sea",))]
    assert without_documents(examples, [held_out]) == examples[:1]


@pytest.mark.parametrize(("first", "left"), [(0, 0), (21, 0), (37, 1), (5000, 1)])
def test_passages_of_held_out_documents_are_left_out(first: int, left: int):
    """Two dozen words of one in the midst of other text are enough; a few that everybody writes are not."""
    words = [f"w{number}" for number in range(80)]
    held_out = SummaryExample("9", " ".join(words[:50] + words[-4:]), ("x",))
    document = " ".join(["other", "text", *(words[first : first + 24] or ["and", "nothing"]), *words[-4:]])
    assert len(without_documents([SummaryExample("1", document, ("y",))], [held_out])) == left


def test_summaries_of_training_documents_are_left_out():
    """A summary that differs from a training document's in case and signs alone has been seen; documents keep the others, or go."""
    trained = [SummaryExample("1", "x", ("A good dog!", "the end"))]
    examples = [
        SummaryExample("2", "y", ("a GOOD dog", "a dog")),
        SummaryExample("3", "z", ("The end.",)),
        SummaryExample("4", "w", ("end",)),
    ]
    assert unseen_summaries(examples, trained) == [replace(examples[0], summaries=("a dog",)), examples[2]]
