"""One page per run: HTML, markdown, JSON."""

import itertools
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from pydantic import ValidationError

from pruning.config import DensityTarget, MacsTarget, SpeedupTarget
from pruning.errors import StorageError
from pruning.report import (
    Headline,
    ModelReport,
    RunReport,
    StageReport,
    TargetReport,
    VariantReport,
    duration,
    explanation,
    summary,
    to_html,
    to_markdown,
    write_report,
)
from service.artifact import Counts, Difference, Latency, LayerShape, Machine, Macs, Metric

HOSTILE = "</title><script src=http://evil.example/x.js></script> | `qa` *x* [a](http://evil.example)"
MACHINE = Machine(cpu="A CPU", cores=2, isa=("avx2", "amx_int8"), runtime="onnxruntime 1.31.1")
DENSE_LAYERS = (LayerShape(heads=4, intermediate=16), LayerShape(heads=4, intermediate=16))


def _metric(value, difference=None, *, spread=1.0):
    found = (
        difference if difference is None else Difference(against="qa/dense", value=difference, low=difference - 0.5, high=difference + 0.5)
    )
    return Metric(
        name="f1", value=value, low=value - spread, high=value + spread, examples=100, dataset="squad", split="dev", difference=found
    )


def _latency(kind, speedup, length=128):
    low, high = 0.97 * speedup, 1.03 * speedup
    return Latency(
        sequence_length=length,
        callers=1,
        latency_ms=5.0,
        reference="qa/dense",
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        kind=kind,
        machine=MACHINE,
    )


def _variant(name, size_bytes, metrics=(), latency=()):
    precision = "int8" if name.endswith("int8") else "fp32"
    return VariantReport(artifact=f"qa/{name}", variant=name, precision=precision, size_bytes=size_bytes, metrics=metrics, latency=latency)


def _counts(density):
    return {
        "parameters": Counts(encoder=int(1e7 * density), embeddings=10**7, total=int(1e7 + 1e7 * density)),
        "macs": Macs(encoder=int(1e9 * density), embeddings=0, total=10**9, sequence_length=128),
        "density": density,
    }


def _dense(*extra):
    variants = (_variant("dense", 45_000_000, (_metric(80.0),)), *extra)
    return ModelReport(**_counts(1.0), layers=DENSE_LAYERS, variants=variants)


def _target(speedup=1.5, *, loss=1.2, total=3.0, target=None, before=()):
    int8 = _variant("compact-int8", 19_000_000, (_metric(80.0 - loss, -loss),), (_latency("structural", speedup), _latency("total", total)))
    return TargetReport(
        **_counts(0.6),
        layers=(LayerShape(heads=3, intermediate=8), LayerShape(heads=0, intermediate=5)),
        variants=(_variant("compact", 33_000_000), int8),
        target=target or SpeedupTarget(speedup=speedup, precision="int8", sequence_length=128),
        predicted_speedup=1.52,
        before_recovery=before,
    )


def _report(*targets, **changes):
    fields = {
        "run": "qa",
        "task": "question-answering",
        "date": datetime(2026, 7, 1, 14, 3, tzinfo=UTC),
        "producer": "secateur 0.1.0",
        "machine": MACHINE,
        "recipe": "name: qa\n",
        "headline": Headline(metric="f1", dataset="squad", split="dev"),
        "dense": _dense(_variant("dense-int8", 24_000_000, (_metric(79.8, -0.2),), (_latency("total", 1.9),))),
        "targets": targets,
        "stages": (StageReport(name="prune", seconds=141.8, peak_memory_bytes=1_900_000_000),),
    }
    return RunReport(**(fields | changes))


class _Page(HTMLParser):
    """What an HTML file would fetch or run, and its text."""

    def __init__(self, html):
        """Read all of it."""
        super().__init__()
        self.fetched, self.tags, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        """Note the tag, and every attribute that loads something from elsewhere."""
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "srcset", "data", "action")
        self.fetched += [value for name, value in attrs if name in names and not (value or "").startswith("#")]

    def handle_data(self, data):
        """Gather text."""
        self.text += data


@pytest.fixture(scope="module", name="report")
def full_report():
    """A run of two targets, one with recovery training."""
    return _report(_target(), _target(2.0, loss=4.0, total=3.9, before=(_metric(70.0, -10.0),)), notes=("Smoke sample.",))


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
    path = write_report(_report(), tmp_path / "made" / "here")
    assert path.name == "report.html"
    assert sorted(each.name for each in path.parent.iterdir()) == ["report.html", "report.json", "report.md"]


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    """A file where the folder should be is a `StorageError`."""
    (tmp_path / "taken").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        write_report(_report(), tmp_path / "taken")


def test_html_fetches_nothing(html):
    """The page has no script, no link, and nothing with an address; styles fetch nothing either."""
    page = _Page(html)
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
    assert _Page(html).tags.count("svg") == 2 + 2 + 1 + 1


