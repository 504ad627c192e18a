"""Pictures as pages show them, each with a heading and a sentence below; and those of the masks of a fine-pruned model."""

from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import Markup

from pruning.mask_plots import density_by_layer, heads_by_block, magnitudes_left, mask_panels, scores_and_magnitudes, target_control
from pruning.mask_summary import MaskSummary


class Picture(NamedTuple):
    """One picture of a page: its heading, a sentence below it, and the SVG."""

    title: str
    caption: str
    svg: Markup


def mask_pictures(summary: MaskSummary, *, name: str) -> Iterator[Picture]:
    """How the masks came about, where they left what, and what it was; ids in the pictures start with `name`."""
    if summary.trace:
        penalty = " Below: the penalty's weight." if any(reading.penalty > 0 for reading in summary.trace) else ""
        svg = target_control(summary.trace, name=f"{name}-control")
        yield Picture(
            "Target control", f"What the target counts: what is left of it, and what should be, while training.{penalty}", Markup(svg)
        )
    svg = density_by_layer(summary, name=f"{name}-density")
    yield Picture("Weights left in each layer", f"{100 * summary.density:.1f} % of the masked weights are left.", Markup(svg))
    caption = "Outputs downwards, inputs across, every matrix drawn as a square. Grey: pruned; the stronger the blue, the more is left."
    yield Picture("The masks", caption, Markup(mask_panels(summary, name=f"{name}-panels")))
    if summary.heads:
        yield Picture("Heads, block by block", _heads_caption(summary), Markup(heads_by_block(summary.heads, name=f"{name}-heads")))
    caption = "Root mean square of the weights of each group when training ended: grey for all weights, blue for those left."
    yield Picture("Magnitudes of the weights left", caption, Markup(magnitudes_left(summary.magnitudes, name=f"{name}-magnitudes")))
    if summary.scores:
        drawn = sum(len(sample.kept) for sample in summary.scores)
        svg = scores_and_magnitudes(summary.scores, name=f"{name}-scores")
        yield Picture("Scores and magnitudes", f"{drawn:,} groups drawn at random: learned score against magnitude.", Markup(svg))


def _heads_caption(summary: MaskSummary) -> str:
    left, heads = (
        sum(len(each) for each in column) for column in zip(*((layer.live, layer.blocks) for layer in summary.heads), strict=True)
    )
    return (
        f"{left} of {heads} heads are left. A head's squares are query and key, below them value and output: blue where it keeps weights, "
        "orange where weights were kept but the head is gone, grey where none were."
    )
