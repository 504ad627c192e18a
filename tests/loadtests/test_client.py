"""The service before a load: what it serves, and its unloaded answers."""

import json

import pytest

from loadtests.answers import Judge
from loadtests.client import Client
from loadtests.errors import ServiceError
from loadtests.lengths import Fixed
from loadtests.texts import CUT, TASKS, own_texts


def test_golden_answers_are_those_of_the_variant(fake):
    """Every request is prepared for its variant, with the answer that came."""
    (prepared,) = Client(fake.url).prepare(TASKS["classify"], ["one two"], model="sentiment", variant="dense")
    assert json.loads(prepared.body) == {"inputs": "one two", "model": "sentiment", "variant": "dense"}
    assert json.loads(prepared.golden)[0]["answer"] == "two"


def test_variants_of_a_task_are_listed(fake):
    """Those of its first model, and none for a task that is not served."""
    client = Client(fake.url)
    assert [row["variant"] for row in client.served(TASKS["qa"])] == ["dense", "compact-int8"]
    assert client.served(TASKS["summarize"]) == []


def test_tokens_are_counted_by_the_service(fake):
    """The header says how many."""
    assert Client(fake.url).counter(TASKS["qa"], {})({"question": "a b", "context": "c d e"}) == 5


def test_tokens_of_a_summary_are_not_its_sources(fake):
    """What is generated is not counted, nor more than is read; a text that is cut is too long for any length."""
    fake.behaviour.models, fake.behaviour.tokens = ("news",), 3
    client, which = Client(fake.url), {"model": "news", "variant": "dense"}
    assert [client.counter(TASKS["summarize"], which)(text) for text in ("a b", "a b c d")] == [2, 3]
    assert [client.counter(TASKS["summarize"], which, whole=True)(text) for text in ("a b", "a b c d")] == [2, CUT]


@pytest.mark.parametrize("length", [20, 30, 60])
def test_own_texts_are_never_cut(fake, length):
    """One that would be is made shorter."""
    fake.behaviour.models, fake.behaviour.tokens = ("news",), 30
    fake.behaviour.seconds = {"dense": 0.0}
    count = Client(fake.url).counter(TASKS["summarize"], {"model": "news", "variant": "dense"}, whole=True)
    texts = own_texts(TASKS["summarize"], Fixed(length), count=count, texts=2, seed=0)
    assert texts.tokens == (min(length, 30),) * 2
    assert all(len(str(text).split()) <= 30 for text in texts.inputs)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://127.0.0.1:1"])
def test_no_service_is_one_line(url):
    """An address that is none, and one where nobody answers."""
    with pytest.raises(ServiceError, match=r"service|answer"):
        Client(url).served(TASKS["qa"])


def test_a_refusal_is_quoted(fake):
    """What the service says is in the error."""
    with pytest.raises(ServiceError, match=r"404.*not found"):
        Client(fake.url).prepare(TASKS["qa"], ["x"], model="qa", variant="none")


def test_summaries_are_asked_for_greedily(fake):
    """There is one right answer then, and its text is compared."""
    fake.behaviour.models = ("news",)
    (prepared,) = Client(fake.url).prepare(TASKS["summarize"], ["one two"], model="news", variant="dense")
    asked = json.loads(prepared.body)["parameters"]["generate_parameters"]
    assert (asked["do_sample"], asked["num_beams"]) == (False, 1)
    assert not Judge(prepared.golden).right(prepared.golden.replace("two", "three").encode())
