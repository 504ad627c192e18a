"""The page of a comparison, and its figures as one table."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from loadtests.cli import main
from loadtests.errors import LoadTestError
from loadtests.gates import RATE, Gate, Verdict
from loadtests.report import Promise, headline, promise, to_csv, to_html, write_report
from loadtests.report_cells import figure
from loadtests.report_pictures import pictures_of
from loadtests.report_tables import rate_text
from loadtests.results import read_result
from loadtests.statistics import Interval
from loadtests.writing import write
from tests.loadtests.report_cases import bare, interval_of, result_of, subject_of, task_of

PICTURES = {"rates", "accuracy", "curve", "distribution", "time", "lengths", "layers", "gain-0", "roofline", "memory"}
VOID = ("requests were sent 41.3 ms late (p99; at most 5 ms)", "other processes took 48.1% of the machine (at most 5%)")
HOSTILE = '<script>alert("x")</script> & "quoted"'


class Page(HTMLParser):
    """What a page shows: its text in order, its pictures and tags, and every address that it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str | None] = []
        self.feed(html)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what matters of a tag."""
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        names = ("src", "href", "xlink:href", "srcset", "data", "action")
        self.fetched += [value for name, value in attrs if name in names and not (value or "").startswith("#")]

    def handle_data(self, data: str) -> None:
        """Gather text."""
        self.words += [data.strip()] if data.strip() else []

    def pictures(self, task: str) -> set[str]:
        """Names of the pictures of a task."""
        return {name.removeprefix(f"{task}-") for name in self.ids} & PICTURES


@pytest.fixture(scope="module", name="html")
def full_html() -> str:
    """The page of a result in which all is known."""
    return to_html(result_of(task_of(notes=("A note.",))))


def test_a_full_result_has_every_section(html):
    """Every picture, every table that folds, the machine, the versions and the hashes."""
    page = Page(html)
    assert page.pictures("qa") == PICTURES
    assert page.tags.count("details") >= 12
    assert {"Some Processor 9000", "1.31.1", "0f" * 32, "A note."} <= set(page.words)


def test_figures_on_the_page_are_those_of_the_result(html):
    """Rates with their intervals, ratios, capacities, scores and memory of each variant."""
    task, page = task_of(), Page(html)
    for subject in task.subjects:
        assert subject.accuracy
        assert subject.memory
        for interval in (subject.rate, subject.capacity):
            assert figure(interval.value) in page.words
            assert f"{figure(interval.low)} to {figure(interval.high)}" in page.words
        assert f"{subject.accuracy.value:.1f}" in page.words
        assert f"{figure(subject.memory.loaded_bytes / 1e6)} MB" in page.words
    for ratio in task.ratios:
        assert f"{figure(ratio.interval.value)}\N{MULTIPLICATION SIGN}" in page.words
    assert figure(task.subjects[0].curve[2].step.p99_ms) in page.words


def test_the_page_loads_nothing(html):
    """No script, no address, no style from elsewhere; ids of pictures are not shared."""
    page = Page(html)
    assert page.fetched == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))


def test_what_is_not_known_is_left_out():
    """Rates alone give a page without accuracy, memory, layers and all that, and without empty columns."""
    page = Page(to_html(result_of(bare(task_of(), curves=True))))
    assert page.pictures("qa") == {"rates", "curve", "distribution"}
    assert not {"points against dense", "Every score, as the artifact states it"} & set(page.words)


def test_one_variant_needs_nothing_to_be_compared_with():
    """A page without ratios."""
    page = Page(to_html(result_of(bare(task_of(subject_of("dense"))))))
    assert "Load test of dense" in page.words
    assert "times dense" not in page.words


def test_a_variant_without_a_rate_is_said():
    """Not as a rate of 0, but as none; capacities are compared instead."""
    slow = [replace(subject_of(label), rate=Interval(0.0, 0.0, 0.0)) for label in ("dense", "compact-int8")]
    task = bare(task_of(*slow))
    result = result_of(replace(task, ratios=tuple(ratio for ratio in task.ratios if ratio.of == "capacity")))
    page = Page(to_html(result))
    assert page.words.count("none") == 2
    assert "On /qa, no rate of dense, compact-int8 keeps p99 within 200 ms." in page.words
    assert "rates" not in page.pictures("qa")
    assert headline(result) == "compact-int8 serves 3.61 times the requests of dense on /qa in a closed loop"


def test_a_baseline_that_is_slower_than_was_visited_bounds_the_gain():
    """The headline and the sentence of the task say at most of the one and at least of the other."""
    dense, fast = subject_of("dense"), subject_of("compact-int8")
    dense = replace(dense, rate=interval_of(dense.curve[0].step.rate), inside=False)
    task = task_of(dense, fast)
    bounded = tuple(replace(ratio, bound="at least") if ratio.of == RATE else ratio for ratio in task.ratios)
    result = result_of(replace(task, ratios=bounded))
    (sentence,) = [words for words in Page(to_html(result)).words if words.startswith("On /qa, with p99")]
    assert f"dense at most {figure(dense.rate.value)}: at least" in sentence
    assert "at least" in headline(result)


@pytest.mark.parametrize(("place", "words"), [(0, "at most 5.19"), (-1, "at least 10.7")])
def test_a_rate_at_the_end_of_what_was_visited_is_not_stated_as_found(place, words):
    """It may lie beyond."""
    subject = subject_of("dense")
    assert rate_text(replace(subject, rate=interval_of(subject.curve[place].step.rate), inside=False)) == words


def test_a_void_result_says_so_before_anything_else():
    """In the title, above the headline, in it and above the task; promises are neither kept nor broken."""
    kept = Verdict(str(Gate("qa", "compact-int8", "dense", 3.5)), True, interval_of(3.72))
    html = to_html(result_of(bare(task_of(void=VOID)), verdicts=(kept,)))
    page = Page(html)
    assert "<title>VOID: " in html
    assert html.index('role="alert"') < html.index("<h1>VOID: ")
    assert all(f"qa: {reason}" in page.words for reason in VOID)
    assert "VOID, these figures do not count" in page.text
    assert "void" in page.words
    assert "kept" not in page.words


def test_a_task_that_counts_makes_the_headline():
    """One void task does not speak for the others, and is named."""
    result = result_of(bare(task_of(void=VOID)), bare(task_of(subject_of("dense"), subject_of("compact-int8"), name="classify")))
    page = Page(to_html(result))
    assert headline(result).startswith("compact-int8 serves 3.72 times the requests of dense on /classify")
    assert "VOID: the figures of /qa do not count" in page.text


def test_a_result_that_counts_does_not_say_void(html):
    """Anywhere."""
    assert "void" not in Page(html).text.lower().split()


def test_promises_are_shown_with_what_was_found():
    """Kept, broken, or not measured."""
    gate, interval = "qa: compact-int8 at least 3.5x the rate of dense", interval_of(3.72)
    found = [promise(Verdict(gate, passed, interval), void=[]) for passed in (True, False)]
    assert [(each.kind, each.word) for each in found] == [("kept", "kept"), ("broken", "BROKEN")]
    assert {each.text for each in found} == {f"{gate}: 3.72 times (3.57 to 3.91)"}
    assert promise(Verdict(gate, None, None), void=[]) == Promise("open", "not measured", gate)


def test_text_is_only_text():
    """Names that look like markup are shown as they are, in tables and in pictures."""
    subject = replace(subject_of("compact-int8"), label=HOSTILE)
    html = to_html(result_of(replace(bare(task_of(subject_of("dense"))), subjects=(subject,), notes=(HOSTILE,), texts=HOSTILE)))
    page = Page(html)
    assert "script" not in page.tags
    assert HOSTILE in page.text


def test_the_table_has_the_figures_unrounded():
    """One line for each figure, with the ends of its interval."""
    task = task_of()
    rows = list(csv.DictReader(io.StringIO(to_csv(result_of(task)))))
    (rate,) = [row for row in rows if row["measure"] == "rate within the objective" and row["subject"] == "dense" and row["unit"] == "1/s"]
    assert [float(rate[name]) for name in ("value", "low", "high")] == list(vars(task.subjects[0].rate).values())
    assert {row["table"] for row in rows} == {
        "headline",
        "scores",
        "memory",
        "curve",
        "distribution",
        "time",
        "layers",
        "lengths",
        "gain",
        "roofline",
    }
    assert all(row["value"] not in ("", "nan") for row in rows)


def test_what_was_written_gives_the_same_page(tmp_path):
    """The files come from `result.json` alone, and are the same when they are written again."""
    result = result_of(bare(task_of()))
    write(result, tmp_path)
    assert write_report(tmp_path).read_text(encoding="utf-8") == to_html(result) == to_html(read_result(tmp_path))
    assert (tmp_path / "report.csv").read_text(encoding="utf-8") == to_csv(result)
    assert not list(tmp_path.glob(".*"))


def test_a_real_result_is_drawn(tmp_path):
    """The one that is kept as an example of the schema: void, and said to be."""
    (tmp_path / "result.json").write_bytes((Path(__file__).parent / "example_result.json").read_bytes())
    result = read_result(tmp_path)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert {subject.label for task in result.tasks for subject in task.subjects} <= set(page.words)
    assert page.text.startswith("VOID: ") == bool(result.void)


def test_the_command_writes_the_page(tmp_path):
    """And prints where it is."""
    write(result_of(bare(task_of())), tmp_path)
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 0
    assert done.output.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()


def test_pictures_are_written_as_files_of_their_own(tmp_path):
    """Each of the page's, as XML that stands alone; the command names them."""
    result = result_of(task_of())
    write(result, tmp_path)
    done = CliRunner().invoke(main, ["report", str(tmp_path), "--pictures", str(tmp_path / "pictures")])
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in files] == sorted(f"qa-{picture.name}.svg" for picture in pictures_of(task_of()))
    assert set(map(str, files)) <= set(done.output.split())
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        light, dark = (set(re.findall(r"(--plot-\w+):", block)) for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL))
        assert set(re.findall(r"var\((--plot-\w+)", text)) <= light
        assert light - dark <= {"--plot-page"}  # which is the card's, light or dark
        assert "background: var(--card)" in text  # a page around it may be dark where the picture is light


