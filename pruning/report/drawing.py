"""Which pictures the page shows."""

from collections.abc import Iterator
from typing import NamedTuple, get_args

from markupsafe import Markup

from pruning.metrics import Interval
from pruning.pictures import Picture, mask_pictures
from pruning.plots import Prediction, TradeOff, layers_left, predicted_and_measured, sizes, trade_off
from pruning.report.contents import RunReport, SpeedupKind, TargetReport
from pruning.report.wording import metric_name
from service.artifact import Latency, Metric


class Story(NamedTuple):
    """The pictures of one target, and whether they are shown at once."""

    name: str
    shown: bool
    pictures: tuple[Picture, ...]


def layer_pictures(report: RunReport) -> list[Picture]:
    """For each target, what is left in each layer."""
    return [
        Picture(
            report.name_of(each),
            f"{sum(layer.heads for layer in each.layers)} of {sum(layer.heads for layer in report.dense.layers)} heads and "
            f"{sum(layer.intermediate for layer in each.layers)} of {sum(layer.intermediate for layer in report.dense.layers)} neurons.",
            Markup(layers_left(report.dense.layers, each.layers, name=f"layers-{index}", title=f"What is left at {report.name_of(each)}")),
        )
        for index, each in enumerate(report.targets)
    ]


def mask_stories(report: RunReport) -> list[Story]:
    """For each fine-pruned target, how its masks came about and what they left."""
    return [
        Story(report.name_of(each), each is report.best, tuple(mask_pictures(each.masks, name=f"masks-{index}")))
        for index, each in enumerate(report.targets)
        if each.masks
    ]


def curve_pictures(report: RunReport) -> list[Picture]:
    """Score against speed-up for each precision and length of the targets, predicted beside measured, and sizes."""
    return [*_trade_offs(report), *_predictions(report), _size_picture(report)]


def _trade_offs(report: RunReport) -> Iterator[Picture]:
    """One picture for each precision, length and kind of speed-up that was measured."""
    dense = report.headline.among(report.dense.variants[0].metrics)
    settings = list(dict.fromkeys((each.precision, each.sequence_length) for each in report.targets))
    for number, setting in enumerate(settings):
        targets = [each for each in report.targets if (each.precision, each.sequence_length) == setting]
        for kind in get_args(SpeedupKind):
            points = [point for each in targets if (point := _trade_off_point(report, each, kind))]
            if dense and points:
                metric = metric_name(dense.name)
                svg = trade_off(points, _score_interval(dense), metric=metric, kind=kind, name=f"trade-off-{number}-{kind}")
                over = "dense fp32" if kind == "total" else f"dense in {setting[0]}"
                where = f"at {setting[1]} tokens" if setting[1] else "at the measured length"
                caption = f"In {setting[0]}, {where}; {kind}: over {over}. Bars and band: 95 % intervals."
                yield Picture(f"{metric} against {kind} speed-up", caption, Markup(svg))


def _trade_off_point(report: RunReport, target: TargetReport, kind: SpeedupKind) -> TradeOff | None:
    """The target as a point; None if its score or its speed-up was not measured."""
    metric, latency = report.headline.among(target.served.metrics), target.measured(kind)
    before = report.headline.among(target.before_recovery)
    if not metric or not latency:
        return None
    return TradeOff(target.asked, _speedup_interval(latency), _score_interval(metric), _score_interval(before) if before else None)


def _predictions(report: RunReport) -> Iterator[Picture]:
    points = [
        Prediction(report.name_of(each), each.predicted_speedup, _speedup_interval(latency))
        for each in report.targets
        if each.predicted_speedup and (latency := each.measured("structural"))
    ]
    if points:
        svg = predicted_and_measured(points, name="predictions")
        caption = "Structural. On the dashed line the latency table was right; the band is 10 % either way."
        yield Picture("Predicted and measured", caption, Markup(svg))


def _size_picture(report: RunReport) -> Picture:
    bars: list[tuple[str, int]] = [(each.variant, each.size_bytes) for each in report.dense.variants]
    bars += [(f"{report.name_of(each)}, {variant.variant}", variant.size_bytes) for each in report.targets for variant in each.variants]
    return Picture("Size on disk", "Everything that serving needs: graph, weights, tokenizer.", Markup(sizes(bars, name="sizes")))


def _score_interval(metric: Metric) -> Interval:
    return Interval(metric.value, metric.low, metric.high)


def _speedup_interval(latency: Latency) -> Interval:
    return Interval(latency.speedup, latency.speedup_low, latency.speedup_high)
