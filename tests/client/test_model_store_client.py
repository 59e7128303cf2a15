"""The model store's client against servers that misbehave: lost answers, wrong bytes, no store at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from salver.client import push as push_module
from salver.client.model_store import ModelStoreClient
from salver.core.artifact import ArtifactFile, Manifest, manifest_of
from salver.core.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArtifact,
    InvalidRequest,
    MalformedBody,
    Overloaded,
    SalverError,
    ServerUnreachable,
    StoreUnavailable,
    UnknownModel,
    UnsupportedRequest,
)

Handle = Callable[[httpx2.Request], httpx2.Response]
ID = "ab" * 16


def client(handle: Handle, **more: Any) -> ModelStoreClient:
    found = ModelStoreClient("http://salver", **{"patience": 0.3, **more})
    found.http.close()
    found.http = httpx2.Client(transport=httpx2.MockTransport(handle), headers=found.http.headers, timeout=5)
    return found


def answer(document: Any, status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, content=orjson.dumps(document), headers={"content-type": "application/json"})


def file_of(path: str, data: bytes) -> ArtifactFile:
    return ArtifactFile(path, len(data), hashlib.sha256(data).hexdigest())


class Server:
    """Takes pushes as a server does, and fails as it is told.

    Attributes:
        fails: the next calls of these kinds ("begin", "chunk", "commit") are answered with these.
        lost: of so many chunks, the bytes are taken and the answer is lost.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.wanted: dict[str, int] = {}
        self.calls: list[str] = []
        self.fails: dict[str, list[httpx2.Response | Exception]] = {}
        self.lost = 0
        self.metadata: Any = None
        self.headers: httpx2.Headers = httpx2.Headers()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.headers = request.headers
        path = request.url.path
        if path.endswith("/versions"):
            return self._failing("begin") or self._begin(request)
        if path.endswith("/commit"):
            return self._failing("commit") or answer({"name": "m", "version": "1", "state": "PENDING"}, 202)
        return self._failing("chunk") or self._chunk(request)

    def _failing(self, kind: str) -> httpx2.Response | None:
        self.calls.append(kind)
        if not self.fails.get(kind):
            return None
        failure = self.fails[kind].pop(0)
        if isinstance(failure, Exception):
            raise failure
        return failure

    def _begin(self, request: httpx2.Request) -> httpx2.Response:
        document = orjson.loads(request.content)
        self.metadata = document["metadata"]
        self.wanted = {file["sha256"]: file["size"] for file in document["files"]}
        missing = [
            {"sha256": sha256, "size": size, "received": len(self.blobs.get(sha256, b""))}
            for sha256, size in self.wanted.items()
            if len(self.blobs.get(sha256, b"")) < size
        ]
        return answer({"upload": ID, "missing": missing})

    def _chunk(self, request: httpx2.Request) -> httpx2.Response:
        match = re.fullmatch(rf"/api/v1/uploads/{ID}/blobs/([0-9a-f]{{64}})", request.url.path)
        assert match is not None
        have = self.blobs.setdefault(match[1], b"")
        if int(request.url.params["offset"]) != len(have):
            return answer({"error": "go on from there", "received": len(have)}, 409)
        self.blobs[match[1]] = have + request.content
        if self.lost:
            self.lost -= 1
            raise httpx2.ReadError("the connection is gone")
        return answer({"received": len(self.blobs[match[1]])})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(push_module, "CHUNK_BYTES", 10)
    (tmp_path / "model" / "more").mkdir(parents=True)
    (tmp_path / "model" / "a.bin").write_bytes(bytes(range(35)))
    (tmp_path / "model" / "more" / "b.bin").write_bytes(b"b" * 12)
    return tmp_path / "model"


