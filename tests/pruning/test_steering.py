"""Steering towards a target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.steering import FASTEST, FEW_HALVINGS, follow_level, solve_level, steered, wanted_at


def test_what_is_wanted_falls_from_everything_to_the_target():
    """The ends are exact."""
    assert (wanted_at(0.0, 0.3), wanted_at(1.0, 0.3)) == (1.0, 0.3)


@given(st.floats(0.05, 0.95), st.booleans())
def test_the_level_is_found_whichever_way_it_works(wanted, falls):
    """A density and a threshold are both found, and the gates are left at what was found."""
    calls = []

    def left(level: float) -> float:
        calls.append(level)
        return (1 - level) ** 2 if falls else level**2

    level = solve_level(left, wanted, low=0.0, high=1.0)
    assert left(level) == pytest.approx(wanted, abs=1e-3)
    assert calls[-2] == level


def test_of_steps_the_nearest_is_taken():
    """Where whole heads go, not every share can be had."""
    assert round(4 * solve_level(lambda level: round(4 * level) / 4, 0.45, low=0.0, high=1.0)) == 2


@given(st.floats(0.05, 0.95), st.floats(0.0, 1.0), st.floats(0.3, 3.0))
def test_a_level_is_followed_in_a_few_calls(wanted, level, bend):
    """From anywhere, and across levels where nothing changes; the gates are left at what was found."""
    calls = []

    def left(at: float) -> float:
        calls.append(at)
        return 1 - max(0.0, 2 * at - 1) ** bend

    for _ in range(40):
        calls.clear()
        level = follow_level(left, wanted, level, low=0.0, high=1.0)
        assert calls[-1] == level
        assert len(calls) <= FEW_HALVINGS + 3
    assert level == pytest.approx((1 + (1 - wanted) ** (1 / bend)) / 2, abs=0.03)


def test_a_penalty_grows_while_too_much_is_left_and_shrinks_otherwise():
    """Faster when it gets worse, and never by much at once."""
    assert steered(1.0, 0.1, 0.0) > 1.0 > steered(1.0, -0.1, 0.0)
    assert steered(1.0, 0.01, 0.01) > steered(1.0, 0.01, 0.0) > steered(1.0, 0.01, -0.01)
    assert steered(1.0, 1.0, 0.0) == FASTEST
    assert steered(1.0, -1.0, 0.0) == 1 / FASTEST


def test_a_penalty_brings_a_slow_process_to_its_target():
    """Scores sink by the penalty and rise by the task: what is left follows with a lag, and ends where it should."""
    left, penalty, before = 1.0, 0.1, 0.0
    for step in range(400):
        wanted = wanted_at(min(1.0, step / 200), 0.25)
        penalty, before = steered(penalty, left - wanted, left - wanted - before), left - wanted
        left += 0.1 * (1 / (1 + penalty) - left)
    assert left == pytest.approx(0.25, rel=0.05)
