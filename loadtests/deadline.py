"""By when a run has to be over, so that a slow machine or a service that hangs cannot make it endless."""

import time
from dataclasses import dataclass

from loadtests.errors import MeasurementError


@dataclass(frozen=True)
class Deadline:
    """So many seconds after a time of the monotonic clock."""

    began: float
    seconds: float

    @property
    def left(self) -> float:
        """Seconds, negative when it is over."""
        return self.began + self.seconds - time.monotonic()

    def check(self) -> None:
        """`MeasurementError` when it is over."""
        if self.left < 0:
            raise MeasurementError(
                f"the run did not end in {self.seconds / 60:.1f} min; give fewer tasks or variants, or a longer --minutes"
            )


NEVER = Deadline(0.0, float("inf"))
