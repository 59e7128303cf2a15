"""Metrics in the Prometheus text format, made from plain counters at scrape time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from salver.monitoring.statistics import BUCKET_BOUNDS, LatencyHistogram, ModelStatistics
from salver.monitoring.step_statistics import StepStatistics

CONTENT_TYPE = CONTENT_TYPE_LATEST

METRICS = {
    "salver_info": "The server's version.",
    "salver_request_duration_seconds": "Time in the engine, from the decoded request to the answer or error.",
    "salver_requests_in_flight": "Requests that a model version is working on or that wait for it.",
    "salver_queue_length": "Requests that wait for an instance of a model version.",
    "salver_inferences_total": "Inferences answered; a request with a batch of 8 counts 8.",
    "salver_executions_total": "Executions of a model version; a batch of several requests is one.",
    "salver_queue_seconds_total": "Time that answered requests have waited for their model version to be free.",
    "salver_compute_seconds_total": "Time that model versions have computed for answered requests.",
    "salver_retried_requests_total": "Requests that were run once more since their instance had died.",
    "salver_instance_restarts_total": "Instances of a model version that died and were started anew.",
    "salver_response_cache_hits_total": "Answers that the response cache of a model version had.",
    "salver_response_cache_misses_total": "Answers that the response cache of a model version didn't have.",
    "salver_response_cache_bytes": "Bytes that the response cache of a model version takes.",
    "salver_cache_hits_total": "Requests whose model version was loaded already.",
    "salver_cache_misses_total": "Requests that had to wait for their model version to be loaded.",
    "salver_cache_loads_total": "Loads of model versions, by outcome: ok or failed.",
    "salver_cache_load_seconds_total": "Time that loads of model versions took.",
    "salver_cache_evictions_total": "Model versions that had to go from memory for others.",
    "salver_cache_loading": "Model versions that are being loaded on demand now.",
    "salver_cache_models": "Model versions that are loaded.",
    "salver_memory_budget_bytes": "Memory that the server may take on a device.",
    "salver_memory_models_bytes": "Memory that loaded model versions were measured to take, and loads have reserved.",
    "salver_memory_used_bytes": "Memory that the server is seen to have on a device.",
    "salver_model_ready": "1 for each model version that answers requests, 0 for each that should and can't.",
    "salver_model_memory_bytes": "Memory that a model version takes, as its runtime tells.",
    "salver_graph_step_duration_seconds": "Time that the runs of a graph's step took which gave outputs.",
    "salver_graph_steps_total": "Runs of a graph's step, by outcome: ok, failed, fallback or skipped.",
    "salver_graph_step_retries_total": "Runs of a graph's step that were tried once more.",
    "salver_failed_requests_total": "Requests that a front end answered with an error, by the error's class.",
}
"""Every metric's name and meaning."""

_LABELS = ("model", "version")
_COUNTERS: dict[str, Callable[[ModelStatistics], float]] = {
    "salver_inferences_total": lambda statistics: statistics.inferences,
    "salver_executions_total": lambda statistics: statistics.executions,
    "salver_queue_seconds_total": lambda statistics: statistics.queue_ns / 1e9,
    "salver_compute_seconds_total": lambda statistics: statistics.compute_infer_ns / 1e9,
    "salver_retried_requests_total": lambda statistics: statistics.retries,
    "salver_instance_restarts_total": lambda statistics: statistics.restarts,
    "salver_response_cache_hits_total": lambda statistics: statistics.cache_hits.count,
    "salver_response_cache_misses_total": lambda statistics: statistics.cache_misses.count,
}


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """What metrics tell of one model version.

    Attributes:
        ready: whether it answers requests.
        memory_bytes: what it takes; 0 where it isn't loaded.
        statistics: its counters; None where it isn't loaded.
        waiting: requests in its queue.
        cached_bytes: what its response cache takes.
        steps: the counters of a graph's steps, by name; none of a model.
    """

    name: str
    version: str
    ready: bool
    memory_bytes: int
    statistics: ModelStatistics | None
    waiting: int = 0
    cached_bytes: int = 0
    steps: Sequence[tuple[str, StepStatistics]] = ()


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """What metrics tell of the model cache.

    Attributes:
        hits, misses: requests that found their version loaded, and that had to wait for it.
        loads, failed_loads, load_seconds: since the start.
        evictions: since the start.
        loading: versions that are being loaded on demand.
        loaded: versions.
        memory: device -> its budget, what is known to be taken, and what is seen to be in use, in bytes.
    """

    hits: int = 0
    misses: int = 0
    loads: int = 0
    failed_loads: int = 0
    load_seconds: float = 0.0
    evictions: int = 0
    loading: int = 0
    loaded: int = 0
    memory: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


class FailedRequests:
    """Counts requests that a front end answered with an error."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, front_end: str, error: BaseException) -> None:
        """Count one; the error's class is the reason."""
        self.counts[(front_end, type(error).__name__)] += 1


