"""Finished runs side by side: the table, the page, and the command."""

import json
import re
from functools import partial

import pytest

from pruning.cli import main
from pruning.comparison_page import HTML_NAME, JSON_NAME, pictures, to_html, write_comparison
from pruning.config import dump_config, parse_config
from pruning.errors import ConfigError, DataError
from pruning.report import JSON_NAME as REPORT_NAME
from pruning.report import Headline
from pruning.run_comparison import Comparison, compare_runs
from pruning.run_comparison import to_text as table
from service.artifact import Machine
from tests.pruning.report_cases import HOSTILE, Page, dense_of, metric_of, report_of, target_of, variant_of
from tests.pruning.summary_cases import mask_summary

BLOCK = {"rows": 16, "columns": 16}


def recipe_of(attention, feed_forward, **fields):
    """A recipe that prunes these as one."""
    fine_prune = {"granularity": {"attention": attention, "feed_forward": feed_forward}}
    content = {"name": "qa", "task": "question-answering", "model": "m", "data": {"train": [{"path": "x"}]}, "fine_prune": fine_prune}
    return dump_config(parse_config({**content, **fields}, origin="test"))


def at(density, **options):
    """A target that keeps this share."""
    return target_of(**options).model_copy(update={"density": density})


def write_runs(parent, **reports):
    """Each report as JSON, in a run's folder of its own; gives the folders."""
    for name, report in reports.items():
        (parent / name / "report").mkdir(parents=True)
        (parent / name / "report" / REPORT_NAME).write_text(report.model_dump_json())
    return [parent / name for name in reports]


@pytest.fixture
def runs(tmp_path):
    """Write reports of runs into folders."""

    return partial(write_runs, tmp_path)


@pytest.fixture(scope="module", name="compared")
def three_runs(tmp_path_factory):
    """Three runs of different granularity, each at about three quarters, half and a quarter of the weights."""

    def of(name, recipe, shift):
        targets = [at(density + shift, speedup=1.5 + i / 2, loss=1.0 + i) for i, density in enumerate((0.75, 0.5, 0.25))]
        return report_of(*targets, run=name, recipe=recipe)

    return compare_runs(
        write_runs(
            tmp_path_factory.mktemp("runs"),
            struct=of("struct", recipe_of("head", "neuron"), 0.02),
            element=of("element", recipe_of("element", "element"), 0.0),
            hybrid=of("hybrid", recipe_of(BLOCK, "neuron"), 0.01),
        )
    )


def test_table_has_every_target(compared):
    """With method, granularity, density, both speed-ups, score and difference; dense once, since it is the same in all."""
    lines = table(compared).splitlines()
    assert len(lines) == 1 + 1 + 9
    assert sum("dense" in line and "80.00" in line for line in lines) == 1
    row = re.split(r"\s{2,}", next(line for line in lines if line.startswith("hybrid")))
    assert row[:5] == ["hybrid", "1.5x", "soft movement", "16x16 / neuron", "76.0 %"]
    assert row[5:7] == ["1.50x in int8", "3.00x at 128"]
    assert row[7:] == ["79.00 (78.00 to 80.00)", "-1.00 (-1.50 to -0.50)"]


def test_json_is_the_comparison(compared, tmp_path):
    """Beside the page lies what it says, for machines."""
    path = write_comparison(compared, tmp_path / "out")
    assert sorted(each.name for each in path.parent.iterdir()) == sorted((HTML_NAME, JSON_NAME))
    assert Comparison.model_validate_json((path.parent / JSON_NAME).read_text()) == compared


@pytest.fixture(scope="module", name="drawn")
def pictures_of_three_runs(compared):
    """Their pictures."""
    return list(pictures(compared))


def test_page_has_a_curve_for_each_run(drawn):
    """Against density and both speed-ups; by block size, a curve for each of the three densities."""
    assert [picture.title for picture in drawn] == [
        "F1 against weights left",
        "F1 against structural speed-up",
        "F1 against total speed-up",
        "F1 by block size",
    ]
    assert [len(re.findall(r'id="[^"]*-curve-\d+"', picture.svg)) for picture in drawn] == [3, 3, 3, 3]


def test_block_sizes_ascend(drawn):
    """From single weights over blocks to whole heads, whatever the order of the runs."""
    described = re.search("<desc>(.*?)</desc>", drawn[-1].svg)[1]
    assert described.index("element F1") < described.index("16x16 / neuron F1") < described.index("head / neuron F1")


def test_block_sizes_are_compared_at_like_density_only(runs):
    """Half of the weights and a tenth of them are not alike."""
    found = compare_runs(
        runs(
            a=report_of(at(0.5), run="a", recipe=recipe_of("element", "element")),
            b=report_of(at(0.1), run="b", recipe=recipe_of(BLOCK, BLOCK)),
        )
    )
    assert "F1 by block size" not in [picture.title for picture in pictures(found)]


def test_pictures_are_deterministic(compared, drawn):
    """The same reports give the same pictures."""
    assert list(pictures(compared)) == drawn


def test_page_fetches_nothing_and_shares_no_ids(compared):
    """One file with all that it needs."""
    html = to_html(compared)
    page, ids = Page(html), re.findall(r'\sid="([^"]+)"', html)
    assert page.fetched == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"url\((?!#)", html)
    assert ids
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("hostile", [HOSTILE, "$\\frac{$", "_hidden", "\x1b[31mred\nline", "雪" * 60])
def test_hostile_names_stay_text(hostile, runs):
    """Markup, formulas, terminal codes and long names of runs, notes and datasets: shown as they are, on one line."""
    score = metric_of(80.0).model_copy(update={"dataset": hostile})
    dense = dense_of().model_copy(update={"variants": (variant_of("dense", 1, (score,)),)})
    headline = Headline(metric="f1", dataset=hostile, split="dev")
    report = report_of(at(0.5), run=hostile, notes=(hostile,), recipe=hostile, headline=headline, dense=dense)
    found = compare_runs(runs(a=report))
    page = Page(to_html(found))
    assert "script" not in page.tags
    assert found.runs[0].name in page.text
    assert "\x1b" not in table(found)
    assert len(table(found).splitlines()) == 5


