"""Prometheus' metrics. Labels are bounded: no session, no client, no path is one."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .batcher import Batch
from .history import History
from .models import Version

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Begin with all at zero."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "agentzoo_requests",
            "Requests by outcome; reason is empty for those that were answered.",
            ("model", "version", "protocol", "outcome", "reason"),
            registry=self.registry,
        )
        self._bytes = Counter(
            "agentzoo_bytes",
            "Bytes of messages and bodies.",
            ("protocol", "direction"),
            registry=self.registry,
        )
        self._queue = self._histogram("queue_seconds", "Wait before the step.", SECONDS)
        self._step = self._histogram("step_seconds", "One call of the step.", SECONDS)
        self._sizes = self._histogram("batch_rows", "Requests in one call of the step.", SIZES)
        self.sessions = Gauge(
            "agentzoo_sessions", "Open sessions.", ("model", "version"), registry=self.registry
        )
        self.expired = Counter(
            "agentzoo_sessions_expired", "Sessions ended for idleness.", registry=self.registry
        )
        self.connections = Gauge(
            "agentzoo_connections", "Open TCP connections.", registry=self.registry
        )
        self.dropped = Counter(
            "agentzoo_connections_dropped",
            "Connections closed for being silent, idle, slow, or too many.",
            ("reason",),
            registry=self.registry,
        )
        self.page_commands_waited = Counter(
            "agentzoo_page_commands_waited",
            "Commands of the page for which a worker had no room; the latest of each kind counts.",
            registry=self.registry,
        )
        self.ready = Gauge("agentzoo_ready", "1 once every model answers.", registry=self.registry)
        self.models = Gauge(
            "agentzoo_model_info",
            "1 for each version that answers.",
            ("model", "version", "sha256", "revision", "provider"),
            registry=self.registry,
        )
        self.histories: dict[str, History] | None = None  # by model, where a page shows them
        self._counts: dict[tuple[str, ...], int] = {}  # since they were last read
        self._traffic: dict[tuple[str, str], int] = {}
        self._calls: dict[str, tuple[Histogram, ...]] = {}

    def request(
        self, protocol: str, version: Version | None, outcome: str = "ok", reason: str = ""
    ) -> None:
        """Count one request."""
        model, label = (version.model, version.label) if version else ("", "")
        key = (model, label, protocol, outcome, reason)
        self._counts[key] = self._counts.get(key, 0) + 1  # cheaper than its `inc`

    def traffic(self, protocol: str, direction: Literal["received", "sent"], count: int) -> None:
        """Count bytes of messages and bodies, without their framing."""
        key = (protocol, direction)
        self._traffic[key] = self._traffic.get(key, 0) + count

    def batch(self, version: Version, batch: Batch) -> None:
        """Record one call of the step."""
        name = version.model
        if name not in self._calls:  # looking labels up takes longer than counting
            parts = (self._step, self._sizes, self._queue)
            self._calls[name] = tuple(one.labels(name) for one in parts)
        step, sizes, queue = self._calls[name]
        step.observe(batch.seconds)
        sizes.observe(len(batch.requests))
        for request in batch.requests:
            queue.observe(max(0.0, batch.started - request.queued))
        if self.histories is not None:
            history = self.histories.setdefault(name, History())
            for request in batch.requests:
                history.add(batch.started - request.queued + batch.seconds)

    def text(self) -> bytes:
        """All metrics, in Prometheus' format."""
        for counter, counts in ((self._requests, self._counts), (self._bytes, self._traffic)):
            for key, count in counts.items():
                counter.labels(*key).inc(count)
            counts.clear()
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"agentzoo_{name}", text, ("model",), buckets=buckets, registry=self.registry
        )
