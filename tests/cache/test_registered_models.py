"""Models of a registry, loaded from a store when they are asked for: a real SQLite file and a real folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gates import Gate, until
from small_models import write_broken, write_onnx

from salver.cache import registered_models
from salver.cache.memory_budget import MemoryBudget
from salver.cache.model_cache import ModelCache
from salver.cache.offer import Offer
from salver.cache.registered_models import RegisteredModels
from salver.cache.reservations import Reservations
from salver.core.errors import ModelUnavailable, SalverError, StoreUnavailable, UnknownModel
from salver.core.model import ModelSpec, ModelState
from salver.core.registry import ModelVersion, Probe, RegistryChanges, VersionMetadata
from salver.core.signature import Signature, TensorSpec
from salver.runtimes.table import create
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.disk_cache import DiskCache
from salver.store.registered import spec_of
from salver.store.registry.registry import Registry

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), True)
PROBE = Probe(memory_bytes=50_000, peak_memory_bytes=60_000, load_seconds=0.01, platform="onnxruntime_onnx")


class Store:
    """A registry and its artifacts, and a node over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry.open(f"sqlite:///{folder / 'registry.db'}")
        self.artifacts = ArtifactStore(str(folder / "artifacts"))
        self.disk = DiskCache(folder / "cache", max_bytes=1 << 30, store=self.artifacts)
        self.models = ModelCache(create_runtime=partial(create, allow_code=False), emit=lambda _: None, batches=False)
        self.source = RegisteredModels(self.registry, self.disk, models=self.models, hot_file=folder / "hottest.json")

    def push(self, name: str, write: Callable[..., Path] = write_onnx, **more: float) -> str:
        path = write(self.folder / "models", name, **more)
        manifest = self.artifacts.put(path)
        version = self.registry.register(ModelVersion(name, "", manifest.digest, manifest.size), actor="test").version
        self.registry.set_ready(name, version, runtime="onnx", signature=SIGNATURE, probe=PROBE, actor="test")
        return version

    async def ask(self, name: str, version: str = "") -> float:
        loaded = await self.models.acquire(name, version)
        try:
            loaded.usage.uses += 1
            outputs, _ = await loaded.scheduler.predict({"x": np.ones((1, 2), np.float32)}, None, {}, rows=1)
            return float(outputs["y"][0, 0])
        finally:
            loaded.unpin()

    def node(self) -> None:
        """A fresh node over the same store, as after a restart."""
        self.models = ModelCache(
            create_runtime=partial(create, allow_code=False),
            emit=lambda _: None,
            batches=False,
            reservations=Reservations({"cpu": MemoryBudget(1 << 40, used=lambda: 0)}),
        )
        self.source = RegisteredModels(
            self.registry, self.disk, models=self.models, hot_file=self.folder / "hottest.json"
        )

    async def close(self) -> None:
        await self.source.close()
        await self.models.close(5.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(tmp_path)
    yield made
    await made.close()
    made.disk.close()
    made.registry.close()


async def test_what_is_registered_is_offered_with_its_signature_and_loaded_when_asked_for(store: Store) -> None:
    store.push("a", factor=2.0)
    store.push("a", factor=3.0)
    await store.source.start()
    assert store.source.loaded
    assert store.models.versions("a") == ["1", "2"]
    assert (await store.models.signature("a")) == SIGNATURE
    assert store.models.loaded() == []
    assert await store.ask("a") == 3.0
    assert await store.ask("a", "1") == 2.0


async def test_changes_are_followed(store: Store) -> None:
    await store.source.start()
    with pytest.raises(UnknownModel):
        await store.ask("a")
    store.push("a", factor=2.0)
    await until(lambda: store.models.knows("a"))
    assert await store.ask("a") == 2.0
    store.push("a", factor=3.0)
    store.registry.set_alias("a", "champion", "1", actor="test")
    await until(lambda: ("a@champion", "") in store.models.routes)
    assert await store.ask("a@champion") == 2.0
    assert await store.ask("a") == 3.0
    store.registry.delete("a", "2", actor="test")
    await until(lambda: store.models.versions("a") == ["1"])
    assert await store.ask("a") == 2.0
    store.registry.delete_model("a", actor="test")
    await until(lambda: not store.models.knows("a"))


async def test_versions_that_arent_ready_are_known_and_not_served(store: Store) -> None:
    path = write_broken(store.folder / "models", "a")
    manifest = store.artifacts.put(path)
    store.registry.register(ModelVersion("a", "", manifest.digest, manifest.size), actor="test")
    await store.source.start()
    with pytest.raises(ModelUnavailable, match="being probed"):
        await store.ask("a")
    store.registry.set_failed("a", "1", reason="it is half a file", actor="test")
    await store.source.refresh()
    with pytest.raises(ModelUnavailable, match="it is half a file"):
        await store.ask("a")
    assert [each.state for each in store.models.statuses()] == [ModelState.UNAVAILABLE]
    assert list(store.models.snapshot()) == []  # a push that failed is nobody's alarm


async def test_files_are_held_while_a_version_is_loaded(store: Store) -> None:
    store.push("a", factor=2.0)
    await store.source.start()
    await store.ask("a")
    digest = store.registry.get("a", "1").digest
    assert not store.disk.remove(digest)
    assert await store.models.evict("a", "1")
    assert store.disk.remove(digest)
    assert await store.ask("a") == 2.0  # fetched again


async def test_the_hottest_are_loaded_again_after_a_restart(store: Store) -> None:
    for number in range(6):
        store.push(f"m{number}", factor=float(number))
    await store.source.start()
    for _ in range(3):
        for name in ("m1", "m4"):
            await store.ask(name)
    await store.close()
    store.node()
    await store.source.start()
    await until(lambda: {loaded.name for loaded in store.models.loaded()} == {"m1", "m4"})


async def test_a_list_of_the_hottest_that_cant_be_read_is_no_reason_to_fail(store: Store) -> None:
    (store.folder / "hottest.json").write_text('[["a", "1"], 7')
    store.push("a", factor=2.0)
    await store.source.start()
    assert await store.ask("a") == 2.0


async def test_serving_goes_on_while_the_registry_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.push("a", factor=2.0)
    await store.source.start()
    real = store.registry.changes
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def away(since: int, *, limit: int = 1000) -> RegistryChanges:
        loop.call_soon_threadsafe(asked.set)
        raise StoreUnavailable("the registry can't be reached")

    monkeypatch.setattr(store.registry, "changes", away)
    await asked.wait()
    assert await store.ask("a") == 2.0
    monkeypatch.setattr(store.registry, "changes", real)
    store.push("b", factor=4.0)
    await until(lambda: store.models.knows("b"))
    assert await store.ask("b") == 4.0


async def test_unloaded_on_this_node_until_it_is_loaded_again(store: Store) -> None:
    store.push("a", factor=2.0)
    await store.source.start()
    await store.ask("a")
    await store.source.unload("a")
    with pytest.raises(ModelUnavailable, match="unloaded"):
        await store.ask("a")
    await store.source.load("a")
    assert await store.ask("a") == 2.0
    with pytest.raises(UnknownModel):
        await store.source.load("b")


async def test_a_version_whose_artifact_is_gone_says_so(store: Store) -> None:
    store.registry.register(ModelVersion("a", "", "0" * 64, 10), actor="test")
    store.registry.set_ready("a", "1", runtime="onnx", signature=SIGNATURE, probe=PROBE, actor="test")
    await store.source.start()
    with pytest.raises(SalverError, match="000000"):
        await store.ask("a")


async def test_downloads_that_are_slow_keep_no_other_models_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"far{number}" for number in range(5)]
    for number, name in enumerate(names):
        store.push(name, factor=float(number))
    store.push("near", factor=9.0)
    await store.source.start()
    assert await store.ask("near") == 9.0
    assert await store.models.evict("near", "1")
    network, fetch = Gate("network"), store.disk.fetch

    def slow(digest: str) -> Path:
        network.arrive()
        return fetch(digest)

    monkeypatch.setattr(store.disk, "fetch", slow)
    asking = [asyncio.create_task(store.ask(name)) for name in names]
    for _ in range(4):  # as many as may be downloaded side by side, and as many as may be loaded
        await network.reached_async()
    assert await store.ask("near") == 9.0
    assert not any(task.done() for task in asking)
    asking[4].cancel()  # before its download has begun
    network.open()
    assert await asyncio.gather(*asking[:4]) == [0.0, 1.0, 2.0, 3.0]
    await until(lambda: store.models.loading() == [])
    assert "far4" not in [loaded.name for loaded in store.models.loaded()]


