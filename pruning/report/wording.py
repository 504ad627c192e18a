"""What the page says in sentences, with numbers and names written as people write them."""

from pruning.report.contents import RunReport
from service.artifact import Metric


def summary(report: RunReport) -> str:
    """The first sentence of the page: how fast, how small, for how much."""
    best = report.best
    if best is None:
        return "The dense model, not pruned."
    dense = report.dense.variants[0]
    parts = []
    if total := best.measured("total"):
        parts.append(f"{total.speedup:.1f} times as fast in total")
    elif structural := best.measured("structural"):
        parts.append(f"{structural.speedup:.2f} times as fast by structure alone")
    parts.append(f"{megabytes(best.served.size_bytes)} instead of {megabytes(dense.size_bytes)}")
    metric = report.headline.among(best.served.metrics)
    if metric and metric.difference:
        parts.append(_cost(metric))
    return ", ".join(parts) + "."


def explanation(report: RunReport) -> str:
    """What stands below the first sentence: which model, and the same figures in full, with their intervals."""
    best = report.best
    if best is None:
        return f"This run stopped at the dense model; it has {millions(report.dense.parameters.total)} parameters."
    sentences = [f"{best.served.artifact} was asked for {best.asked} and keeps {100 * best.density:.0f} % of the layers' weights."]
    if total := best.measured("total"):
        sentences.append(
            f"Total speed-up, over dense fp32 at {total.sequence_length} tokens: {total.speedup:.2f}x "
            f"({total.speedup_low:.2f} to {total.speedup_high:.2f})."
        )
    if structural := best.measured("structural"):
        sentences.append(
            f"Structural speed-up, over dense in the same precision ({best.served.precision}): {structural.speedup:.2f}x "
            f"({structural.speedup_low:.2f} to {structural.speedup_high:.2f})."
        )
    if metric := report.headline.among(best.served.metrics):
        sentences.append(_score_sentence(metric))
    return " ".join(sentences)


def _cost(metric: Metric) -> str:
    """The difference in words."""
    assert metric.difference is not None
    points, name = round(metric.difference.value, 1), metric_name(metric.name)
    if points == 0:
        return f"with the same {name}"
    amount = f"{abs(points):.1f} {'point' if abs(points) == 1 else 'points'}"
    return f"for {amount} of {name}" if points < 0 else f"with {amount} more {name}"


def _score_sentence(metric: Metric) -> str:
    found = f"{capital(metric_name(metric.name))} on {metric.dataset} {metric.split} ({metric.examples:,} examples): {metric.value:.1f} %"
    if metric.difference is None:
        return f"{found} ({metric.low:.1f} to {metric.high:.1f})."
    difference = metric.difference
    chance = "; the interval includes 0, so it may be chance" if difference.low <= 0 <= difference.high else ""
    return (
        f"{found}, {difference.value:+.1f} points against {difference.against} ({difference.low:+.1f} to {difference.high:+.1f}{chance})."
    )


def metric_name(name: str) -> str:
    """A metric as people write it: F1, exact match, ROUGE-L."""
    return name.replace("_", " ").replace("f1", "F1").replace("rouge", "ROUGE-")


def megabytes(size_bytes: float) -> str:
    """Bytes as megabytes (10^6)."""
    return f"{size_bytes / 1e6:.1f} MB"


def millions(count: float) -> str:
    """A count in millions."""
    return f"{count / 1e6:.1f} M"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8.1 s, 2 min 05 s, 1 h 02 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def capital(text: str) -> str:
    """With a capital first letter; the rest as it is."""
    return text[:1].upper() + text[1:]
