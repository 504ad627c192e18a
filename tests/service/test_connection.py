"""What is written to a connection leaves in order, together, and not after its end."""

import asyncio
from collections.abc import Callable

import pytest

from service.connection import Corked


class FakeTransport:
    """Notes what is sent."""

    def __init__(self) -> None:
        """Open."""
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        """Send."""
        self.sent.append(data)

    def is_closing(self) -> bool:
        """Whether it is over."""
        return self.closed

    def close(self) -> None:
        """End it."""
        self.closed = True

    def get_extra_info(self, name: str) -> str:
        """Something that only the transport knows."""
        return f"{name} of the transport"


def write_and_wait(corked: Corked) -> None:
    """Two writes in one turn of the loop, and one in a later one."""
    corked.write(b"head ")
    corked.write(b"body")


def write_and_close(corked: Corked) -> None:
    """The end comes in the same turn."""
    write_and_wait(corked)
    corked.close()


def lose(corked: Corked) -> None:
    """The client goes before the turn ends."""
    corked.write(b"head ")
    corked._transport.close()


@pytest.mark.parametrize(("do", "sent"), [(write_and_wait, [b"head body"]), (write_and_close, [b"head body"]), (lose, [])])
def test_writes_of_one_turn_leave_together(do: Callable[[Corked], None], sent: list[bytes]):
    """In one piece, before the end, and never to a client that left."""
    transport = FakeTransport()

    async def turn() -> None:
        corked = Corked(transport, asyncio.get_running_loop())  # type: ignore[arg-type]
        do(corked)
        assert transport.sent == (sent if do is write_and_close else [])
        await asyncio.sleep(0)

    asyncio.run(turn())
    assert transport.sent == sent


def test_later_turns_are_later_writes():
    """A stream is not held back until it is complete."""
    transport = FakeTransport()

    async def turns() -> None:
        corked = Corked(transport, asyncio.get_running_loop())  # type: ignore[arg-type]
        for part in (b"1", b"2"):
            corked.write(part)
            await asyncio.sleep(0)
        assert corked.get_extra_info("port") == "port of the transport"

    asyncio.run(turns())
    assert transport.sent == [b"1", b"2"]
