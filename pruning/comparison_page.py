"""The page of a comparison: its table, score against what is left, against speed-up, and by block size; one HTML file and its JSON.

After figures 2 and 3 of Block Pruning (Lagunas et al., 2021, arXiv:2109.04838).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import get_args

from markupsafe import Markup

from pruning.comparison_plots import Curve, Point, score_curves
from pruning.metrics import Interval
from pruning.pictures import Picture
from pruning.report import SpeedupKind, page_environment
from pruning.run_comparison import ComparedRun, ComparedTarget, Comparison
from pruning.storage import write_text_atomic
from service.artifact import Metric, Precision

HTML_NAME, JSON_NAME = "compare.html", "compare.json"
ALIKE = 1.2
"""Densities are alike when the largest is at most this many times the smallest."""
_Model = tuple[ComparedRun, ComparedTarget]


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write the page as HTML and JSON into `folder`, each in one step; returns the HTML file's path.

    Raises:
        StorageError: a file cannot be written.
    """
    for name, text in {JSON_NAME: comparison.model_dump_json(indent=1) + "\n", HTML_NAME: to_html(comparison)}.items():
        write_text_atomic(folder / name, text)
    return folder / HTML_NAME


def to_html(comparison: Comparison) -> str:
    """The page as one HTML file: styles and pictures are inside, and nothing is fetched."""
    template = page_environment().get_template("compare.html.j2")
    return template.render(comparison=comparison, pictures=list(pictures(comparison)))


def pictures(comparison: Comparison) -> Iterator[Picture]:
    """Score against what is left, against each kind of speed-up in each setting, and by block size."""
    yield from _against_density(comparison)
    for precision, length in _settings(comparison):
        for kind in get_args(SpeedupKind):
            yield from _against_speedup(comparison, precision, length, kind)
    yield from _by_granularity(comparison)


def _against_density(comparison: Comparison) -> Iterator[Picture]:
    curves = [
        _curve(run, number, [(_exactly(100 * target.weights_left), target.score) for target in run.targets])
        for number, run in enumerate(comparison.runs)
    ]
    svg = _drawn(comparison, curves, along="weights of the layers left", unit="%", name="density")
    if svg:
        caption = "Weights that were not pruned, over the dense model's; embeddings do not count. Bars: 95 % intervals."
        yield Picture(f"{comparison.metric} against weights left", caption, svg)


def _settings(comparison: Comparison) -> list[tuple[Precision, int]]:
    """Precisions and lengths that speed-ups are compared in: those that targets name; without any, the first that was measured."""
    targets = [target for run in comparison.runs for target in run.targets]
    named = [(each.precision, each.sequence_length) for each in targets if each.sequence_length]
    measured = [(each.precision, latency.sequence_length) for each in targets for latency in each.latency]
    return sorted(set(named or measured[:1]))


def _against_speedup(comparison: Comparison, precision: Precision, length: int, kind: SpeedupKind) -> Iterator[Picture]:
    curves = [
        _curve(
            run,
            number,
            [
                (Interval(latency.speedup, latency.speedup_low, latency.speedup_high), target.score)
                for target in run.targets
                if target.precision == precision and (latency := target.measured(kind, length))
            ],
        )
        for number, run in enumerate(comparison.runs)
    ]
    svg = _drawn(comparison, curves, along=f"{kind} speed-up, measured", unit="x", name=f"{kind}-{precision}-{length}")
    if svg:
        over = "dense fp32" if kind == "total" else f"dense in {precision}"
        yield Picture(f"{comparison.metric} against {kind} speed-up", f"In {precision}, at {length} tokens; over {over}.", svg)


def _by_granularity(comparison: Comparison) -> Iterator[Picture]:
    """Score by what is pruned as one: a curve for each method and each group of like densities with several granularities."""
    ticks = list(dict.fromkeys(run.granularity for run in sorted(comparison.runs, key=lambda run: run.coarseness)))
    curves: list[Curve] = []
    for method in dict.fromkeys(run.method for run in comparison.runs):
        for alike in _alike([(run, target) for run in comparison.runs if run.method == method for target in run.targets]):
            if len({run.granularity for run, _ in alike}) > 1:
                low, high = (100 * end(target.weights_left for _, target in alike) for end in (min, max))
                points = _points([(_exactly(ticks.index(run.granularity)), target.score) for run, target in alike])
                curves.append(Curve(f"{method}, {low:.0f} to {high:.0f} % left", points, len(curves)))
    svg = _drawn(comparison, curves, along="pruned as one: attention / feed-forward", unit="", name="granularity", ticks=ticks)
    if svg:
        caption = "Models of like density are joined. From single weights to whole heads and neurons."
        yield Picture(f"{comparison.metric} by block size", caption, svg)


def _alike(models: Sequence[_Model]) -> Iterator[list[_Model]]:
    """Groups of models whose densities are alike, from the sparsest; of each run the model nearest to the middle of its group."""
    ordered = sorted(models, key=_weights_left)
    starts: list[float] = []
    for model in ordered:
        fits = bool(starts) and _weights_left(model) <= ALIKE * starts[-1]
        starts.append(starts[-1] if fits else _weights_left(model))
    for _, group in groupby(zip(starts, ordered, strict=True), key=lambda each: each[0]):
        found = [model for _, model in group]
        middle = (_weights_left(found[0]) + _weights_left(found[-1])) / 2
        nearest = sorted(found, key=lambda model: -abs(_weights_left(model) - middle))  # later ones replace earlier ones
        yield list({run.name: (run, target) for run, target in nearest}.values())


def _weights_left(model: _Model) -> float:
    return model[1].weights_left


def _drawn(
    comparison: Comparison, curves: Sequence[Curve], *, along: str, unit: str, name: str, ticks: Sequence[str] = ()
) -> Markup | None:
    """The picture of the curves that have points; None without any."""
    filled = [curve for curve in curves if curve.points]
    if not filled:
        return None
    dense = [_score(metric) for _, metric in comparison.dense]
    return Markup(score_curves(filled, dense, metric=comparison.metric, along=along, unit=unit, name=name, ticks=ticks))


def _curve(run: ComparedRun, number: int, found: Sequence[tuple[Interval, Metric | None]]) -> Curve:
    return Curve(run.name, _points(found), number)


def _points(found: Sequence[tuple[Interval, Metric | None]]) -> tuple[Point, ...]:
    """Those that were scored, along the axis."""
    return tuple(Point(x, _score(metric)) for x, metric in sorted(found, key=lambda each: each[0].value) if metric)


def _exactly(value: float) -> Interval:
    return Interval(value, value, value)


def _score(metric: Metric) -> Interval:
    return Interval(metric.value, metric.low, metric.high)
