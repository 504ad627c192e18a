"""A rate that is read off a queue: found more closely than by straight lines, and only where the service is like a queue."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from loadtests.arrivals import FloatArray, poisson
from loadtests.queueing import rate_within, served
from loadtests.replay import MOST_OFF, Replay, replayed
from loadtests.request_log import RequestLog, Row, log_of
from loadtests.statistics import PERCENT, Objective, Sample, crossing

NAN = float("nan")
OBJECTIVE = Objective(200.0)
ROUNDS = range(6)
SERVICE_MS, RATES = 85.0, (1.6, 2.4, 3.7)
TRUE = rate_within(0.2, service_s=SERVICE_MS / 1e3, servers=1, percent=PERCENT)

Change = Callable[[Row], Row]


def load(
    rate: float, services_ms: FloatArray, seed: int, *, overhead: float = 1.0, servers: int = 1, change: Change | None = None
) -> RequestLog:
    """Requests with those service times at a rate, answered one after another."""
    due = 1e3 * poisson(2.0 * len(services_ms), seed)[: len(services_ms)] / rate
    sojourns = served(due, services_ms, servers=servers)
    rows = (
        Row(at / 1e3, at / 1e3, (at + overhead * whole) / 1e3, 200, 10, True, 0, "dense", NAN, whole - alone, 0.0, alone, whole)
        for at, whole, alone in zip(due, sojourns, services_ms, strict=True)
    )
    return log_of(map(change, rows) if change else rows)


def rounds_of(seed: int, *, requests: int = 40, rates: Sequence[float] = RATES, **more: object) -> list[list[RequestLog]]:
    """Six rounds at all rates; service times differ by some percent, as they do on a shared processor."""
    source = np.random.default_rng(seed)
    return [
        [load(rate, SERVICE_MS * source.normal(1.0, 0.05, requests), int(source.integers(2**31)), **more) for rate in rates] for _ in ROUNDS
    ]


def replay_of(seed: int, **more: object) -> Replay:
    """Of such rounds."""
    found = replayed(RATES, rounds_of(seed, **more), servers=1, objective=OBJECTIVE)
    assert found is not None
    return found


def by_lines(rounds: Sequence[Sequence[RequestLog]]) -> float:
    """The rate that straight lines between p99 say."""
    samples = [Sample(np.concatenate([log.latency_ms for log in logs]), failed=0) for logs in zip(*rounds, strict=True)]
    return crossing(RATES, samples, OBJECTIVE)


def test_a_rate_is_found_more_closely_than_by_straight_lines():
    """Of 240 requests at each rate, where one answer takes 85 of 200 ms: chance hardly matters, and nothing is mistaken on average."""
    replays = np.log([replay_of(seed).rate(OBJECTIVE, ROUNDS) / TRUE for seed in range(12)])
    lines = np.log([by_lines(rounds_of(seed)) / TRUE for seed in range(12)])
    assert np.abs(replays).max() < 0.05
    assert replays.std() < lines.std() / 4


def test_what_http_takes_counts():
    """Latencies are greater than those of the queue by a factor, so the rate is that of an objective which is less by as much."""
    plain, slower = replay_of(0), replay_of(0, overhead=1.1)
    assert plain.factor(OBJECTIVE, ROUNDS) == pytest.approx(1.0)
    assert slower.factor(OBJECTIVE, ROUNDS) == pytest.approx(1.1)
    assert slower.rate(OBJECTIVE, ROUNDS) == pytest.approx(plain.rate(Objective(200.0 / 1.1), ROUNDS))


def test_a_service_on_several_cores_has_a_queue_with_as_many_servers():
    """Its rate is that of a long run with these, and no queue with one server is like it."""
    rates = tuple(2 * each for each in (2.5, 4.0, 6.0))
    rounds = rounds_of(0, requests=120, rates=rates, servers=2)
    found = replayed(rates, rounds, servers=2, objective=OBJECTIVE)
    assert found is not None
    assert found.rate(OBJECTIVE, ROUNDS) == pytest.approx(
        rate_within(0.2, service_s=SERVICE_MS / 1e3, servers=2, percent=PERCENT), rel=0.08
    )
    assert replayed(rates, rounds, servers=1, objective=OBJECTIVE) is None


@pytest.mark.parametrize("overhead", [1 / (1.05 * MOST_OFF), 1.05 * MOST_OFF])
def test_a_service_that_is_not_like_a_queue_has_none(overhead):
    """As where rows of several requests are joined: what each is said to take is taken by all of them at once."""
    assert replayed(RATES, rounds_of(0, overhead=overhead), servers=1, objective=OBJECTIVE) is None


def test_a_service_that_says_no_times_has_none():
    """Such as one that is not ours."""
    assert replayed(RATES, rounds_of(0, change=lambda row: row._replace(total_ms=NAN)), servers=1, objective=OBJECTIVE) is None


def test_rates_at_which_answers_were_not_right_do_not_count():
    """As where a service that has too much to do refuses some: the rate is that of the others; if those are all, there is none."""
    rounds = rounds_of(0)
    slower = [logs[:2] for logs in rounds]
    refused = [[*logs[:2], load(RATES[2], np.full(40, SERVICE_MS), 0, change=lambda row: row._replace(status=503))] for logs in rounds]
    found, expected = (replayed(RATES, each, servers=1, objective=OBJECTIVE) for each in (refused, slower))
    assert found is not None
    assert expected is not None
    assert found.rate(OBJECTIVE, ROUNDS) == expected.rate(OBJECTIVE, ROUNDS)
    assert replayed(RATES[2:], [logs[2:] for logs in refused], servers=1, objective=OBJECTIVE) is None


@pytest.mark.parametrize(("slo_ms", "end"), [(120.0, 0), (320.0, -1)])
def test_nothing_is_known_beyond_the_rates_that_were_visited(slo_ms, end):
    """The nearest of them is the rate."""
    found = replayed(RATES, rounds_of(0), servers=1, objective=Objective(slo_ms))
    assert found is not None
    assert found.rate(Objective(slo_ms), ROUNDS) == RATES[end]
