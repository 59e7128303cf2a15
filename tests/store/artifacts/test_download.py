from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from artifact_servers import Cable, WebServer, s3_options

from salver.core.errors import InvalidArtifact, LoadError, ModelUnavailable, StoreUnavailable
from salver.store.artifacts import download as module
from salver.store.artifacts import transfer
from salver.store.artifacts.download import download
from salver.store.artifacts.retries import Backoff

QUICK = Backoff(attempts=4, first=0.01, most=0.05)
CHUNK = 1 << 16


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (transfer, module):
        monkeypatch.setattr(each, "CHUNK", CHUNK)
    monkeypatch.setattr(transfer, "Backoff", lambda: QUICK)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("lengths", [True, False])
def test_a_file_comes_from_every_web_server(web: WebServer, tmp_path: Path, ranges: bool, lengths: bool) -> None:
    content = os.urandom(10 * CHUNK + 3)
    (web.root / "my model.onnx").write_bytes(content)
    web.ranges, web.lengths = ranges, lengths
    told: list[tuple[int, int]] = []
    path = download(
        f"{web.url}/my%20model.onnx?token=secret",
        tmp_path / "target",
        options={"headers": {"Authorization": "Bearer geheim"}},
        progress=lambda done, total: told.append((done, total)),
    )
    assert path == tmp_path / "target" / "my model.onnx"
    assert path.read_bytes() == content
    assert told[-1] == (len(content), len(content))
    assert {each["Authorization"] for each in web.headers} == {"Bearer geheim"}
    assert names(tmp_path / "target") == ["my model.onnx"]
    assert not (tmp_path / "target.partial").exists()


def test_what_is_there_is_not_asked_for_again(web: WebServer, tmp_path: Path) -> None:
    (web.root / "m").write_bytes(b"weights")
    first = download(f"{web.url}/m", tmp_path / "target")
    asked = len(web.asked)
    assert download(f"{web.url}/m", tmp_path / "target") == first
    assert len(web.asked) == asked


@pytest.mark.parametrize("ranges", [True, False])
def test_answers_that_break_off_are_asked_for_again(web: WebServer, tmp_path: Path, ranges: bool) -> None:
    content = os.urandom(4 * CHUNK)
    (web.root / "m").write_bytes(content)
    web.ranges, web.break_after, web.breaks, web.failures = ranges, 1000, 2, 1
    assert download(f"{web.url}/m", tmp_path / "target", backoff=QUICK).read_bytes() == content


def test_a_download_that_was_given_up_is_gone_on_with(web: WebServer, tmp_path: Path) -> None:
    content = os.urandom(40 * CHUNK)
    (web.root / "m").write_bytes(content)
    came = 0

    def progress(done: int, total: int) -> None:
        nonlocal came
        came = done

    with pytest.raises(ModelUnavailable, match="given up"):
        download(f"{web.url}/m", tmp_path / "target", progress=progress, cancelled=lambda: came > 3 * CHUNK)
    assert not (tmp_path / "target").exists()
    web.asked.clear()
    assert download(f"{web.url}/m", tmp_path / "target").read_bytes() == content
    assert len([1 for _, wanted in web.asked if wanted != "bytes=0-0"]) < 37


def test_files_that_changed_meanwhile_are_not_mixed(web: WebServer, tmp_path: Path) -> None:
    path = web.root / "m"
    old, new = os.urandom(40 * CHUNK), os.urandom(40 * CHUNK)
    path.write_bytes(old)
    os.utime(path, (1, 1))
    came = 0

    def progress(done: int, total: int) -> None:
        nonlocal came
        came = done

    with pytest.raises(ModelUnavailable):
        download(f"{web.url}/m", tmp_path / "target", progress=progress, cancelled=lambda: came > 3 * CHUNK)
    path.write_bytes(new)
    assert download(f"{web.url}/m", tmp_path / "target").read_bytes() == new

    def change(done: int, total: int) -> None:
        path.write_bytes(old)

    with pytest.raises(InvalidArtifact, match="changed while it was downloaded"):
        download(f"{web.url}/m", tmp_path / "other", progress=change)
    assert not (tmp_path / "other").exists()
    assert download(f"{web.url}/m", tmp_path / "other").read_bytes() == old


