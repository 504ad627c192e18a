"""The load generator as a child process, and what its answers say of a server."""

import pytest

from service.bench.client import Generator
from service.errors import BenchError
from tests.service.bench.builders import traffic


def test_the_child_measures_and_can_be_asked_again(stub):
    """One generator serves many visits; its own processor time is small and is not nothing."""
    with Generator() as generator:
        for _ in range(2):
            found = generator.closed(stub.port, [("/echo", '"a"')], connections=2, seconds=0.2, pids=[])
            seen = found.visit(lambda index, body: body == '"a"')
            assert (seen.failed, seen.unexpected) == (0, 0)
            assert seen.requests > 10
            assert 0 < seen.generator_seconds <= 0.3


def test_the_child_keeps_a_schedule(stub):
    """Phases of an open loop follow each other in the child."""
    with Generator() as generator:
        found = generator.open(stub.port, [("/echo", "1")], phases=[(0.1, 200.0), (0.1, 20.0)], connections=5)
    assert 10 < ((found.intended - found.opened) < 0.1).sum() < 40
    assert found.shut - found.opened >= 0.1


def test_a_server_that_is_not_there_is_one_line():
    """Nobody listens: the benchmark ends with the reason."""
    with Generator() as generator, pytest.raises(BenchError, match="ConnectionRefused") as caught:
        generator.closed(1, [("/echo", "1")], connections=1, seconds=0.1, pids=[])
    assert "\n" not in str(caught.value)


def test_a_child_that_dies_is_one_line(stub):
    """A generator that is gone is said, not waited for."""
    generator = Generator()
    generator._process.kill()
    generator._process.wait()
    with generator, pytest.raises(BenchError, match="ended unexpectedly"):
        generator.closed(stub.port, [("/echo", "1")], connections=1, seconds=0.1, pids=[])


def test_every_different_answer_is_judged_and_counted():
    """Two answers to one request, one of them wrong, are one unexpected answer, which is shown."""
    found = traffic([(0.0, 1.0, 200)], bodies=((0, "[1]"), (0, "[2]"), (1, "[3]")))
    seen = found.visit(lambda index, body: (index, body) != (0, "[2]"))
    assert (seen.failed, seen.unexpected, seen.problem) == (0, 1, "[2]")


def test_answers_other_than_200_are_no_throughput():
    """A server that refuses quickly is not a fast one."""
    found = traffic([(0.0, 1.0, 200), (0.0, 1.0, 503), (0.0, 1.0, 0)], problem="overloaded")
    seen = found.visit(lambda index, body: True)
    assert seen.requests == pytest.approx(1.0)
    assert (seen.failed, seen.problem) == (2, "overloaded")
    assert len(seen.latencies_ms) == 1


def test_lost_connections_are_named_where_nothing_else_was_said():
    """A connection that is lost has no body to show."""
    seen = traffic([(0.0, 1.0, 0)]).visit(lambda index, body: True)
    assert seen.problem == "1 connections were lost"
