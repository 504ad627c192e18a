"""How pictures look: SVG text for the width of a phone, with colours that a page can set for light and dark.

Colours are CSS variables with a fallback, so that the pictures still stand alone; text stays text. The same figure gives the same text.
"""

import io
import re
import warnings
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from pruning.metrics import Interval

# matplotlib takes only plain colours: each stands for the CSS value that replaces it in the text
INK, FAINT, FIRST, SECOND, PAGE = "#010101", "#020202", "#030303", "#040404", "#050505"
THIRD, FOURTH, FIFTH, SIXTH = "#060606", "#070707", "#080808", "#090909"
SERIES = (FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH)
MARKERS = "osD^vP"
_CSS = {
    INK: "currentColor",
    FAINT: "var(--plot-faint, #8d97a5)",
    FIRST: "var(--plot-first, #2166ac)",
    SECOND: "var(--plot-second, #b35806)",
    THIRD: "var(--plot-third, #1b7837)",
    FOURTH: "var(--plot-fourth, #762a83)",
    FIFTH: "var(--plot-fifth, #a50f63)",
    SIXTH: "var(--plot-sixth, #016c6c)",
    PAGE: "var(--plot-page, white)",
}
LABEL = {"facecolor": PAGE, "edgecolor": "none", "alpha": 0.75, "pad": 0.8}  # keeps a label readable over lines
WIDTH = 3.9  # inches: so narrow that text is still 11 px high on a phone
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "secateur",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
}


def new_figure(height: float) -> Figure:
    """An empty figure, `height` inches high; made without pyplot, so that nothing is shared."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def svg_of(figure: Figure, name: str, title: str, described: str) -> str:
    """The figure as one `<svg>` element with a title and a description, CSS colours, and ids that start with `name`."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's own font draws the text
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    for color, css in _CSS.items():
        text = text.replace(color, css)
    label = f"<title>{escape(title)}</title><desc>{escape(described)}</desc>"
    return text.replace(">", f' role="img">{label}', 1)


def errors(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """Distances from the values to both ends of their intervals, none of them negative."""
    return [max(i.value - i.low, 0.0) for i in intervals], [max(i.high - i.value, 0.0) for i in intervals]
