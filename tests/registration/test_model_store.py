"""The model store: several servers over one registry, what is broken off, what goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from asgi import call
from gates import until
from model_stores import management_app, open_store, push, push_body, push_ready, settled
from onnx_files import write_constant

from salver.core.errors import InvalidArtifact, LoadError, StoreUnavailable, UnknownModel
from salver.core.model import ModelSpec
from salver.core.registry import ModelVersion, Probe, VersionState
from salver.core.signature import Signature, TensorSpec
from salver.registration.model_store import ModelStore
from salver.registration.probe.result import ProbeResult
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.describe import describe

SPEC = TensorSpec("x", "FP32", (-1, 2))
RESULT = ProbeResult(Signature((SPEC,), (SPEC,), True), Probe(1000, 2000, 0.5), "onnx", ("a note",))


def replace_probe(store: ModelStore, probe: Callable[[ModelSpec], Awaitable[ProbeResult]]) -> list[ModelSpec]:
    """Put a function in the prober's place; the specs that it is given. (The prober itself is tested elsewhere.)"""
    seen: list[ModelSpec] = []

    async def instead(spec: ModelSpec, **_: Any) -> ProbeResult:
        seen.append(spec)
        return await probe(spec)

    store._prober.probe = instead  # type: ignore[method-assign]
    return seen


async def passes(spec: ModelSpec) -> ProbeResult:
    return RESULT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_constant(tmp_path / "model", 1)
    return tmp_path / "model"


def state(store: ModelStore, name: str, version: str) -> VersionState:
    return store.registry.get(name, version).state