def described(folder: Path) -> Manifest:
    return manifest_of(
        file_of(path.relative_to(folder).as_posix(), path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    )


def test_all_bytes_come_and_progress_is_told(folder: Path) -> None:
    server, told = Server(), []
    with client(server, actor="ada") as store:
        version = store.push(
            "m", folder, described(folder), metadata={"owner": "ada"}, progress=lambda *each: told.append(each)
        )
    assert version["state"] == "PENDING"
    assert sorted(server.blobs.values()) == sorted([bytes(range(35)), b"b" * 12])
    assert told[-1] == (47, 47)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert server.metadata == {"owner": "ada"}
    assert server.headers["x-salver-actor"] == "ada"


def test_lost_answers_and_passing_failures_cost_no_push(folder: Path) -> None:
    server = Server()
    server.lost = 2
    server.fails = {
        "chunk": [answer({"error": "the disk is full"}, 503), answer({"error": "too many"}, 429)],
        "commit": [httpx2.ReadTimeout("late"), answer({"error": "the bucket is away"}, 503)],
    }
    with client(server, patience=30) as store:
        assert store.push("m", folder, described(folder))["version"] == "1"
    assert sorted(server.blobs.values()) == sorted([bytes(range(35)), b"b" * 12])


def test_an_upload_that_is_gone_is_begun_anew(folder: Path) -> None:
    server = Server()
    server.fails = {
        "chunk": [answer({"error": "there is no upload"}, 404)],
        "commit": [answer({"error": "there is no upload"}, 404), answer({"error": "not all files have come"}, 409)],
    }
    with client(server) as store:
        assert store.push("m", folder, described(folder))["version"] == "1"
    assert server.calls.count("begin") == 4


def test_a_push_gives_up_when_nothing_moves(folder: Path) -> None:
    server = Server()
    server.fails = {"commit": [answer({"error": "the bucket is away"}, 503)] * 1000}
    with client(server) as store, pytest.raises(StoreUnavailable, match="the bucket is away"):
        store.push("m", folder, described(folder))


def test_what_is_refused_is_not_tried_again(folder: Path) -> None:
    for status, kind in ((400, InvalidRequest), (409, Conflict)):
        server = Server()
        server.fails = {"begin": [answer({"error": "no"}, status)]}
        with client(server) as store, pytest.raises(kind, match="no"):
            store.push("m", folder, described(folder))
        assert server.calls == ["begin"]
    server = Server()
    server.fails = {"chunk": [answer({"error": "came with other bytes"}, 400)] * 100}
    with client(server) as store, pytest.raises(InvalidRequest, match="came with other bytes"):
        store.push("m", folder, described(folder))


def test_without_a_server_a_push_ends_at_once(folder: Path) -> None:
    with ModelStoreClient("http://127.0.0.1:9", patience=60) as store, pytest.raises(ServerUnreachable):
        store.push("m", folder, described(folder))


def test_a_file_that_became_shorter_is_told(folder: Path) -> None:
    manifest = described(folder)
    (folder / "a.bin").write_bytes(b"short")
    with client(Server()) as store, pytest.raises(InvalidArtifact, match="became shorter while it was pushed"):
        store.push("m", folder, manifest)


@pytest.mark.parametrize(
    "reply",
    [
        httpx2.Response(404, content=b"404 page not found"),
        httpx2.Response(405, content=b""),
        answer({"error": "no such URL: /api/v1/models; see /docs"}, 404),
        answer({"detail": "Not Found"}, 404),
    ],
)
def test_a_server_without_a_store(reply: httpx2.Response) -> None:
    with client(lambda _: reply) as store, pytest.raises(UnsupportedRequest, match="has no model store"):
        list(store.models())


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer({"error": "there is no model"}, 404), UnknownModel),
        (answer({"error": "busy"}, 429), Overloaded),
        (answer({"error": "no database"}, 503), StoreUnavailable),
        (answer({"error": "odd"}, 418), SalverError),
        (httpx2.Response(200, content=b"<html>"), MalformedBody),
        (answer([1]), MalformedBody),
    ],
)
def test_errors_are_of_the_tree(reply: httpx2.Response, kind: type[SalverError]) -> None:
    with client(lambda _: reply) as store, pytest.raises(kind):
        store.model("m")


