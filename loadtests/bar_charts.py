"""Bars, stacked bars and the steps of a gain in the report, as SVG text.

Pure functions of plain numbers, the first row at the top; what they mean is said in `loadtests.report_pictures`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from loadtests.chart_style import (
    FAINT,
    INK,
    LEGEND_INCHES,
    PAGE,
    TIMES,
    WIDTH_INCHES,
    color,
    distances,
    draw,
    legend_above,
    plain_log_ticks,
)
from loadtests.statistics import Interval

BAR_INCHES, FRAME_INCHES, CHARACTER_INCHES = 0.3, 0.62, 0.072


@dataclass(frozen=True)
class Bar:
    """A value with its interval, or with ends that are the value itself; `text` stands beside it."""

    label: str
    interval: Interval
    text: str
    series: int = 0


@dataclass(frozen=True)
class Stack:
    """Parts that add up, by name; `text` stands beside them."""

    label: str
    parts: dict[str, float]
    text: str


@dataclass(frozen=True)
class Gain:
    """One step of a gain: so many times what stood before it."""

    label: str
    factor: float
    series: int = 0


def bars(rows: Sequence[Bar], *, axis: str, name: str, title: str) -> str:
    """Horizontal bars, the first one at the top, each with its interval and its text."""
    ends = [max(row.interval.value, row.interval.high) for row in rows]

    def paint(axes: Axes) -> None:
        for place, row in enumerate(rows):
            axes.barh(place, row.interval.value, height=0.62, color=color(row.series))
            if row.interval.low < row.interval.high:
                axes.errorbar(row.interval.value, place, xerr=distances([row.interval]), color=INK, elinewidth=1.0, capsize=2.5)
        _name_rows(axes, [row.label for row in rows])
        _write_behind(axes, ends, [row.text for row in rows], [row.label for row in rows])
        axes.set_xlabel(axis, loc="right")

    described = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return draw(paint, height=_bars_height(len(rows)), name=name, title=title, described=described)


def stacks(rows: Sequence[Stack], *, axis: str, name: str, title: str) -> str:
    """Horizontal stacked bars; parts have the same order and colours in every row, and are named in a legend."""
    parts = list(dict.fromkeys(part for row in rows for part in row.parts))

    def paint(axes: Axes) -> None:
        ends = [0.0] * len(rows)
        for series, part in enumerate(parts):
            lengths = [row.parts.get(part, 0.0) for row in rows]
            axes.barh(range(len(rows)), lengths, left=ends, height=0.62, color=color(series), edgecolor=PAGE, linewidth=0.5, label=part)
            ends = [end + length for end, length in zip(ends, lengths, strict=True)]
        _name_rows(axes, [row.label for row in rows])
        _write_behind(axes, ends, [row.text for row in rows], [row.label for row in rows])
        axes.set_xlabel(axis, loc="right")
        legend_above(axes, columns=3)

    lines = -(-len(parts) // 3)
    amounts = [", ".join(f"{part} {value:.3g}" for part, value in row.parts.items()) for row in rows]
    described = "; ".join(f"{row.label}: {row.text}, {amount}" for row, amount in zip(rows, amounts, strict=True))
    return draw(paint, height=_bars_height(len(rows)) + LEGEND_INCHES * lines, name=name, title=title, described=described)


def gains(start: str, steps: Sequence[Gain], *, name: str, title: str) -> str:
    """From 1, what each step multiplies the last by, on a logarithmic axis: equal lengths are equal factors; the product stands last."""
    totals = list(accumulate((step.factor for step in steps), mul, initial=1.0))

    def paint(axes: Axes) -> None:
        for place, (step, before, after) in enumerate(zip(steps, totals, totals[1:], strict=False), 1):
            axes.barh(place, after - before, left=before, height=0.62, color=color(step.series))
            axes.plot([before, before], [place - 1, place], color=FAINT, linewidth=0.8)
            _write(axes, f"{TIMES}{step.factor:.2f}", max(before, after), place)
        last = len(steps) + 1
        axes.plot([totals[-1], totals[-1]], [last - 1, last], color=FAINT, linewidth=0.8)
        for place, total, text in ((0, 1.0, f"1{TIMES}"), (last, totals[-1], f"{totals[-1]:.2f}{TIMES}")):
            axes.plot([total], [place], marker="|", color=INK, markersize=12)
            _write(axes, text, total, place)
        axes.set_xscale("log")
        low, high = min(totals), max(totals)
        axes.set_xlim(low * 0.97, high * (high / low) ** 0.3 * 1.05)
        plain_log_ticks(axes, "x", "{x:g}" + TIMES)
        _name_rows(axes, [start, *(step.label for step in steps), "together"])
        axes.set_xlabel("times as fast (logarithmic)", loc="right")

    described = "; ".join(f"{step.label}: times {step.factor:.2f}" for step in steps)
    described = f"{start}: 1; {described}; together: {totals[-1]:.2f}"
    return draw(paint, height=_bars_height(len(steps) + 2), name=name, title=title, described=described)


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Rows of bars, the first one at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _write_behind(axes: Axes, ends: Sequence[float], texts: Sequence[str], names: Sequence[str]) -> None:
    """Texts behind the ends of bars, and room for the longest, on axes that the names of the rows have made narrower."""
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        _write(axes, text, end, place)
    width = max(1.0, WIDTH_INCHES - 0.3 - CHARACTER_INCHES * max(map(len, names)))
    share = min(0.7, (0.15 + CHARACTER_INCHES * max(map(len, texts))) / width)
    axes.set_xlim(0, max(*ends, 1e-9) / (1 - share))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if width > 2 else 3))


def _write(axes: Axes, text: str, end: float, place: float) -> None:
    """Text behind the end of a bar."""
    axes.annotate(text, (end, place), xytext=(5, 0), textcoords="offset points", va="center")


def _bars_height(rows: int) -> float:
    return FRAME_INCHES + BAR_INCHES * rows
