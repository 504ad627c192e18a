"""Inputs that were made to hurt: each is answered in time, never with a 5xx, and every refusal is a problem document."""

import asyncio
import gzip
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from tests.service.http.support import QA, assert_problem

JSON = {"Content-Type": "application/json"}
SECONDS = 20.0
MEGABYTE = "a" * 2**20
DEEP = 100_000


def ask(**changes: Any) -> bytes:
    """A body of /qa with another question or context, or with parameters."""
    inputs = QA | {name: changes.pop(name) for name in ("question", "context") if name in changes}
    return json.dumps({"inputs": inputs, **changes}).encode()


def label(inputs: Any, **parameters: Any) -> bytes:
    """A body of /classify."""
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


HOSTILE: dict[str, tuple[str, bytes, int | tuple[int, ...]]] = {
    "NUL in a text": ("/qa", ask(context="ada\0wrote"), 200),
    "nothing but NUL": ("/qa", ask(context="\0\0"), 422),
    "lone surrogate": ("/qa", rb'{"inputs": {"question": "who \ud800?", "context": "ada"}}', (400, 422)),
    "lone low surrogate": ("/classify", rb'{"inputs": "\udc00"}', (400, 422)),
    "surrogates the wrong way round": ("/classify", rb'{"inputs": "\udc00\ud800"}', (400, 422)),
    "surrogate in a member's name": ("/classify", rb'{"inputs": "a", "\ud800": 1}', (400, 422)),
    "right to left and joiners": ("/qa", ask(context="\u202eada\u200d\u200c\u2066 it \u2069\ufe0f\u202c \u05d0\u0627"), 200),
    "nothing but joiners": ("/qa", ask(context="\u200d\u200c\u202e"), 422),
    "combining marks": ("/classify", label("a" + "\u0301" * 5000), 200),
    "a megabyte in one word": ("/qa", ask(context=MEGABYTE), 413),
    "a megabyte of question": ("/qa", ask(question=MEGABYTE), 413),
    "a megabyte to label": ("/classify", label(MEGABYTE, long_text="windows"), 413),
    "a megabyte of emoji": ("/classify", label("🙂" * 150_000), (200, 413)),
    "more windows than are taken": ("/qa", ask(context="ada " * 5000), 413),
    "more than the body may hold": ("/classify", label("a " * 2**20), 413),
    "arrays nested deeply": ("/qa", b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}", 400),
    "objects nested deeply": ("/classify", b'{"inputs":' * DEEP + b"1" + b"}" * DEEP, 400),
    "duplicate members": ("/classify", b'{"inputs": "a", "inputs": "ada"}', 200),
    "not UTF-8": ("/classify", b'{"inputs": "\xff\xfe"}', 400),
    "UTF-16": ("/classify", '{"inputs": "ada"}'.encode("utf-16"), 400),
    "byte order mark": ("/classify", b"\xef\xbb\xbf" + label("ada"), 400),
    "nothing": ("/classify", b"", 400),
    "cut short": ("/classify", b'{"inputs": "ada', 400),
    "two documents": ("/classify", b'{"inputs": "a"} {"inputs": "b"}', 400),
    "a form": ("/classify", b"inputs=ada", 400),
    "NaN": ("/qa", ask(parameters={"null_score_diff_threshold": float("nan")}), (400, 422)),
    "Infinity": ("/qa", ask(parameters={"null_score_diff_threshold": float("inf")}), (400, 422)),
    "a number beyond all floats": ("/qa", b'{"inputs": {}, "parameters": {"null_score_diff_threshold": 1e999}}', (400, 422)),
    "the largest threshold": ("/qa", ask(parameters={"null_score_diff_threshold": 1e308}), 200),
    "the lowest threshold": ("/qa", ask(parameters={"null_score_diff_threshold": -1e308}), 200),
    "an integer of 5000 digits": ("/qa", b'{"inputs": {}, "parameters": {"top_k": ' + b"9" * 5000 + b"}}", (400, 422)),
    "a question longer than the window": ("/qa", ask(question="who " * 100), 422),
    "a stride of the whole window": ("/qa", ask(parameters={"doc_stride": 24}), 422),
    "a stride of all room but one": ("/qa", ask(parameters={"doc_stride": 16}), 200),
    "a stride past the window": ("/qa", ask(parameters={"doc_stride": 10**30}), 422),
    "a negative stride": ("/qa", ask(parameters={"doc_stride": -1}), 422),
    "a window beyond the model's": ("/qa", ask(parameters={"max_seq_len": 10**9}), 422),
    "no window": ("/qa", ask(parameters={"max_seq_len": 0}), 422),
    "a question of 10**30 tokens at most": ("/qa", ask(parameters={"max_question_len": 10**30}), 200),
    "top_k 0": ("/qa", ask(parameters={"top_k": 0}), 422),
    "top_k 10**9": ("/qa", ask(parameters={"top_k": 10**9}), 422),
    "top_k 0 of labels": ("/classify", label("ada", top_k=0), 422),
    "top_k 10**30 of labels": ("/classify", label("ada", top_k=10**30), 200),
    "10,000 items": ("/classify", label(["a"] * 10_000), 413),
    "33 items": ("/classify", label(["a"] * 33), 413),
    "10,000 questions": ("/qa", ask(question=["a"] * 10_000), 413),
    "a thousand times a hundred questions": (
        "/qa",
        json.dumps({"inputs": [{"question": ["a"] * 100, "context": "a"}] * 1000}).encode(),
        413,
    ),
    "half a million empty objects": ("/qa", b'{"inputs": [' + b"{}," * 500_000 + b"{}]}", 413),
    "half a million numbers": ("/classify", b'{"inputs": [' + b"1," * 500_000 + b"1]}", 413),
    "100,000 unknown members": ("/qa", b"{" + b",".join(b'"%d": 1' % number for number in range(100_000)) + b"}", 422),
    "no items": ("/classify", label([]), 422),
    "no questions": ("/qa", ask(question=[]), 422),
    "an empty question": ("/qa", ask(question=""), 422),
    "an empty context": ("/qa", ask(context=""), 422),
    "white space of all kinds": ("/qa", ask(context=" \t\r\n\u00a0\u2003\u3000"), 422),
    "an empty text": ("/classify", label(""), 422),
    "an empty second text": ("/classify", label({"text": "a", "text_pair": " "}), 422),
}


