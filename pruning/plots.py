"""Pictures of a run, as SVG text: what is left in each layer, accuracy against speed-up, predicted beside measured, sizes.

Pure functions: the same numbers give the same text. For colours and width see `pruning.plot_style`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pruning.metrics import Interval
from pruning.plot_style import FAINT, FIRST, INK, LABEL, SECOND, STYLE, errors, new_figure, svg_of
from service.artifact import LayerShape


@dataclass(frozen=True)
class TradeOff:
    """One pruned model: what it was asked for, how fast it is, what it scores (in percent)."""

    label: str
    speedup: Interval
    score: Interval
    before_recovery: Interval | None = None


@dataclass(frozen=True)
class Prediction:
    """One target: the speed-up that the latency table predicted, and the one measured end to end."""

    label: str
    predicted: float
    measured: Interval


def layers_left(dense: Sequence[LayerShape], left: Sequence[LayerShape], *, name: str, title: str) -> str:
    """Heads and neurons left in each layer, as bars over the faint bars of the dense model."""
    described = "; ".join(f"layer {i}: {layer.heads} heads, {layer.intermediate} neurons" for i, layer in enumerate(left, 1))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.7)
        heads, neurons = figure.subplots(1, 2)
        _paint_layers(heads, [layer.heads for layer in dense], [layer.heads for layer in left], "heads")
        _paint_layers(neurons, [layer.intermediate for layer in dense], [layer.intermediate for layer in left], "neurons")
        return svg_of(figure, name, title, described)


def trade_off(points: Sequence[TradeOff], dense: Interval, *, metric: str, kind: str, name: str) -> str:
    """Score against measured speed-up over the targets of a run, with the dense model's score as a line and its interval as a band."""
    ordered = sorted(points, key=lambda point: point.speedup.value)
    described = "; ".join(f"{p.label}: {p.speedup.value:.2f}x, {metric} {p.score.value:.1f} %" for p in ordered)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.9)
        _paint_trade_off(figure.subplots(), ordered, dense, metric, kind)
        return svg_of(figure, name, f"{metric} against {kind} speed-up", f"dense: {dense.value:.1f} %; {described}")


def predicted_and_measured(points: Sequence[Prediction], *, name: str) -> str:
    """Measured against predicted structural speed-up, on the diagonal where the latency table was right; the band is 10 % either way."""
    described = "; ".join(f"{p.label}: predicted {p.predicted:.2f}x, measured {p.measured.value:.2f}x" for p in points)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.9)
        _paint_predictions(figure.subplots(), points)
        return svg_of(figure, name, "Structural speed-up, predicted and measured", described)


def sizes(size_bytes: Sequence[tuple[str, int]], *, name: str) -> str:
    """Size on disk of each variant, one bar each, in the order given."""
    megabytes = [(label, size / 1e6) for label, size in size_bytes]
    described = "; ".join(f"{label}: {size:.1f} MB" for label, size in megabytes)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(0.6 + 0.27 * len(megabytes))
        _paint_sizes(figure.subplots(), megabytes)
        return svg_of(figure, name, "Size on disk", described)


def _paint_layers(axes: Axes, dense: Sequence[int], left: Sequence[int], unit: str) -> None:
    """One faint and one coloured bar for each layer; an empty layer is marked with a 0."""
    numbers = range(1, len(left) + 1)
    axes.bar(numbers, dense, color=FAINT, alpha=0.3, width=0.8)
    for number, count, bar in zip(numbers, left, axes.bar(numbers, left, color=FIRST, width=0.8), strict=True):
        bar.set_gid(f"{unit}-{number}")
        if count == 0:
            axes.annotate("0", (number, 0), xytext=(0, 2), textcoords="offset points", ha="center", color=SECOND)
    axes.set_title(f"{unit} left", fontsize=9.5, loc="left")
    axes.set_xlabel("layer")
    axes.set_xticks([n for n in numbers if len(left) <= 6 or n % 2 == 0])
    axes.tick_params(length=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.grid(axis="y")


def _paint_trade_off(axes: Axes, points: Sequence[TradeOff], dense: Interval, metric: str, kind: str) -> None:
    """The dense line, the curve, and a second curve for the scores before recovery training where there are any."""
    before = [(point, point.before_recovery) for point in points if point.before_recovery]
    axes.axhspan(dense.low, dense.high, color=FAINT, alpha=0.2, linewidth=0)
    axes.axhline(dense.value, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate("dense", (1.0, dense.value), xycoords=axes.get_yaxis_transform(), xytext=(-2, 3), textcoords="offset points", ha="right")
    if before:
        _paint_curve(axes, [point.speedup for point, _ in before], [score for _, score in before], color=SECOND, label="no training")
    label = "after recovery training" if before else None
    _paint_curve(axes, [point.speedup for point in points], [point.score for point in points], color=FIRST, label=label)
    for point in points:
        axes.annotate(
            point.label, (point.speedup.value, point.score.high), xytext=(0, 5), textcoords="offset points", ha="center", bbox=LABEL
        )
    axes.set_xlabel(f"{kind} speed-up, measured")
    axes.set_ylabel(f"{metric} (%)")
    axes.margins(x=0.12, y=0.16)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.grid(axis="y")
    if before:
        axes.legend(loc="lower left", fontsize=9.5)


def _paint_curve(axes: Axes, speedups: Sequence[Interval], scores: Sequence[Interval], *, color: str, label: str | None) -> None:
    """Points joined by a line, with the intervals of both coordinates."""
    axes.errorbar(
        [speedup.value for speedup in speedups],
        [score.value for score in scores],
        xerr=errors(speedups),
        yerr=errors(scores),
        fmt="o-" if color == FIRST else "s--",
        color=color,
        label=label,
        markersize=5,
        linewidth=1.2,
        elinewidth=1.0,
        capsize=2.5,
    )


def _paint_predictions(axes: Axes, points: Sequence[Prediction]) -> None:
    """The diagonal with its band, and one labelled point for each target."""
    ends = [value for p in points for value in (p.predicted, p.measured.low, p.measured.high)]
    low, high = min(*ends, 1.0) * 0.92, max(ends) * 1.1
    axes.fill_between([low, high], [low * 0.9, high * 0.9], [low * 1.1, high * 1.1], color=FAINT, alpha=0.2, linewidth=0)
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    measured = [point.measured for point in points]
    axes.errorbar(
        [point.predicted for point in points],
        [speedup.value for speedup in measured],
        yerr=errors(measured),
        fmt="o",
        color=FIRST,
        markersize=5,
        elinewidth=1.0,
        capsize=2.5,
    )
    for point in points:
        axes.annotate(point.label, (point.predicted, point.measured.value), xytext=(8, -9), textcoords="offset points", bbox=LABEL)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("predicted by the latency table")
    axes.set_ylabel("measured end to end")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.yaxis.set_major_formatter("{x:g}x")
    axes.grid()


def _paint_sizes(axes: Axes, megabytes: Sequence[tuple[str, float]]) -> None:
    """Horizontal bars, the first at the top, each with its number."""
    bars = axes.barh(range(len(megabytes)), [size for _, size in megabytes], color=FIRST, height=0.62)
    for index, (bar, (_, size)) in enumerate(zip(bars, megabytes, strict=True)):
        bar.set_gid(f"size-{index + 1}")
        axes.annotate(f"{size:.1f}", (size, index), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(megabytes)), [label for label, _ in megabytes])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel("size on disk (MB)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
