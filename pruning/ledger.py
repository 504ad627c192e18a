"""A study's ledger: what each run came to, with what every example scored, in one small JSON file.

Any two runs can be compared example by example, and tables and pictures be drawn again, without running anything.
"""

import base64
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pruning.errors import DataError
from pruning.metrics import Interval, Scores, difference_interval, interval
from pruning.storage import write_text_atomic
from service.artifact import LayerShape, Precision

DENSE = "dense"
PRECISION = 10_000
"""What an example scored is kept in ten-thousandths."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Part):
    """A structural speed-up, measured end to end on models with random weights."""

    value: float
    low: float
    high: float
    precision: Precision
    tokens: int = Field(description="In the row, or in the source.")
    target_length: int = Field(default=0, description="Tokens that were generated; 0 by an encoder alone.")


class Entry(_Part):
    """What one run came to."""

    name: str
    claims: tuple[str, ...] = ()
    settings: str = Field(description="What the recipe sets, as JSON; a run is done again when it changes.")
    made_from: str = Field(default="", description="Stands for the data, the model and its teachers; a run is done again when it changes.")
    dataset: str
    metric: str
    scores: str = Field(description="What each example scored: 16-bit ten-thousandths, deflated, in base 64.")
    density: float = Field(description="Share of the encoder's linear weights that are not zero.")
    left: float = Field(description="Share of what the target counts that is left.")
    speedup: float | None = Field(description="Structural speed-up that the latency table predicts; none without a target of that kind.")
    measured: Measured | None = Field(default=None, description="Structural speed-up of the shapes, once it was measured.")
    layers: tuple[LayerShape, ...]
    steps: int
    seconds: float
    peak_memory_bytes: int
    cpu: str

    @property
    def per_example(self) -> Scores:
        """What each example scored, between 0 and 1."""
        packed = np.frombuffer(zlib.decompress(base64.b64decode(self.scores)), dtype="<u2")
        return Scores(packed / PRECISION, np.ones(len(packed)))

    @property
    def value(self) -> Interval:
        """The metric in percent, with its interval."""
        return interval(self.per_example)

    def minus(self, other: "Entry") -> Interval:
        """The paired difference in points, with its interval; `DataError` when the two were scored on other examples."""
        if (self.dataset, self.metric) != (other.dataset, other.metric):
            raise DataError(f"{self.name} was scored by {self.metric} on {self.dataset}, {other.name} by {other.metric} on {other.dataset}")
        return difference_interval(self.per_example, other.per_example)


class Ledger(_Part):
    """All runs of a study that are done."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def load(cls, path: Path) -> "Ledger":
        """Read a ledger; an empty one where there is no file yet."""
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(f"{path}: not a ledger of a study ({str(error).splitlines()[0]})") from None

    def save(self, path: Path) -> None:
        """Write it, one line a run, in one step."""
        lines = ",\n".join(f"  {entry.model_dump_json()}" for entry in self.entries)
        write_text_atomic(path, f'{{"entries": [\n{lines}\n]}}\n')

    @classmethod
    def add(cls, path: Path, entry: Entry, order: Sequence[str]) -> None:
        """Put a run into the file, whatever other processes do with it; runs of these names come first, in their order."""
        with FileLock(f"{path}.lock"):
            cls.load(path).having(entry).ordered(order).save(path)

    @classmethod
    def add_measured(cls, path: Path, entry: Entry) -> None:
        """Put what was measured of a run into the file, unless another process has done that run anew meanwhile."""
        with FileLock(f"{path}.lock"):
            ledger = cls.load(path)
            found = ledger.find(entry.name)
            if found is not None and found.model_copy(update={"measured": entry.measured}) == entry:
                ledger.having(entry).save(path)

    def find(self, name: str) -> Entry | None:
        """The run of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def having(self, entry: Entry) -> "Ledger":
        """With this run, in the place of an earlier one of its name, or at the end."""
        if self.find(entry.name) is None:
            return Ledger(entries=(*self.entries, entry))
        return Ledger(entries=tuple(entry if each.name == entry.name else each for each in self.entries))

    def ordered(self, names: Sequence[str]) -> "Ledger":
        """With runs of these names first, in their order."""
        places = {name: place for place, name in enumerate(names)}
        return Ledger(entries=tuple(sorted(self.entries, key=lambda entry: places.get(entry.name, len(places)))))


def packed(scores: Scores) -> str:
    """What each example scored, as an entry keeps it."""
    values = np.round(PRECISION * scores.numerator / np.maximum(scores.denominator, 1)).astype("<u2")
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def as_table(ledger: Ledger, *, against: str = DENSE) -> str:
    """The runs as a markdown table, each with its paired difference from the one that is called `against`, if there is that."""
    reference = ledger.find(against)
    lines = [
        f"| run | density | heads, neurons left | speed-up | {_metrics(ledger)} | against {against} | time | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in ledger.entries:
        difference = "" if reference is None or entry is reference else _spread(entry.minus(reference), "+.2f")
        cells = (
            entry.name,
            f"{entry.density:.3f}",
            f"{sum(layer.heads for layer in entry.layers)}, {sum(layer.intermediate for layer in entry.layers)}",
            _speed(entry),
            _spread(entry.value, ".2f"),
            difference,
            f"{entry.seconds / 60:.0f} min",
            f"{entry.peak_memory_bytes / 1e9:.1f} GB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _metrics(ledger: Ledger) -> str:
    return ", ".join(sorted({f"{entry.metric} on {entry.dataset}" for entry in ledger.entries}))


def _speed(entry: Entry) -> str:
    if entry.measured is not None:
        return f"{entry.measured.value:.2f}x ({entry.measured.low:.2f} to {entry.measured.high:.2f})"
    return f"{entry.speedup:.2f}x predicted" if entry.speedup else ""


def _spread(found: Interval, form: str) -> str:
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"