class Metrics(Collector):
    """Answers a scrape.

    Args:
        snapshot: gives the model versions of this moment.
        failed: the requests that were answered with an error.
        cache: tells of the model cache at this moment.
    """

    def __init__(
        self,
        snapshot: Callable[[], Iterable[ModelSnapshot]],
        failed: FailedRequests,
        cache: Callable[[], CacheSnapshot] = CacheSnapshot,
    ) -> None:
        self._snapshot = snapshot
        self._failed = failed
        self._cache = cache
        self._version = version("salver")
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(self)

    def render(self) -> bytes:
        """The metrics in the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The metric families of this moment."""
        info = _gauge("salver_info", ("version",))
        info.add_metric([self._version], 1)
        yield info
        snapshots = list(self._snapshot())
        ready = _gauge("salver_model_ready", _LABELS)
        memory = _gauge("salver_model_memory_bytes", _LABELS)
        in_flight = _gauge("salver_requests_in_flight", _LABELS)
        waiting = _gauge("salver_queue_length", _LABELS)
        cached = _gauge("salver_response_cache_bytes", _LABELS)
        counters = {name: _counter(name, _LABELS) for name in _COUNTERS}
        durations = HistogramMetricFamily(
            "salver_request_duration_seconds",
            METRICS["salver_request_duration_seconds"],
            labels=(*_LABELS, "outcome"),
        )
        for model in snapshots:
            labels = [model.name, model.version]
            ready.add_metric(labels, float(model.ready))
            statistics = model.statistics
            if statistics is None:
                continue
            memory.add_metric(labels, model.memory_bytes)
            statistics.settle()
            in_flight.add_metric(labels, statistics.in_flight)
            waiting.add_metric(labels, model.waiting)
            cached.add_metric(labels, model.cached_bytes)
            for name, read in _COUNTERS.items():
                counters[name].add_metric(labels, read(statistics))
            for outcome, histogram in list(statistics.histograms.items()):
                durations.add_metric([*labels, outcome], _buckets(histogram), histogram.ns / 1e9)
        failed = _counter("salver_failed_requests_total", ("front_end", "error"))
        for (front_end, error), count in list(self._failed.counts.items()):
            failed.add_metric([front_end, error], count)
        yield from _cache_metrics(self._cache())
        yield from _step_metrics(snapshots)
        yield from (ready, memory, in_flight, waiting, cached, *counters.values(), durations, failed)


def _step_metrics(snapshots: Iterable[ModelSnapshot]) -> Iterator[Metric]:
    labels = (*_LABELS, "step")
    name = "salver_graph_step_duration_seconds"
    durations = HistogramMetricFamily(name, METRICS[name], labels=labels)
    runs = _counter("salver_graph_steps_total", (*labels, "outcome"))
    retries = _counter("salver_graph_step_retries_total", labels)
    for model in snapshots:
        for step, counted in model.steps:
            values = [model.name, model.version, step]
            ok = sum(counted.ok.buckets)
            durations.add_metric(values, _buckets(counted.ok), counted.ok.ns / 1e9)
            retries.add_metric(values, counted.retries)
            for outcome, count in (
                ("ok", ok - counted.fallbacks),
                ("failed", counted.failed),
                ("fallback", counted.fallbacks),
                ("skipped", counted.skipped),
            ):
                runs.add_metric([*values, outcome], count)
    yield from (durations, runs, retries)


def _buckets(histogram: LatencyHistogram) -> list[tuple[str, float]]:
    """The buckets as Prometheus has them: each counts what is in those before it, too."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, BUCKET_BOUNDS), "+Inf"), histogram.buckets, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _cache_metrics(cache: CacheSnapshot) -> Iterator[Metric]:
    for name, value in (
        ("salver_cache_hits_total", cache.hits),
        ("salver_cache_misses_total", cache.misses),
        ("salver_cache_load_seconds_total", cache.load_seconds),
        ("salver_cache_evictions_total", cache.evictions),
    ):
        counter = _counter(name, ())
        counter.add_metric((), value)
        yield counter
    loads = _counter("salver_cache_loads_total", ("outcome",))
    loads.add_metric(("ok",), cache.loads)
    loads.add_metric(("failed",), cache.failed_loads)
    yield loads
    for name, value in (("salver_cache_loading", cache.loading), ("salver_cache_models", cache.loaded)):
        gauge = _gauge(name, ())
        gauge.add_metric((), value)
        yield gauge
    names = ("salver_memory_budget_bytes", "salver_memory_models_bytes", "salver_memory_used_bytes")
    for index, name in enumerate(names):
        gauge = _gauge(name, ("device",))
        for device, sizes in cache.memory.items():
            gauge.add_metric((device,), sizes[index])
        yield gauge


def _gauge(name: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, METRICS[name], labels=labels)


def _counter(name: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(name, METRICS[name], labels=labels)
