"""How the time of a task is divided: by requests, so that a slow variant, whose requests come seldom, is loaded for longer.

A 99th percentile is known as well as there are requests beyond it, whatever time they took. So each load of every variant has about as
many requests, except that a fast one's lasts at least a while: what piles up in a service that is near its capacity is late only after a
while, so that short loads overstate its rate. Where all have enough requests, time is what is divided evenly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from loadtests.plan import BETWEEN_SECONDS, FEW_SHARES, FEWEST_SHARES, LONG_MS, SEARCH_STEPS, Plan
from loadtests.statistics import Knee, Objective

MANY_REQUESTS, ENOUGH_REQUESTS = 300, 1000
MOST_SECONDS = 1.6
TAIL_REQUESTS, QUICK_TAIL_REQUESTS = 100, 25

_LEAST_OBJECTIVES = 15.0
_LEAST_SHARE = 0.8


@dataclass(frozen=True)
class Loads:
    """The open loops of each visit of one variant.

    Attributes:
        rates: requests per second, ascending.
        shares: what these are of the knee; where it is below what was tried, of a rate such that the slowest load is that; where there
            is none, of the lowest rate that was tried.
        requests: that are due in each, on average.
    """

    rates: tuple[float, ...]
    shares: tuple[float, ...]
    requests: float

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """Shares with their rates."""
        return tuple(zip(self.shares, self.rates, strict=True))


def equal_requests(rates: Sequence[float], *, seconds: float, least_s: float) -> list[float]:
    """Requests of a load at each rate, [rates]: as many at each, but for loads that would take less than the least time.

    Together they take `seconds`, or more where the least time of all is more.
    """
    slowest_first, found = sorted(range(len(rates)), key=lambda place: rates[place]), [least_s * rate for rate in rates]
    for count in range(len(rates), 0, -1):
        equal = (seconds - least_s * (len(rates) - count)) / sum(1 / rates[place] for place in slowest_first[:count])
        if equal >= least_s * rates[slowest_first[count - 1]]:
            return [equal if place in slowest_first[:count] else each for place, each in enumerate(found)]
    return found


def least_rate(plan: Plan, objective: Objective) -> float:
    """The slowest rate, in requests per second, of which there is time for so many requests that one in a hundred can be told.

    One slow variant may take the time of the visits but for loads of the least length of all others.
    """
    shares = _fewest_shares(plan, objective)
    each_s, least_s = _load_seconds(plan, objective, shares, plan.times.visits)
    slow_s = max(least_s, each_s - least_s * (len(plan.subjects) - 1))
    return shares[0] * _tail_requests(plan) * _stretch(shares) / slow_s


def requests_of_steps(plan: Plan, guesses: Mapping[str, float], objective: Objective) -> dict[str, float]:
    """Requests of a step of each variant's search, by label, such that searches of some steps take their share of the time.

    Args:
        plan: of the task.
        guesses: requests per second at which each begins, by label.
        objective: loads are long beside it.
    """
    closed = len(guesses) * (plan.times.closed + BETWEEN_SECONDS)
    seconds = (plan.times.search - closed) / SEARCH_STEPS - len(guesses) * BETWEEN_SECONDS
    least_s = least_seconds(plan, objective, seconds / len(guesses))
    found = equal_requests(list(guesses.values()), seconds=seconds, least_s=least_s)
    enough = {label: max(MANY_REQUESTS, least_s * rate) for label, rate in guesses.items()}
    return {label: min(requests, enough[label]) for label, requests in zip(guesses, found, strict=True)}


def loads_of(plan: Plan, knees: Mapping[str, Knee], objective: Objective, *, seconds: float) -> dict[str, Loads]:
    """The loads of each variant's visits, by label, so that all visits take so many seconds.

    There are fewer rates where requests are few, but two only in a quick run or with a long objective: p99 is no straight line between
    them.

    Args:
        plan: of the task.
        knees: by label; of a variant whose knee is below what was tried the slowest load is that; one without has loads of the least
            length.
        objective: loads are long beside it; with a long one there are never many rates.
        seconds: of all open loops.
    """
    most = len(plan.shares) if objective.slo_ms < LONG_MS else len(FEW_SHARES)
    choices = [shares for shares in (plan.shares, FEW_SHARES, _fewest_shares(plan, objective)) if len(shares) <= most]
    found = [_loads(plan, knees, objective, shares, seconds) for shares in choices]
    return next((each for each in found if _fewest(each, knees) * plan.rounds >= MANY_REQUESTS), found[-1])


def least_seconds(plan: Plan, objective: Objective, equal_s: float) -> float:
    """Of a load: long beside the objective, as far as there would be time for it if all loads were as long, `equal_s`."""
    return max(plan.least_s, min(_LEAST_OBJECTIVES * objective.slo_ms / 1e3, _LEAST_SHARE * equal_s))


def even_seconds(rates: Sequence[float], *, seconds: float, least_s: float, enough: float) -> float:
    """The least length of a load: as long as it may be while all have enough requests, so that it is that of all where all have more.

    Args:
        rates: requests per second, [rates].
        seconds: of a load of each together.
        least_s: that it is in any case.
        enough: requests of a load.
    """
    lengths = sorted(enough / rate for rate in rates)
    return max(least_s, min(((seconds - sum(lengths[count:])) / count for count in range(1, len(lengths) + 1)), default=least_s))


def _tail_requests(plan: Plan) -> float:
    """Of a load, such that one in a hundred can be told in all rounds together."""
    return (QUICK_TAIL_REQUESTS if plan.quick else TAIL_REQUESTS) / plan.rounds


def _fewest_shares(plan: Plan, objective: Objective) -> tuple[float, ...]:
    return FEWEST_SHARES if plan.quick or objective.slo_ms >= LONG_MS else FEW_SHARES


def _stretch(shares: Sequence[float]) -> float:
    """Of a load's length over that at the knee, on average."""
    return sum(1 / share for share in shares) / len(shares)


