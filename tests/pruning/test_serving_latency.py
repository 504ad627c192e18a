"""Latency of generation as it is served: everybody writes the same number of tokens, from sources of the same length."""

from pathlib import Path

import pytest

from pruning.comparison import compare_latency
from pruning.serving_latency import Decoding, measure_latency, own_decoding, same_generation
from service.model import GeneratingModel
from tests.pruning.seq2seq_artifacts import summarizer, write_summarizer


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dense artifact, and one with removals."""
    folder = tmp_path_factory.mktemp("artifacts")
    write_summarizer(folder / "dense", summarizer(seed=3), variant="dense", density=1.0)
    write_summarizer(folder / "compact", summarizer(seed=3, pruned=True))
    return {"dense": folder / "dense", "small/compact": folder / "compact"}


@pytest.mark.parametrize("decoding", [Decoding(7), Decoding(20, beams=2, requests=3)], ids=["greedy", "beams"])
def test_everybody_writes_the_same_number_of_tokens(artifacts: dict[str, Path], decoding: Decoding) -> None:
    """As many as asked, for as many requests as asked, even where the model would end before or may not write as many."""
    for folder in artifacts.values():
        found = same_generation(GeneratingModel.load(folder), 16, decoding)()
        assert isinstance(found, list)
        assert [len(each.tokens) for each in found] == [decoding.target_length] * decoding.requests


def test_a_model_decodes_by_its_own_settings_where_nothing_is_asked(artifacts: dict[str, Path]) -> None:
    """Its beams, and as many tokens as it may write."""
    manifest = GeneratingModel.load(artifacts["dense"]).manifest
    assert own_decoding(manifest) == Decoding(12, beams=1)


def test_both_speed_ups_are_measured(artifacts: dict[str, Path]) -> None:
    """At each length of the source, structural and total; dense is the reference of both."""
    found = measure_latency(artifacts, sequence_lengths=(8, 16), callers=2, seconds=0.0, decoding=Decoding(3, beams=2))
    assert found["dense"] == ()
    assert [(each.sequence_length, each.kind, each.callers) for each in found["small/compact"]] == [
        (8, "total", 2),
        (8, "structural", 1),
        (16, "total", 2),
        (16, "structural", 1),
    ]


def test_two_artifacts_that_generate_are_compared(artifacts: dict[str, Path]) -> None:
    """The ratio of what generating takes, with its interval around it."""
    ratio = compare_latency(artifacts["small/compact"], artifacts["dense"], length=8, callers=1, seconds=0.0)
    assert 0 < ratio.low <= ratio.value <= ratio.high
