"""What Prometheus may know of the server: counts and times, by fixed names alone, so that nothing of a film shows."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from cxrlines import __version__

OUTCOMES = ("read", "refused", "unreadable", "fault")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


class Counters:
    """The metrics of one server."""

    def __init__(self, bundle: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info("cxrlines", "What reads", registry=self.registry).info({"version": __version__, "bundle": bundle})
        self._requests = Counter(
            "cxrlines_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._films = Counter("cxrlines_films", "Films by what became of them", ["outcome"], registry=self.registry)
        for outcome in OUTCOMES:
            self._films.labels(outcome)
        self._seconds = Histogram(
            "cxrlines_film_seconds",
            "From a film's arrival to its findings",
            buckets=(0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.under_way = Gauge("cxrlines_requests_under_way", "Requests with films under way", registry=self.registry)
        self.kept = Gauge("cxrlines_films_kept", "Films kept in memory for the page", registry=self.registry)

    def request(self, method: str, route: str, status: int) -> None:
        """Count a request by the template of its route."""
        self._requests.labels(method if method in METHODS else "other", route, str(status)).inc()

    def film(self, outcome: str, seconds: float) -> None:
        """Count a film: one of `OUTCOMES`."""
        self._films.labels(outcome).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        """In the format that Prometheus reads."""
        return generate_latest(self.registry)