async def test_a_versions_files_are_looked_through_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counted(version: ModelVersion, folder: Path, **more: Any) -> ModelSpec:
        looked.append(f"{version.name}:{version.version}")
        return spec_of(version, folder, **more)

    monkeypatch.setattr(registered_models, "spec_of", counted)
    store.push("a", factor=2.0)
    await store.source.start()
    for _ in range(3):
        assert await store.ask("a") == 2.0
        assert await store.models.evict("a", "1")
    store.push("a", factor=3.0)
    await store.source.refresh()
    assert await store.ask("a") == 3.0
    assert looked == ["a:1", "a:2"]
    # Nothing holds what isn't loaded, whichever way its spec was found.
    assert await store.models.evict("a", "2")
    assert not any(artifact.held for artifact in store.disk.contents())


async def test_what_serving_doesnt_need_is_not_kept(store: Store) -> None:
    told = VersionMetadata(tenant="acme", description="d" * 4000, properties={"labels": ["l" * 50] * 100})
    for name in ("a", "b"):
        digest = store.artifacts.put(write_onnx(store.folder / "models", name)).digest
        config = {"pinned": True, "max_batch_size": 8, "warm_up": [{"zeros": True}] * 100}
        version = ModelVersion(name, "1", digest, 100, config=config, metadata=told)
        store.registry.register(version, actor="test")
        probe = replace(PROBE, latency_seconds=dict.fromkeys(range(1, 200), 0.001))
        store.registry.set_ready(name, "1", runtime="onnx", signature=SIGNATURE, probe=probe, actor="test")
    await store.source.refresh()
    a, b = store.models.find("a"), store.models.find("b")
    assert isinstance(a, Offer)
    assert (a.tenant, a.pinned, a.memory_bytes, a.platform) == ("acme", True, 50_000, "onnxruntime_onnx")
    assert a.signature is b.signature
    assert a.signature == SIGNATURE
    assert len(repr(a)) < 3000
    assert await store.ask("a") == 2.0
