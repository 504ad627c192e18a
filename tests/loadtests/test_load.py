"""Load as the generator makes it, on a service with known service times."""

import math
import socket
import urllib.request

import numpy as np
import pytest

from loadtests.arrivals import steady
from loadtests.client import Client, Prepared
from loadtests.errors import MeasurementError
from loadtests.load import LoadGenerator
from loadtests.request_log import joined, load_log
from loadtests.texts import TASKS
from tests.loadtests.fake import Behaviour, Fake


def prepared(fake: Fake, variant: str = "dense") -> list[Prepared]:
    """Two requests."""
    return Client(fake.url).prepare(TASKS["classify"], ["one two", "three four"], model="sentiment", variant=variant)


def test_every_request_of_a_schedule_is_sent_and_noted(fake, generator):
    """As many rows as arrivals, in order, with what the service said."""
    made = generator.open(fake.url, prepared(fake), steady(20.0, 1.5), spacing="fixed", seed=0)
    assert made.log.intended_s == pytest.approx((np.arange(30) + 0.5) / 20)
    assert made.log.good.all()
    assert set(made.log.variant) == {"dense"}
    assert list(made.log.text) == [0, 1] * 15
    assert (made.log.total_ms == 1.5).all()
    assert np.isnan(made.log.retry_after_s).all()


def test_latency_is_counted_from_when_a_request_was_due(fake, generator):
    """Twice what can be done: each request waits for those before it, and says so, though none was sent late."""
    made = generator.open(fake.url, prepared(fake), steady(100.0, 0.4), spacing="fixed", seed=0)
    assert (made.log.latency_ms >= 20.0 * 0.99).all()
    assert made.log.latency_ms.max() >= 20.0 * 40 - 400 - 20
    assert np.median(made.log.lag_ms) < 100


def test_refusals_are_failures_with_what_was_asked_for(fake, generator):
    """503 is noted with Retry-After."""
    fake.behaviour.most_waiting = 2
    log = generator.open(fake.url, prepared(fake), steady(200.0, 0.3), spacing="fixed", seed=0).log
    refused = log.status == 503
    assert refused.any()
    assert not log.good[refused].any()
    assert set(log.retry_after_s[refused]) == {1.0}


def test_wrong_answers_are_noticed(fake, generator):
    """An answer that differs from the golden one is not good, though its status is 200."""
    asked = prepared(fake)
    fake.behaviour.wrong_every = 5
    log = generator.open(fake.url, asked, steady(40.0, 0.5), spacing="fixed", seed=0).log
    assert log.wrong.sum() == 4
    assert (log.status == 200).all()


def test_a_closed_loop_finds_what_can_be_done(fake, generator):
    """One request at a time of 20 ms is at most 50 in a second."""
    made = generator.closed(fake.url, prepared(fake), connections=4, seconds=1.0)
    assert 10 < len(made.log) / made.seconds <= 50
    assert made.log.good.all()


def test_a_service_that_is_gone_is_lost_requests(generator):
    """Nobody answers: status 0, and the load still comes to its end."""
    with Fake(Behaviour()) as fake:
        asked, url = prepared(fake), fake.url
    log = generator.open(url, asked, steady(20.0, 0.3), spacing="fixed", seed=0).log
    assert list(log.status) == [0] * 6
    assert not log.good.any()


def test_a_log_is_kept_and_joined(fake, generator, tmp_path):
    """What is written is read, and logs are joined and cut by time."""
    log = generator.open(fake.url, prepared(fake), steady(20.0, 0.5), spacing="poisson", seed=0).log
    log.save(tmp_path / "log.npz")
    again = joined([load_log(tmp_path / "log.npz"), log])
    assert len(again) == 2 * len(log)
    assert len(again.between(0.0, math.inf)) == len(again)
    assert (log.between(0.1, 0.2).intended_s < 0.2).all()


def test_prometheus_sees_the_users_side(fake):
    """Rates, outcomes and durations are there for the scraping while the generator lives."""
    with LoadGenerator(metrics_port=(port := _free_port())) as watched:
        watched.open(fake.url, prepared(fake), steady(20.0, 0.5), spacing="fixed", seed=0)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'secateur_loadtest_requests_total{outcome="ok",task="classify",variant="dense"} 10.0' in page
    assert 'secateur_loadtest_due_total{task="classify",variant="dense"} 10.0' in page
    assert 'secateur_loadtest_inflight{task="classify",variant="dense"} 0.0' in page
    assert "secateur_loadtest_request_duration_seconds_bucket" in page


def test_a_generator_that_cannot_go_on_says_why(fake, generator):
    """A load that makes no sense is an error here, and the child goes on."""
    with pytest.raises(MeasurementError, match="Expecting"):
        generator.open(fake.url, [Prepared("qa", "dense", "/qa", "{}", "{")], steady(1.0, 1.0), spacing="fixed", seed=0)
    assert len(generator.closed(fake.url, prepared(fake), connections=1, seconds=0.1).log)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
