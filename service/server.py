"""uvicorn around the application: one process, signals, and what is printed when requests may come.

SIGTERM: not ready at once, still answering for the drain delay so that a load balancer can notice, then what is in flight is finished.
What takes longer than the time for that ends with an error, and streams with an event that says so.
SIGINT: the same without the delay. SIGHUP: reload.
"""

import asyncio
import contextlib
import gc
import json
import math
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.app import create_admin_app, create_app
from service.connection import Protocol
from service.errors import SecateurError, SettingsError
from service.logs import configure
from service.registry import Registry
from service.routes import ENDPOINTS
from service.serving import Serving
from service.settings import Settings

KEEP_ALIVE_SECONDS = 65
GOODBYE_SECONDS = 1
"""After the time for what is in flight: to say that it was not enough."""
SWITCH_SECONDS = 0.001


def run(settings: Settings, *, ready: Callable[[str], object] = print) -> None:
    """Load, serve until told to stop, and return; `SecateurError` says why nothing can be served.

    Args:
        settings: all there is to set.
        ready: is given the lines to print once requests may come.
    """
    sys.setswitchinterval(SWITCH_SECONDS)  # the event loop waits for a runner's Python code, not for long
    configure(settings.log_level, requests=settings.log_requests)
    registry = Registry.load(settings)
    app = create_app(settings, registry)
    gc.collect()
    gc.freeze()  # what is loaded stays: looking through it again and again would cost each request
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(settings.host, settings.port))
        admin = None if settings.admin_port is None else stack.enter_context(_listen(settings.host, settings.admin_port))
        text = greeting(registry, _address(listening), settings)
        with asyncio.Runner(loop_factory=uvicorn.Config(app, log_config=None).get_loop_factory()) as runner:
            runner.run(_serve(app, settings, listening, admin, lambda: ready(text)))


def greeting(registry: Registry, address: str, settings: Settings) -> str:
    """Address, variants, and a line to try for each task."""
    lines = [f"Secateur serves on {address}"]
    for name in registry.models():
        variants = ", ".join(served.manifest.variant for served in registry.variants(name))
        lines.append(f"  {name} ({registry.variants(name)[0].manifest.task}): {variants}")
    lines += [f"  left out: {out.reason}" for out in registry.left_out.values()]
    if settings.device == "cpu":
        lines.append("  on CPU; --device cuda serves fp16 artifacts on a GPU")
    tasks = {served.manifest.task for served in registry.served.values()}
    key = "" if settings.api_keys is None else " -H 'Authorization: Bearer KEY'"
    for endpoint in ENDPOINTS:
        if endpoint.task in tasks:
            body = json.dumps(endpoint.examples["one"]["value"])
            lines.append(f"curl {address}{endpoint.path} -H 'Content-Type: application/json'{key} -d '{body}'")
    lines.append(f"Documentation: {address}/docs")
    return "\n".join(lines)


async def _serve(
    app: FastAPI, settings: Settings, listening: socket.socket, admin: socket.socket | None, ready: Callable[[], object]
) -> None:
    serving: Serving = app.state.serving
    servers = [_Server(app, settings, ready)]
    sockets = [listening]
    if admin is not None:
        servers.append(_Server(create_admin_app(serving), settings))
        sockets.append(admin)
    life = _Life(serving, servers, settings)
    life.listen_to_signals()
    await asyncio.gather(*(server.serve([each]) for server, each in zip(servers, sockets, strict=True)))


class _Server(uvicorn.Server):
    """uvicorn that says when it listens, and leaves signals to `_Life`."""

    def __init__(self, app: FastAPI, settings: Settings, ready: Callable[[], object] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                http=Protocol,
                access_log=False,
                proxy_headers=False,  # nobody asks who the client is
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=math.ceil(settings.drain_s) + GOODBYE_SECONDS,
            )
        )
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._ready()


class _Life:
    """What signals do."""

    def __init__(self, serving: Serving, servers: Sequence[uvicorn.Server], settings: Settings) -> None:
        self._serving, self._servers, self._settings = serving, servers, settings
        self._tasks: set[asyncio.Task[None]] = set()

    def listen_to_signals(self) -> None:
        """From now on."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._begin, lambda: self._stop(self._settings.drain_delay_s))
        loop.add_signal_handler(signal.SIGINT, self._begin, lambda: self._stop(0.0))
        loop.add_signal_handler(signal.SIGHUP, self._begin, self._reload)

    def _begin(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(action())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self, delay: float) -> None:
        if self._serving.draining:  # told twice: at once
            for server in self._servers:
                server.force_exit = True
        self._serving.draining = True
        await asyncio.sleep(delay)
        for server in self._servers:
            server.should_exit = True
        await asyncio.sleep(self._settings.drain_s)
        self._serving.scheduler.abandon()

    async def _reload(self) -> None:
        with contextlib.suppress(SecateurError):  # it is in the log, and what was served stays
            await self._serving.reload()


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; `SettingsError` when it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SettingsError(f"cannot listen on {host}:{port} ({error.strerror or error}); choose another --host or --port") from error
    with listening:
        yield listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
