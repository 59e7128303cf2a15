"""Several processes with one cache folder, and processes that are killed at any moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import artifact_processes
import pytest
from artifact_servers import WebServer

from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.disk_cache import DiskCache

pytestmark = pytest.mark.e2e

KILLS = 40


def run(*arguments: str | Path, within: tuple[str, ...] = ()) -> str:
    command = [*within, sys.executable, artifact_processes.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def models(folder: Path, count: int) -> list[Path]:
    """Models of 600 kB that share a file, each with a large and a few small ones of its own."""
    shared = os.urandom(200_000)
    for number in range(count):
        path = folder / str(number)
        (path / "more").mkdir(parents=True)
        (path / "shared").write_bytes(shared)
        (path / "weights").write_bytes(os.urandom(400_000))
        (path / "more" / "a").write_bytes(os.urandom(1000))
        (path / "more" / "b").write_bytes(b"")
    return [folder / str(number) for number in range(count)]


def test_killed_downloads_leave_nothing_half_made(web: WebServer, tmp_path: Path) -> None:
    store = ArtifactStore(str(web.root))
    digests = [store.put(path).digest for path in models(tmp_path / "models", 5)]
    said = run("kill_fetches", web.url, tmp_path / "cache", str(KILLS), *digests)
    seen, left = said.split(" seen, ")
    assert int(seen) > 0
    assert left == "[]"  # but for downloads that can be gone on with


def test_killed_uploads_leave_nothing_half_made(tmp_path: Path) -> None:
    paths = models(tmp_path / "models", 4)
    said = run("kill_puts", tmp_path / "store", str(KILLS), *paths)
    seen, left = said.split(" seen, ")
    assert int(seen) > 0
    assert left == "[]"


def test_processes_that_want_the_same_download_it_once(web: WebServer, tmp_path: Path) -> None:
    digest = ArtifactStore(str(web.root)).put(models(tmp_path / "models", 1)[0]).digest
    assert run("fetch_together", web.url, tmp_path / "cache", digest, "4") == "[0, 0, 0, 0]"
    asked = Counter(web.asked)
    assert len(asked) > 10  # chunks of the large file, and the others
    assert set(asked.values()) == {1}


def test_what_another_process_holds_stays_until_it_is_killed(web: WebServer, tmp_path: Path) -> None:
    store = ArtifactStore(str(web.root))
    held, other = (store.put(path).digest for path in models(tmp_path / "models", 2))
    command = [sys.executable, artifact_processes.__file__, "hold", web.url, str(tmp_path / "cache"), held]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        cache = DiskCache(tmp_path / "cache", max_bytes=1_000_000, store=ArtifactStore(web.url))
        assert not cache.remove(held)
        assert [each.held for each in cache.contents()] == [True]
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert [each.held for each in cache.contents()] == [False]
    cache.fetch(other)  # there is room for one
    assert [each.digest for each in cache.contents()] == [other]


def test_full_and_read_only_disks_are_told_and_nothing_is_left(web: WebServer, tmp_path: Path) -> None:
    namespace = ("unshare", "--user", "--map-root-user", "--mount")
    mount = ("mount", "-t", "tmpfs", "none", str(tmp_path))
    if shutil.which("unshare") is None or subprocess.run([*namespace, *mount], capture_output=True).returncode:
        pytest.skip("file systems can't be mounted here")
    store = ArtifactStore(str(web.root))
    first, second = (store.put(path).digest for path in models(tmp_path / "models", 2))
    (tmp_path / "disk").mkdir()
    said = run("full_disk", web.url, tmp_path / "disk", first, second, within=namespace).splitlines()
    cache, stored = f"the disk cache {tmp_path}/disk/cache", f"{tmp_path}/disk/store"
    full, read_only = "no space is left on the disk", "the disk is read-only"
    assert said == [
        f"{cache}: {full}",
        f"{cache}: {full}",
        f"{stored}: {full}",
        f"{cache}: {read_only}",
        f"{stored}: {read_only}",
    ]