async def test_of_several_servers_one_probes_a_version(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "store"
    async with (
        open_store(folder, poll_seconds=0.02) as one,
        open_store(folder, poll_seconds=0.02) as two,
        open_store(folder, poll_seconds=0.02) as three,
    ):
        seen = [replace_probe(store, passes) for store in (one, two, three)]
        app = management_app(one)
        for number in range(12):
            await push(app, f"m{number}", model)
        for number in range(12):
            await settled(app, f"m{number}", "1")
        probed = sorted(spec.name for each in seen for spec in each)
        assert probed == sorted(f"m{number}" for number in range(12))


async def test_a_version_of_a_dead_server_is_probed_by_another(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "store"
    async with open_store(folder, poll_seconds=3600) as dead:
        await dead._probes.close()
        await push(management_app(dead), "m", model)
        assert dead.registry.claim("m", "1", node="dead", seconds=0.3)
        async with open_store(folder, poll_seconds=0.02) as other:
            replace_probe(other, passes)
            assert state(other, "m", "1") is VersionState.PENDING
            await until(lambda: state(other, "m", "1") is VersionState.READY)


async def test_a_claim_is_kept_while_a_probe_takes_long(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = asyncio.Event()
    claims: list[float] = []

    async def slow(spec: ModelSpec) -> ProbeResult:
        await go_on.wait()
        return RESULT

    async with open_store(tmp_path / "store", poll_seconds=0.02, claim_seconds=0.15) as store:
        claim = store.registry.claim

        def counted(name: str, version: str, *, node: str, seconds: float) -> bool:
            claims.append(seconds)
            return claim(name, version, node=node, seconds=seconds)

        monkeypatch.setattr(store.registry, "claim", counted)
        replace_probe(store, slow)
        await push(management_app(store), "m", model)
        await until(lambda: len(claims) >= 4)
        assert set(claims) == {0.15}
        go_on.set()
        await until(lambda: state(store, "m", "1") is VersionState.READY)


async def test_what_is_probed_when_a_server_stops_is_free_at_once(tmp_path: Path, model: Path) -> None:
    began = asyncio.Event()

    async def endless(spec: ModelSpec) -> ProbeResult:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with open_store(tmp_path / "store", claim_seconds=3600) as store:
        replace_probe(store, endless)
        await push(management_app(store), "m", model)
        await began.wait()
    async with open_store(tmp_path / "store", poll_seconds=0.02) as store:
        replace_probe(store, passes)
        await until(lambda: state(store, "m", "1") is VersionState.READY)
        assert store.disk_cache.remove(store.registry.get("m", "1").digest)  # nobody holds it


async def test_probes_run_as_many_at_a_time_as_they_may(tmp_path: Path, model: Path) -> None:
    running, most = 0, 0
    go_on = asyncio.Event()

    async def counted(spec: ModelSpec) -> ProbeResult:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1
        return RESULT

    async with open_store(tmp_path / "store", poll_seconds=0.02, parallel_probes=2) as store:
        replace_probe(store, counted)
        app = management_app(store)
        for number in range(5):
            await push(app, f"m{number}", model)
        await until(lambda: running == 2)
        await asyncio.sleep(0.1)
        go_on.set()
        for number in range(5):
            await settled(app, f"m{number}", "1")
    assert most == 2


async def test_a_fault_of_the_server_fails_the_version_and_no_other(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(spec: ModelSpec) -> ProbeResult:
        if spec.name == "bad":
            raise ZeroDivisionError("secret")
        if spec.name == "worse":
            raise LoadError(f"{spec.path} can't be loaded")
        return RESULT

    async with open_store(tmp_path / "store", poll_seconds=0.02) as store:
        replace_probe(store, broken)
        app = management_app(store)
        for name in ("bad", "worse", "good"):
            await push(app, name, model)
        bad, worse, good = [await settled(app, name, "1") for name in ("bad", "worse", "good")]
    assert bad["reason"] == "the probe failed by a fault of the server's own, which its log has"
    assert "secret" in caplog.text
    assert worse["reason"] == "model.onnx can't be loaded"  # where it lies on the server is nobody's business
    assert (good["state"], good["signature"]["batched"]) == ("READY", True)


async def test_a_version_waits_while_the_store_cannot_be_reached(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(tmp_path / "store", poll_seconds=0.02, claim_seconds=0.1) as store:
        replace_probe(store, passes)
        tries = 0
        hold = store.disk_cache.hold

        def unreachable(digest: str, **more: Any) -> Path:
            nonlocal tries
            tries += 1
            if tries <= 2:
                raise StoreUnavailable("the bucket is away")
            return hold(digest, **more)

        monkeypatch.setattr(store.disk_cache, "hold", unreachable)
        app = management_app(store)
        await push(app, "m", model)
        assert (await settled(app, "m", "1"))["state"] == "READY"
    assert tries == 3
    assert "can't be probed now: the bucket is away" in caplog.text


async def test_a_registry_that_is_away_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(tmp_path / "store", poll_seconds=0.01) as store:
        looks = 0

        def away() -> list[ModelVersion]:
            nonlocal looks
            looks += 1
            raise StoreUnavailable("no database")

        with caplog.at_level(logging.ERROR):
            monkeypatch.setattr(store.registry, "pending", away)
            await until(lambda: looks > 5)
    assert caplog.text.count("can't look for versions to probe: no database") == 1


async def test_files_that_no_version_needs_are_removed(tmp_path: Path, model: Path) -> None:
    write_constant(tmp_path / "other", 2)
    async with open_store(tmp_path / "store", poll_seconds=0.02, garbage_age=0.0) as store:
        app = management_app(store)
        first = await push_ready(app, "m", model)
        second = await push_ready(app, "m", tmp_path / "other")
        await store.delete("m", "1", actor="test")
        assert await store._garbage.collect() >= 2
        with pytest.raises(InvalidArtifact):
            store.artifacts.manifest(first["digest"])
        assert store.artifacts.manifest(second["digest"]).digest == second["digest"]
        with pytest.raises(UnknownModel):
            await store.version("m", "1")


async def test_a_commit_that_broke_off_can_be_made_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path / "store", poll_seconds=0.02) as store:
        app = management_app(store)
        put_manifest = ArtifactStore.put_manifest

        def away(self: ArtifactStore, manifest: Any) -> None:
            raise StoreUnavailable("the bucket is away")

        monkeypatch.setattr(ArtifactStore, "put_manifest", away)
        refused = await push(app, "m", model)
        assert (refused.status, refused.error) == (503, "the bucket is away")
        monkeypatch.setattr(ArtifactStore, "put_manifest", put_manifest)
        assert (await push_ready(app, "m", model))["version"] == "1"


async def test_of_two_pushes_of_one_version_the_one_that_loses_leaves_nothing(tmp_path: Path, model: Path) -> None:
    write_constant(tmp_path / "other", 2)
    folders = (model, tmp_path / "other")
    async with open_store(tmp_path / "store") as store:
        app = management_app(store)
        begun = [
            (await call(app, "POST", "/api/v1/models/m/versions", push_body(describe(folder), "1"))).json()
            for folder in folders
        ]
        for folder, upload in zip(folders, begun, strict=True):
            (file,) = describe(folder).files
            blob = f"/api/v1/uploads/{upload['upload']}/blobs/{file.sha256}"
            sent = await call(app, "PUT", blob, (folder / file.path).read_bytes(), query="offset=0")
            assert sent.json() == {"received": file.size}
        first, second = (f"/api/v1/uploads/{upload['upload']}/commit" for upload in begun)
        assert (await call(app, "POST", first)).status == 202
        lost = await call(app, "POST", second)
        assert (lost.status, "with other files" in lost.error) == (409, True)
        assert list((tmp_path / "store" / "uploads").iterdir()) == []
        again = await call(app, "POST", "/api/v1/models/m/versions", push_body(describe(folders[1]), "1"))
        assert again.status == 409


async def test_a_read_only_store_takes_no_pushes(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_store(tmp_path / "store") as store:
        monkeypatch.setattr(ArtifactStore, "read_only", property(lambda _: True))
        answer = await call(management_app(store), "POST", "/api/v1/models/m/versions", push_body(describe(model)))
    assert answer.status == 501
    assert "is read only: nothing can be pushed" in answer.error
