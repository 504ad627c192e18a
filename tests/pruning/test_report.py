"""One page per run: HTML, markdown, JSON."""

import itertools
import re

import pytest
from pydantic import ValidationError

from pruning.config import DensityTarget, MacsTarget, SpeedupTarget
from pruning.errors import StorageError
from pruning.report import (
    Headline,
    RunReport,
    StageReport,
    duration,
    explanation,
    read_report,
    summary,
    to_html,
    to_markdown,
    write_report,
)
from tests.pruning.report_cases import (
    DENSE_LAYERS,
    HOSTILE,
    Page,
    dense_of,
    latency_of,
    metric_of,
    report_of,
    target_of,
    variant_of,
)
from tests.pruning.summary_cases import mask_summary


@pytest.fixture(scope="module", name="report")
def full_report():
    """A run of two targets, one with recovery training."""
    return report_of(target_of(), target_of(2.0, loss=4.0, total=3.9, before=(metric_of(70.0, -10.0),)), notes=("Smoke sample.",))


@pytest.fixture(scope="module", name="html")
def full_html(report):
    """Its page."""
    return to_html(report)


def test_json_is_the_report(report, tmp_path):
    """The JSON file reads back as the same report."""
    write_report(report, tmp_path)
    assert RunReport.model_validate_json((tmp_path / "report.json").read_text()) == report


def test_page_is_written_whole(tmp_path):
    """Three files, the HTML one returned, and nothing left beside them."""
    path = write_report(report_of(), tmp_path / "made" / "here")
    assert path.name == "report.html"
    assert sorted(each.name for each in path.parent.iterdir()) == ["report.html", "report.json", "report.md"]


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    """A file where the folder should be is a `StorageError`."""
    (tmp_path / "taken").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        write_report(report_of(), tmp_path / "taken")


def test_html_fetches_nothing(html):
    """The page has no script, no link, and nothing with an address; styles fetch nothing either."""
    page = Page(html)
    assert page.fetched == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_html_ids_are_unique(html):
    """Pictures in one page do not share ids."""
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert ids
    assert len(set(ids)) == len(ids)


def test_html_has_the_pictures(html):
    """A picture of the layers for each target, two curves, predictions, and sizes."""
    assert Page(html).tags.count("svg") == 2 + 2 + 1 + 1


def test_html_escapes_hostile_names():
    """A run, a note, a stage, a dataset and a recipe with markup in them stay text."""
    dense = metric_of(80.0).model_copy(update={"dataset": HOSTILE})
    report = report_of(
        run=HOSTILE,
        notes=(HOSTILE,),
        recipe=HOSTILE,
        stages=(StageReport(name=HOSTILE, seconds=1.0),),
        headline=Headline(metric="f1", dataset=HOSTILE, split="dev"),
        dense=dense_of().model_copy(update={"variants": (variant_of("dense", 1, (dense,)),)}),
    )
    page = Page(to_html(report))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 5


def test_markdown_takes_hostile_names_literally():
    """A name can neither end a table's cell nor make a tag or a link."""
    found = to_markdown(report_of(run=HOSTILE, stages=(StageReport(name=HOSTILE, seconds=1.0),)))
    assert "<script" not in found
    assert "[a](" not in found
    row = next(line for line in found.splitlines() if "1.0 s" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_markdown_tables_are_whole(report):
    """Every row of a table has as many cells as the one above it."""
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in to_markdown(report).splitlines()]
    assert all(above == below for above, below in itertools.pairwise(widths) if above and below)


@pytest.mark.parametrize("render", [to_html, to_markdown])
def test_both_kinds_of_speedup_are_named(render):
    """Whoever reads the page is told what structural and total are over."""
    text = " ".join(Page(render(report_of())).text.replace("*", "").split())
    assert "Structural speed-up is over the dense model in the same precision" in text
    assert "Total speed-up is over dense fp32" in text


def test_markdown_lists_what_is_left_in_each_layer(report):
    """Heads and neurons of every layer, dense first."""
    assert "| 2 | 4 / 16 | 0 / 5 | 0 / 5 |" in to_markdown(report)


def test_scores_before_recovery_are_given(report):
    """What a target scored before recovery training stands beside what it scores now."""
    assert "before recovery training | squad dev | F1 | 100 | 70.0 %" in to_markdown(report)


def test_first_sentence_says_speed_size_and_cost():
    """The sentence is about the best target, in total speed-up, size and points."""
    assert summary(report_of(target_of(loss=0.7))) == "3.0 times as fast in total, 19.0 MB instead of 45.0 MB, for 0.7 points of F1."


@pytest.mark.parametrize(
    ("loss", "words"),
    [(0.0, "with the same F1"), (1.0, "for 1.0 point of F1"), (-0.3, "with 0.3 points more F1"), (0.04, "with the same F1")],
)
def test_first_sentence_words_the_cost(loss, words):
    """Nothing lost, one point, and a gain each have words of their own."""
    assert summary(report_of(target_of(loss=loss))).endswith(f"{words}.")


def test_first_sentence_without_total_says_structural():
    """A speed-up that is structural only is never passed off as total."""
    target = target_of()
    served = target.served.model_copy(update={"latency": (latency_of("structural", 1.48),)})
    report = report_of(target.model_copy(update={"variants": (served,)}))
    assert summary(report).startswith("1.48 times as fast by structure alone")


def test_explanation_says_when_a_loss_may_be_chance():
    """A difference whose interval includes 0 is called what it is; a clear one is not."""
    assert "may be chance" in explanation(report_of(target_of(loss=0.3)))
    assert "may be chance" not in explanation(report_of(target_of(loss=3.0)))