def test_one_run_is_compared_with_dense(runs):
    """A single run is a table and curves of its own."""
    found = compare_runs(runs(a=report_of(at(0.5), at(0.25, speedup=2.0), recipe=recipe_of("head", "neuron"))))
    assert len(found.runs) == 1
    assert len(list(pictures(found))) == 3


def test_a_run_without_targets_is_its_dense_model(runs):
    """Nothing to draw, and nothing breaks."""
    found = compare_runs(runs(a=report_of()))
    assert "80.00" in table(found)
    assert "The trade-off" not in to_html(found)


def test_a_run_given_twice_is_compared_once(runs):
    """The same folder by two names."""
    (folder,) = runs(a=report_of(at(0.5)))
    assert len(compare_runs([folder, folder / ".." / "a"]).runs) == 1


def test_runs_of_one_name_are_told_apart(runs):
    """By their folders."""
    found = compare_runs(runs(first=report_of(at(0.5)), second=report_of(at(0.5))))
    assert [run.name for run in found.runs] == ["qa (first)", "qa (second)"]


def test_dense_models_that_differ_are_listed_with_their_runs(runs):
    """Each row says whose it is."""
    other = dense_of().model_copy(update={"variants": (variant_of("dense", 1, (metric_of(70.0),)),)})
    found = compare_runs(runs(a=report_of(at(0.5), run="a"), b=report_of(at(0.5), run="b", dense=other), c=report_of(run="c")))
    assert [(names, metric.value) for names, metric in found.dense] == [("a, c", 80.0), ("b", 70.0)]


def test_runs_without_training_are_heads_and_neurons(runs):
    """That is what they take out."""
    prune = {"targets": [{"density": 0.5}]}
    found = compare_runs(runs(a=report_of(at(0.5), recipe=recipe_of("head", "neuron", fine_prune=None, prune=prune))))
    assert (found.runs[0].method, found.runs[0].granularity) == ("no training", "head / neuron")


def test_recipes_that_cannot_be_read_are_passed_over(runs):
    """A report of another version is still a row."""
    assert compare_runs(runs(a=report_of(at(0.5), recipe="name: [unclosed"))).runs[0].method == "not stated"


@pytest.mark.parametrize("fill", [False, True])
def test_weights_left_are_those_of_the_masks_unless_zeros_were_filled(fill, runs):
    """What a compact model stores is not what was left: zeros inside heads and neurons count as pruned, until they are revived."""
    target = at(1.0).model_copy(update={"masks": mask_summary()})
    found = compare_runs(runs(a=report_of(target, recipe=recipe_of("element", "element", recover={"fill": fill}))))
    assert found.runs[0].targets[0].weights_left == pytest.approx(1.0 if fill else 1 - target.masks.pruned / 1e7, abs=1e-9)


def test_several_machines_are_noted(runs):
    """Speed-ups of two machines are not one scale."""
    other = Machine(cpu="Another CPU", cores=2, isa=("avx2",), runtime="onnxruntime 1.31.1")
    found = compare_runs(runs(a=report_of(at(0.5), run="a"), b=report_of(at(0.5), run="b", machine=other)))
    assert "A CPU" in found.notes[0]
    assert "Another CPU" in found.notes[0]


def test_runs_of_several_tasks_are_refused(runs):
    """One line that names both."""
    folders = runs(a=report_of(at(0.5)), b=report_of(at(0.5), task="text-classification"))
    with pytest.raises(ConfigError, match=r"a is a run of question-answering, .*b of text-classification"):
        compare_runs(folders)


def test_runs_scored_on_several_datasets_are_refused(runs):
    """Their scores say nothing about each other."""
    folders = runs(a=report_of(at(0.5)), b=report_of(at(0.5), headline=Headline(metric="f1", dataset="other", split="dev")))
    with pytest.raises(ConfigError, match="f1 on other dev; compare runs with one validation set"):
        compare_runs(folders)


def test_a_folder_without_a_report_is_refused(tmp_path):
    """The message says what is missing."""
    with pytest.raises(DataError, match="finish the run first"):
        compare_runs([tmp_path])


def test_command_prints_the_table_and_writes_the_page(runs, tmp_path, invoke):
    """Results on stdout, where the page is on stderr; without a folder, only the table; JSON on request."""
    folders = [str(folder) for folder in runs(a=report_of(at(0.5), run="a"), b=report_of(at(0.3), run="b"))]
    written = invoke(main, ["compare", *folders, "--output", str(tmp_path / "out")])
    assert written.exit_code == 0, written.output
    assert written.stdout.splitlines()[0].startswith("run")
    assert str(tmp_path / "out" / HTML_NAME) in written.stderr
    assert len(json.loads(invoke(main, ["compare", *folders, "--json"]).stdout)["runs"]) == 2


def test_command_refuses_in_one_line(runs, invoke):
    """Runs of two tasks."""
    folders = [str(folder) for folder in runs(a=report_of(), b=report_of(task="text-classification"))]
    result = invoke(main, ["compare", *folders])
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert "Traceback" not in result.output
