"""The pictures of one task in the report; what was not measured is left out."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from loadtests.bar_charts import Bar, Gain, Stack, bars, gains, stacks
from loadtests.chart_style import TIMES
from loadtests.charts import Curve, Histogram, Point, curves, histograms, points
from loadtests.gates import Ratio
from loadtests.report_cells import figure, megabytes, score_name
from loadtests.report_tables import at_knee, rate_text, ratio_of, split_parts
from loadtests.results import Factor, Layer, Roofline, SubjectResult, TaskResult
from loadtests.statistics import Interval

LAYERS = ("raw", "engine", "http")


class Picture(NamedTuple):
    """One picture: its name within the task, its heading, a sentence below it, and the SVG."""

    name: str
    title: str
    caption: str
    svg: Markup


def pictures_of(task: TaskResult) -> list[Picture]:
    """All pictures for which there is something to show, in the order of the page."""
    makers = (_rates, _accuracy, _latency_by_rate, _distribution, _time, _lengths, _layers, _gains, _roofline, _memory)
    return [picture for maker in makers for picture in maker(task)]


def series_of(task: TaskResult) -> dict[str, int]:
    """Numbers of the variants, by label, in the order in which they were asked for; what else was measured comes after them."""
    labels = [subject.label for subject in task.subjects]
    others = [each.subject for each in task.sessions] + [each.subject for each in task.layers] + [each.subject for each in task.rooflines]
    return {label: number for number, label in enumerate(dict.fromkeys(labels + others))}


def _rates(task: TaskResult) -> Iterator[Picture]:
    rows = [
        Bar(each.label, each.rate, f"{rate_text(each)}{_times(ratio_of(task, each))}", number) for number, each in enumerate(task.subjects)
    ]
    if any(row.interval.value for row in rows):
        title = "The rate that keeps the objective"
        svg = bars(rows, axis="requests per second", name=f"{task.task}-rates", title=title)
        caption = f"Highest rate at which 99 of 100 answers come within {task.slo_ms:g} ms, with its 95 % interval."
        yield Picture("rates", title, caption, Markup(svg))


def _accuracy(task: TaskResult) -> Iterator[Picture]:
    rows = [
        Point(each.label, number, each.rate, Interval(each.accuracy.value, each.accuracy.low, each.accuracy.high))
        for number, each in enumerate(task.subjects)
        if each.accuracy and each.rate.value
    ]
    score = next((each.accuracy for each in task.subjects if each.accuracy), None)
    if rows and score:
        metric = score_name(score.name)
        title = "Accuracy against throughput"
        svg = points(rows, axes_names=("requests per second in the objective", f"{metric} (%)"), name=f"{task.task}-accuracy", title=title)
        caption = (
            f"{metric[:1].upper()}{metric[1:]} on {score.dataset} {score.split} ({score.examples:,} examples), as the artifacts state it: "
            "it was not measured here. Further right and higher is better."
        )
        yield Picture("accuracy", title, caption, Markup(svg))


def _latency_by_rate(task: TaskResult) -> Iterator[Picture]:
    rows = [_curve(task, number, each) for number, each in enumerate(task.subjects) if each.curve]
    if rows:
        title = "Latency against rate"
        svg = curves(
            rows,
            axes_names=("requests per second", "latency (ms)"),
            name=f"{task.task}-curve",
            title=title,
            line=_objective(task),
            logarithmic=True,
        )
        caption = "Open loop, from when a request was due. Lines with points: p99; thin lines: p50. Ring: the knee, where p99 crosses."
        yield Picture("curve", title, caption, Markup(svg))


def _curve(task: TaskResult, number: int, subject: SubjectResult) -> Curve:
    steps = [point.step for point in subject.curve]
    mark = (subject.rate.value, task.slo_ms) if subject.inside and subject.rate.value else None
    return Curve(
        subject.label, number, [each.rate for each in steps], [each.p99_ms for each in steps], [each.p50_ms for each in steps], mark=mark
    )


def _distribution(task: TaskResult) -> Iterator[Picture]:
    found = [(number, each, point) for number, each in enumerate(task.subjects) if (point := at_knee(each)) and sum(point.histogram)]
    if found:
        title = "Distribution of latencies"
        rows = [Histogram(each.label, number, task.edges_ms, point.histogram) for number, each, point in found]
        svg = histograms(rows, axis="latency (ms, logarithmic)", name=f"{task.task}-distribution", title=title, line=_objective(task))
        rates = ", ".join(f"{each.label} {figure(point.step.rate)}/s" for _, each, point in found)
        yield Picture("distribution", title, f"Right answers; {_where(task)}: {rates}.", Markup(svg))


def _time(task: TaskResult) -> Iterator[Picture]:
    found = [(each.label, split_parts(point.split)) for each in task.subjects if (point := at_knee(each)) and point.split]
    rows = [Stack(label, parts, f"{figure(sum(parts.values()))} ms") for label, parts in found if parts]
    if rows:
        title = "Where the time goes"
        svg = stacks(rows, axis="milliseconds of a request", name=f"{task.task}-time", title=title)
        caption = (
            "Queue, tokenize and infer as the service says; post: the rest of what it took; HTTP: transport and both ends of it. "
            f"Means; {_where(task)}."
        )
        yield Picture("time", title, caption, Markup(svg))


def _lengths(task: TaskResult) -> Iterator[Picture]:
    numbers = series_of(task)
    found = {label: sorted((each.tokens, each.speedup.value) for each in task.sessions if each.subject == label) for label in numbers}
    rows = [Curve(label, numbers[label], *zip(*pairs, strict=True)) for label, pairs in found.items() if len(pairs) > 1]
    if rows:
        title, first = "Speed-up against length", task.subjects[0].label
        svg = curves(rows, axes_names=("tokens", f"times {first}"), name=f"{task.task}-lengths", title=title, unit=TIMES)
        caption = f"The raw session alone, one row, one thread: latency of {first} over that of each, at the same length."
        yield Picture("lengths", title, caption, Markup(svg))


def _layers(task: TaskResult) -> Iterator[Picture]:
    numbers = series_of(task)
    chosen = sorted((each for each in task.layers if each.layer in LAYERS), key=lambda each: numbers[each.subject])
    rows = [_layer_bar(layer, numbers[layer.subject]) for layer in chosen]
    if rows:
        title = "Raw session, engine, HTTP"
        svg = bars(rows, axis="requests per second, closed loop", name=f"{task.task}-layers", title=title)
        length = "".join(f", texts of {tokens} tokens" for tokens in dict.fromkeys(layer.tokens for layer in chosen) if tokens)
        caption = f"On all cores{length}; ONNX Runtime where no other is named. In brackets: share of the raw session that is left."
        yield Picture("layers", title, caption, Markup(svg))


def _layer_bar(layer: Layer, number: int) -> Bar:
    value, share = layer.requests_per_second, layer.efficiency
    text = figure(value) if share is None else f"{figure(value)} ({share.value:.0%})"
    name = "HTTP" if layer.layer == "http" else layer.layer
    return Bar(f"{layer.subject}, {name}", Interval(value, value, value), text, number)


def _gains(task: TaskResult) -> Iterator[Picture]:
    chains = {each.chain: [other for other in task.factors if other.chain == each.chain] for each in task.factors}
    for number, (chain, factors) in enumerate(chains.items()):
        title = f"What makes up the gain of {chain}"
        steps = [Gain(each.name, each.ratio.value, place) for place, each in enumerate(factors)]
        svg = gains(factors[0].before, steps, name=f"{task.task}-gain-{number}", title=title)
        yield Picture(f"gain-{number}", title, _gain_caption(factors), Markup(svg))


def _gain_caption(factors: Sequence[Factor]) -> str:
    way = ", ".join(f"{each.name}: {each.before} to {each.after}" for each in factors)
    return f"The raw session at {factors[0].tokens} tokens, one thread. {way}. Equal lengths are equal factors."


def _roofline(task: TaskResult) -> Iterator[Picture]:
    numbers, title = series_of(task), "Share of the GEMM roofline"
    name, axis = f"{task.task}-roofline", "% of the fastest matrix product"
    found = {label: sorted((each.tokens, 100 * each.share) for each in task.rooflines if each.subject == label) for label in numbers}
    rows = [Curve(label, numbers[label], *zip(*pairs, strict=True)) for label, pairs in found.items() if pairs]
    caption = (
        "Multiply-accumulates of a row over its time in the raw session, against the fastest matrix product that was found on one core in "
        "the same runtime and precision"
    )
    if any(len(row.x) > 1 for row in rows):
        svg = curves(rows, axes_names=("tokens", axis), name=name, title=title, unit="%")
        yield Picture("roofline", title, f"{caption}.", Markup(svg))
    elif rows:
        svg = bars([_roofline_bar(each, numbers[each.subject]) for each in task.rooflines], axis=axis, name=name, title=title)
        yield Picture("roofline", title, f"{caption}, at {task.rooflines[0].tokens} tokens.", Markup(svg))


def _roofline_bar(roofline: Roofline, number: int) -> Bar:
    return Bar(roofline.subject, _exact(100 * roofline.share), f"{roofline.share:.0%} ({roofline.precision})", number)


def _memory(task: TaskResult) -> Iterator[Picture]:
    found = [(number, each, each.memory) for number, each in enumerate(task.subjects) if each.memory]
    rows = [Bar(each.label, _exact(memory.loaded_bytes / 1e6), megabytes(memory.loaded_bytes), number) for number, each, memory in found]
    if rows:
        title = "Memory of the service"
        svg = bars(rows, axis="resident MB", name=f"{task.task}-memory", title=title)
        most = ", ".join(f"{each.label} {megabytes(memory.loaded_peak_bytes)}" for _, each, memory in found)
        yield Picture(
            "memory", title, f"A service that holds this variant alone, before any load. After loads, the most: {most}.", Markup(svg)
        )


def _where(task: TaskResult) -> str:
    found = "each variant at its own knee"
    return found if all(each.rate.value for each in task.subjects) else f"{found}, or at the lowest rate that was tried"


def _objective(task: TaskResult) -> tuple[float, str]:
    return task.slo_ms, f"objective, {task.slo_ms:g} ms"


def _times(ratio: Ratio | None) -> str:
    return "" if ratio is None else f" ({f'{ratio.bound} '.lstrip()}{figure(ratio.interval.value)}{TIMES})"


def _exact(value: float) -> Interval:
    return Interval(value, value, value)