def test_best_is_the_fastest_that_loses_no_more_than_is_tolerated():
    """Of the targets within the tolerated loss the fastest one is taken."""
    slow, fast, faster = target_of(1.25, loss=0.1, total=2.4), target_of(1.5, loss=0.9, total=2.9), target_of(2.0, loss=4.0, total=3.9)
    assert report_of(slow, fast, faster).best == fast


def test_a_target_in_8_bits_is_met_with_fixed_ranges_too():
    """What is served is then the int8 artifact all the same, and not the one in fp32 beside it."""
    target = target_of()
    rounded = target.served.model_copy(update={"precision": "int8-static"})
    fixed = target.model_copy(update={"variants": (variant_of("compact", 38_000_000), rounded)})
    assert target.served.precision == "int8"
    assert fixed.served == rounded


def test_best_is_the_mildest_where_all_lose_too_much():
    """Where every target loses more than is tolerated, the one that lost least is taken."""
    assert report_of(target_of(2.0, loss=5.0, total=3.9), target_of(1.5, loss=3.0)).best.served.metrics[0].value == 77.0


def test_chosen_target_is_the_best_one():
    """What the run says it ships is what the page is about."""
    assert report_of(target_of(), target_of(2.0, loss=9.0), chosen=1).best.target.speedup == 2.0


def test_chosen_must_be_a_target():
    """A position past the targets is refused."""
    with pytest.raises(ValidationError, match="there are 1 targets"):
        report_of(target_of(), chosen=1)


def test_layers_must_match_the_dense_model():
    """A target with fewer layers than dense is refused: a removed layer is one of zeros."""
    with pytest.raises(ValidationError, match="a removed layer is one of zeros"):
        report_of(target_of().model_copy(update={"layers": DENSE_LAYERS[:1]}))


def test_run_without_targets_has_a_page():
    """A run that stops at the dense model still has its page."""
    assert "The dense model, not pruned." in Page(to_html(report_of())).text


def test_run_without_measurements_has_a_page():
    """A target with neither accuracy nor latency is shown with what is known."""
    bare = target_of().model_copy(update={"variants": (variant_of("compact-int8", 19_000_000),), "predicted_speedup": None})
    page = Page(to_html(report_of(bare, dense=dense_of().model_copy(update={"variants": (variant_of("dense", 45_000_000),)}))))
    assert "19.0 MB instead of 45.0 MB" in page.text


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (SpeedupTarget(speedup=2.0, precision="fp32"), "2x"),
        (DensityTarget(density=0.4), "40 % of the weights"),
        (MacsTarget(macs=0.5), "50 % of the MACs"),
    ],
)
def test_targets_are_named_by_what_was_asked(target, name):
    """A target is called what it asks for."""
    assert target_of(target=target).asked == name


def test_precision_and_length_are_named_where_targets_differ():
    """Two targets of one speed-up are told apart by precision and length, and have a curve each."""
    other = target_of(target=SpeedupTarget(speedup=1.5, precision="fp32", sequence_length=384))
    report = report_of(target_of(), other)
    assert [report.name_of(each) for each in report.targets] == ["1.5x int8 128", "1.5x fp32 384"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (58.2, "58.2 s"), (59.97, "1 min 00 s"), (141.8, "2 min 22 s"), (5821, "1 h 37 min")]
)
def test_durations(seconds, text):
    """Times are written as people say them."""
    assert duration(seconds) == text


@pytest.fixture(scope="module", name="fine_pruned")
def fine_pruned_report():
    """Two targets: one fine-pruned, one that is not."""
    return report_of(target_of().model_copy(update={"masks": mask_summary()}), target_of(2.0))


def test_masks_have_pictures(fine_pruned, html):
    """Six of the target that was fine-pruned; a run without training has no such section."""
    assert Page(to_html(fine_pruned)).tags.count("svg") == 2 + 2 + 1 + 1 + 6
    assert "What fine-pruning did" in to_html(fine_pruned)
    assert "What fine-pruning did" not in html


def test_pictures_of_masks_fetch_nothing(fine_pruned):
    """Their images are inside the page, which says that it allows these and nothing else."""
    html = to_html(fine_pruned)
    assert all(address.startswith("data:image/png;base64,") for address in Page(html).fetched)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in html


def test_a_page_without_masks_allows_no_images(html):
    """Its policy has no exception for them."""
    assert "img-src" not in html


def test_pictures_of_several_masks_share_no_ids(fine_pruned):
    """Two fine-pruned targets stand on one page."""
    html = to_html(report_of(*[target.model_copy(update={"masks": mask_summary()}) for target in fine_pruned.targets]))
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(set(ids)) == len(ids)


def test_masks_survive_the_file(fine_pruned, tmp_path):
    """The report is written again from what was read."""
    write_report(fine_pruned, tmp_path)
    assert read_report(tmp_path) == fine_pruned


def test_markdown_lists_what_fine_pruning_left(fine_pruned):
    """A row for each layer, a column for each part; a part that has no mask there has a dash."""
    lines = to_markdown(fine_pruned).splitlines()
    assert "| 1 | 20.0 % | 20.0 % | 20.0 % | 20.0 % | 20.0 % | 20.0 % |" in lines
    assert "| 3 | - | - | - | - | 40.0 % | 40.0 % |" in lines


def test_masks_of_single_weights_fit_on_a_page(fine_pruned):
    """Six layers, 384 wide, a gate for each weight, as noisy as can be: less than a megabyte and a half."""
    masks = mask_summary(layers=7, side=384, points=600)
    html = to_html(report_of(fine_pruned.targets[0].model_copy(update={"masks": masks})))
    assert len(html.encode()) < 1_500_000
