"""Figures for the operator, in Prometheus form. No label names a tier, an organisation or a caller."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """One registry per server, so that two servers in one process do not share figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "mythos_http_requests", "Requests answered", ["surface", "status"], registry=self._registry
        )
        self.tokens = Counter("mythos_tokens", "Tokens, by kind", ["kind"], registry=self._registry)
        self.first_token = Histogram(
            "mythos_first_token_seconds", "Request to first text", buckets=_SECONDS, registry=self._registry
        )
        self.answers = Histogram(
            "mythos_answer_seconds", "Request to last token", buckets=_SECONDS, registry=self._registry
        )
        self.running = Gauge("mythos_answers_running", "Answers in progress", registry=self._registry)
        self._engine: dict[str, Gauge] = {}

    def page(self, engine: Mapping[str, float]) -> bytes:
        """The page to scrape; `engine` are the engine's own figures."""
        for name, value in engine.items():
            if name not in self._engine:
                self._engine[name] = Gauge(f"mythos_engine_{name}", "Engine figure", registry=self._registry)
            self._engine[name].set(value)
        return generate_latest(self._registry)
