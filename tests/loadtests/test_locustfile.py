"""Locust by hand, without its page: Locust patches its process, so it runs in one of its own."""

import subprocess
import sys

from tests.loadtests.fake import Fake


def locust(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A headless run of two seconds."""
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "loadtests/locustfile.py",
        "--headless",
        "--only-summary",
        "-u",
        "4",
        "-r",
        "4",
        "-t",
        "2s",
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_users_of_what_is_served_ask(fake: Fake):
    """Questions and texts are sent, none for the task that is not served, and all answers are right."""
    done = locust("--host", fake.url, "--length", "30", "--distinct", "2")
    assert done.returncode == 0, done.stderr
    assert "/qa dense" in done.stderr
    assert "/classify dense" in done.stderr
    assert "/summarize" not in done.stderr


def test_all_three_tasks_are_asked_where_they_are_served(fake: Fake):
    """Summaries beside questions and texts; an address may end with a slash."""
    fake.behaviour.models = ("qa", "sentiment", "news")
    done = locust("--host", f"{fake.url}/", "--length", "30", "--distinct", "2")
    assert done.returncode == 0, done.stderr
    assert all(f"{path} dense" in done.stderr for path in ("/qa", "/classify", "/summarize"))


def test_wrong_answers_fail(fake: Fake):
    """An answer that is not the golden one is a failure to Locust, whose exit code says so."""
    fake.behaviour.wrong_every = 3
    done = locust("--host", fake.url, "--length", "30", "--distinct", "2", "QaUser")
    assert done.returncode == 1
    assert "wrong" in done.stderr


def test_a_variant_that_is_not_served_is_one_line(fake: Fake):
    """No traceback, and what was asked for is named."""
    done = locust("--host", fake.url, "--variant", "nope")
    assert done.returncode != 0
    assert "nope" in done.stderr
    assert "Traceback" not in done.stderr
