"""The user's side of a load for Prometheus, while it runs: beside the service's own metrics it shows what those cannot see.

Durations are from when a request was due, so waiting for a connection or in the service's backlog counts.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from loadtests.errors import LoadTestError
from loadtests.request_log import LOST, OK, Row

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_LABELS = ("task", "variant")


class Exporter:
    """Metrics whose names begin with `secateur_loadtest_`, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._due = Counter("secateur_loadtest_due", "Requests that were due.", _LABELS, registry=self.registry)
        self._requests = Counter(
            "secateur_loadtest_requests", "Requests that are over, by outcome.", (*_LABELS, "outcome"), registry=self.registry
        )
        self._duration = Histogram(
            "secateur_loadtest_request_duration_seconds",
            "From when a request was due to its right answer.",
            _LABELS,
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._lag = Histogram("secateur_loadtest_lag_seconds", "How late requests were sent.", buckets=BUCKETS, registry=self.registry)
        self._inflight = Gauge("secateur_loadtest_inflight", "Requests that are on their way.", _LABELS, registry=self.registry)

    def serve(self, port: int, address: str = "127.0.0.1") -> int:
        """Answer scrapes at `address:port`, 0 for any free port; gives the port."""
        try:
            server, _ = start_http_server(port, address, registry=self.registry)
        except OSError as error:
            raise LoadTestError(f"metrics cannot be served at {address}:{port} ({error.strerror}); choose another port") from error
        return int(server.server_port)

    def begun(self, task: str, variant: str) -> None:
        """A request was due, and goes out."""
        self._due.labels(task, variant).inc()
        self._inflight.labels(task, variant).inc()

    def over(self, task: str, variant: str, row: Row) -> None:
        """It came back, or did not."""
        found = outcome(row)
        self._inflight.labels(task, variant).dec()
        self._requests.labels(task, variant, found).inc()
        self._lag.observe(max(0.0, row.sent_s - row.intended_s))
        if found == "ok":
            self._duration.labels(task, variant).observe(row.done_s - row.intended_s)


def outcome(row: Row) -> str:
    """`ok`, `wrong` (answered, but not as it should be), `lost` (no answer), or the status."""
    if row.status == OK:
        return "ok" if row.right else "wrong"
    return "lost" if row.status == LOST else str(row.status)