def _load_seconds(plan: Plan, objective: Objective, shares: Sequence[float], seconds: float) -> tuple[float, float]:
    """Of a load of every variant together, where all loads take `seconds`; and the least of one variant's."""
    subjects = len(plan.subjects)
    each_s = seconds / (plan.rounds * len(shares)) - BETWEEN_SECONDS * subjects
    return each_s, least_seconds(plan, objective, each_s / subjects)


def _loads(plan: Plan, knees: Mapping[str, Knee], objective: Objective, shares: tuple[float, ...], seconds: float) -> dict[str, Loads]:
    middles = {label: knee.rate or knee.below / shares[0] or min(step.rate for step in knee.steps) for label, knee in knees.items()}
    stretch = _stretch(shares)
    each_s, least_s = _load_seconds(plan, objective, shares, seconds)
    paces = {label: middle / stretch for label, middle in middles.items()}  # requests per second of a load, on average over the rates
    known = {label: paces[label] for label, knee in knees.items() if knee.known}
    left_s = each_s - least_s * (len(knees) - len(known))
    share_of = partial(_shared, least_s=least_s, enough=ENOUGH_REQUESTS / plan.rounds)
    bounded = {
        label: max(least_s * paces[label], min(requests, _tail_requests(plan)))
        for label, requests in share_of(known, seconds=left_s).items()
        if knees[label].below
    }
    left_s -= sum(requests / paces[label] for label, requests in bounded.items())
    found = share_of({label: pace for label, pace in known.items() if label not in bounded}, seconds=left_s)
    requests = {label: least_s * pace for label, pace in paces.items()} | bounded | found
    return {label: Loads(tuple(share * middle for share in shares), shares, requests[label]) for label, middle in middles.items()}


def _shared(paces: Mapping[str, float], *, seconds: float, least_s: float, enough: float) -> dict[str, float]:
    """Requests of a load of each, by label, that take so many seconds together; `paces` are requests per second."""
    rates = list(paces.values())
    even_s = even_seconds(rates, seconds=seconds, least_s=least_s, enough=enough)
    return dict(zip(paces, equal_requests(rates, seconds=seconds, least_s=even_s), strict=True))


def _fewest(loads: Mapping[str, Loads], knees: Mapping[str, Knee]) -> float:
    """Requests of the load that has fewest, of a variant whose knee, or what it is below, is known."""
    return min((loads[label].requests for label, knee in knees.items() if knee.known), default=0.0)