def sent(body: bytes) -> Any:
    """The body as a client sees it; None where it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def timely(client: Any, path: str, body: bytes, headers: Mapping[str, str] = JSON) -> Any:
    """The response, which must come in time."""
    started = time.monotonic()
    response = client.post(path, content=body, headers=dict(headers))
    assert time.monotonic() - started < SECONDS
    return response


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_body(client, name):
    """What can be answered is answered, and what cannot be is refused with a problem that points into the body."""
    path, body, status = HOSTILE[name]
    response = timely(client, path, body)
    assert response.status_code in (status if isinstance(status, tuple) else (status,)), response.text[:300]
    if response.status_code != 200:
        assert_problem(response, sent=sent(body))
        assert len(response.content) < 20_000
    assert client.post("/classify", json={"inputs": "ada"}).status_code == 200, "nobody else is hurt"


WRONG = [None, True, 0, -1, 1.5, "", "5", "yes", [], [[]], {}, {"(one)": 1}, {"a/b~c d%é": 1}, [None], [{"text": 1}]]
PLACES = {
    "/qa": [(), ("inputs",), ("inputs", "question"), ("inputs", "context"), ("parameters",), ("model",), ("variant",), ("partial",)]
    + [("parameters", name) for name in ("top_k", "doc_stride", "max_answer_len", "handle_impossible_answer", "offset_unit", "details")],
    "/classify": [(), ("inputs",), ("parameters",), ("model",)]
    + [("parameters", name) for name in ("top_k", "function_to_apply", "truncation", "long_text", "details", "(text)")],
}


def replaced(document: Any, place: tuple[str, ...], value: Any) -> Any:
    """A copy of the document with another value at that place."""
    return value if not place else {**document, place[0]: replaced(document.get(place[0], {}), place[1:], value)}


@pytest.mark.parametrize(("path", "place"), [(path, place) for path, places in PLACES.items() for place in places])
def test_wrong_types_everywhere(client, path, place):
    """Any value at any place is answered, or refused with pointers that lead to what is wrong."""
    good = {"inputs": QA if path == "/qa" else {"text": "ada", "text_pair": "it"}}
    for value in WRONG:
        body = replaced(good, place, value)
        response = client.post(path, content=json.dumps(body), headers=JSON)
        assert response.status_code in (200, 404, 422), (value, response.text)
        if response.status_code == 422:
            assert assert_problem(response, sent=body)["errors"], (value, response.text)


@pytest.mark.parametrize("value", ["5", True, 1.5, "yes"])
def test_numbers_are_numbers(client, value):
    """A number in quotes, or a truth value for a number, is a mistake and not a spelling."""
    body = {"inputs": QA, "parameters": {"top_k": value}}
    problem = assert_problem(client.post("/qa", json=body), 422, body)
    assert [error["pointer"] for error in problem["errors"]] == ["#/parameters/top_k"]


BOMB = gzip.compress(b'{"inputs": "' + b"a" * 50_000_000 + b'"}')


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, BOMB, 415),
        ({"Content-Type": "application/gzip"}, BOMB, 415),
        ({"Content-Type": "text/plain"}, label("ada"), 415),
        ({"Content-Type": "multipart/form-data"}, label("ada"), 415),
        ({"Content-Type": "json;" * 1000}, label("ada"), 415),
        ({}, label("ada"), 415),
        ({"Content-Type": "application/json; charset=latin-1"}, label("ada"), 200),
        ({"Content-Type": "APPLICATION/JSON"}, label("ada"), 200),
        ({"Content-Type": "application/vnd.garden+json", "Content-Encoding": "identity"}, label("ada"), 200),
        ({**JSON, "Content-Length": "9" * 30}, label("ada"), 413),
        ({**JSON, "Content-Length": "9" * 5000}, label("ada"), 413),
        ({**JSON, "Content-Length": "-1"}, label("ada"), 200),
        ({**JSON, "X-Variant": "x" * 10_000}, label("ada"), 404),
        ({**JSON, "X-Request-Timeout-Ms": "9" * 10_000}, label("ada"), 400),
    ],
)
def test_hostile_headers(client, headers, body, status):
    """A body in another format, packed, or of a size that is not its own is refused without being unpacked or read."""
    response = timely(client, "/classify", body, headers)
    assert response.status_code == status, response.text[:300]
    if status != 200:
        assert_problem(response, status)


def test_body_without_a_length_is_read_no_further_than_allowed(client):
    """A stream that never ends is refused when it has gone too far, whatever it says about itself."""
    read = 0

    async def endless():
        nonlocal read
        while read < 2**27:
            read += 2**16
            yield b"a" * 2**16

    async def main():
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(client.app), base_url="http://garden") as lazy:
            return await lazy.post("/classify", content=endless(), headers=JSON)

    assert_problem(asyncio.run(main()), 413)
    assert read < 2**22


def test_only_the_first_of_many_mistakes_are_listed(client):
    """A body with a hundred mistakes is answered with some of them."""
    body = {"inputs": [{"question": 1, "context": 1}] * 50}
    problem = assert_problem(client.post("/qa", json=body), 422, body)
    assert len(problem["errors"]) == 20


def test_a_hundred_thousand_mistakes_are_not_listed_at_all(client):
    """To make the list would keep everyone waiting."""
    problem = assert_problem(timely(client, "/qa", HOSTILE["100,000 unknown members"][1]), 422)
    assert "errors" not in problem
    assert "100001 members of the body are wrong" in problem["detail"]


@pytest.mark.parametrize(("member", "pointer"), [("(one)", "#/parameters/(one)"), ("a/b~c %é", "#/parameters/a~1b~0c%20%25%C3%A9")])
def test_pointer_leads_to_a_member_whatever_it_is_called(client, member, pointer):
    """A misspelt parameter is pointed at, even when it looks like something else, as RFC 6901 writes it in a fragment."""
    body = {"inputs": QA, "parameters": {member: 1}}
    problem = assert_problem(client.post("/qa", json=body), 422, body)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


def test_a_body_that_is_no_object_is_pointed_at_as_a_whole(client):
    """The empty pointer is the whole document."""
    assert [error["pointer"] for error in assert_problem(client.post("/qa", json=[1]), 422, [1])["errors"]] == ["#"]
