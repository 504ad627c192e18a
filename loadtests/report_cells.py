"""Cells and tables of the report, and how it writes numbers and names."""

import math
from dataclasses import dataclass

from loadtests.statistics import Interval


@dataclass(frozen=True)
class Cell:
    """One cell: its text, empty for nothing known, and smaller text below; `words` may be broken into lines."""

    text: str
    small: str = ""
    words: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def figure(value: float | None) -> str:
    """A number with about three digits; nothing for none."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def signed(value: float) -> str:
    """A difference in points; one that is nearly nothing has no sign."""
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def megabytes(size_bytes: float | None) -> str:
    """Bytes in MB (10^6)."""
    return "" if size_bytes is None else f"{figure(size_bytes / 1e6)} MB"


def between(interval: Interval) -> str:
    """The ends of an interval."""
    return f"{figure(interval.low)} to {figure(interval.high)}"


def score_name(name: str) -> str:
    """A metric as people write it: F1, exact match, ROUGE-L."""
    return name.replace("_", " ").replace("f1", "F1").replace("rouge", "ROUGE-")


def without_empty_columns(table: Table) -> Table:
    """Columns in which at least one row says something."""
    kept = [place for place in range(len(table.header)) if place == 0 or any(row[place].text for row in table.rows)]
    return Table(
        table.title, tuple(table.header[place] for place in kept), tuple(tuple(row[place] for place in kept) for row in table.rows)
    )