def test_a_folder_without_a_result_is_one_line(tmp_path):
    """Exit code 2."""
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "result.json" in done.stderr
    assert "Traceback" not in done.output


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    """Where a folder has its name."""
    write(result_of(bare(task_of())), tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(LoadTestError, match="cannot be written"):
        write_report(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_colours_are_those_of_the_pages_of_pruning():
    """Both kinds of page look the same: each colour that they share by name has the same value in light, dark and print."""
    root = Path(__file__).parents[2]
    shades = [
        [dict(re.findall(r"(--[\w-]+): ([^;]+);", block)) for block in re.findall(r":root \{(.*?)\}", (root / path).read_text(), re.DOTALL)]
        for path in ("pruning/templates/page.css", "loadtests/templates/report.css")
    ]
    assert [len(each) for each in shades] == [3, 3]
    for theirs, ours in zip(*shades, strict=True):
        assert theirs.items() <= ours.items()


def test_a_result_that_lacks_tasks_says_so():
    """It is void, though what was measured was not disturbed; and tasks that were left out are named."""
    result = replace(result_of(task_of()), stopped="/summarize came to nothing: it ended", notes=("/classify was left out: why",))
    page = Page(to_html(result))
    assert "VOID: tasks are missing" in page.words
    assert "incomplete: /summarize came to nothing: it ended" in page.words
    assert "The measurement was disturbed" not in page.text
    assert "/classify was left out: why" in page.words


def test_a_ratio_that_may_be_too_high_is_no_headline():
    """The baseline's rate is at the top of what was visited: the table says so, and the headline is of what a closed loop got."""
    task = task_of()
    result = result_of(
        replace(
            task, ratios=tuple(replace(each, bound="at most" if each.of == "rate within the objective" else "") for each in task.ratios)
        )
    )
    assert "in a closed loop" in headline(result)
    assert f"at most {figure(5.13)}\N{MULTIPLICATION SIGN}" in Page(to_html(result)).words


def test_what_others_took_may_be_unknown():
    """It is not shown as nothing."""
    task = task_of()
    page = Page(
        to_html(result_of(replace(task, conditions=replace(task.conditions, others_share=float("nan")), conditions_below=task.conditions)))
    )
    assert "not known" in page.words
    assert "other processes took of the machine below HTTP" in page.words
