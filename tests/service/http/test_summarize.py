"""The wire format of POST /summarize."""

import asyncio
import random

import httpx2
import pytest

from service.model import GeneratingModel
from service.tasks.summarize import SummarizeRequest
from tests.service.http.support import assert_problem, metric
from tests.service.summarizing import DOCUMENT, LONG_DOCUMENT

WORDS = ("ada", "wrote", "it", "in", "the", "café", "🙂", "日本", ".", "?")
BEAMS = {"num_beams": 3, "length_penalty": 2, "early_stopping": True}


def asked(client, inputs, **parameters):
    """The answer to a body, which must be one."""
    response = client.post("/summarize", json={"inputs": inputs, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture(scope="module")
def engine(models):
    """The model behind the default variant."""
    return GeneratingModel.load(models / "summarize/dense")


def expected(engine, text, **options):
    """What the engine itself answers."""
    return engine.predict_one(SummarizeRequest(text=text, **options))


def test_one_document_gets_a_list_of_one_summary(client, engine):
    """One document has one summary, in a list, as Hugging Face's client expects."""
    summary = expected(engine, DOCUMENT).summary
    assert summary
    assert asked(client, DOCUMENT) == [{"summary_text": summary}]


def test_several_documents_get_their_summaries_in_order(client, engine):
    """Decoded together, each is what it is alone."""
    texts = [DOCUMENT, "ada", "wrote it", LONG_DOCUMENT]
    assert asked(client, texts) == [{"summary_text": expected(engine, text).summary} for text in texts]
    assert asked(client, texts, generate_parameters=BEAMS) == [
        {"summary_text": expected(engine, text, settings=BEAMS).summary} for text in texts
    ]


def test_details_say_how_it_came_about(client, engine):
    """With `details`: why it ended, what it took, and who answered."""
    (answer,) = asked(client, LONG_DOCUMENT, details=True, generate_parameters={"max_new_tokens": 5, "num_beams": 2})
    details, response = answer["details"], expected(engine, LONG_DOCUMENT, settings={"max_new_tokens": 5, "num_beams": 2})
    assert answer["summary_text"] == response.summary
    assert details["finish_reason"] == response.finish_reason
    assert details["generated_tokens"] == response.generated_tokens <= 5
    assert details["usage"] == {"input_tokens": 40, "truncated": True}
    assert (details["chunks"], details["seed"], details["model"]["name"]) == (1, None, "summarize")
    assert details["timings_ms"].keys() == {"queue", "tokenize", "infer", "post"}


def test_headers_say_what_was_cut_and_computed(client):
    """A cut is in the headers, and so are all tokens, read and generated."""
    short = client.post("/summarize", json={"inputs": DOCUMENT, "parameters": {"details": True}})
    long = client.post("/summarize", json={"inputs": [DOCUMENT, LONG_DOCUMENT]})
    assert (short.headers["x-truncated"], long.headers["x-truncated"]) == ("false", "true")
    details = short.json()[0]["details"]
    assert int(short.headers["x-compute-tokens"]) == details["usage"]["input_tokens"] + details["generated_tokens"]


def test_max_length_counts_the_start_token(client):
    """transformers' usual spelling is taken, and gives way to `max_new_tokens`."""
    expected = asked(client, LONG_DOCUMENT, generate_parameters={"max_new_tokens": 5})
    assert asked(client, LONG_DOCUMENT, generate_parameters={"max_length": 6}) == expected
    assert asked(client, LONG_DOCUMENT, generate_parameters={"max_length": 9, "max_new_tokens": 5}) == expected


def test_long_document_can_be_read_in_parts(client, engine):
    """map_reduce reads all of it, part by part."""
    (answer,) = asked(client, LONG_DOCUMENT, long_text="map_reduce", details=True)
    response = expected(engine, LONG_DOCUMENT, long_text="map_reduce")
    assert answer["summary_text"] == response.summary
    assert answer["details"]["chunks"] == response.windows > 1
    assert answer["details"]["generated_tokens"] == response.generated_tokens > 12


def test_long_document_is_refused_where_it_must_not_be_cut(client):
    """`do_not_truncate` is a 422 that points to the document; one that fits is answered."""
    body = {"inputs": [DOCUMENT, LONG_DOCUMENT], "parameters": {"truncation": "do_not_truncate"}}
    problem = assert_problem(client.post("/summarize", json=body), 422, body)
    assert problem["errors"][0]["pointer"] == "#/inputs/1"
    assert asked(client, DOCUMENT, truncation="do_not_truncate") == asked(client, DOCUMENT)
    assert asked(client, LONG_DOCUMENT, truncation="do_not_truncate", long_text="map_reduce")


def test_same_seed_draws_the_same_and_is_said(client):
    """Sampling says its seed, with which the same summary comes again, whatever is decoded beside it."""
    sampling = {"do_sample": True, "temperature": 5.0, "top_p": 0.9}
    (first,) = asked(client, DOCUMENT, details=True, generate_parameters=sampling)
    again = {**sampling, "seed": first["details"]["seed"]}
    assert asked(client, ["ada", DOCUMENT, "it"], generate_parameters=again)[1]["summary_text"] == first["summary_text"]
    others = [asked(client, DOCUMENT, generate_parameters={**sampling, "seed": seed})[0]["summary_text"] for seed in range(5)]
    assert len(set(others)) > 1


def test_spaces_are_left_as_they_are_on_demand(client, engine):
    """Without clean-up words and signs stay apart, without capitals."""
    (answer,) = asked(client, DOCUMENT, clean_up_tokenization_spaces=False)
    assert answer["summary_text"] == expected(engine, DOCUMENT, clean_up_spaces=False).summary
    assert answer["summary_text"].islower()


REFUSED = {
    "empty": ({"inputs": ""}, 422, "#/inputs"),
    "blank": ({"inputs": ["ada", " \n"]}, 422, "#/inputs/1"),
    "no documents": ({"inputs": []}, 422, "#/inputs"),
    "a number": ({"inputs": 5}, 422, "#/inputs"),
    "too many characters": ({"inputs": "a" * 200_001}, 413, "#/inputs"),
    "too many documents": ({"inputs": ["ada"] * 33}, 413, "#/inputs"),
    "too many parts": ({"inputs": "ada wrote it. " * 2000, "parameters": {"long_text": "map_reduce"}}, 413, None),
    "too many parts of the longest text": (
        {"inputs": "ada wrote it. " * 14_285, "parameters": {"long_text": "map_reduce"}},
        413,
        "#/inputs",
    ),
    "too many beams": ({"num_beams": 9}, 422, "num_beams"),
    "too many tokens for the server": ({"max_new_tokens": 1025}, 422, "max_new_tokens"),
    "too many tokens for the model": ({"max_new_tokens": 41}, 422, "max_new_tokens"),
    "too long for the server": ({"max_length": 1026}, 422, "max_length"),
    "too long for the model": ({"max_length": 42}, 422, "max_length"),
    "no length": ({"max_length": 1}, 422, "max_length"),
    "a penalty that nothing survives": ({"num_beams": 2, "length_penalty": -3.5}, 422, "length_penalty"),
    "no tokens": ({"max_new_tokens": 0}, 422, "max_new_tokens"),
    "at least more than at most": ({"max_new_tokens": 5, "min_new_tokens": 6}, 422, ""),
    "beams that are drawn": ({"num_beams": 2, "do_sample": True}, 422, ""),
    "n-grams beyond all numbers": ({"no_repeat_ngram_size": 10**30}, 422, "no_repeat_ngram_size"),
    "seed below zero": ({"seed": -1}, 422, "seed"),
    "no such parameter": ({"num_beans": 2}, 422, "num_beans"),
    "second text": ({"inputs": "ada", "parameters": {"truncation": "only_second"}}, 422, "#/parameters/truncation"),
    "a list as a stream": ({"inputs": ["ada"], "stream": True}, 422, "#/inputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_problem_with_a_pointer(client, case):
    """Whatever is wrong is one problem document of one line that points at it."""
    body, status, pointer = REFUSED[case]
    if "inputs" not in body:
        body, pointer = (
            {"inputs": "ada", "parameters": {"generate_parameters": body}},
            f"#/parameters/generate_parameters/{pointer}".rstrip("/"),
        )
    problem = assert_problem(client.post("/summarize", json=body), status, body)
    assert "\n" not in problem["detail"]
    assert pointer in [error["pointer"] for error in problem.get("errors", [{"pointer": None}])]


def test_document_of_two_hundred_thousand_characters_is_answered(client):
    """The longest that may be sent is cut, and said to be."""
    words = random.Random(0).choices(["ada", "wrote", "it", "in", "the", "café"], k=60_000)
    (answer,) = asked(client, " ".join(words)[:200_000], details=True)
    assert answer["details"]["usage"] == {"input_tokens": 40, "truncated": True}


def test_partial_answers_the_good_and_says_why_not_the_bad(client, engine):
    """With `partial` each document has its own outcome."""
    body = {"inputs": ["ada", " "], "partial": True}
    good, failed = client.post("/summarize", json=body).json()
    assert good == {"summary_text": expected(engine, "ada").summary}
    assert failed == {"error": "text is empty; send some text", "error_type": "unprocessable"}


async def together(app, bodies):
    """Answers to requests that are all sent at once."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://garden", timeout=60) as client:
        responses = await asyncio.gather(*(client.post("/summarize", json=body) for body in bodies))
    assert [response.status_code for response in responses] == [200] * len(bodies)
    return [response.json() for response in responses]


def body_of(chance, **more):
    """A random body: greedy, beams or drawn, one document or several, short or in parts."""
    ways = [{}, {"num_beams": chance.randint(2, 4)}, {"do_sample": True, "temperature": 5.0, "seed": chance.randrange(9)}]
    generate = {**chance.choice(ways), "max_new_tokens": chance.randint(1, 20)}
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 60))) for _ in range(chance.randint(1, 3))]
    return {
        "inputs": texts,
        "parameters": {"generate_parameters": generate, "long_text": chance.choice(["truncate", "map_reduce"])},
        **more,
    }


@pytest.mark.parametrize("variant", ["dense", "compact-int8"])
def test_every_answer_equals_the_answer_given_alone(start, variant):
    """Shuffled and sent at once, requests share steps, and none changes another: in 8 bits and with fewer output tokens either."""
    client = start(variants=("summarize/*",), queue_wait_ms=60_000)
    chance = random.Random(0)
    bodies = [body_of(chance, variant=variant) for _ in range(30)]

    def steps():
        return metric(client.get("/metrics").text, "secateur_decode_step_duration_seconds_count")

    before = steps()
    alone = [client.post("/summarize", json=body).json() for body in bodies]
    between = steps()
    order = chance.sample(range(len(bodies)), len(bodies))
    crowded = asyncio.run(together(client.app, [bodies[index] for index in order]))
    assert steps() - between < 0.7 * (between - before), "hardly a request shared a step with another one, so nothing was tried"
    assert crowded == [alone[index] for index in order]


def test_variant_with_other_tokens_answers(client, models):
    """A byte-level tokenizer's text is as it was decoded."""
    response = client.post("/summarize", json={"inputs": DOCUMENT, "variant": "compact"})
    other = GeneratingModel.load(models / "summarize/compact")
    assert response.headers["x-model-variant"] == "compact"
    assert response.json() == [{"summary_text": expected(other, DOCUMENT).summary}]


def test_example_of_the_documentation_is_answered(client):
    """What /docs offers to try works."""
    content = client.get("/openapi.json").json()["paths"]["/summarize"]["post"]["requestBody"]["content"]
    examples = content["application/json"]["examples"]
    assert [client.post("/summarize", json=example["value"]).status_code for example in examples.values()] == [200] * len(examples)
