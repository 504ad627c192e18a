"""Pictures of a study's ledger, as SVG files: score against the weights that are left, and against speed-up where it was measured."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pruning.comparison_plots import Curve, Point, score_curves
from pruning.ledger import DENSE, Entry, Ledger
from pruning.metrics import Interval
from pruning.report import metric_name
from pruning.storage import write_text_atomic

_SHARE = re.compile(r" at [\d.]+ %")
_DARK = "<style>@media (prefers-color-scheme: dark) {svg {color: #e6edf3; --plot-page: #0d1117}}</style>"


def write_pictures(ledger: Ledger, folder: Path) -> list[Path]:
    """One picture for each claim and axis, `<claim>-density.svg` or `<claim>-speedup.svg`; returns their paths.

    Runs whose names differ in nothing but a share, as `L0 at 3 %` and `L0 at 10 %`, are one curve.

    Raises:
        StorageError: a file cannot be written.
    """
    paths = []
    for name, svg in _pictures(ledger):
        paths.append(folder / f"{name}.svg")
        write_text_atomic(paths[-1], svg.replace("</desc>", f"</desc>{_DARK}", 1) + "\n")
    return paths


def _pictures(ledger: Ledger) -> Iterator[tuple[str, str]]:
    dense = ledger.find(DENSE)
    for claim in sorted({claim for entry in ledger.entries for claim in entry.claims}):
        runs = [entry for entry in ledger.entries if claim in entry.claims and entry.name != DENSE]
        reference = [dense.value] if dense is not None else []
        for axis, along, unit in (("density", "weights of the layers left", "%"), ("speedup", "structural speed-up, measured", "x")):
            if curves := _curves(runs, axis):
                metric = metric_name(runs[0].metric)
                yield f"{claim}-{axis}", score_curves(curves, reference, metric=metric, along=along, unit=unit, name=f"{claim}-{axis}")


def _curves(runs: Sequence[Entry], axis: str) -> list[Curve]:
    found: dict[str, list[Point]] = {}
    for entry in runs:
        x = _along(entry, axis)
        if x is not None:
            found.setdefault(_SHARE.sub("", entry.name), []).append(Point(x, entry.value))
    ordered = {label: tuple(sorted(points, key=lambda point: point.x.value)) for label, points in found.items()}
    return [Curve(label, points, number) for number, (label, points) in enumerate(ordered.items())]


def _along(entry: Entry, axis: str) -> Interval | None:
    """Where a run stands along an axis; None where that was not measured."""
    if axis == "density":
        share = 100 * entry.density
        return Interval(share, share, share)
    return None if entry.measured is None else Interval(entry.measured.value, entry.measured.low, entry.measured.high)
