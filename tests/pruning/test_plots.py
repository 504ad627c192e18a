"""Pictures of a run, as SVG text."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from pruning.metrics import Interval
from pruning.plots import Prediction, TradeOff, layers_left, predicted_and_measured, sizes, trade_off
from service.artifact import LayerShape

DENSE = [LayerShape(heads=12, intermediate=1536)] * 4
LEFT = [LayerShape(heads=heads, intermediate=neurons) for heads, neurons in [(12, 900), (6, 0), (0, 300), (1, 1536)]]
POINTS = [
    TradeOff("1.5x", Interval(1.5, 1.4, 1.6), Interval(90.0, 89.0, 91.0)),
    TradeOff("2x", Interval(1.9, 1.8, 2.0), Interval(85.0, 84.0, 86.0), before_recovery=Interval(80.0, 79.0, 81.0)),
]
SVG = "{http://www.w3.org/2000/svg}"


def _pictures():
    return [
        layers_left(DENSE, LEFT, name="layers", title="What is left"),
        trade_off(POINTS, Interval(91.0, 90.0, 92.0), metric="F1", kind="structural", name="curve"),
        predicted_and_measured([Prediction("1.5x", 1.5, Interval(1.45, 1.4, 1.5))], name="predicted"),
        sizes([("dense", 45_900_000), ("compact-int8", 19_400_000)], name="sizes"),
    ]


@pytest.fixture(scope="module", name="pictures")
def drawn():
    """One picture of each kind."""
    return _pictures()


def _height(svg, identity):
    """Height of the bar with this id, in the units of the drawing."""
    path = next(g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.get("id") == identity).find(f"{SVG}path").get("d")
    ys = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path)]
    return max(ys) - min(ys)


def _texts(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("unit", ["heads", "neurons"])
def test_layers_have_one_bar_each(unit):
    """There is a bar of heads and a bar of neurons for each layer, and no more."""
    svg = layers_left(DENSE, LEFT, name="x", title="t")
    bars = [g.get("id") for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if (g.get("id") or "").startswith(f"x-{unit}-")]
    assert bars == [f"x-{unit}-{layer}" for layer in (1, 2, 3, 4)]


def test_bars_are_as_high_as_what_is_left():
    """Half of the heads is a bar of half the height; none is a bar of none."""
    svg = layers_left(DENSE, LEFT, name="x", title="t")
    whole = _height(svg, "x-heads-1")
    assert (_height(svg, "x-heads-2"), _height(svg, "x-heads-3")) == pytest.approx((whole / 2, 0.0), abs=1e-3)


def test_sizes_are_written_beside_their_bars():
    """Each bar has its label and its size in megabytes."""
    texts = _texts(sizes([("dense", 45_900_000), ("compact-int8", 19_440_000)], name="s"))
    assert {"dense", "45.9", "compact-int8", "19.4"} <= set(texts)


def test_trade_off_names_every_target(pictures):
    """Every target is labelled, and so is the dense line."""
    assert {"1.5x", "2x", "dense"} <= set(_texts(pictures[1]))


def test_trade_off_tells_recovery_apart_only_where_there_was_one(pictures):
    """Without recovery training there is one curve and no legend."""
    alone = trade_off(POINTS[:1], Interval(91.0, 90.0, 92.0), metric="F1", kind="total", name="curve")
    assert "no training" in _texts(pictures[1])
    assert "no training" not in _texts(alone)


def test_pictures_are_deterministic(pictures):
    """The same numbers give the same text."""
    assert _pictures() == pictures


def test_pictures_share_no_ids(pictures):
    """Several pictures can stand in one page: ids do not collide, and references point inside."""
    documents = [ElementTree.fromstring(svg) for svg in pictures]
    ids = [element.get("id") for document in documents for element in document.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    used = [value[1:] for d in documents for e in d.iter() for key, value in e.attrib.items() if key.endswith("href")]
    assert used
    assert set(used) <= set(ids)


def test_pictures_leave_colours_and_background_to_the_page(pictures):
    """Text takes the page's colour, nothing is painted behind, and no stand-in colour is left."""
    for svg in pictures:
        assert "currentColor" in svg
        assert "#0" not in svg.replace("url(#", "")
        assert "var(--plot-first, #" in svg


def test_pictures_describe_themselves(pictures):
    """Every picture has a role, a title and a description with its numbers, for readers who do not see it."""
    for svg in pictures:
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.find(f"{SVG}title").text
        assert any(character.isdigit() for character in root.find(f"{SVG}desc").text)


def test_titles_are_escaped():
    """A title with markup in it stays text."""
    svg = layers_left(DENSE[:1], LEFT[:1], name="x", title="</title><script>alert(1)</script>")
    assert "<script>" not in svg
    assert ElementTree.fromstring(svg).find(f"{SVG}title").text == "</title><script>alert(1)</script>"
