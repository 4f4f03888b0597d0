"""What the server counts, in the text format of Prometheus. Each request is counted before its answer is sent."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one server."""

    media_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.answers = Counter(
            "coatnet_answers", "Answers by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self.problems = Counter("coatnet_problems", "Requests without an answer by code.", ["code"], registry=registry)
        self.received_bytes = Counter("coatnet_received_bytes", "Bytes of requests that were read.", registry=registry)
        self.images = Counter("coatnet_images_computed", "Images that the network saw.", registry=registry)
        self.dropped = Counter(
            "coatnet_images_dropped", "Images dropped before the network: too late.", registry=registry
        )
        self.deaths = Counter("coatnet_worker_deaths", "Workers that died.", registry=registry)
        self.reloads = Counter("coatnet_reloads", "Reloads by outcome.", ["outcome"], registry=registry)
        self.ready = Gauge("coatnet_ready", "1 if requests are taken.", registry=registry)
        self.waiting = Gauge("coatnet_images_waiting", "Images in the queue.", registry=registry)
        self.batch = Histogram("coatnet_batch_images", "Images in a batch.", buckets=BATCHES, registry=registry)
        self.wait_seconds = Histogram(
            "coatnet_wait_seconds", "From the queue's end to its head.", buckets=SECONDS, registry=registry
        )
        self.batch_seconds = Histogram(
            "coatnet_batch_seconds", "Decoding and computing a batch.", buckets=SECONDS, registry=registry
        )
        self.answer_seconds = Histogram(
            "coatnet_answer_seconds",
            "From the headers to the answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=registry,
        )

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
