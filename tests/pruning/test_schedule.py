"""What happens when: pure functions of the step."""

import pytest

from pruning.schedule import Schedule, cubic, penalty_at, threshold_at
from pruning.steering import wanted_at

SCHEDULE = Schedule(steps=100, warmup=10, cooldown=30)


def wanted(step: int) -> float:
    """Share that should be left of what is to end at a fifth."""
    return wanted_at(SCHEDULE.progress(step), 0.2)


def test_nothing_is_pruned_in_the_warm_up_and_all_by_the_cool_down():
    """The ends of the ramp are exact."""
    for step in (0, 10):
        assert (wanted(step), threshold_at(SCHEDULE, step, end=0.1), penalty_at(SCHEDULE, step, weight=5)) == (1, 0, 0)
    for step in (70, 99, 100):
        assert wanted(step) == 0.2
        assert threshold_at(SCHEDULE, step, end=0.1) == 0.1
        assert penalty_at(SCHEDULE, step, weight=5) == 5


def test_the_ramp_is_cubic_and_falls_fastest_at_first():
    """Half way it has done seven eighths of its work."""
    assert wanted(40) == pytest.approx(0.2 + 0.8 / 8)
    falls = [wanted(step) - wanted(step + 1) for step in range(10, 70)]
    assert falls == sorted(falls, reverse=True)
    assert cubic(3.0, 3.0, 0.4) == 3.0


def test_masks_cool_from_the_end_of_the_ramp_on():
    """Not a step sooner."""
    assert [SCHEDULE.cools(step) for step in (69, 70, 99)] == [False, True, True]


@pytest.mark.parametrize(("warmup", "cooldown"), [(50, 50), (-1, 10), (0, 101)])
def test_a_run_without_a_ramp_is_refused(warmup, cooldown):
    """It would prune in one step, or never."""
    with pytest.raises(ValueError, match="no ramp in 100 steps"):
        Schedule(steps=100, warmup=warmup, cooldown=cooldown)