@pytest.mark.parametrize("lengths", [True, False])
def test_what_is_too_large_is_refused(web: WebServer, tmp_path: Path, lengths: bool) -> None:
    (web.root / "m").write_bytes(b"x" * 5000)
    web.lengths = lengths
    web.ranges = lengths
    with pytest.raises(LoadError, match="4,000 are allowed"):
        download(f"{web.url}/m", tmp_path / "target", max_bytes=4000)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (404, InvalidArtifact, "there is nothing at http://127.0.0.1:[0-9]+/m;"),
        (403, StoreUnavailable, "access is denied"),
        (500, StoreUnavailable, "failed 4 times, the last time with OSError: status 500"),
        (418, StoreUnavailable, "answers with status 418"),
    ],
)
def test_refusals_are_told(web: WebServer, tmp_path: Path, status: int, error: type[Exception], text: str) -> None:
    web.status = status
    with pytest.raises(error, match=text) as caught:
        download(f"{web.url}/m?token=secret", tmp_path / "target", backoff=QUICK)
    assert "secret" not in str(caught.value)


def test_a_folder_comes_from_s3_and_is_gone_on_with(s3_bucket: str, cable: Cable, s3_port: int, tmp_path: Path) -> None:
    system = fsspec.filesystem("s3", skip_instance_cache=True, **s3_options(s3_port))
    contents = {"weights.bin": os.urandom(30 * CHUNK), "a/b.json": b"{}", "empty": b""}
    for name, content in {**contents, ".hidden/x": b"1", "rest.part": b"2"}.items():
        system.pipe_file(f"{s3_bucket}/models/iris/{name}", content)
    url, target = f"s3://{s3_bucket}/models/iris/", tmp_path / "target"
    cable.cut_after(15 * CHUNK)
    with pytest.raises(StoreUnavailable, match="failed 2 times"):
        download(url, target, options=s3_options(cable.port), backoff=Backoff(attempts=2, first=0.01))
    assert not target.exists()
    cable.mend()
    before = cable.received
    assert download(url, target, options=s3_options(cable.port)) == target
    assert {name: (target / name).read_bytes() for name in names(target)} == contents
    assert cable.received - before < 25 * CHUNK
    single = download(url + "weights.bin", tmp_path / "single", options=s3_options(s3_port))
    assert single == tmp_path / "single" / "weights.bin"
    with pytest.raises(InvalidArtifact, match=r"there is nothing at s3://.*/models/tulip"):
        download(f"s3://{s3_bucket}/models/tulip", tmp_path / "none", options=s3_options(s3_port))


def test_folders_and_memory_are_places_too(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model").write_bytes(b"1")
    target = download(str(tmp_path / "m"), tmp_path / "copy")
    assert names(target) == ["model"]
    assert download(f"file://{tmp_path}/m/model", tmp_path / "one") == tmp_path / "one" / "model"
    name = uuid.uuid4().hex
    fsspec.filesystem("memory").pipe_file(f"/{name}/x", b"1")
    assert names(download(f"memory://{name}", tmp_path / "memory")) == ["x"]


def test_two_who_want_the_same_download_it_once(web: WebServer, tmp_path: Path) -> None:
    (web.root / "m").write_bytes(os.urandom(20 * CHUNK))
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: download(f"{web.url}/m", tmp_path / "target"), range(4)))
    assert set(paths) == {tmp_path / "target" / "m"}
    chunks = [wanted for _, wanted in web.asked if wanted != "bytes=0-0"]
    assert len(chunks) == len(set(chunks)) == 20
