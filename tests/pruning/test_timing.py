"""Interleaved timing, against a clock that only moves when a call says so."""

from threading import Barrier

import numpy as np
import pytest

from pruning.timing import MIN_ROUNDS, Timings, bootstrap_median, interleaved


class FakeClock:
    """Nanoseconds that pass only inside calls."""

    def __init__(self):
        """Start at zero."""
        self.now = 0
        self.log = []

    def __call__(self):
        """Say what time it is."""
        return self.now

    def call(self, name, milliseconds):
        """A call that takes this long: a number, or a function of the time that has passed."""

        def run():
            self.log.append(name)
            took = milliseconds(self.now) if callable(milliseconds) else milliseconds
            self.now += round(took * 1e6)

        return run


@pytest.fixture
def clock():
    """A fresh fake clock."""
    return FakeClock()


def test_the_median_is_what_a_call_takes(clock):
    """The reported median is in milliseconds of one call."""
    timings = interleaved({"a": clock.call("a", 3.0)}, rounds=4, clock=clock)
    assert timings.median_ms("a") == pytest.approx(3.0)
    assert timings.samples["a"].shape == (4,)


def test_rounds_alternate_their_direction(clock):
    """Rounds go forwards and backwards in turn, so that the order favours nobody."""
    interleaved({name: clock.call(name, 20.0) for name in "abc"}, rounds=2, clock=clock)
    visits = "".join(clock.log[3 * 3 :][::2])
    assert visits == "abccba"


def test_a_visit_starts_untimed():
    """What the first call of a visit pays for a cold cache is not counted."""
    clock = FakeClock()
    state = {"last": None}

    def cold_after_another(name):
        def run():
            clock.now += 1_000_000 * (1 if state["last"] == name else 50)
            state["last"] = name

        return run

    timings = interleaved({name: cold_after_another(name) for name in "ab"}, rounds=6, clock=clock)
    assert timings.median_ms("a") == timings.median_ms("b") == 1.0


def test_drift_cancels_in_the_ratio(clock):
    """A machine that slows down all the time leaves the ratio nearly as it is."""
    quick = clock.call("a", lambda now: 20.0 * (1.0 + now / 1e10))
    slow = clock.call("b", lambda now: 40.0 * (1.0 + now / 1e10))
    timings = interleaved({"a": quick, "b": slow}, rounds=40, clock=clock)
    assert timings.samples["a"][-1] > 1.2 * timings.samples["a"][0]
    assert timings.ratio("a", "b").value == pytest.approx(2.0, rel=0.02)


def test_the_ratio_says_how_many_times_faster(clock):
    """The reference's latency is over the other one's: 4 ms against 1 ms is 4 times faster."""
    timings = interleaved({"small": clock.call("small", 1.0), "dense": clock.call("dense", 4.0)}, rounds=5, clock=clock)
    ratio = timings.ratio("small", "dense")
    assert ratio.value == ratio.low == ratio.high == pytest.approx(4.0)


def test_a_stopwatch_of_its_own_leaves_out_what_others_took(clock):
    """Time in which the clock went on but the stopwatch did not is not the call's."""
    worked = FakeClock()

    def interrupted():
        clock.now += 9_000_000
        worked.now += 2_000_000

    timings = interleaved({"a": interrupted}, seconds=0.5, clock=clock, stopwatch=worked)
    assert timings.median_ms("a") == 2.0
    assert clock.now >= 0.5e9


def test_a_few_disturbed_rounds_do_not_move_the_ratio():
    """Rounds that another tenant disturbed are outvoted."""
    fast, slow = np.full(21, 1.0), np.full(21, 2.0)
    fast[:5] = 30.0
    assert Timings({"fast": fast, "slow": slow}).ratio("fast", "slow").value == 2.0


def test_the_interval_encloses_the_median_and_narrows_with_rounds():
    """More rounds of the same noise give a narrower interval around the median."""
    noise = np.random.default_rng(1).normal(2.0, 0.3, size=1000)
    few, many = bootstrap_median(noise[:20]), bootstrap_median(noise)
    assert few.low <= few.value <= few.high
    assert many.high - many.low < few.high - few.low


def test_the_time_given_is_used_and_not_much_more(clock):
    """Rounds go on until the seconds are used up."""
    interleaved({"a": clock.call("a", 50.0)}, seconds=2.0, clock=clock)
    assert 2.0e9 <= clock.now <= 2.4e9


def test_slow_calls_get_the_least_number_of_rounds(clock):
    """However little time is given, the bootstrap has rounds to draw from."""
    timings = interleaved({"a": clock.call("a", 900.0)}, seconds=0.0, clock=clock)
    assert len(timings.samples["a"]) == MIN_ROUNDS


def test_quick_calls_are_timed_in_bursts(clock):
    """A call of 2 ms is timed 5 times a visit, one of 50 ms once, next to one untimed call each."""
    interleaved({"quick": clock.call("quick", 2.0), "slow": clock.call("slow", 50.0)}, rounds=1, clock=clock)
    warm_up = 3
    assert clock.log.count("quick") == warm_up + 1 + 5
    assert clock.log.count("slow") == warm_up + 1 + 1


def test_callers_make_the_call_at_the_same_time():
    """With two callers a call that waits for company finds it, outside of its warm-up."""
    company = Barrier(2)
    warm_up = iter(range(3))
    interleaved({"a": lambda: next(warm_up, None) is not None or company.wait(timeout=10)}, rounds=2, callers=2)
    assert not company.broken


def test_an_error_inside_a_call_reaches_the_caller():
    """A call that fails in its thread is not swallowed."""
    calls = iter(range(4))

    def failing():
        if next(calls, None) is None:
            raise RuntimeError("session gone")

    with pytest.raises(RuntimeError, match="session gone"):
        interleaved({"a": failing}, rounds=3, callers=2)


def test_nothing_to_time_is_refused():
    """An empty mapping is a mistake of the caller."""
    with pytest.raises(ValueError, match="nothing to time"):
        interleaved({})


def test_the_quiet_latency_passes_over_disturbed_rounds():
    """Even when most rounds were disturbed, the lower quartile is what the undisturbed ones took."""
    samples = np.array([2.0, 2.0, 2.0, 2.0, 7.0, 8.0, 5.0, 9.0, 6.0])
    timings = Timings({"a": samples})
    assert timings.quiet_ms("a") == 2.0
    assert timings.median_ms("a") > 2.0


def test_the_spread_tells_a_quiet_machine_from_a_busy_one():
    """The spread is the distance of the quartiles over the median."""
    assert Timings({"a": np.full(9, 2.0)}).spread("a") == 0.0
    assert Timings({"a": np.asarray([1.0, 2.0, 3.0, 4.0, 5.0])}).spread("a") == pytest.approx(2.0 / 3.0)
