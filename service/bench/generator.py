"""The load generator: a process of its own that sends prepared requests and notes when each was answered.

Requests are made before the clock starts, so that its own processor time, which it reports, stays small beside the server's. One
command per line of JSON comes in on standard input, one result per line goes out. *Closed* loops send a connection's next request when
its last was answered: for capacity. *Open* loops send at given times whatever the server does, and time from the intended start: for
latency under a load that does not slow down with the server.
"""

import gc
import json
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from service.bench.connections import SILENCE_SECONDS, Pool, message
from service.bench.processes import cpu_seconds


def closed(pool: Pool, *, connections: int, seconds: float, pids: list[int]) -> dict[str, Any]:
    """Keep every connection busy.

    The window opens when each has been answered once. After it closes, requests go on until all that were on their way have been
    answered, so that these, too, were answered under full load.
    """
    for connection in [pool.connect() for _ in range(connections)]:
        pool.send(connection)
    _answer_all(pool)
    opened = _meters(pids)
    while (left := opened["clock"] + seconds - time.perf_counter()) > 0:
        for connection in pool.receive(left):
            pool.send(connection)
    shut = _meters(pids)
    _answer_all(pool)
    pool.drain(SILENCE_SECONDS)
    return {"opened": opened, "shut": shut}


def open_loop(pool: Pool, *, phases: list[list[float]], connections: int, seed: int, pids: list[int]) -> dict[str, Any]:
    """Send at the times of a Poisson process; each phase is seconds and requests per second. More connections are made as needed."""
    opened = _meters(pids)
    times = arrivals(phases, seed)
    late: deque[float] = deque()
    intended = next(times, None)
    while intended is not None or late:
        now = time.perf_counter() - opened["clock"]
        while intended is not None and intended <= now:
            late.append(intended)
            intended = next(times, None)
        while late and (pool.idle or len(pool.busy) < connections):
            connection = pool.idle.pop() if pool.idle else pool.connect()
            pool.send(connection, opened["clock"] + late.popleft())
        pool.idle += pool.receive(SILENCE_SECONDS if intended is None else max(0.0, intended - now))
    shut = _meters(pids)
    pool.drain(SILENCE_SECONDS)
    return {"opened": opened, "shut": shut}


def arrivals(phases: list[list[float]], seed: int) -> Iterator[float]:
    """Seconds from the start at which requests are due."""
    source = random.Random(seed)
    begin = 0.0
    for seconds, rate in phases:
        due = begin + source.expovariate(rate)
        while due < begin + seconds:
            yield due
            due += source.expovariate(rate)
        begin += seconds


def serve(command: dict[str, Any]) -> dict[str, Any]:
    """Carry out one command; see `service.bench.client`, which sends them."""
    pool = Pool(command["port"], [message(path, body) for path, body in command["requests"]])
    gc.collect()
    gc.disable()
    try:
        run = closed if command["kind"] == "closed" else open_loop
        meters: dict[str, Any] = run(pool, **command["options"])
    finally:
        gc.enable()
        pool.close()
    bodies = [[index, body.decode("utf-8", "replace")] for index, found in pool.bodies.items() for body in found]
    times = {name: getattr(pool, name) for name in ("intended", "sent", "ended", "status")}
    return {**meters, **times, "bodies": bodies, "problem": pool.problem.decode("utf-8", "replace")}


def main() -> None:
    """Commands from standard input until it ends."""
    for line in sys.stdin:
        try:
            result = serve(json.loads(line))
        except (OSError, ValueError) as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


def _answer_all(pool: Pool) -> None:
    """Go on until everything that is on its way now has been answered."""
    waiting = set(pool.busy)
    while waiting:
        answered = pool.receive(SILENCE_SECONDS)
        waiting &= pool.busy
        for connection in answered:
            pool.send(connection)


def _meters(pids: list[int]) -> dict[str, float]:
    """Clock, the generator's own processor time and the server's, in seconds."""
    return {"clock": time.perf_counter(), "generator": time.process_time(), "server": cpu_seconds(pids)}


if __name__ == "__main__":
    main()
