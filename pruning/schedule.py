"""Schedules of fine-pruning: pure functions of the step.

A run of pruning has three parts: a warm-up in which nothing is pruned, a ramp, and a cool-down in which the masks stay where they are
while the weights settle. The ramp is cubic (Zhu and Gupta, 2017, arXiv:1710.01878, as in Sanh et al., 2020, section 4.2): steep at
first, when there is much to remove that does not matter.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The three parts of a run.

    Attributes:
        steps: optimizer steps of the whole run.
        warmup: of them, before the ramp.
        cooldown: of them, after it.
    """

    steps: int
    warmup: int
    cooldown: int

    def __post_init__(self) -> None:
        if min(self.warmup, self.cooldown) < 0 or self.warmup + self.cooldown >= self.steps:
            raise ValueError(f"warm-up {self.warmup} and cool-down {self.cooldown} leave no ramp in {self.steps} steps")

    @property
    def ramp_end(self) -> int:
        """First step of the cool-down."""
        return self.steps - self.cooldown

    def progress(self, step: int) -> float:
        """Share of the ramp that lies behind: 0 until its first step, 1 from the cool-down on."""
        return min(1.0, max(0.0, (step - self.warmup) / (self.ramp_end - self.warmup)))

    def cools(self, step: int) -> bool:
        """Whether the masks stay as they are from this step on."""
        return step >= self.ramp_end


def cubic(start: float, end: float, progress: float) -> float:
    """From `start` to `end`: `end + (start - end) * (1 - progress)^3`."""
    return end + (start - end) * (1.0 - progress) ** 3


def threshold_at(schedule: Schedule, step: int, *, end: float) -> float:
    """Threshold that a score's sigmoid has to exceed: from 0, where all stay, to `end`."""
    return cubic(0.0, end, schedule.progress(step))


def penalty_at(schedule: Schedule, step: int, *, weight: float) -> float:
    """Weight of the penalty; it grows as the threshold does, or scores would sink before there is anything to be below."""
    return weight * cubic(0.0, 1.0, schedule.progress(step))
