"""The kinds of picture in the report."""

import math
import re
from xml.etree import ElementTree

import pytest

from loadtests.bar_charts import Bar, Gain, Stack, bars, gains, stacks
from loadtests.chart_style import SERIES, draw
from loadtests.charts import Curve, Histogram, Point, curves, histograms, points
from loadtests.statistics import Interval

SURE, WIDE = Interval(3.0, 3.0, 3.0), Interval(5.0, 4.0, 7.0)
MAKERS = {
    "bars": lambda name: bars([Bar("dense", SURE, "3.00"), Bar("a & <b>", WIDE, "5.00", 1)], axis="requests", name=name, title="Bars"),
    "stacks": lambda name: stacks([Stack("dense", {"queue": 1.0, "infer": 2.0}, "3.00 ms")], axis="ms", name=name, title="Stacks"),
    "gains": lambda name: gains("dense", [Gain("8 bits", 2.0), Gain("pruning", 0.9)], name=name, title="Gains"),
    "curves": lambda name: curves(
        [Curve("dense", 0, [1.0, 40.0], [10.0, math.nan], [5.0, 6.0], mark=(2.0, 20.0))],
        axes_names=("x", "y"),
        name=name,
        title="Curves",
        line=(20.0, "objective"),
        logarithmic=True,
    ),
    "histograms": lambda name: histograms([Histogram("dense", 0, [1, 10, 100], [0, 4])], axis="ms", name=name, title="H", line=(50, "o")),
    "points": lambda name: points([Point("dense", 7, WIDE, SURE)], axes_names=("x", "y"), name=name, title="Points"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_picture_is_one_element_that_says_what_it_shows(kind):
    """Well-formed, named, described, with ids of its own, the page's colours and nothing to load; drawn again, it is the same."""
    svg = MAKERS[kind]("one")
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root[0].text
    assert root[1].text
    assert all(name.startswith("one-") for name in re.findall(r'\bid="([^"]+)"', svg))
    assert not re.search(r'href="(?!#)', svg)
    assert not [plain for plain in SERIES if plain in svg]
    assert svg == MAKERS[kind]("one")


def test_the_same_picture_twice_on_a_page_shares_no_ids():
    """Under two names."""
    first, second = (set(re.findall(r'\bid="([^"]+)"', MAKERS["points"](name))) for name in ("one", "two"))
    assert first
    assert not first & second


def test_names_are_only_text():
    """What looks like markup is shown as it is."""
    assert "a &amp; &lt;b&gt;" in MAKERS["bars"]("one")


def test_a_gain_ends_at_the_product_of_its_steps():
    """Steps below 1 take something away."""
    assert "1.80\N{MULTIPLICATION SIGN}" in MAKERS["gains"]("one")


def test_nothing_to_draw_is_a_picture_still():
    """Histograms of no request, and curves of no finite number."""
    for svg in (
        histograms([Histogram("dense", 0, [1, 10], [0])], axis="ms", name="one", title="H"),
        curves([Curve("dense", 0, [1.0], [math.nan])], axes_names=("x", "y"), name="one", title="C", logarithmic=True),
        draw(lambda axes: None, height=1.0, name="one", title="Nothing", described="nothing"),
    ):
        assert ElementTree.fromstring(svg).get("role") == "img"
