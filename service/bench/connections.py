"""Just enough HTTP/1.1 for the load generator: prepared bytes out, status and body in, over connections that are kept.

Only the standard library, and little of it: what this costs is taken from the machine that is measured.
"""

import contextlib
import selectors
import socket
import time

HOST = "127.0.0.1"
SILENCE_SECONDS = 60.0
LOST = 0
MAX_BODIES = 8

_CHUNK_BYTES = 1 << 16
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


def message(path: str, body: str) -> bytes:
    """A whole request."""
    data = body.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Connection:
    """One connection, and the request that is on its way on it."""

    __slots__ = ("answered", "buffer", "index", "intended", "sent", "socket")

    def __init__(self, port: int) -> None:
        self.open(port)
        self.index = 0
        self.intended = self.sent = 0.0

    def open(self, port: int) -> None:
        """Connect, again if need be."""
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer, self.answered = b"", False

    @property
    def stale(self) -> bool:
        """Whether there was an answer on it before, and nothing since: if it is lost, the server may have ended it as the request left."""
        return self.answered and not self.buffer

    def read(self) -> tuple[int, bytes] | None:
        """Status and body once the whole answer is there; `LOST` when the connection is."""
        try:
            data = self.socket.recv(_CHUNK_BYTES)
        except OSError:
            data = b""
        if not data:
            return LOST, b""
        self.buffer += data
        end = self.buffer.find(_END)
        if end < 0:
            return None
        begin, size = end + len(_END), content_length(self.buffer[:end])
        if len(self.buffer) < begin + size:
            return None
        status, body = int(self.buffer[9:12]), self.buffer[begin : begin + size]
        self.buffer, self.answered = b"", True
        return status, body


def content_length(head: bytes) -> int:
    """Bytes of the body that follows."""
    _, found, rest = head.lower().partition(_LENGTH)
    if not found:
        raise ValueError("an answer without Content-Length: this generator reads no other")
    return int(rest.split(b"\r\n", 1)[0])


class Pool:
    """Connections to one server, and what came back on them, in seconds of one clock."""

    def __init__(self, port: int, messages: list[bytes]) -> None:
        self.busy: set[Connection] = set()
        self.idle: list[Connection] = []
        self.intended: list[float] = []
        self.sent: list[float] = []
        self.ended: list[float] = []
        self.status: list[int] = []
        self.bodies: dict[int, set[bytes]] = {}
        self.problem = b""
        self._port, self._messages = port, messages
        self._next = 0
        self._selector = selectors.DefaultSelector()

    def connect(self) -> Connection:
        """One more connection."""
        connection = Connection(self._port)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def send(self, connection: Connection, intended: float | None = None) -> None:
        """The next request, on this connection."""
        connection.index = self._next
        self._next = (self._next + 1) % len(self._messages)
        connection.sent = time.perf_counter()
        connection.intended = connection.sent if intended is None else intended
        self.busy.add(connection)
        self._send(connection)

    def receive(self, timeout: float) -> list[Connection]:
        """Connections that were answered, after at most `timeout` seconds; a lost one is replaced. `TimeoutError` after long silence.

        A request whose connection the server ended just then is sent once more, on a new one, as all clients of HTTP do.
        """
        answered = []
        ready = self._selector.select(timeout)
        if not ready and timeout >= SILENCE_SECONDS:
            raise TimeoutError(f"no answer in {SILENCE_SECONDS:g} s")
        for key, _ in ready:
            connection: Connection = key.data
            answer = connection.read()
            if answer is not None and connection not in self.busy:  # the server ends connections that were idle for long
                self._forget(connection)
            elif answer is not None and answer[0] == LOST and connection.stale:
                self._send_again(connection)
            elif answer is not None:
                self._note(connection, *answer)
                answered.append(connection if answer[0] != LOST else self._replace(connection))
        return answered

    def drain(self, seconds: float) -> None:
        """Wait for what is on its way; what is not back by then is lost."""
        until = time.perf_counter() + seconds
        while self.busy and (left := until - time.perf_counter()) > 0:
            self.idle += self.receive(left)
        for connection in list(self.busy):
            self._note(connection, LOST, b"")

    def close(self) -> None:
        """Close all connections."""
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()

    def _note(self, connection: Connection, status: int, body: bytes) -> None:
        self.ended.append(time.perf_counter())
        self.intended.append(connection.intended)
        self.sent.append(connection.sent)
        self.status.append(status)
        self.busy.discard(connection)
        if status == 200:
            bodies = self.bodies.setdefault(connection.index, set())
            if len(bodies) < MAX_BODIES:
                bodies.add(body)
        elif not self.problem:
            self.problem = body

    def _send(self, connection: Connection) -> None:
        with contextlib.suppress(OSError):  # reading says that the connection is lost
            connection.socket.sendall(self._messages[connection.index])

    def _send_again(self, connection: Connection) -> None:
        self._forget(connection)
        connection.open(self._port)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._send(connection)

    def _replace(self, connection: Connection) -> Connection:
        self._forget(connection)
        return self.connect()

    def _forget(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if connection in self.idle:
            self.idle.remove(connection)
