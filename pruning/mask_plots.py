"""Pictures of the masks that fine-pruning left, as SVG text, after the figures of Movement Pruning and Block Pruning.

Movement Pruning: Sanh et al., 2020, arXiv:2005.07683, figures 4 and 6. Block Pruning: Lagunas et al., 2021, arXiv:2109.04838, figure 1.
Pure functions: the same numbers give the same text. For colours and width see `pruning.plot_style`.
"""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import chain

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray

from pruning.mask_summary import PIXELS, Kind, LayerHeads, MagnitudeHistogram, MaskSummary, ScoreSample
from pruning.plot_style import FAINT, FIRST, INK, MARKERS, SECOND, SERIES, STYLE, new_figure, svg_of
from pruning.steering import Reading

CORNERS = {"Q": (-0.4, 0.02), "K": (0.02, 0.02), "V": (-0.4, -0.4), "O": (0.02, -0.4)}
"""Where in a head's cell the square of each of its matrices begins."""
SIDE = 0.38
GAP = 3
_SHADE = 0.35
"""Opacity of what stands behind."""
_FATES = {"pruned": SECOND, "left": FIRST}
_KINDS: dict[Kind, str] = {
    "attention": "attention",
    "feed_forward": "feed-forward",
    "decoder_attention": "decoder attention",
    "decoder_feed_forward": "decoder feed-forward",
}


def density_by_layer(summary: MaskSummary, *, name: str) -> str:
    """Share of the weights left in each layer, a line for each kind of matrix, attention and feed-forward side by side."""
    kinds = [kind for kind in _KINDS if any(each.kind == kind for each in summary.matrices)]
    with matplotlib.rc_context(STYLE):
        figure, places = _two_in_a_row(len(kinds), 2.3, sharey=True)
        for axes, kind in zip(places, kinds, strict=True):
            _paint_densities(axes, summary, kind)
        figure.axes[0].set_ylim(bottom=0)
        return svg_of(figure, name, "Weights left in each layer", "; ".join(_densities(summary)))


def mask_panels(summary: MaskSummary, *, name: str) -> str:
    """Every mask as one square panel, a row for each layer; as dark as the share of the weights under a pixel that is left."""
    layers, parts = summary.layers, summary.parts
    with matplotlib.rc_context(STYLE):
        figure = new_figure(0.4 + 0.56 * len(layers))
        _paint_panels(figure.subplots(), summary, layers, parts)
        svg = svg_of(figure, name, "The masks", f"rows are layers, columns {', '.join(parts)}; " + "; ".join(_densities(summary)))
    return _image_in_css_colour(svg, name)


def magnitudes_left(histograms: Sequence[MagnitudeHistogram], *, name: str) -> str:
    """How large the weights are that were left, over all of them."""
    described = "; ".join(
        f"{_KINDS[each.kind]}: {100 * sum(each.left):.1f} % of the weights left, mean magnitude {_mean(each, each.left):.3g} of these "
        f"and {_mean(each, each.every):.3g} of all"
        for each in histograms
    )
    with matplotlib.rc_context(STYLE):
        figure, places = _two_in_a_row(len(histograms), 2.2)
        for axes, histogram in zip(places, histograms, strict=True):
            _paint_histogram(axes, histogram)
        handles = [Patch(facecolor=FAINT, alpha=_SHADE, label="all"), Patch(facecolor=FIRST, label="left")]
        figure.legend(handles=handles, loc="outside upper right", ncols=2, fontsize=8.5, handlelength=1.0, borderpad=0)
        return svg_of(figure, name, "Magnitudes of the weights left", described)


def scores_and_magnitudes(samples: Sequence[ScoreSample], *, name: str) -> str:
    """The learned score of some groups against the magnitude of their weights, those left and those pruned in two colours."""
    described = "; ".join(f"{_KINDS[each.kind]}: {sum(each.kept)} of {len(each.kept)} groups drawn are left" for each in samples)
    with matplotlib.rc_context(STYLE):
        figure, places = _two_in_a_row(len(samples), 2.5)
        for axes, sample in zip(places, samples, strict=True):
            _paint_scores(axes, sample)
        handles = [Line2D([], [], color=color, marker="o", markersize=4, linestyle="", label=label) for label, color in _FATES.items()]
        figure.legend(handles=handles, loc="outside upper right", ncols=2, fontsize=8.5, handletextpad=0.2, borderpad=0)
        return svg_of(figure, name, "Scores and magnitudes", described)


def heads_by_block(heads: Sequence[LayerHeads], *, name: str) -> str:
    """Every head of every layer as four squares, Q and K over V and O: coloured where a weight is left."""
    described = "; ".join(f"layer {n}: {len(layer.live)} of {len(layer.blocks)} heads left" for n, layer in enumerate(heads, 1))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(0.7 + 0.27 * len(heads))
        _paint_heads(figure.subplots(), heads)
        return svg_of(figure, name, "Heads left, block by block", described)


