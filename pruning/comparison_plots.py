"""Pictures of several runs side by side, as SVG text: score against what is left, against speed-up, and by what is pruned as one.

Pure functions: the same numbers give the same text. For colours and width see `pruning.plot_style`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pruning.metrics import Interval
from pruning.plot_style import FAINT, INK, MARKERS, SERIES, STYLE, errors, new_figure, svg_of

LONGEST_LABEL = 44


@dataclass(frozen=True)
class Point:
    """One pruned model: where it stands along the axis, and what it scores (in percent)."""

    x: Interval
    score: Interval


@dataclass(frozen=True)
class Curve:
    """Models that belong together.

    Attributes:
        label: what the legend says.
        points: in the order of the axis.
        series: which colour and marker it has; of one run it is the same in every picture.
    """

    label: str
    points: tuple[Point, ...]
    series: int


def score_curves(
    curves: Sequence[Curve], dense: Sequence[Interval], *, metric: str, along: str, unit: str, name: str, ticks: Sequence[str] = ()
) -> str:
    """Score along an axis, a curve for each run, with what dense models score as dashed lines.

    Args:
        curves: at least one.
        dense: scores of the dense models; a single one has its interval as a band.
        metric: name of the score.
        along: what the axis shows.
        unit: what follows its numbers.
        name: ids in the picture start with it.
        ticks: names in place of the numbers 0, 1, …
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.7 + 0.2 * len(curves))
        axes = figure.subplots()
        _paint_dense(axes, dense)
        for number, curve in enumerate(curves, 1):
            _paint_curve(axes, curve, f"curve-{number}")
        _label_axes(axes, metric, along, unit, ticks)
        handles, _ = axes.get_legend_handles_labels()
        legend = figure.legend(handles, [str(number) for number in range(len(curves))], loc="outside lower left", fontsize=8.5)
        for text, curve in zip(legend.get_texts(), curves, strict=True):  # a label that begins with _ would be left out
            text.set_text(_shortened(curve.label))
        described = "; ".join(_described(curve, metric, unit, ticks) for curve in curves)
        reference = ", ".join(f"{each.value:.1f} %" for each in dense)
        return svg_of(figure, name, f"{metric} against {along}", f"dense: {reference or 'not measured'}; {described}")


def _paint_dense(axes: Axes, dense: Sequence[Interval]) -> None:
    if len(dense) == 1:
        axes.axhspan(dense[0].low, dense[0].high, color=FAINT, alpha=0.2, linewidth=0)
    for each in dense:
        axes.axhline(each.value, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        place = axes.get_yaxis_transform()
        axes.annotate("dense", (1.0, each.value), xycoords=place, xytext=(-2, 3), textcoords="offset points", ha="right")


def _paint_curve(axes: Axes, curve: Curve, identity: str) -> None:
    drawn = axes.errorbar(
        [point.x.value for point in curve.points],
        [point.score.value for point in curve.points],
        xerr=errors([point.x for point in curve.points]),
        yerr=errors([point.score for point in curve.points]),
        fmt=f"{MARKERS[curve.series % len(MARKERS)]}-",
        color=SERIES[curve.series % len(SERIES)],
        label="curve",
        markersize=5,
        linewidth=1.2,
        elinewidth=0.9,
        capsize=2.0,
    )
    drawn.lines[0].set_gid(identity)


def _label_axes(axes: Axes, metric: str, along: str, unit: str, ticks: Sequence[str]) -> None:
    if ticks:
        axes.set_xticks(range(len(ticks)), [_shortened(tick).replace(" / ", "\n") for tick in ticks])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.xaxis.set_major_formatter(f"{{x:g}}{unit}")
    axes.set_xlabel(along)
    axes.set_ylabel(f"{metric} (%)")
    axes.margins(x=0.08, y=0.12)
    axes.grid(axis="y")


def _described(curve: Curve, metric: str, unit: str, ticks: Sequence[str]) -> str:
    where = [ticks[round(point.x.value)] if ticks else f"{point.x.value:.4g}{unit}" for point in curve.points]
    return f"{curve.label}: " + ", ".join(f"{x} {metric} {p.score.value:.1f} %" for x, p in zip(where, curve.points, strict=True))


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
