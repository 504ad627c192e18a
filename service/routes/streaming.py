"""An answer as server-sent events, a token each, in the shape of Hugging Face's text-generation-inference.

Nothing is sent before there is something to say, so what is refused is refused with its status. What goes wrong later is the last event,
`error`, with the problem document that would have been the answer.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.responses import Response as HttpResponse
from starlette.types import Receive, Scope, Send

from service.errors import GoneError
from service.generation import Generated, Progress
from service.jobs import Job
from service.model import GeneratingModel
from service.problems import problem
from service.routes.base import Answered, Exchange, Item, account, answers
from service.tasks.base import Append

EVENTS = "text/event-stream"
EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}, "required": ["data"]}
PING_SECONDS = 15.0
PING = b": ping\n\n"

News = Progress | Literal["silence", "over"]


class Token(BaseModel):
    """A token of a stream."""

    id: int = Field(description="The tokenizer's id.")
    text: str = Field(description="What it adds to the text; what may still change comes with a later token.")
    logprob: float | None = Field(description="Its log-probability among those that were allowed; none of beams.")
    special: bool = Field(description="Whether it has no text of its own.")


class Event(BaseModel):
    """One event; all `token.text` together are the `summary_text` of the last one."""

    index: int = Field(description="Of the token, counted from 1.")
    token: Token
    summary_text: str | None = Field(default=None, description="The whole text, with the last token.")
    details: Any = Field(default=None, description="How it came about, with the last token.")


@dataclass
class Telling:
    """What has been told of a text, from its tokens one by one.

    An event waits for the next token: if that ends the text and has none of its own, what is left of the text belongs to the one before.

    Attributes:
        model: that generates.
        append: writes the text, token by token.
    """

    model: GeneratingModel
    append: Append
    _tokens: list[int] = field(default_factory=list)
    _told: int = 0
    _waiting: list[Event] = field(default_factory=list)

    def push(self, progress: Progress) -> list[Event]:
        """The events that are due when another token has come."""
        if progress.token is None:
            return []
        due = self._waiting if progress.result is None else []
        (token,) = self.model.token_ids([progress.token])
        self._tokens.append(token)
        added = self.append(token)
        self._told += len(added)
        event = self._event(token, added, progress.log_probability)
        self._waiting = [event] if progress.result is None else [*self._waiting, event]
        return due

    def end(self, job: Job, text: str, details: BaseModel) -> list[Event]:
        """The events that are left when the answer is there; all of it, if nothing was told of it so far."""
        if not self._waiting:
            self._waiting = [self._whole(job.rounds[-1].generated[0])]
        holder = self._waiting[0] if self._waiting[-1].token.special else self._waiting[-1]
        holder.token.text += text[self._told :]
        self._waiting[-1].summary_text, self._waiting[-1].details = text, details
        return self._waiting

    def _whole(self, generated: Generated) -> Event:
        """An event of the last token that has a text, for all of what beams found."""
        tokens = self.model.token_ids(generated.tokens)
        self._tokens = [token for token in tokens if not self.model.is_special(token)] or tokens or [self.model.generator.special.start]
        return self._event(self._tokens[-1], "", None)

    def _event(self, token: int, text: str, log_probability: float | None) -> Event:
        shown = Token(id=token, text=text, logprob=log_probability, special=self.model.is_special(token))
        return Event(index=len(self._tokens), token=shown)


class Stream(HttpResponse):
    """Events as a response; `stop` is called when it is over, however it ends."""

    def __init__(self, events: AsyncGenerator[bytes], headers: list[tuple[bytes, bytes]], *, stop: Callable[[], object]) -> None:
        self.status_code, self.background, self._events, self._stop = 200, None, events, stop
        self.raw_headers = [
            (b"content-type", f"{EVENTS}; charset=utf-8".encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *headers,
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them as they come."""
        del receive
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with contextlib.aclosing(self._events) as events:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._stop()


async def streamed(item: Item, exchange: Exchange, finish: Callable[[Answered], tuple[str, BaseModel]]) -> Stream:
    """The answer to one request as events; what is refused before the first one is raised.

    Args:
        item: the request.
        exchange: the POST.
        finish: the whole text, and how it came about.
    """
    loop, news = asyncio.get_running_loop(), asyncio.Queue[News]()

    def hear(progress: Progress) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens any more
            loop.call_soon_threadsafe(news.put_nowait, progress)

    model = exchange.served.model
    assert isinstance(model, GeneratingModel)
    began = time.perf_counter()
    answering = asyncio.create_task(answers([item], exchange, progress=hear))
    answering.add_done_callback(lambda _: news.put_nowait("over"))
    try:
        first = await _next(news)
        if first == "over":
            answering.result()
        telling = Telling(model, (await asyncio.to_thread(model.writer, item.request)).begin())
    except BaseException:
        answering.cancel()
        raise
    manifest = model.manifest
    counts = exchange.call.serving.metrics.of_generation(manifest.task, manifest.name, manifest.variant)

    async def events() -> AsyncGenerator[bytes]:
        try:
            heard, began_to_tell = first, False
            while heard != "over":
                if isinstance(heard, Progress) and not began_to_tell:
                    counts.first_token.observe(time.perf_counter() - began)
                    began_to_tell = True
                yield PING if isinstance(heard, str) else b"".join(map(_encoded, telling.push(heard)))
                heard = await _next(news)
            jobs = answering.result()
            account(exchange, jobs)
            yield b"".join(map(_encoded, telling.end(jobs[0], *finish(Answered(item, jobs[0], exchange.served)))))
        except Exception as error:
            exchange.call.state["error"] = error
            if not isinstance(error, GoneError):
                yield _failure(error, exchange)

    return Stream(events(), list(exchange.served.headers), stop=answering.cancel)


async def _next(news: asyncio.Queue[News]) -> News:
    """What comes next, or that nothing did for a while."""
    try:
        async with asyncio.timeout(PING_SECONDS):
            return await news.get()
    except TimeoutError:
        return "silence"


def _encoded(event: Event) -> bytes:
    return b"data: " + to_json(event, inf_nan_mode="constants") + b"\n\n"


def _failure(error: Exception, exchange: Exchange) -> bytes:
    """The last event of a stream that failed."""
    document = bytes(problem(error, instance=exchange.call.path, request_id=exchange.call.state["request_id"]).body)
    return b"event: error\ndata: " + document + b"\n\n"