def test_html_escapes_hostile_names():
    """A run, a note, a stage, a dataset and a recipe with markup in them stay text."""
    dense = _metric(80.0).model_copy(update={"dataset": HOSTILE})
    report = _report(
        run=HOSTILE,
        notes=(HOSTILE,),
        recipe=HOSTILE,
        stages=(StageReport(name=HOSTILE, seconds=1.0),),
        headline=Headline(metric="f1", dataset=HOSTILE, split="dev"),
        dense=_dense().model_copy(update={"variants": (_variant("dense", 1, (dense,)),)}),
    )
    page = _Page(to_html(report))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 5


def test_markdown_takes_hostile_names_literally():
    """A name can neither end a table's cell nor make a tag or a link."""
    found = to_markdown(_report(run=HOSTILE, stages=(StageReport(name=HOSTILE, seconds=1.0),)))
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
    text = " ".join(_Page(render(_report())).text.replace("*", "").split())
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
    assert summary(_report(_target(loss=0.7))) == "3.0 times as fast in total, 19.0 MB instead of 45.0 MB, for 0.7 points of F1."


@pytest.mark.parametrize(
    ("loss", "words"),
    [(0.0, "with the same F1"), (1.0, "for 1.0 point of F1"), (-0.3, "with 0.3 points more F1"), (0.04, "with the same F1")],
)
def test_first_sentence_words_the_cost(loss, words):
    """Nothing lost, one point, and a gain each have words of their own."""
    assert summary(_report(_target(loss=loss))).endswith(f"{words}.")


def test_first_sentence_without_total_says_structural():
    """A speed-up that is structural only is never passed off as total."""
    target = _target()
    served = target.served.model_copy(update={"latency": (_latency("structural", 1.48),)})
    report = _report(target.model_copy(update={"variants": (served,)}))
    assert summary(report).startswith("1.48 times as fast by structure alone")


def test_explanation_says_when_a_loss_may_be_chance():
    """A difference whose interval includes 0 is called what it is; a clear one is not."""
    assert "may be chance" in explanation(_report(_target(loss=0.3)))
    assert "may be chance" not in explanation(_report(_target(loss=3.0)))


def test_best_is_the_fastest_that_loses_no_more_than_is_tolerated():
    """Of the targets within the tolerated loss the fastest one is taken."""
    slow, fast, faster = _target(1.25, loss=0.1, total=2.4), _target(1.5, loss=0.9, total=2.9), _target(2.0, loss=4.0, total=3.9)
    assert _report(slow, fast, faster).best == fast


def test_best_is_the_mildest_where_all_lose_too_much():
    """Where every target loses more than is tolerated, the one that lost least is taken."""
    assert _report(_target(2.0, loss=5.0, total=3.9), _target(1.5, loss=3.0)).best.served.metrics[0].value == 77.0


def test_chosen_target_is_the_best_one():
    """What the run says it ships is what the page is about."""
    assert _report(_target(), _target(2.0, loss=9.0), chosen=1).best.target.speedup == 2.0


def test_chosen_must_be_a_target():
    """A position past the targets is refused."""
    with pytest.raises(ValidationError, match="there are 1 targets"):
        _report(_target(), chosen=1)


def test_layers_must_match_the_dense_model():
    """A target with fewer layers than dense is refused: a removed layer is one of zeros."""
    with pytest.raises(ValidationError, match="a removed layer is one of zeros"):
        _report(_target().model_copy(update={"layers": DENSE_LAYERS[:1]}))


def test_run_without_targets_has_a_page():
    """A run that stops at the dense model still has its page."""
    assert "The dense model, not pruned." in _Page(to_html(_report())).text


def test_run_without_measurements_has_a_page():
    """A target with neither accuracy nor latency is shown with what is known."""
    bare = _target().model_copy(update={"variants": (_variant("compact-int8", 19_000_000),), "predicted_speedup": None})
    page = _Page(to_html(_report(bare, dense=_dense().model_copy(update={"variants": (_variant("dense", 45_000_000),)}))))
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
    assert _target(target=target).asked == name


def test_precision_and_length_are_named_where_targets_differ():
    """Two targets of one speed-up are told apart by precision and length, and have a curve each."""
    other = _target(target=SpeedupTarget(speedup=1.5, precision="fp32", sequence_length=384))
    report = _report(_target(), other)
    assert [report.name_of(each) for each in report.targets] == ["1.5x int8 128", "1.5x fp32 384"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (58.2, "58.2 s"), (59.97, "1 min 00 s"), (141.8, "2 min 22 s"), (5821, "1 h 37 min")]
)
def test_durations(seconds, text):
    """Times are written as people say them."""
    assert duration(seconds) == text
