"""A simulated queue: what is known of it in closed form, and that the search finds the rate of a service that is one."""

from functools import partial
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.allotment import MOST_SECONDS, loads_of
from loadtests.arrivals import arrivals, poisson, steady
from loadtests.bench import LIGHT, TELLING_REQUESTS, first_rate
from loadtests.plan import WARM_SHARE, Plan, parse_subjects
from loadtests.queueing import rate_within, sojourns
from loadtests.statistics import Knee, Objective, Sample, Step, crossing, find_knee, step_of
from loadtests.texts import TASKS
from loadtests.traces import typical_seeds

OBJECTIVE = Objective(200.0)
WITHIN = 2.5


def step_at(rate: float, *, service_s: float, requests: float, most_s: float, seed: int) -> Step:
    """Of a service with one core, which answers one request after another."""
    seconds = min(requests / rate, most_s)
    (seed,) = typical_seeds(1, (rate * seconds,), warm=0.0, seed=seed)
    due = arrivals(steady(rate, seconds), spacing="poisson", seed=seed)
    return step_of(rate, Sample(1e3 * service_s * sojourns(due / service_s), failed=0))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=30), st.integers(1, 4))
def test_a_request_is_begun_when_it_has_come_and_a_server_is_free(gaps, servers):
    """As a queue that is followed request by request says."""
    free, due = [0.0] * servers, np.cumsum(gaps)
    expected = []
    for each in due:
        server = int(np.argmin(free))
        free[server] = max(free[server], each) + 1.0
        expected.append(free[server] - each)
    assert sojourns(due, servers=servers) == pytest.approx(expected)


@pytest.mark.parametrize("utilization", [0.2, 0.5, 0.8])
def test_the_mean_is_that_of_pollaczek_and_khinchine(utilization):
    """Of a long run on one server: half of u / (1 - u) service times are waited."""
    due = poisson(100_000, seed=1) / utilization
    assert sojourns(due).mean() == pytest.approx(1 + utilization / (2 * (1 - utilization)), rel=0.05)


def test_the_rate_falls_with_the_service_time_and_grows_with_servers():
    """None is left where one request alone takes as long as the objective."""
    rates = [rate_within(0.2, service_s=each / 1e3, servers=1, percent=99.0) for each in (20, 50, 100, 150, 199, 200)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-2] > rates[-1] == 0.0
    assert rate_within(0.2, service_s=0.1, servers=3, percent=99.0) > 3 * rates[2]


@settings(deadline=None, max_examples=12)
@given(st.floats(0.02, 0.15), st.floats(0.7, 1.4), st.integers(0, 1000))
def test_a_rate_is_found_where_there_is_one(service_s, mistaken, seed):
    """Within a factor of 2.5 of a long run's, from steps of 60 requests, also where the capacity before it was not quite so."""
    plan = Plan(("qa",), connections=4)
    capacity, turns = mistaken / service_s, count(seed)
    first = first_rate(plan, TASKS["qa"], OBJECTIVE, capacity)
    measure = partial(step_at, service_s=service_s, requests=60.0, most_s=MOST_SECONDS * 60.0 / first)
    knee = find_knee(lambda rate: measure(rate, seed=next(turns)), OBJECTIVE, first=first, light=LIGHT * capacity, telling=TELLING_REQUESTS)
    true = rate_within(0.2, service_s=service_s, servers=1, percent=99.0)
    assert knee.rate > 0
    assert service_s > 0.12 or true / WITHIN <= knee.rate <= WITHIN * true


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gain_of_a_fast_service_is_not_overstated(seed):
    """Within 6 % of a long run's, as rates are read off the rounds of a default comparison, although its queue takes long to build up."""
    services = {"dense": 0.011, "compact": 0.003}
    plan = Plan(("classify",), parse_subjects(",".join(services)), seed=seed)
    true = {label: rate_within(0.2, service_s=each, servers=1, percent=99.0) for label, each in services.items()}
    loads = loads_of(plan, {label: Knee(rate, ()) for label, rate in true.items()}, OBJECTIVE, seconds=plan.times.visits)
    seeds = typical_seeds(plan.rounds, [each.requests for each in loads.values()], warm=WARM_SHARE, seed=seed)

    def sample(label: str, rate: float) -> Sample:
        traces = [poisson(loads[label].requests, each) / rate / services[label] for each in seeds]
        return Sample(np.concatenate([1e3 * services[label] * sojourns(trace) for trace in traces]), failed=0)

    found = {label: crossing(each.rates, [sample(label, rate) for rate in each.rates], OBJECTIVE) for label, each in loads.items()}
    assert found["compact"] / found["dense"] == pytest.approx(true["compact"] / true["dense"], rel=0.06)


def test_models_that_answer_many_together_begin_at_a_share_of_the_capacity():
    """No such queue says what they can do."""
    assert first_rate(Plan(("summarize",)), TASKS["summarize"], Objective(1500.0), 10.0) == pytest.approx(6.0)
