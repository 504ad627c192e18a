"""How the report's pictures look: SVG text as wide as a phone, with colours that the page sets for light, dark and print.

Colours are CSS variables with a fallback; text stays text. The same numbers give the same SVG.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from loadtests.statistics import Interval

# matplotlib knows only plain colours: each stands for the CSS value that replaces it in the text
INK, FAINT, PAGE = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
MARKERS, DASHES = "osD^vPX", ((), (6, 2), (2, 1.5), (6, 2, 1.5, 2), (8, 3), (1, 1))
_CSS = {
    INK: "currentColor",
    FAINT: "var(--plot-faint, #8d97a5)",
    PAGE: "var(--plot-page, white)",
    SERIES[0]: "var(--plot-first, #2166ac)",
    SERIES[1]: "var(--plot-second, #b35806)",
    SERIES[2]: "var(--plot-third, #1b7837)",
    SERIES[3]: "var(--plot-fourth, #762a83)",
    SERIES[4]: "var(--plot-fifth, #a50f63)",
    SERIES[5]: "var(--plot-sixth, #016c6c)",
}
WIDTH_INCHES, LEGEND_INCHES = 3.9, 0.22
FONT_SIZE = 9.5
TIMES = "\N{MULTIPLICATION SIGN}"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "secateur",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "legend.frameon": False,
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
}


def color(series: int) -> str:
    """Of the variant of that number; they come round again after six."""
    return SERIES[series % len(SERIES)]


def marker(series: int) -> str:
    """Shape of the points of the variant of that number, so that colour is not all that tells them apart."""
    return MARKERS[series % len(MARKERS)]


def line_style(series: int) -> tuple[float, tuple[float, ...]]:
    """Dashes of the line of the variant of that number, as matplotlib takes them."""
    return (0.0, DASHES[series % len(DASHES)])


def draw(paint: Callable[[Axes], None], *, height: float, name: str, title: str, described: str) -> str:
    """What `paint` draws, as one `<svg>` element that names and describes itself.

    Args:
        paint: draws on empty axes.
        height: inches.
        name: ids in the picture begin with it, so that pictures of one page do not share any.
        title, described: for those who cannot see it.
    """
    with matplotlib.rc_context({**_STYLE, "legend.handlelength": 2.6}):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        paint(figure.subplots())
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(buffer.getvalue(), name, f"<title>{escape(title)}</title><desc>{escape(described)}</desc>")


def legend_above(axes: Axes, *, columns: int) -> None:
    """Name the series of the axes above them, as wide as the picture is."""
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(loc="outside upper left", ncols=columns, borderaxespad=0.3, columnspacing=1.2, handletextpad=0.5, borderpad=0.2)


def plain_log_ticks(axes: Axes, which: str, text: str) -> None:
    """1, 2, 5, 10, 20 … written in full; where there is too little between, only every tenfold."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    wide = high / low
    axis.set_major_locator(
        LogLocator(base=10, subs=(1.0,) if wide > 3000 else (1.0, 2.0, 5.0) if wide > 4 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
    )
    axis.set_major_formatter(text)
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def distances(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """From the values to both ends of their intervals, none of them negative."""
    return [max(each.value - each.low, 0.0) for each in intervals], [max(each.high - each.value, 0.0) for each in intervals]


def _inline(svg: str, name: str, label: str) -> str:
    """One element without a prologue, with CSS colours and ids of its own."""
    text = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    for plain, css in _CSS.items():
        text = text.replace(plain, css)
    return text.replace(">", f' role="img">{label}', 1)
