"""Reaching a target while training: what is left is read as training goes, and steered so that it follows a ramp to the target.

A target is a share of something: of the weights, of the multiply-accumulates, of the parameters, of the time (one over a speed-up, as a
latency table predicts it). Along the ramp that share is to follow a cubic from 1 to the target. The level at which it does is found at each
reading: for methods that keep the best, how much of the weights; for methods with a penalty, the threshold. Their penalty gets heavier or
lighter so that this threshold comes to be the method's own. At the end of the ramp the level is set once more, and the masks stay.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pruning.schedule import cubic

GAIN, DAMPING = 4.0, 20.0
"""A penalty grows by a factor of e for each quarter by which too much is left, and for each twentieth by which that has grown."""
FASTEST = 1.5
FARTHEST = 1e3
"""A penalty changes by no more than the first factor at a reading, and by no more than the second in all."""
HALVINGS, FEW_HALVINGS = 30, 2
"""Of the range in which a level is looked for, and of the neighbourhood in which it is followed."""
REACH, LEAST_REACH = 0.1, 0.02
"""How far from where it was a level is followed: relative, and at least."""


@dataclass(frozen=True)
class Reading:
    """One line of the trace.

    Attributes:
        step: of the training.
        left, wanted: shares of what the target counts.
        level: of the method.
        penalty: weight of the penalty.
    """

    step: int
    left: float
    wanted: float
    level: float
    penalty: float


def wanted_at(progress: float, target: float) -> float:
    """What should be left at this point of the ramp, as a share."""
    return cubic(1.0, target, progress)


def steered(penalty: float, error: float, grown: float) -> float:
    """The penalty's new weight.

    Args:
        penalty: its weight now.
        error: the share that is left, less what should be; half of it as it is and half as it will be, once gates on their way are closed.
        grown: by how much the error to come has grown since the reading before. Gates take many steps from open to closed: who waits
            until they are there has pushed too many on their way.
    """
    return penalty * min(FASTEST, max(1 / FASTEST, math.exp(GAIN * error + DAMPING * grown)))


def solve_level(left: Callable[[float], float], wanted: float, *, low: float, high: float, halvings: int = HALVINGS) -> float:
    """The level at which what is left is nearest to `wanted`, by bisection; the last call of `left` was with it.

    Args:
        left: closes the gates for a level and says what is left; monotonous, in either direction.
        wanted: a share.
        low, high: ends of the range of levels.
        halvings: of the range.
    """
    at_low, at_high = left(low), left(high)
    falls = at_low > at_high
    nearest, best = min((abs(at_low - wanted), low), (abs(at_high - wanted), high))
    for _ in range(halvings):
        level = (low + high) / 2
        found = left(level)
        if abs(found - wanted) < nearest:
            best, nearest = level, abs(found - wanted)
        if (found > wanted) is falls:
            low = level
        else:
            high = level
    left(best)
    return best


def follow_level(left: Callable[[float], float], wanted: float, before: float, *, low: float, high: float) -> float:
    """A level nearer to the one at which `wanted` is left, by a few halvings and a chord; the last call of `left` was with it.

    Args:
        left: closes the gates for a level and says what is left; the higher the level, the less.
        wanted: a share.
        before: what this gave not long ago.
        low, high: ends of the range of levels.
    """
    reach = max(LEAST_REACH, REACH * abs(before))
    low, high = max(low, before - reach), min(high, before + reach)
    at_low = left(low)
    if at_low <= wanted:
        return low
    at_high = left(high)
    if at_high >= wanted:
        return high
    for _ in range(FEW_HALVINGS):
        level = (low + high) / 2
        if (found := left(level)) > wanted:
            low, at_low = level, found
        else:
            high, at_high = level, found
    level = low + (high - low) * (at_low - wanted) / (at_low - at_high)
    left(level)
    return level
