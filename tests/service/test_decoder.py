"""A decoder decodes for all callers in one thread, tells them what comes of it, and is replaced when it hangs."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from service.errors import RequestError, StuckError
from service.generation import Decoder, EncoderDecoder, Generated, Generation, GenerationSettings, Limits, Progress, Step, generate_each
from tests.service.generating import exported, sources
from tests.waiting import until

PATIENCE = 20.0
SETTINGS = (
    GenerationSettings(max_new_tokens=20),
    GenerationSettings(max_new_tokens=9, num_beams=3),
    GenerationSettings(max_new_tokens=15, do_sample=True, temperature=3.0, seed=1),
)


class Held:
    """A decoder's session that calls `before` in each step."""

    def __init__(self, model: EncoderDecoder, before: Callable[[], object]) -> None:
        """Around the decoder of a model."""
        inner = model.decoder
        self.inputs, self.outputs, self.runtime, self.caches = inner.inputs, inner.outputs, inner.runtime, inner.caches
        self._run, self._before = inner.run, before

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A step."""
        self._before()
        return self._run(inputs)


class Heard:
    """What a decoder told of one request."""

    def __init__(self) -> None:
        """Nothing so far."""
        self.tokens: list[int] = []
        self.result: Generated | None = None
        self.error: Exception | None = None
        self.over = threading.Event()

    def __call__(self, generation: Generation, progress: Progress | None) -> None:
        """Note it."""
        if progress is not None and progress.token is not None:
            self.tokens.append(progress.token)
        self.result, self.error = generation.result, generation.error
        if self.result is not None or self.error is not None:
            self.over.set()


def submitted(decoder: Decoder, source: list[int], settings: GenerationSettings = SETTINGS[0]) -> tuple[Generation, Heard]:
    """A request, and what is told of it."""
    heard = Heard()
    return decoder.submit(source, settings, heard), heard


def test_who_joins_on_the_way_gets_what_it_would_get_alone():
    """Requests come while others are decoded, and every one hears its tokens and its result."""
    model, steps = exported(0), list[Step]()
    asked = [(source, SETTINGS[index % 3]) for index, source in enumerate(sources(0, 12))]
    decoder = Decoder(model, Limits(rows=8, joins=2), stepped=steps.append)
    heard = []
    for index, (source, settings) in enumerate(asked):
        heard.append(submitted(decoder, source, settings)[1])
        until(lambda least=index // 2: len(steps) >= least or heard[-1].over.is_set())
    assert all(each.over.wait(PATIENCE) for each in heard)
    assert [each.result for each in heard] == generate_each(model, asked)
    assert all(each.tokens == list(each.result.tokens) for each in heard[::3])
    until(lambda: sum(step.tokens for step in steps) == sum(len(each.result.tokens) for each in heard))
    assert max(step.rows for step in steps) <= 8


def test_thread_is_there_while_there_is_something_to_do():
    """It ends when all is done, and comes back with the next request."""
    decoder = Decoder(exported(0), Limits())
    for source in sources(1, 2):
        _, heard = submitted(decoder, source)
        assert heard.over.wait(PATIENCE)
        until(lambda: not any(thread.name == "decoder" for thread in threading.enumerate()))
    assert (decoder.active, decoder.waiting, decoder.rows, decoder.check(PATIENCE)) == (0, 0, 0, None)


def test_cancelled_requests_take_no_more_steps():
    """Decoded or waiting, who is cancelled hears nothing more and leaves its rows to others."""
    gate = threading.Event()
    model = exported(0)
    decoder = Decoder(replace(model, decoder=Held(model, lambda: gate.wait(PATIENCE))), Limits(rows=2))
    first, second, third = (submitted(decoder, source) for source in sources(2, 3))
    until(lambda: decoder.active >= 1 and decoder.active + decoder.waiting == 3)  # a step may have begun before the second came
    first[0].cancelled = third[0].cancelled = True
    gate.set()
    assert second[1].over.wait(PATIENCE)
    until(lambda: decoder.active == decoder.waiting == 0)
    assert len(first[1].tokens) <= 1
    assert third[1].tokens == []
    assert [second[1].result] == generate_each(model, [(sources(2, 2)[1], SETTINGS[0])])


def test_step_that_fails_is_everybodys_error_who_took_part():
    """They hear of it, and who comes later is decoded."""
    broken = [True]
    model = exported(0)

    def fail() -> None:
        if broken:
            broken.clear()
            raise ValueError("broken")

    decoder = Decoder(replace(model, decoder=Held(model, fail)), Limits())
    _, heard = submitted(decoder, [5, 6])
    assert heard.over.wait(PATIENCE)
    assert isinstance(heard.error, ValueError)
    _, later = submitted(decoder, [5, 6])
    assert later.over.wait(PATIENCE)
    assert later.result is not None


def test_thread_that_hangs_is_given_up():
    """Its requests get an error, others a new thread, and what the old one brings at last is nobody's."""
    gate = threading.Event()
    model = exported(0)
    decoder = Decoder(replace(model, decoder=Held(model, lambda: gate.is_set() or gate.wait(PATIENCE))), Limits())
    _, heard = submitted(decoder, [5, 6])
    until(lambda: decoder.active == 1)
    assert decoder.check(PATIENCE) is None
    until(lambda: decoder.check(0.001) is not None)
    assert isinstance(heard.error, StuckError)
    assert not decoder.answers(0.05)
    gate.set()
    assert decoder.answers(PATIENCE)
    _, later = submitted(decoder, [5, 6])
    assert later.over.wait(PATIENCE)
    assert [later.result] == generate_each(model, [([5, 6], SETTINGS[0])])
    assert heard.tokens == []


def test_impossible_request_is_refused_at_once():
    """More beams than rows never wait."""
    decoder = Decoder(exported(0), Limits(rows=2))
    with pytest.raises(RequestError, match="num_beams"):
        submitted(decoder, [5], GenerationSettings(max_new_tokens=2, num_beams=3))
    assert decoder.waiting == 0
