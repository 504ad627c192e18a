"""Curves, histograms and points in the report, as SVG text.

Pure functions of plain numbers; what they mean is said in `loadtests.report_pictures`. `series` is the number of a variant, which has the
same colour, shape and dashes in every picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from loadtests.chart_style import INK, LEGEND_INCHES, color, distances, draw, legend_above, line_style, marker, plain_log_ticks
from loadtests.statistics import Interval

CURVE_INCHES = 2.9
_DASHED = (0.0, (4.0, 3.0))
_MOST_RATIO_ON_LINEAR_AXIS = 15.0


@dataclass(frozen=True)
class Curve:
    """Points joined by a line: `x`, `y` and, where there is one, `faint`, a second height, each [points]; `mark` is a place on it."""

    label: str
    series: int
    x: Sequence[float]
    y: Sequence[float]
    faint: Sequence[float] = ()
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, [bins] and [bins + 1]."""

    label: str
    series: int
    edges: Sequence[float]
    counts: Sequence[float]


@dataclass(frozen=True)
class Point:
    """A point with intervals in both directions."""

    label: str
    series: int
    x: Interval
    y: Interval


def curves(
    rows: Sequence[Curve],
    *,
    axes_names: tuple[str, str],
    name: str,
    title: str,
    line: tuple[float, str] | None = None,
    logarithmic: bool = False,
    unit: str = "",
) -> str:
    """Lines with points; `faint` heights as thin lines, marks as rings.

    Args:
        rows: the lines.
        axes_names: of x and y.
        name, title: see `draw`.
        line: a height that is drawn across, and its label.
        logarithmic: the vertical axis; the horizontal one is so where values differ much.
        unit: behind the numbers of the vertical axis.
    """

    def paint(axes: Axes) -> None:
        for row in rows:
            _paint_curve(axes, row)
        if logarithmic:
            axes.set_yscale("log")
            plain_log_ticks(axes, "y", "{x:g}" + unit)
        else:
            axes.yaxis.set_major_formatter("{x:g}" + unit)
        _scale_x(axes, [value for row in rows for value in row.x])
        if line is not None:
            axes.axhline(line[0], color=INK, linewidth=0.8, linestyle=_DASHED, label=line[1])
        axes.set_xlabel(axes_names[0])
        axes.set_ylabel(axes_names[1])
        axes.grid(axis="y")
        legend_above(axes, columns=2)

    described = "; ".join(f"{row.label}: " + ", ".join(f"{y:.3g} at {x:.3g}" for x, y in zip(row.x, row.y, strict=True)) for row in rows)
    return draw(paint, height=_curve_height(len(rows) + (line is not None)), name=name, title=title, described=described)


def histograms(rows: Sequence[Histogram], *, axis: str, name: str, title: str, line: tuple[float, str] | None = None) -> str:
    """Shares of each bin as outlines over a logarithmic axis; `line` is a place that is drawn upwards, and its label."""

    def paint(axes: Axes) -> None:
        for row in rows:
            total = sum(row.counts) or 1.0
            shares = [100 * count / total for count in row.counts]
            axes.stairs(shares, row.edges, color=color(row.series), linewidth=1.5, linestyle=line_style(row.series), label=row.label)
            axes.stairs(shares, row.edges, color=color(row.series), fill=True, alpha=0.12)
        axes.set_xscale("log")
        axes.set_xlim(*_filled(rows, line[0] if line else None))
        plain_log_ticks(axes, "x", "{x:g}")
        if line is not None:
            axes.axvline(line[0], color=INK, linewidth=0.8, linestyle=_DASHED, label=line[1])
        axes.set_xlabel(axis)
        axes.set_ylabel("requests (%)")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y")
        legend_above(axes, columns=2)

    described = "; ".join(f"{row.label}: {sum(row.counts):g} requests" for row in rows)
    return draw(paint, height=_curve_height(len(rows) + (line is not None)), name=name, title=title, described=described)


def points(rows: Sequence[Point], *, axes_names: tuple[str, str], name: str, title: str) -> str:
    """Points with their intervals in both directions; what is higher and further to the right is better."""

    def paint(axes: Axes) -> None:
        for row in rows:
            axes.errorbar(
                row.x.value,
                row.y.value,
                xerr=distances([row.x]),
                yerr=distances([row.y]),
                fmt=marker(row.series),
                color=color(row.series),
                markersize=6,
                elinewidth=1.0,
                capsize=2.5,
                label=row.label,
                linestyle="none",
            )
        axes.set_xlabel(axes_names[0])
        axes.set_ylabel(axes_names[1])
        axes.margins(x=0.1, y=0.12)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.grid()
        legend_above(axes, columns=2)

    described = "; ".join(f"{row.label}: {row.y.value:.1f} at {row.x.value:.3g}" for row in rows)
    return draw(paint, height=_curve_height(len(rows)), name=name, title=title, described=described)


def _paint_curve(axes: Axes, row: Curve) -> None:
    axes.plot(
        row.x,
        row.y,
        color=color(row.series),
        linestyle=line_style(row.series),
        marker=marker(row.series),
        markersize=4.5,
        linewidth=1.4,
        label=row.label,
    )
    if row.faint:
        axes.plot(row.x, row.faint, color=color(row.series), linestyle=line_style(row.series), linewidth=0.7, alpha=0.75)
    if row.mark is not None:
        axes.plot(*row.mark, marker="o", color="none", markeredgecolor=INK, markersize=11, markeredgewidth=1.1, linestyle="none")


def _scale_x(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic where the values are far apart."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > _MOST_RATIO_ON_LINEAR_AXIS:
        axes.set_xscale("log")
        plain_log_ticks(axes, "x", "{x:g}")
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))


def _filled(rows: Sequence[Histogram], place: float | None) -> tuple[float, float]:
    """From the first bin of any that is not empty to the last, and over a place that is to be seen."""
    ends = [
        end for row in rows for low, high, count in zip(row.edges, row.edges[1:], row.counts, strict=False) if count for end in (low, high)
    ]
    seen = [*ends, *([place] if place else [])] or [1.0, 10.0]
    return min(seen) / 1.15, max(seen) * 1.15


def _curve_height(rows: int) -> float:
    return CURVE_INCHES + LEGEND_INCHES * (-(-rows // 2))
