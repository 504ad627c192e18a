"""The engine generates what transformers does, whoever shares its batch, and stays within its limits."""

import weakref
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.errors import ArtifactError, RequestError
from service.generation import EncoderDecoder, Engine, Generated, Generation, GenerationSettings, Limits, caches, generate
from service.runtime.base import Array
from tests.pruning.helpers import LONGEST
from tests.service.generating import END, by_transformers, exported, exported_in_8_bits, model_of, sources

SEEDS = st.integers(0, 5)


@st.composite
def asked(draw: st.DrawFn) -> GenerationSettings:
    """Settings of greedy and beam search."""
    longest = draw(st.integers(1, 14))
    return GenerationSettings(
        max_new_tokens=longest,
        min_new_tokens=draw(st.none() | st.integers(0, longest)),
        min_length=draw(st.integers(0, longest)),
        num_beams=draw(st.integers(1, 4)),
        length_penalty=draw(st.sampled_from([-1.0, 0.0, 0.7, 1.0, 2.0])),
        early_stopping=draw(st.sampled_from([True, False, "never"])),
        no_repeat_ngram_size=draw(st.integers(0, 3)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.8])),
    )


@st.composite
def models(draw: st.DrawFn) -> tuple[int, EncoderDecoder]:
    """A model with one or two end tokens, with or without forced ones."""
    seed = draw(SEEDS)
    end, first, last = draw(st.sampled_from([(END,), (END, 7)])), draw(st.sampled_from([None, 0])), draw(st.sampled_from([None, END]))
    return seed, exported(seed, end=end, forced_first=first, forced_last=last)


def finish(engine: Engine, *, steps: int = 1000) -> None:
    """Step until nothing is left."""
    for _ in range(steps):
        if not engine.active and not engine.waiting:
            return
        engine.step()
    raise AssertionError("it does not end")


class Counting:
    """A decoder that says how many rows and how much room it was called with."""

    def __init__(self, model: EncoderDecoder) -> None:
        self._decoder = model.decoder
        self.inputs, self.outputs = self._decoder.inputs, self._decoder.outputs
        self.runtime, self.caches = self._decoder.runtime, self._decoder.caches
        self.rows: list[int] = []
        self.tokens: list[int] = []
        self.fails = False

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """See `Session`."""
        if self.fails:
            raise ArtifactError("the graph is broken")
        rows, requests = len(inputs["input_ids"]), len(inputs["request_queries"])
        room = (inputs["attention_mask"].shape[1] - 1) * rows + inputs["encoder_attention_mask"].shape[1] * requests
        self.rows.append(rows)
        self.tokens.append(room)
        return self._decoder.run(inputs)


@settings(max_examples=40)
@given(models(), asked(), st.integers(0, 1000))
def test_tokens_equal_transformers(model: tuple[int, EncoderDecoder], asked_for: GenerationSettings, seed: int):
    """Three sources decoded together give, token for token, what transformers gives for each."""
    name, exported_model = model
    documents = sources(seed, 3)
    found = generate(exported_model, documents, asked_for)
    assert [each.tokens for each in found] == by_transformers(name, documents, asked_for, exported_model.special)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("max_length", [2, 3, 9])
def test_max_length_means_what_it_means_to_transformers(max_length: int, num_beams: int):
    """It counts the start token."""
    model, documents = exported(0), sources(2, 3)
    asked_for = GenerationSettings.model_validate({"max_length": max_length, "num_beams": num_beams, "min_length": max_length})
    expected = by_transformers(0, documents, asked_for, model.special, max_length=max_length)
    assert [each.tokens for each in generate(model, documents, asked_for)] == expected
    assert {len(tokens) for tokens in expected} == {max_length - 1}


@settings(max_examples=25)
@given(SEEDS, st.lists(asked(), min_size=2, max_size=6), st.integers(0, 1000), st.integers(1, 3))
def test_joining_changes_nothing(seed: int, asked_for: list[GenerationSettings], documents: int, apart: int):
    """Requests of different settings that join while others are being decoded get what each gets alone."""
    model = exported(seed)
    engine = Engine(model, Limits(rows=10))
    generations = []
    for source, own in zip(sources(documents, len(asked_for)), asked_for, strict=True):
        generations.append(engine.submit(source, own))
        for _ in range(apart):
            engine.step()
    finish(engine)
    assert [each.result.tokens for each in generations] == [generate(model, [g.source], g.settings)[0].tokens for g in generations]


