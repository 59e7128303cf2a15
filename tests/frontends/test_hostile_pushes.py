"""Pushes of those who lie, and clients who take or send nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import h2corn
import pytest
from asgi import Answer, call
from gates import until
from model_stores import management_app, open_store, push, push_ready, settled
from onnx_files import write_constant

from salver.core.artifact import MAX_FILES, ArtifactFile, manifest_of
from salver.core.registry import VersionMetadata
from salver.frontends import file_download
from salver.frontends.file_download import send_file
from salver.frontends.http import ClientLeft
from salver.frontends.management_api import ManagementApp
from salver.monitoring.metrics import FailedRequests
from salver.registration import model_store
from salver.store.artifacts.describe import describe
from salver.wire.model_store_json import encode_manifest


def described(content: bytes, **lies: Any) -> dict[str, Any]:
    return {"path": "model.onnx", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()} | lies


async def begin(app: Any, *files: dict[str, Any], version: str = "") -> Answer:
    return await call(app, "POST", "/api/v1/models/m/versions", {"files": list(files), "version": version})


@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_a_wrong_size_of_what_is_stored_is_no_way_around_sending_it(tmp_path: Path, size: int) -> None:
    """A model.yaml that is said to be small is read as a whole."""
    async with open_store(tmp_path) as store:
        app = management_app(store)
        write_constant(tmp_path / "model", 1)
        pushed = await push_ready(app, "m", tmp_path / "model")
        (stored,) = (await store.files("m", pushed["version"]))[1].files
        lie = {"path": "model.yaml", "size": size, "sha256": stored.sha256}
        begun = (await begin(app, lie)).json()
        assert begun["missing"] == [{"sha256": stored.sha256, "size": size, "received": 0}]
        commit = await call(app, "POST", f"/api/v1/uploads/{begun['upload']}/commit")
        assert commit.status == 409
        assert "not all files have come" in commit.error


async def test_a_damaged_file_of_the_store_is_replaced_by_a_push(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        app = management_app(store)
        write_constant(tmp_path / "model", 1)
        pushed = await push_ready(app, "m", tmp_path / "model")
        (file,) = (await store.files("m", pushed["version"]))[1].files
        blob = store.artifacts.local_blob(file.sha256)
        assert blob is not None
        blob.unlink()
        blob.write_bytes(b"cut off")
        assert (await push(app, "m", tmp_path / "model")).status == 200
        assert store.artifacts.has_blob(file.sha256, size=file.size)


async def test_the_name_of_a_deleted_version_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        app = management_app(store)
        write_constant(tmp_path / "model", 1)
        await push_ready(app, "m", tmp_path / "model", "7")
        assert (await call(app, "DELETE", "/api/v1/models/m/versions/7", query="force=true")).status == 200
        for files in ([described(b"other bytes")], encode_manifest(describe(tmp_path / "model"))):
            refused = await begin(app, *files, version="7")
            assert refused.status == 409
            assert "was deleted, and its name stays taken" in refused.error
        assert (await begin(app, described(b"other bytes"))).status == 200


async def test_names_that_no_disk_could_have_are_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        refused = await begin(management_app(store), described(b"1", path="x" * 300))
        assert refused.status == 400
        assert "255 bytes a name" in refused.error


async def test_too_many_files_are_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        files = [{"path": "a"}] * (MAX_FILES + 1)  # nothing of them is looked at
        refused = await begin(management_app(store), *files)
        assert refused.status == 400
        assert f"{MAX_FILES} are allowed" in refused.error


async def test_a_document_of_very_many_values_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        app = ManagementApp(store, max_request_bytes=1 << 30, failed=FailedRequests())
        for part in (b"[],", b"0,", b'{"a":1},'):
            refused = await call(app, "POST", "/api/v1/models/m/versions", b'{"files":[' + part * 600_000)
            assert refused.status == 400
            assert "more than 500000 values" in refused.error


async def test_a_push_of_as_many_files_as_may_be(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        app = ManagementApp(store, max_request_bytes=1 << 30, failed=FailedRequests())
        files = [{"path": f"{each}", "size": 1, "sha256": f"{each:064x}"} for each in range(MAX_FILES)]
        begun = (await begin(app, *files)).json()
        assert len(begun["missing"]) == MAX_FILES


# Clients who are slow


async def test_a_client_that_takes_nothing_costs_little_and_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server takes messages for a client that doesn't read, however large they are: 128 MiB of 4 MiB each."""
    monkeypatch.setattr(file_download, "_SILENCE", 0.5)
    size, block = 64 << 20, bytes(256 << 10)
    read, ended = 0, asyncio.Event()

    async def blocks(file: ArtifactFile, start: int, end: int) -> AsyncGenerator[bytes]:
        nonlocal read
        try:
            while read < size:
                read += len(block)
                yield block
        finally:
            ended.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ClientLeft):
            await send_file(ArtifactFile("a", size, "0" * 64), blocks, {}, send, head=False)

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        config = h2corn.Config(
            bind=(f"fd://{listener.fileno()}",), lifespan="off", access_log=False, timeout_graceful_shutdown=0.1
        )
        server = h2corn.Server(app, config)
        serving = asyncio.create_task(server.serve())
        await server.wait_started()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(ended.wait(), 60)
        server.shutdown()
        await serving
    assert read < 16 << 20


async def test_many_who_send_have_little_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_store, "_RECEIVING_BYTES", 1 << 20)
    senders, part = 32, os.urandom(100 << 10)
    files = [ArtifactFile(f"f{each}", len(part) + 1, f"{each:064x}") for each in range(senders)]
    begin, enough = asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        await begin.wait()
        yield part
        await enough.wait()

    async with open_store(tmp_path) as store:
        upload, _ = await store.begin_push("m", "", manifest_of(files), VersionMetadata())
        sending = [asyncio.create_task(store.receive(upload.upload_id, file.sha256, 0, chunks())) for file in files]
        await until(lambda: store._receiving == senders)
        begin.set()
        partial = tmp_path / "uploads" / upload.upload_id / "partial"
        await until(lambda: sum(path.stat().st_size for path in partial.iterdir()) == senders * len(part))
        enough.set()
        assert await asyncio.gather(*sending) == [len(part)] * senders
        assert store._block_bytes() == 1 << 20  # they count no more


async def test_the_reason_of_a_failure_names_files_as_they_were_pushed(tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "1" / "model.onnx").write_bytes(b"none")
    (tmp_path / "model" / "config.pbtxt").write_text('backend: "../../bin/evil"')
    async with open_store(tmp_path, poll_seconds=0.05) as store:
        app = management_app(store)
        pushed = (await push(app, "m", tmp_path / "model")).json()
        failed = await settled(app, "m", pushed["version"])
    assert failed["state"] == "FAILED"
    assert failed["reason"].startswith("config.pbtxt, line 1: backend '../../bin/evil' can't be served")
