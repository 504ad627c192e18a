"""Every request of a load, raw: percentiles are computed from these and from nothing coarser.

A log is columns of equal length, kept as a compressed `.npz` that numpy reads without anything of ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

OK = 200
LOST = 0


class Row(NamedTuple):
    """One request, as it is noted when it is over.

    Attributes:
        intended_s, sent_s, done_s: when it was due, sent, and answered or given up; one clock.
        status: of the answer; 0 where none came.
        size_bytes: of the answer's body.
        right: whether it is the golden answer; of any other status than 200, no.
        text: which of the texts was sent.
        variant: which variant says that it answered.
        retry_after_s: what the service asked for when it refused; NaN where it did not.
        queue_ms, tokenize_ms, infer_ms, total_ms: what the service says that it took; NaN where it does not.
    """

    intended_s: float
    sent_s: float
    done_s: float
    status: int
    size_bytes: int
    right: bool
    text: int
    variant: str
    retry_after_s: float
    queue_ms: float
    tokenize_ms: float
    infer_ms: float
    total_ms: float


@dataclass(frozen=True, eq=False)
class RequestLog:
    """The columns of `Row`, each [requests], in the order in which requests were due."""

    intended_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    status: NDArray[np.int16]
    size_bytes: NDArray[np.int64]
    right: NDArray[np.bool_]
    text: NDArray[np.int32]
    variant: NDArray[np.str_]
    retry_after_s: NDArray[np.float64]
    queue_ms: NDArray[np.float64]
    tokenize_ms: NDArray[np.float64]
    infer_ms: NDArray[np.float64]
    total_ms: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.intended_s)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """From when each request was due, not from when it was sent: a stall is felt by all that should have come meanwhile."""
        return 1e3 * (self.done_s - self.intended_s)

    @property
    def lag_ms(self) -> NDArray[np.float64]:
        """How late each request was sent."""
        return 1e3 * (self.sent_s - self.intended_s)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which were answered with 200, and rightly."""
        return np.asarray((self.status == OK) & self.right)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which were answered with 200, and wrongly."""
        return np.asarray((self.status == OK) & ~self.right)

    def between(self, first_s: float, last_s: float) -> "RequestLog":
        """Requests that were due from the one time to the other, the latter not included."""
        return self.where((self.intended_s >= first_s) & (self.intended_s < last_s))

    def where(self, chosen: NDArray[np.bool_]) -> "RequestLog":
        """Those requests, [requests]."""
        return RequestLog(**{name: getattr(self, name)[chosen] for name in COLUMNS})

    def save(self, path: Path) -> None:
        """Write it."""
        np.savez_compressed(path, **{name: getattr(self, name) for name in COLUMNS})


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(RequestLog))
_TYPES: dict[str, Any] = {"status": np.int16, "size_bytes": np.int64, "right": np.bool_, "text": np.int32, "variant": np.str_}


def log_of(rows: Iterable[Row]) -> RequestLog:
    """A log of rows in any order."""
    ordered = sorted(rows, key=lambda row: row.intended_s)
    columns = zip(*ordered, strict=True) if ordered else [()] * len(COLUMNS)
    typed = {name: np.array(column, dtype=_TYPES.get(name, np.float64)) for name, column in zip(COLUMNS, columns, strict=True)}
    return RequestLog(**typed)


def load_log(path: Path) -> RequestLog:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as columns:
        return RequestLog(**{name: columns[name] for name in COLUMNS})


def joined(logs: Sequence[RequestLog]) -> RequestLog:
    """Logs one after another."""
    return RequestLog(**{name: np.concatenate([getattr(log, name) for log in logs]) for name in COLUMNS})