def target_control(trace: Sequence[Reading], *, name: str) -> str:
    """What was left and what should have been, step by step; below it the penalty's weight, where there is a penalty."""
    last, steered = trace[-1], any(reading.penalty > 0 for reading in trace)
    described = f"step {last.step}: {100 * last.left:.1f} % left, {100 * last.wanted:.1f} % wanted"
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.2 if steered else 2.2)
        axes = figure.subplots(2 if steered else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1] if steered else None)[:, 0]
        _paint_trace(axes[0], trace)
        if steered:
            _paint_penalty(axes[1], trace)
            described += f", penalty {last.penalty:.3g}"
        axes[-1].set_xlabel("step")
        axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        return svg_of(figure, name, "Target control", described)


def _two_in_a_row(count: int, height: float, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with so many places for plots, each row `height` inches high."""
    columns = min(count, 2)
    rows = math.ceil(count / columns)
    figure = new_figure(height * rows)
    places: list[Axes] = list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for spare in places[count:]:
        spare.set_visible(False)
    return figure, places[:count]


def _densities(summary: MaskSummary) -> Iterable[str]:
    for layer in summary.layers:
        found = [matrix for part in summary.parts if (matrix := summary.matrix(layer, part))]
        yield f"layer {layer + 1}: " + ", ".join(f"{matrix.part} {100 * matrix.density:.1f} %" for matrix in found)


def _paint_densities(axes: Axes, summary: MaskSummary, kind: Kind) -> None:
    """A line for each part; a layer that has no mask there leaves a gap."""
    parts = [part for part in summary.parts if any(each.part == part for each in summary.matrices if each.kind == kind)]
    for part, color, marker in zip(parts, SERIES, MARKERS, strict=False):
        found = [summary.matrix(layer, part) for layer in summary.layers]
        values = [100 * matrix.density if matrix and matrix.kind == kind else np.nan for matrix in found]
        line = axes.plot(
            [layer + 1 for layer in summary.layers], values, f"{marker}-", color=color, label=part, markersize=4, linewidth=1.2
        )
        line[0].set_gid(f"density-{part}")
    axes.set_title(_KINDS[kind], fontsize=9.5, loc="left")
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.tick_params(length=0)
    axes.set_xlim(summary.layers[0] + 0.7, summary.layers[-1] + 1.3)
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2, fontsize=8.5, handlelength=1.4, columnspacing=1.0)


def _paint_panels(axes: Axes, summary: MaskSummary, layers: Sequence[int], parts: Sequence[str]) -> None:
    """A frame for each mask, and one image of all of them."""
    pitch = PIXELS + GAP
    shares = np.zeros((pitch * len(layers) - GAP, pitch * len(parts) - GAP))
    for row, layer in enumerate(layers):
        for column, part in enumerate(parts):
            matrix = summary.matrix(layer, part)
            if matrix is None:
                continue
            top, left = row * pitch, column * pitch
            shares[top : top + PIXELS, left : left + PIXELS] = _stretched(matrix.pixels.shares())
            frame = Rectangle((left, top), PIXELS, PIXELS, facecolor=FAINT, alpha=_SHADE, linewidth=0)
            frame.set_gid(f"mask-{layer + 1}-{part}")
            axes.add_patch(frame)
    height, width = shares.shape
    image = np.concatenate([np.full((height, width, 3), 255, np.uint8), np.round(255 * shares[..., None]).astype(np.uint8)], axis=-1)
    axes.imshow(image, interpolation="none", extent=(0, width, height, 0), aspect="auto")
    axes.set_xticks([column * pitch + PIXELS / 2 for column in range(len(parts))], parts)
    axes.set_yticks([row * pitch + PIXELS / 2 for row in range(len(layers))], [str(layer + 1) for layer in layers])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylabel("layer")
    axes.spines[:].set_visible(False)


def _stretched(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Repeated until they fill a panel."""
    down, across = (np.arange(PIXELS) * count // PIXELS for count in shares.shape)
    return shares[np.ix_(down, across)]


def _image_in_css_colour(svg: str, name: str) -> str:
    """The image's opacity, painted in a colour of the page: an image cannot follow the page's colours, a rectangle behind a mask can."""
    found = re.search(r"<image (.*?)/>", svg, re.DOTALL)
    assert found is not None
    attributes = dict(re.findall(r'([\w:]+)="([^"]*)"', found[1]))
    size = f'width="{attributes["width"]}" height="{attributes["height"]}"'
    image = f'<image {size} preserveAspectRatio="none" style="image-rendering: pixelated" xlink:href="{attributes["xlink:href"]}"/>'
    mask = f'<mask id="{name}-left" maskUnits="userSpaceOnUse" x="0" y="0" {size}>{image}</mask>'
    rectangle = f'<rect {size} style="fill: var(--plot-first, #2166ac)" mask="url(#{name}-left)"/>'
    painted = f'<g transform="{attributes["transform"]}">{mask}{rectangle}</g>'
    return svg.replace(found[0], painted)


def _paint_histogram(axes: Axes, histogram: MagnitudeHistogram) -> None:
    """All weights as a faint area, those left as a coloured one inside it."""
    edges = np.linspace(histogram.lowest, histogram.highest, len(histogram.every) + 1)
    axes.stairs([100 * share for share in histogram.every], edges, fill=True, color=FAINT, alpha=_SHADE)
    left = axes.stairs([100 * share for share in histogram.left], edges, fill=True, color=FIRST)
    left.set_gid(f"magnitudes-{histogram.kind}")
    axes.set_title(_KINDS[histogram.kind], fontsize=9.5, loc="left")
    axes.set_xlabel("magnitude")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.set_ylim(bottom=0)
    axes.tick_params(length=0)


def _mean(histogram: MagnitudeHistogram, shares: Sequence[float]) -> float:
    """Mean magnitude as the histogram has it."""
    edges = np.linspace(histogram.lowest, histogram.highest, len(shares) + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    return float(np.average(middles, weights=shares)) if sum(shares) else 0.0


def _paint_scores(axes: Axes, sample: ScoreSample) -> None:
    """Two clouds of dots, what is left over what was pruned."""
    magnitudes, scores, kept = np.array(sample.magnitudes), np.array(sample.scores), np.array(sample.kept, dtype=bool)
    for (fate, color), chosen in zip(_FATES.items(), (~kept, kept), strict=True):
        dots = _dots(magnitudes[chosen], scores[chosen], color)
        dots.set_gid(f"scores-{fate}-{sample.kind}")
        axes.add_patch(dots)
    axes.autoscale_view()
    axes.set_title(_KINDS[sample.kind], fontsize=9.5, loc="left")
    axes.set_xlabel("magnitude")
    axes.set_ylabel("score")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.tick_params(length=0)
    axes.grid()


def _dots(x: NDArray[np.float64], y: NDArray[np.float64], color: str) -> PathPatch:
    """One path of lines of no length with round ends: a quarter of the text that as many markers take."""
    path = Path(np.repeat(np.stack([x, y], axis=1), 2, axis=0), np.tile([Path.MOVETO, Path.LINETO], len(x)))
    path.should_simplify = False
    return PathPatch(path, fill=False, edgecolor=color, alpha=0.6, linewidth=3, capstyle="round")


def _paint_heads(axes: Axes, heads: Sequence[LayerHeads]) -> None:
    """A cell for each head; layers downwards."""
    squares: dict[str, list[Path]] = {"gone": [], "idle": [], "left": []}
    for row, layer in enumerate(heads, 1):
        for column, blocks in enumerate(layer.blocks, 1):
            for letter, (x, y) in CORNERS.items():
                state = "gone" if letter not in blocks else "left" if column - 1 in layer.live else "idle"
                squares[state].append(Path(_square(column + x, row - y - SIDE), closed=True))
    for (state, paths), color, alpha in zip(squares.items(), (FAINT, SECOND, FIRST), (_SHADE, 1.0, 1.0), strict=True):
        if paths:
            patch = PathPatch(Path.make_compound_path(*paths), facecolor=color, alpha=alpha, linewidth=0)
            patch.set_gid(f"heads-{state}")
            axes.add_patch(patch)
    axes.set_xlim(0.4, max(chain([1], (len(layer.blocks) for layer in heads))) + 0.6)
    axes.set_ylim(len(heads) + 0.6, 0.4)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _square(x: float, y: float) -> list[tuple[float, float]]:
    return [(x, y), (x + SIDE, y), (x + SIDE, y + SIDE), (x, y + SIDE), (x, y)]


def _paint_trace(axes: Axes, trace: Sequence[Reading]) -> None:
    """What is left, and over it as a dashed line what should be."""
    steps = [reading.step for reading in trace]
    line = axes.plot(steps, [100 * reading.left for reading in trace], color=FIRST, linewidth=1.5, label="left")
    line[0].set_gid("trace-left")
    axes.plot(steps, [100 * reading.wanted for reading in trace], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="wanted")
    axes.set_ylim(0, 105)
    axes.set_ylabel("left")
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.legend(loc="upper right", fontsize=8.5)


def _paint_penalty(axes: Axes, trace: Sequence[Reading]) -> None:
    line = axes.plot([reading.step for reading in trace], [reading.penalty for reading in trace], color=SECOND, linewidth=1.3)
    line[0].set_gid("trace-penalty")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("penalty")
    axes.tick_params(length=0, which="both")
    axes.grid(axis="y")
