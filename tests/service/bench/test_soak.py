"""A soak's messages and what is made of its memory."""

import json
from collections import Counter

import pytest

from service.bench.soak import SMALLEST, mixed_messages, soak_lines, summary
from service.bench.subjects import Subject


def test_messages_are_of_all_lengths_and_both_models(models, qa_model, classify_model):
    """Short and long, one text and several; a question that does not fit its length is passed over."""
    subjects = [
        Subject(models / name, "dense", "onnxruntime", model)
        for name, model in (("qa/dense", qa_model), ("sentiment/dense", classify_model))
    ]
    messages = mixed_messages(subjects)
    lengths = {len(body) for _, body in messages}
    assert set(Counter(path for path, _ in messages)) == {"/qa", "/classify"}
    assert len(lengths) > 20
    assert any(isinstance(json.loads(body)["inputs"], list) for _, body in messages)


def test_growth_is_measured_after_memory_has_settled():
    """The jump of the first minute is not growth; a steady climb afterwards is."""
    steady = [(0.0, 100.0), (1.0, 300.0)] + [(float(minute), 300.0) for minute in range(2, 11)]
    climbing = [(minute, size + 5.0 * minute) for minute, size in steady]
    assert summary(SMALLEST, steady[:1] + steady[2:], 10, 0, "").slope_mb_per_minute == pytest.approx(0.0)
    assert summary(SMALLEST, climbing[:1] + climbing[2:], 10, 0, "").slope_mb_per_minute == pytest.approx(5.0)


def test_lines_say_memory_and_failures():
    """Start, peak, end and slope; what failed is shown."""
    text = "\n".join(soak_lines(summary(SMALLEST, [(0.0, 100.0), (5.0, 130.0), (10.0, 120.0)], 1234, 1, "no")))
    for part in (
        "1234 requests answered, 1 not: no",
        "100 MB at the start, 130 MB at most, 120 MB at the end",
        "-2.00 MB a minute",
        "FAIL  every",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("samples", "failed", "variants", "kept"),
    [
        ([(0.0, 100.0), (5.0, 130.0), (10.0, 130.0)], 0, SMALLEST, True),
        ([(0.0, 100.0), (5.0, 130.0), (10.0, 130.0)], 1, SMALLEST, False),
        ([(0.0, 100.0), (5.0, 130.0), (10.0, 136.0)], 0, SMALLEST, False),
        ([(0.0, 100.0), (5.0, 360.0), (10.0, 130.0)], 0, SMALLEST, False),
        ([(0.0, 100.0), (5.0, 360.0), (10.0, 130.0)], 0, ("dense",), True),
    ],
)
def test_promises_can_be_kept_and_broken(samples, failed, variants, kept):
    """Failures, growth and size each break one; the size is promised of the small variants alone."""
    assert all(summary(variants, samples, 10, failed, "").promises.values()) is kept
