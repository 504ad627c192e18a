"""Pictures of the masks that fine-pruning left, as SVG text."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from pruning.mask_plots import density_by_layer, heads_by_block, magnitudes_left, mask_panels, scores_and_magnitudes, target_control
from pruning.pictures import mask_pictures
from pruning.steering import Reading
from tests.pruning.summary_cases import PARTS, mask_summary, sample_of

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", name="summary")
def summed_up():
    """Three layers, of which the last has lost its attention; it is not masked there."""
    return mask_summary()


def _pictures(summary):
    return [
        density_by_layer(summary, name="density"),
        mask_panels(summary, name="panels"),
        magnitudes_left(summary.magnitudes, name="magnitudes"),
        scores_and_magnitudes(summary.scores, name="scores"),
        heads_by_block(summary.heads, name="heads"),
        target_control(summary.trace, name="control"),
    ]


@pytest.fixture(scope="module", name="pictures")
def drawn(summary):
    """One picture of each kind."""
    return _pictures(summary)


def _ids(svg):
    return [element.get("id") for element in ElementTree.fromstring(svg).iter() if element.get("id")]


def _texts(svg):
    return {text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}


def _described(svg):
    return ElementTree.fromstring(svg).find(f"{SVG}desc").text


def _subpaths(svg, identity):
    """How many separate pieces the path of this id has."""
    group = next(g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.get("id") == identity)
    return group.find(f"{SVG}path").get("d").count("M")


def test_pictures_are_deterministic(summary, pictures):
    """The same numbers give the same text."""
    assert _pictures(summary) == pictures


def test_pictures_share_no_ids(pictures):
    """Several pictures can stand in one page: ids do not collide, and references point inside."""
    ids = [identity for svg in pictures for identity in _ids(svg)]
    assert len(set(ids)) == len(ids)
    used = {each for svg in pictures for each in re.findall(r'(?:xlink:href="|url\()#([^")]+)', svg)}
    assert used
    assert used <= set(ids)


def test_pictures_leave_colours_and_background_to_the_page(pictures):
    """Text takes the page's colour and no stand-in colour is left."""
    for svg in pictures:
        assert "currentColor" in svg
        assert not re.search(r"[^(]#0[0-9a-f]{5}\b", svg)
        assert "var(--plot-first, #" in svg


def test_pictures_describe_themselves(pictures):
    """Every picture has a role, a title and a description with its numbers, for readers who do not see it."""
    for svg in pictures:
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.find(f"{SVG}title").text
        assert any(character.isdigit() for character in _described(svg))


def test_density_has_a_line_for_each_part(pictures):
    """Of attention four, of the feed-forward two; and says what each layer has."""
    assert {f"density-density-{part}" for part in PARTS} <= set(_ids(pictures[0]))
    assert set(PARTS) <= _texts(pictures[0])
    assert "layer 2: query 30.0 %, key 30.0 %" in _described(pictures[0])


def test_there_is_a_panel_for_each_mask(summary, pictures):
    """And none where there is no mask."""
    panels = {identity for identity in _ids(pictures[1]) if identity.startswith("panels-mask-")}
    assert panels == {f"panels-mask-{matrix.layer + 1}-{matrix.part}" for matrix in summary.matrices}


def test_panels_are_as_dark_as_what_is_left(summary):
    """The image's opacity, over the area of the masks, is their density."""
    matrices = tuple(each for each in summary.matrices if each.layer == 0)
    svg = mask_panels(summary.model_copy(update={"matrices": matrices}), name="p")
    data = re.search(r"data:image/png;base64,\s*([^\"]+)", svg)[1]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    area = len(PARTS) * 48 * 48
    assert image[..., 3].sum() / 255 / area == pytest.approx(0.2, abs=0.03)  # ten groups do not divide the pixels
    assert (image[..., :3] == 255).all()


def test_panels_are_painted_in_a_colour_of_the_page(pictures):
    """The one image is a mask, so that it follows light and dark."""
    root = ElementTree.fromstring(pictures[1])
    images = list(root.iter(f"{SVG}image"))
    assert len(images) == 1
    assert images == [image for mask in root.iter(f"{SVG}mask") for image in mask.iter(f"{SVG}image")]
    assert any(rect.get("mask") == "url(#panels-left)" for rect in root.iter(f"{SVG}rect"))


def test_every_drawn_group_is_a_dot(summary, pictures):
    """In one of the two colours."""
    for sample in summary.scores:
        assert _subpaths(pictures[3], f"scores-scores-left-{sample.kind}") == sum(sample.kept)
        assert _subpaths(pictures[3], f"scores-scores-pruned-{sample.kind}") == len(sample.kept) - sum(sample.kept)


def test_many_dots_are_all_drawn():
    """None is merged with its neighbours."""
    svg = scores_and_magnitudes([sample_of("attention", 600)], name="s")
    assert _subpaths(svg, "s-scores-left-attention") + _subpaths(svg, "s-scores-pruned-attention") == 600


def test_heads_have_four_squares(pictures):
    """Coloured where a weight is left: in one colour of heads that stay, in another of those that are gone."""
    counts = {state: _subpaths(pictures[4], f"heads-heads-{state}") for state in ("left", "idle", "gone")}
    assert counts == {"left": 4 + 4 + 4 + 2, "idle": 1, "gone": 3 + 4 + 2}
    assert "layer 1: 1 of 3 heads left" in _described(pictures[4])


def test_control_shows_the_penalty_only_where_there_is_one(summary, pictures):
    """Methods that keep the best have none."""
    alone = target_control([Reading(each.step, each.left, each.wanted, each.level, 0.0) for each in summary.trace], name="c")
    assert "control-trace-penalty" in _ids(pictures[5])
    assert {"left", "wanted", "penalty"} <= _texts(pictures[5])
    assert "penalty" not in alone


def test_a_single_reading_is_drawn():
    """A training so short that its target was met at once."""
    assert "50.0 % left" in _described(target_control([Reading(3, 0.5, 0.5, 0.5, 0.0)], name="c"))


def test_story_leaves_out_what_there_is_not(summary):
    """No scores, no heads, no trace: three pictures fewer."""
    less = summary.model_copy(update={"scores": (), "heads": (), "trace": ()})
    assert [len(list(mask_pictures(each, name="m"))) for each in (summary, less)] == [6, 3]
