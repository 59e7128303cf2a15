"""Processes that share a cache, and are killed: run as a script, which forks them."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from salver.core.artifact import Manifest
from salver.core.errors import StoreUnavailable
from salver.store.artifacts import disk_cache, transfer
from salver.store.artifacts.artifact_store import ArtifactStore, parse_manifest
from salver.store.artifacts.disk_cache import DiskCache

CHUNK = 1 << 16


def small_chunks() -> None:
    """Files of a megabyte are large ones, for once."""
    transfer.CHUNK = disk_cache.CHUNK = CHUNK


def forked(work: Callable[[], None]) -> int:
    """Start a process that does something; its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def killed(step: Callable[[], None], *, at_once: bool, seconds: float) -> None:
    """Run steps in a process that is killed after some time, or after some time that follows its first step."""
    ended, end = os.pipe()

    def work() -> None:
        step()
        os.write(end, b".")
        while True:
            step()

    pid = forked(work)
    os.close(end)
    if not at_once:
        assert os.read(ended, 1) == b"."
    os.close(ended)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL  # it was still at it


def check_store(root: Path) -> int:
    """Whether all that can be seen in a store is whole; the number of artifacts."""
    for blob in (root / "blobs").glob("*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name, blob
    count = 0
    for path in (root / "manifests").glob("*"):
        manifest = parse_manifest(path.read_bytes())
        assert manifest is not None, path
        assert manifest.digest == path.stem
        assert all((root / "blobs" / file.sha256).stat().st_size == file.size for file in manifest.files)
        count += 1
    return count


def check_cache(root: Path, manifests: dict[str, Manifest]) -> int:
    """Whether all that can be seen in a cache is whole; the number of artifacts."""
    count = 0
    for folder in (root / "artifacts").glob("*"):
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        wanted = {file.path: file.sha256 for file in manifests[folder.name].files}
        assert {path: hashlib.sha256(data).hexdigest() for path, data in found.items()} == wanted, folder
        count += 1
    return count


def kill_fetches(url: str, root: Path, digests: list[str], kills: int) -> None:
    """Kill a process that downloads and removes, again and again."""
    small_chunks()
    chance = random.Random(7)
    manifests = {digest: ArtifactStore(url).manifest(digest) for digest in digests}
    seen = 0

    def step() -> None:
        cache = DiskCache(root, max_bytes=3_000_000, store=ArtifactStore(url))
        for digest in random.sample(digests, 2):
            cache.remove(digest)
            cache.fetch(digest)

    for number in range(kills):
        killed(step, at_once=number % 2 == 0, seconds=chance.uniform(0.001, 0.1))
        seen += check_cache(root, manifests)
    cache = DiskCache(root, max_bytes=3_000_000, store=ArtifactStore(url))
    for digest in digests:
        cache.fetch(digest)
        check_cache(root, manifests)
    assert cache.used_bytes() <= 3_000_000
    for digest in digests:
        assert cache.remove(digest)
    partial = root / "partial"
    for path in partial.iterdir():
        os.utime(path, (1, 1))
    cache = DiskCache(root, max_bytes=700_000, store=ArtifactStore(url))
    cache.fetch(digests[0])
    assert cache.used_bytes() <= 700_000
    print(f"{seen} seen, {sorted({p.suffix for p in partial.iterdir()} - {'', '.chunks'})}")


def kill_puts(root: Path, models: list[Path], kills: int) -> None:
    """Kill a process that stores artifacts and collects garbage, again and again."""
    chance = random.Random(7)
    seen = 0

    def step() -> None:
        store = ArtifactStore(str(root))
        store.put(random.choice(models))
        if random.random() < 0.3:
            store.collect_garbage(live=(), older_than=-1)

    for number in range(kills):
        killed(step, at_once=number % 2 == 0, seconds=chance.uniform(0.001, 0.05))
        seen += check_store(root)
    store = ArtifactStore(str(root))
    for model in models:
        assert store.manifest(store.put(model).digest)
    assert check_store(root) == len(models)
    store.collect_garbage(live=(), older_than=-1)
    print(f"{seen} seen, {sorted(p.name for p in root.rglob('*') if p.is_file())}")


def fetch_together(url: str, root: Path, digest: str, count: int) -> None:
    """Several processes download the same at the same time."""
    small_chunks()
    start, begin = os.pipe()

    def work() -> None:
        os.close(begin)
        os.read(start, 1)
        DiskCache(root, max_bytes=1 << 30, store=ArtifactStore(url)).fetch(digest)

    pids = [forked(work) for _ in range(count)]
    os.close(begin)
    print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])


def full_disk(url: str, root: Path, first: str, second: str) -> None:
    """Fetch where there is no space, and where nothing can be written; in a mount namespace of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "none", str(root)], check=True)
    store = ArtifactStore(url)
    cache = DiskCache(root / "cache", max_bytes=1 << 30, store=store)
    cache.hold(first)
    before = cache.used_bytes()
    for _ in range(2):
        try:
            cache.fetch(second)
        except StoreUnavailable as error:
            print(error)
        assert cache.used_bytes() == before
        assert not list((root / "cache" / "partial").iterdir())
    try:
        ArtifactStore(str(root / "store")).put(Path(__file__).parent)
    except StoreUnavailable as error:
        print(error)
    assert not list((root / "store" / "incoming").iterdir())
    cache.close()
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    for attempt in (lambda: cache.fetch(second), lambda: ArtifactStore(str(root / "store")).put(Path(__file__))):
        try:
            attempt()
        except StoreUnavailable as error:
            print(error)


def hold(url: str, root: Path, digest: str) -> None:
    """Hold an artifact until killed."""
    DiskCache(root, max_bytes=1 << 30, store=ArtifactStore(url)).hold(digest)
    print("held", flush=True)
    signal.pause()


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    if mode == "kill_fetches":
        kill_fetches(arguments[0], Path(arguments[1]), arguments[3:], int(arguments[2]))
    elif mode == "kill_puts":
        kill_puts(Path(arguments[0]), [Path(each) for each in arguments[2:]], int(arguments[1]))
    elif mode == "fetch_together":
        fetch_together(arguments[0], Path(arguments[1]), arguments[2], int(arguments[3]))
    elif mode == "full_disk":
        full_disk(arguments[0], Path(arguments[1]), arguments[2], arguments[3])
    elif mode == "hold":
        hold(arguments[0], Path(arguments[1]), arguments[2])
    else:
        raise SystemExit(f"unknown mode {mode}")
