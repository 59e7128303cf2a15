"""What a scrape of a real engine tells: names, labels, and sums that agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from gates import fresh_gates, gate  # noqa: F401
from prometheus_client.parser import text_string_to_metric_families
from small_models import FAILS, GATED, engine_over, request, write_broken, write_onnx, write_python

from salver import __version__
from salver.core.errors import InvalidInput, ModelFailed, Overloaded, UnknownModel
from salver.engine import Engine
from salver.monitoring.metrics import METRICS, CacheSnapshot, FailedRequests, Metrics, ModelSnapshot
from salver.monitoring.statistics import BUCKET_BOUNDS, ModelStatistics
from salver.monitoring.step_statistics import StepStatistics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    write_onnx(tmp_path, "scale", version="1")
    write_onnx(tmp_path, "scale", version="2")
    write_python(tmp_path, "fails", FAILS)
    write_python(tmp_path, "gated", GATED)
    write_broken(tmp_path, "broken")
    async with engine_over(tmp_path) as made:
        yield made


def scrape(engine: Engine, failed: FailedRequests | None = None) -> Samples:
    text = Metrics(engine.models.snapshot, failed or FailedRequests()).render().decode()
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, "a sample is there twice"
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_every_metric_is_there_under_its_name_with_its_help(engine: Engine) -> None:
    await engine.predict(request("scale", x=np.zeros((1, 2), np.float32)))
    failed = FailedRequests()
    failed.add("rest", UnknownModel("x"))
    cache = CacheSnapshot(memory={"cpu": (3, 2, 1)})
    step = StepStatistics("model")
    step.ok.add(1_000_000)
    graph = ModelSnapshot("graph", "1", True, 0, ModelStatistics(), steps=[("first", step)])
    text = Metrics(lambda: [*engine.models.snapshot(), graph], failed, lambda: cache).render().decode()
    for name, meaning in METRICS.items():
        assert f"# HELP {name} {meaning}\n" in text
        assert f"\n{name}" in text
    assert 'salver_graph_steps_total{model="graph",outcome="ok",step="first",version="1"} 1.0\n' in text
    assert "process_resident_memory_bytes" in text
    assert text.endswith("\n")


async def test_requests_by_model_version_and_outcome(engine: Engine) -> None:
    for size in (1, 3):
        await engine.predict(request("scale", x=np.zeros((size, 2), np.float32)))
    with pytest.raises(InvalidInput):
        await engine.predict(request("scale", z=1))
    with pytest.raises(ModelFailed):
        await engine.predict(request("fails", text=np.array([b"x"], object)))
    samples = scrape(engine)
    duration = "salver_request_duration_seconds"
    assert value(samples, f"{duration}_count", model="scale", version="2", outcome="ok") == 2
    assert value(samples, f"{duration}_count", model="scale", version="1", outcome="ok") == 0
    assert value(samples, f"{duration}_count", model="scale", version="2", outcome="invalid_request") == 1
    assert value(samples, f"{duration}_count", model="fails", version="1", outcome="model_failed") == 1
    assert value(samples, "salver_inferences_total", model="scale", version="2") == 4
    assert value(samples, f"{duration}_sum", model="scale", version="2", outcome="ok") > 0
    assert value(samples, "salver_compute_seconds_total", model="scale", version="2") > 0
    assert value(samples, "salver_queue_seconds_total", model="scale", version="2") >= 0


async def test_histograms_are_cumulative_and_end_with_their_count(engine: Engine) -> None:
    for _ in range(5):
        await engine.predict(request("scale", x=np.zeros((1, 2), np.float32)))
    samples = scrape(engine)
    labels = {"model": "scale", "version": "2", "outcome": "ok"}
    name = "salver_request_duration_seconds"
    buckets = {
        dict(key[1])["le"]: count
        for key, count in samples.items()
        if key[0] == f"{name}_bucket" and labels.items() <= dict(key[1]).items()
    }
    assert [float(bound) for bound in buckets] == [*BUCKET_BOUNDS, float("inf")]
    counts = list(buckets.values())
    assert counts == sorted(counts)
    assert counts[-1] == value(samples, f"{name}_count", **labels) == 5


async def test_what_is_in_flight(engine: Engine) -> None:
    running = asyncio.create_task(engine.predict(request("gated", x=[1])))
    await gate("predict").reached_async()
    assert value(scrape(engine), "salver_requests_in_flight", model="gated", version="1") == 1
    gate("predict").open()
    await running
    assert value(scrape(engine), "salver_requests_in_flight", model="gated", version="1") == 0


async def test_which_models_are_ready_and_what_they_take(engine: Engine) -> None:
    samples = scrape(engine)
    assert value(samples, "salver_model_ready", model="scale", version="1") == 1
    assert value(samples, "salver_model_ready", model="broken", version="1") == 0
    assert value(samples, "salver_model_memory_bytes", model="scale", version="1") > 0
    assert ("salver_model_memory_bytes", frozenset({("model", "broken"), ("version", "1")})) not in samples
    assert value(samples, "salver_info", version=__version__) == 1


async def test_failed_requests_by_front_end_and_class(engine: Engine) -> None:
    failed = FailedRequests()
    for error in (UnknownModel("x"), UnknownModel("y"), Overloaded("z")):
        failed.add("rest", error)
    failed.add("grpc", Overloaded("z"))
    samples = scrape(engine, failed)
    assert value(samples, "salver_failed_requests_total", front_end="rest", error="UnknownModel") == 2
    assert value(samples, "salver_failed_requests_total", front_end="rest", error="Overloaded") == 1
    assert value(samples, "salver_failed_requests_total", front_end="grpc", error="Overloaded") == 1


async def test_a_scrape_on_a_thread_beside_requests_and_reloads(engine: Engine) -> None:
    metrics = Metrics(engine.models.snapshot, FailedRequests())
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            await engine.predict(request("scale", x=np.zeros((1, 2), np.float32)))
            await asyncio.sleep(0)

    asking = asyncio.create_task(ask())
    for _ in range(10):
        _, text = await asyncio.gather(engine.repository.load("scale"), asyncio.to_thread(metrics.render))
        assert list(text_string_to_metric_families(text.decode()))
    stop.set()
    await asking
