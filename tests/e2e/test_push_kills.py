"""Pushes and downloads whose server or client is killed on the way."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from onnx_files import write_constant
from servers import SALVER, Server

from salver.client.exchange import Answer
from salver.client.model_store import ModelStoreClient
from salver.core.errors import ServerUnreachable
from salver.store.artifacts.describe import describe

pytestmark = pytest.mark.e2e

MIB = 1 << 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of 68 MiB in three files."""
    write_constant(tmp_path / "model", 1)
    (tmp_path / "model" / "weights.bin").write_bytes(os.urandom(60 * MIB))
    (tmp_path / "model" / "more.bin").write_bytes(os.urandom(8 * MIB))
    return tmp_path / "model"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Starts a server over one store, on one port."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    servers: list[Server] = []

    def begin() -> Server:
        server = Server(f"--store={tmp_path / 'store'}", "--port", str(port))
        servers.append(server)
        server.wait_until_ready()
        return server

    yield begin
    for server in servers:
        server.kill()


class CountingClient(ModelStoreClient):
    """Counts the bytes of files that it sends and that are taken."""

    sent = 0
    lock = threading.Lock()

    def send(self, method: str, path: str, body: bytes, content_type: str, **more: Any) -> Answer:
        answer = super().send(method, path, body, content_type, **more)
        if method == "PUT" and answer.status == 200:
            with self.lock:
                self.sent += len(body)
        return answer


def test_a_server_that_is_killed_again_and_again_gets_the_whole_push(
    start: Callable[[], Server], model: Path, tmp_path: Path
) -> None:
    manifest = describe(model)
    server = start()
    reached = threading.Semaphore(0)
    marks = [manifest.size * part // 100 for part in (10, 45, 80, 100)]

    def progress(done: int, total: int) -> None:
        assert total == manifest.size
        while marks and done >= marks[0]:
            marks.pop(0)
            reached.release()

    with CountingClient(server.url, patience=60) as client, ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(client.push, "large", model, manifest, progress=progress)
        for _ in range(4):
            assert reached.acquire(timeout=60)
            server.kill()  # at the last mark, everything has come and the commit begins
            server = start()
        pushed = pushing.result(timeout=60)
        assert client.wait("large", pushed["version"], timeout=60)["state"] == "READY"
        assert pushed["version"] == "1"
        # No byte was taken twice: what had come of a chunk whose answer was lost isn't taken again.
        assert client.sent <= manifest.size
        client.download("large", "1", tmp_path / "got")
    assert describe(tmp_path / "got") == manifest
    assert list((tmp_path / "store" / "uploads").iterdir()) == []


def test_a_client_that_is_killed_goes_on_where_it_was(start: Callable[[], Server], model: Path, tmp_path: Path) -> None:
    server = start()
    command = [SALVER, "push", str(model), "--name", "large", "--url", server.url]
    manifest = describe(model)
    with CountingClient(server.url) as client:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            received = _kill_midway(process, tmp_path / "store" / "uploads")
        finally:
            process.kill()
            process.wait()
        pushed = client.push("large", model, manifest)
        assert client.sent <= manifest.size - received
        assert client.wait("large", pushed["version"], timeout=60)["state"] == "READY"


def test_a_download_that_broke_off_goes_on_where_it_was(
    start: Callable[[], Server], model: Path, tmp_path: Path
) -> None:
    server = start()
    manifest = describe(model)
    with ModelStoreClient(server.url, patience=0.2) as client:
        client.push("large", model, manifest)
        enough = threading.Event()

        def progress(done: int, _: int) -> None:
            if done > 20 * MIB and not enough.is_set():
                enough.set()
                server.process.kill()

        with pytest.raises(ServerUnreachable):
            client.download("large", "1", tmp_path / "got", progress=progress)
        assert not (tmp_path / "got").exists()
        server.kill()
        server = start()
        seen: list[int] = []
        client.download("large", "1", tmp_path / "got", progress=lambda done, _: seen.append(done))
    assert describe(tmp_path / "got") == manifest
    assert max(seen) == manifest.size
    assert [path.name for path in tmp_path.iterdir() if ".partial" in path.name] == []


def _kill_midway(process: subprocess.Popen[bytes], uploads: Path) -> int:
    """Kill a push when some bytes have come; how many have."""
    deadline = monotonic() + 60
    while _received(uploads) <= 8 * MIB:
        if process.poll() is not None or monotonic() > deadline:
            pytest.fail("the push ended too early, or didn't begin")
        threading.Event().wait(0.002)
    process.kill()
    process.wait()
    return _received(uploads)


def _received(uploads: Path) -> int:
    sizes = 0
    for path in uploads.glob("*/*/*"):
        with suppress(FileNotFoundError):  # it was put in its place just now
            sizes += path.stat().st_size
    return sizes
