"""A soak's messages and what is made of its memory."""

import json
from collections import Counter

import pytest

from service.bench.soak import mixed_messages, soak_lines, summary
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
    assert summary(steady[:1] + steady[2:], 10, 0, "").slope_mb_per_minute == pytest.approx(0.0)
    assert summary(climbing[:1] + climbing[2:], 10, 0, "").slope_mb_per_minute == pytest.approx(5.0)


def test_lines_say_memory_and_failures():
    """Start, peak, end and slope; what failed is shown."""
    text = "\n".join(soak_lines(summary([(0.0, 100.0), (5.0, 130.0), (10.0, 120.0)], 1234, 1, "no")))
    for part in ("1234 requests answered, 1 not: no", "100 MB at the start, 130 MB at most, 120 MB at the end", "-2.00 MB a minute"):
        assert part in text