@settings(max_examples=10)
@given(SEEDS, st.lists(asked(), min_size=2, max_size=5), st.integers(1, 3))
def test_what_memory_held_before_is_never_read(seed: int, asked_for: list[GenerationSettings], apart: int):
    """New room is not emptied until somebody uses it: were it full of what is no number, tokens would be the same."""
    model, documents = exported(seed), sources(seed, len(asked_for))
    expected = [generate(model, [source], own)[0].tokens for source, own in zip(documents, asked_for, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caches.np, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
        engine, generations = Engine(model, Limits(rows=10)), []
        for source, own in zip(documents, asked_for, strict=True):
            generations.append(engine.submit(source, own))
            for _ in range(apart):
                engine.step()
        finish(engine)
    assert [each.result.tokens for each in generations] == expected


def test_company_changes_no_bit_of_an_8_bit_model():
    """A greedy request in 8 bits has the same tokens and log-probabilities alone and beside beams and a longer document."""
    model, source = exported_in_8_bits(), [5, 6, 7, 8, 9]
    company = [(list(range(4, 40)), GenerationSettings(max_new_tokens=9, num_beams=4)), ([11], GenerationSettings(max_new_tokens=2))]

    def steps(company: list[tuple[list[int], GenerationSettings]]) -> list[tuple[int | None, float | None]]:
        engine = Engine(model)
        for others, own in company:
            engine.submit(others, own)
        generation = engine.submit(source, GenerationSettings(max_new_tokens=12), log_probabilities=True)
        told = [step for _ in range(12) for step in engine.step() if step.generation is generation]
        return [(step.token, step.log_probability) for step in told]

    assert steps(company) == steps([])


@settings(max_examples=25)
@given(SEEDS, st.lists(asked(), min_size=3, max_size=6), st.integers(0, 1000), st.data())
def test_cancelled_requests_leave_no_trace(seed: int, asked_for: list[GenerationSettings], documents: int, data: st.DataObject):
    """Whoever hangs up is gone after the next step; the others get what they get alone, and in the end no row is taken."""
    model = exported(seed)
    engine = Engine(model, Limits(rows=16, joins=2))
    generations = [engine.submit(source, own) for source, own in zip(sources(documents, len(asked_for)), asked_for, strict=True)]
    for _ in range(data.draw(st.integers(0, 4))):
        engine.step()
    leaving = data.draw(st.lists(st.sampled_from(generations), unique_by=id, min_size=1))
    for generation in leaving:
        engine.cancel(generation)
    assert not {id(step.generation) for step in engine.step()} & {id(generation) for generation in leaving}
    finish(engine)
    staying = [generation for generation in generations if generation not in leaving]
    assert [each.result.tokens for each in staying] == [generate(model, [g.source], g.settings)[0].tokens for g in staying]
    assert (engine.active, engine.waiting, engine.rows, engine.cached_tokens) == (0, 0, 0, 0)


@pytest.mark.parametrize("do_sample", [False, True])
def test_streamed_tokens_are_those_of_the_result(do_sample: bool):
    """One sequence gives a token at each step, the last one with the result."""
    engine = Engine(exported(1))
    generation = engine.submit([5, 6, 7], GenerationSettings(max_new_tokens=9, do_sample=do_sample, seed=3), log_probabilities=True)
    steps = []
    while generation.result is None:
        steps += engine.step()
    assert tuple(step.token for step in steps) == generation.result.tokens
    assert [step.result for step in steps] == [None] * (len(steps) - 1) + [generation.result]
    assert all(step.log_probability <= 0 for step in steps)


def test_beams_are_silent_until_they_are_done():
    """Beams have no token to stream; the one step that says something has the result."""
    engine = Engine(exported(1))
    generation = engine.submit([5, 6, 7], GenerationSettings(max_new_tokens=6, num_beams=3))
    steps = []
    while generation.result is None:
        steps += engine.step()
    assert [(step.token, step.result) for step in steps] == [(None, generation.result)]


def test_log_probabilities_are_those_of_the_model():
    """They are what the model in torch gives for the tokens that were generated, where nothing is forbidden or forced."""
    import torch

    engine, source = Engine(exported(0, end=(), forced_last=None)), [9, 8, 7, 6]
    engine.submit(source, GenerationSettings(max_new_tokens=5), log_probabilities=True)
    steps = [step for _ in range(5) for step in engine.step()]
    tokens = torch.tensor([[2, *(step.token for step in steps)]])
    with torch.no_grad():
        logits = model_of(0)(input_ids=torch.tensor([source]), decoder_input_ids=tokens[:, :-1]).logits
    expected = logits.log_softmax(-1)[0].gather(1, tokens[0, 1:, None])[:, 0]
    np.testing.assert_allclose([step.log_probability for step in steps], expected, atol=1e-4)


def test_finish_reasons():
    """A sequence that its limit ends says so, and one that ends by itself too."""
    model, asked_for = exported(4), {"no_repeat_ngram_size": 2}
    source, whole = next(
        (source, found)
        for source in sources(1, 20)
        if 2 < len((found := generate(model, [source], GenerationSettings(max_new_tokens=20, **asked_for))[0]).tokens) < 20
    )
    assert (whole.finish_reason, whole.tokens[-1]) == ("eos", END)
    cut = generate(model, [source], GenerationSettings(max_new_tokens=len(whole.tokens) - 1, **asked_for))[0]
    assert (cut.finish_reason, cut.tokens) == ("length", (*whole.tokens[:-2], END))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_end_that_comes_by_itself_at_the_limit_is_an_end(num_beams: int):
    """The last token allowed ends a sequence by itself where it is not forced to."""
    asked_for = {"no_repeat_ngram_size": 2, "num_beams": num_beams}
    for forced_last, reason in ((None, "eos"), (END, "length")):
        model = exported(4, forced_last=forced_last)
        ended = [
            (source, found.tokens)
            for source in sources(1, 20)
            if len((found := generate(model, [source], GenerationSettings(max_new_tokens=20, **asked_for))[0]).tokens) < 20
        ]
        limited = [(generate(model, [s], GenerationSettings(max_new_tokens=len(t), **asked_for))[0], t) for s, t in ended]
        assert {found.finish_reason for found, tokens in limited if found.tokens == tokens} == {reason}


@settings(max_examples=15)
@given(
    st.lists(asked(), min_size=3, max_size=10),
    st.integers(0, 1000),
    st.integers(4, 9),
    st.integers(4, 12),
)
def test_limits_hold(asked_for: list[GenerationSettings], documents: int, rows: int, room: int):
    """No call has more rows than allowed, nor room for more tokens; everybody is served in the end."""
    model, limits = exported(0), Limits(rows=rows, cached_tokens=32 * room)
    decoder = Counting(model)
    engine = Engine(replace(model, decoder=decoder), limits)
    generations = []
    for source, own in zip(sources(documents, len(asked_for)), asked_for, strict=True):
        try:
            generations.append(engine.submit(source, own))
        except RequestError:
            assert (own.num_beams + 1) * 32 > limits.cached_tokens
    finish(engine)
    assert all(generation.result for generation in generations)
    assert max(decoder.rows, default=0) <= rows
    assert max(decoder.tokens, default=0) <= limits.cached_tokens


def test_requests_join_in_order_and_a_few_at_a_time():
    """Who came first joins first, and no more join before one step than allowed."""
    engine = Engine(exported(0), Limits(joins=2))
    generations = [engine.submit([5], GenerationSettings(max_new_tokens=8, min_new_tokens=8)) for _ in range(5)]
    seen = [{id(step.generation) for step in engine.step()} for _ in range(3)]
    assert seen == [{id(generation) for generation in generations[:size]} for size in (2, 4, 5)]


def test_a_source_is_encoded_once():
    """Beams and steps do not encode again."""
    model, calls = exported(0), count()

    class Encoder:
        inputs, outputs, runtime = model.encoder.inputs, model.encoder.outputs, model.encoder.runtime

        def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
            next(calls)
            return model.encoder.run(inputs)

    generate(replace(model, encoder=Encoder()), [[5, 6], [7]], GenerationSettings(max_new_tokens=5, num_beams=4))
    assert next(calls) == 2


def test_a_decoder_that_fails_leaves_the_engine_usable():
    """What was being decoded has the error, and the next request is decoded as if nothing had been."""
    model, asked_for = exported(0), GenerationSettings(max_new_tokens=5)
    decoder = Counting(model)
    engine = Engine(replace(model, decoder=decoder))
    lost = engine.submit([5, 6], asked_for)
    engine.step()
    decoder.fails = True
    with pytest.raises(ArtifactError):
        engine.step()
    assert isinstance(lost.error, ArtifactError)
    assert (engine.active, engine.cached_tokens) == (0, 0)
    decoder.fails = False
    found = engine.submit([7], asked_for)
    finish(engine)
    assert found.result == generate(model, [[7]], asked_for)[0]


def test_a_source_that_cannot_be_encoded_fails_alone():
    """A token that the model does not have is the error of its own request; the others go on."""
    model, asked_for = exported(0), GenerationSettings(max_new_tokens=5)
    engine = Engine(model)
    good, bad = engine.submit([5, 6], asked_for), engine.submit([10_000], asked_for)
    assert [step.generation for step in engine.step()] == [bad, good]
    finish(engine)
    assert isinstance(bad.error, ArtifactError)
    assert good.result == generate(model, [[5, 6]], asked_for)[0]


class Picky:
    """An encoder that raises what no graph would when a source begins with 13."""

    def __init__(self, model: EncoderDecoder) -> None:
        self.inputs, self.outputs, self.runtime = model.encoder.inputs, model.encoder.outputs, model.encoder.runtime
        self._run = model.encoder.run

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """See `Session`."""
        if inputs["input_ids"][0, 0] == 13:
            raise ValueError("thirteen")
        return self._run(inputs)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_error_that_nobody_foresaw_fails_its_source_alone(order: tuple[int, int]):
    """Whatever the encoder raises for one of two that join, the other one and who was there before get what they get alone."""
    model, asked_for = exported(0), GenerationSettings(max_new_tokens=6, min_new_tokens=6)
    engine = Engine(replace(model, encoder=Picky(model)))
    before = engine.submit([7, 8], asked_for)
    engine.step()
    joining = [engine.submit([[5, 6], [13, 6]][index], asked_for) for index in order]
    good, bad = (joining[order.index(index)] for index in (0, 1))
    assert bad in [step.generation for step in engine.step()]
    finish(engine)
    assert isinstance(bad.error, ValueError)
    assert [before.result, good.result] == generate(model, [[7, 8], [5, 6]], asked_for)


def test_cancelled_requests_do_not_wait_behind_one_that_has_no_room():
    """They are forgotten at the next step, though the first in line still waits."""
    engine, asked_for = Engine(exported(0), Limits(rows=2)), GenerationSettings(max_new_tokens=8, min_new_tokens=8, num_beams=2)
    active, head = engine.submit([5], asked_for), engine.submit([6], asked_for)
    gone = []
    for _ in range(3):
        generation = engine.submit([7], asked_for)
        engine.cancel(generation)
        gone.append(weakref.ref(generation))
    del generation
    engine.step()
    assert (active.result, head.joined_at) == (None, None)
    assert [reference() for reference in gone] == [None] * 3
    finish(engine)
    assert head.result is not None


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ([], {}, "reads 1 to 40"),
        ([5] * (LONGEST + 1), {}, "reads 1 to 40"),
        ([5], {"max_new_tokens": LONGEST + 1}, "writes at most 40"),
        ([5], {"num_beams": 9}, "9 beams"),
    ],
)
def test_what_cannot_be_decoded_is_refused(source: list[int], changes: dict[str, int], message: str):
    """A source or a setting beyond the model or the limits is refused when it comes."""
    engine = Engine(exported(0), Limits(rows=8))
    with pytest.raises(RequestError, match=message):
        engine.submit(source, GenerationSettings(**{"max_new_tokens": 5, **changes}))
    assert engine.waiting == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"do_sample": True, "num_beams": 2},
        {"min_new_tokens": 6, "max_new_tokens": 5},
        {"temperature": 0.0},
        {"early_stopping": "sometimes"},
        {"num_beam": 3},
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, object]):
    """So are settings that contradict each other or do not exist."""
    with pytest.raises(ValidationError):
        GenerationSettings(**changes)


def test_seeds_decide_what_is_drawn():
    """The same seed draws the same, whoever shares the batch; another one draws something else."""
    model = exported(0)
    asked_for = [GenerationSettings(max_new_tokens=12, do_sample=True, temperature=3.0, seed=seed) for seed in (1, 1, 2)]
    engine = Engine(model)
    generations = [engine.submit([5, 6], own) for own in asked_for]
    finish(engine)
    first, same, other = (generation.result.tokens for generation in generations)
    assert first == same == generate(model, [[5, 6]], asked_for[0])[0].tokens
    assert first != other


def test_handles_are_told_apart_by_identity():
    """Two equal requests are two: cancelling one leaves the other."""
    engine, asked_for = Engine(exported(0)), GenerationSettings(max_new_tokens=4)
    one, two = engine.submit([5], asked_for), engine.submit([5], asked_for)
    engine.cancel(one)
    finish(engine)
    assert one.result is None
    assert isinstance(two.result, Generated)
    assert isinstance(one, Generation)
