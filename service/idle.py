"""Threads that wait to be woken, last come first."""

import threading


class Idle:
    """Runners that wait for work. The last one to come is the first to be woken: its core has the model in its caches.

    With questions of 384 tokens one at a time, waking the first instead took 2 ms more of 65 (two cores with caches of their own).
    """

    def __init__(self, lock: threading.RLock) -> None:
        """Take the lock that guards what is waited for; every method is called by who holds it, once."""
        self._lock = lock
        self._waiting: list[threading.Lock] = []

    def wait(self) -> None:
        """Let go of the lock until woken."""
        woken = threading.Lock()
        woken.acquire()
        self._waiting.append(woken)
        self._lock.release()
        try:
            woken.acquire()
        finally:
            self._lock.acquire()

    def wake(self, count: int) -> None:
        """Wake so many, if there are."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().release()

    def wake_all(self) -> None:
        """Wake all."""
        self.wake(len(self._waiting))