def test_waiting_ends_with_the_probe_or_the_time() -> None:
    states = ["PENDING", "PENDING", "FAILED"]
    with client(lambda _: answer({"state": states.pop(0) if len(states) > 1 else states[0]})) as store:
        assert store.wait("m", "1")["state"] == "FAILED"
    with client(lambda _: answer({"state": "PENDING"})) as store, pytest.raises(DeadlineExceeded, match="salver show"):
        store.wait("m", "1", timeout=0.2)


def test_names_that_lead_elsewhere_are_not_sent() -> None:
    with client(lambda _: answer({})) as store:
        for name in ("", ".", ".."):
            with pytest.raises(InvalidRequest, match="can't be a name"):
                store.model(name)


# Downloads


def listing(*files: ArtifactFile, digest: str = "") -> dict[str, Any]:
    shown = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in files]
    return {"name": "m", "version": "1", "digest": digest or manifest_of(files).digest, "size": 1, "files": shown}


def serving(document: dict[str, Any], content: Callable[[httpx2.Request], httpx2.Response]) -> Handle:
    return lambda request: answer(document) if request.url.path.endswith("/files") else content(request)


def test_wrong_bytes_are_fetched_once_more_and_then_refused(tmp_path: Path) -> None:
    asked: list[str] = []

    def content(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        return httpx2.Response(200, content=b"wrong")

    handle = serving(listing(file_of("a", b"right")), content)
    with client(handle) as store, pytest.raises(InvalidArtifact, match="expected"):
        store.download("m", "1", tmp_path / "got")
    assert len(asked) == 2
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_listed_are_refused(tmp_path: Path) -> None:
    handle = serving(listing(file_of("a", b"right")), lambda _: httpx2.Response(200, content=b"right and more"))
    with client(handle) as store, pytest.raises(InvalidArtifact, match="more than its 5 bytes"):
        store.download("m", "1", tmp_path / "got")


def test_a_download_goes_on_after_a_break(tmp_path: Path) -> None:
    data = bytes(range(100))
    ranges: list[str | None] = []

    def content(request: httpx2.Request) -> httpx2.Response:
        wanted = request.headers.get("range")
        ranges.append(wanted)
        if wanted is None:
            return httpx2.Response(200, content=data[:40])  # the rest is lost
        assert request.headers["if-range"] == f'"{hashlib.sha256(data).hexdigest()}"'
        return httpx2.Response(206, content=data[int(wanted[6:-1]) :])

    with client(serving(listing(file_of("a", data)), content), patience=30) as store:
        store.download("m", "1", tmp_path / "got")
    assert (tmp_path / "got" / "a").read_bytes() == data
    assert ranges == [None, "bytes=40-"]


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../evil"])
def test_files_never_land_outside(tmp_path: Path, path: str) -> None:
    file = ArtifactFile(path, 4, hashlib.sha256(b"evil").hexdigest())
    handle = serving(listing(file, digest="0" * 64), lambda _: httpx2.Response(200, content=b"evil"))
    with client(handle) as store, pytest.raises((MalformedBody, InvalidArtifact)):
        store.download("m", "1", tmp_path / "deep" / "got")
    assert not list(tmp_path.rglob("evil"))


def test_a_list_that_does_not_fit_its_digest_is_refused(tmp_path: Path) -> None:
    handle = serving(listing(file_of("a", b"x"), digest="0" * 64), lambda _: httpx2.Response(200, content=b"x"))
    with client(handle) as store, pytest.raises(InvalidArtifact, match="doesn't fit the digest"):
        store.download("m", "1", tmp_path / "got")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    handle = serving(listing(file_of("a", b"x")), lambda _: httpx2.Response(200, content=b"x"))
    with client(handle) as store:
        for target in ("full", "file"):
            with pytest.raises(InvalidRequest, match="is there already"):
                store.download("m", "1", tmp_path / target)
        store.download("m", "1", tmp_path / "empty")
        with pytest.raises(InvalidRequest, match="can't be written"):
            store.download("m", "1", tmp_path / "file" / "below")
    assert (tmp_path / "empty" / "a").read_bytes() == b"x"
