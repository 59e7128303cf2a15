from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from artifact_servers import Cable, WebServer

from salver.core.artifact import Manifest
from salver.core.errors import InvalidArtifact, LoadError, ModelUnavailable, Overloaded, StoreUnavailable
from salver.store.artifacts import cache_folder, disk_cache, room, transfer
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.disk_cache import DiskCache
from salver.store.artifacts.retries import Backoff

QUICK = Backoff(attempts=4, first=0.01, most=0.05)
Make = Callable[..., Manifest]


@pytest.fixture
def distant(web: WebServer) -> Iterator[ArtifactStore]:
    """A store behind the web server: everything in it has to be downloaded."""
    store = ArtifactStore(web.url, backoff=QUICK)
    yield store
    store.close()


@pytest.fixture
def make(web: WebServer, tmp_path: Path) -> Make:
    """Stores models that the web server has."""

    def make(name: str, **files: bytes) -> Manifest:
        return put(ArtifactStore(str(web.root)), tmp_path / "models" / name, **files)

    return make


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Files of a megabyte are large ones, for once."""
    for module in (transfer, disk_cache):
        monkeypatch.setattr(module, "CHUNK", 1 << 16)
    return 1 << 16


def put(store: ArtifactStore, folder: Path, **files: bytes) -> Manifest:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return store.put(folder)


def blob(root: Path, manifest: Manifest, index: int = 0) -> Path:
    return root / "blobs" / manifest.files[index].sha256


def spoil(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "partial").iterdir())


def test_artifacts_come_from_every_store(store: ArtifactStore, tmp_path: Path) -> None:
    weights = os.urandom(300_000)
    manifest = put(store, tmp_path / "m", weights=weights, config=b"{}", empty=b"", copy=weights)
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 20, store=store)
    path = cache.fetch(manifest.digest)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        "weights": weights,
        "config": b"{}",
        "empty": b"",
        "copy": weights,
    }
    assert cache.fetch(manifest.digest) == path
    assert left(tmp_path / "cache") == []


def test_large_files_come_in_chunks_from_s3(s3_store: ArtifactStore, tmp_path: Path, small_chunks: int) -> None:
    weights = os.urandom(20 * small_chunks + 17)
    manifest = put(s3_store, tmp_path / "m", weights=weights)
    told: list[tuple[int, int]] = []
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=s3_store)
    path = cache.fetch(manifest.digest, progress=lambda done, total: told.append((done, total)))
    assert (path / "weights").read_bytes() == weights
    assert len(told) >= 21
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (len(weights), len(weights))


def test_a_store_in_a_folder_shares_its_files(folder_store: ArtifactStore, tmp_path: Path) -> None:
    manifest = put(folder_store, tmp_path / "m", weights=os.urandom(5000))
    cache = DiskCache(tmp_path / "cache", max_bytes=1, store=folder_store)  # nothing is copied
    path = cache.fetch(manifest.digest)
    assert (path / "weights").samefile(blob(tmp_path / "store", manifest))
    assert cache.used_bytes() == 0


def test_what_is_here_is_held_without_a_download(distant: ArtifactStore, make: Make, tmp_path: Path) -> None:
    digest = make("m", weights=os.urandom(1000)).digest
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 20, store=distant)
    assert cache.hold_if_here(digest) is None
    path = cache.fetch(digest)
    assert cache.hold_if_here(digest) == path
    assert not cache.remove(digest)
    cache.release(digest)
    assert cache.remove(digest)
    assert cache.hold_if_here(digest) is None
    assert not any(artifact.held for artifact in cache.contents())


def test_a_file_of_many_models_is_there_once(distant: ArtifactStore, make: Make, tmp_path: Path) -> None:
    base = os.urandom(50_000)
    digests = [make(str(number), base=base, own=os.urandom(10)).digest for number in range(20)]
    cache = DiskCache(tmp_path / "cache", max_bytes=60_000, store=distant)
    paths = [cache.fetch(digest) for digest in digests]
    assert len({(path / "base").stat().st_ino for path in paths}) == 1
    assert cache.used_bytes() == 50_200
    assert len(cache.contents()) == 20


def test_where_there_are_no_hard_links_files_are_copied(
    distant: ArtifactStore, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_folder, "link", lambda source, target: False)
    monkeypatch.setattr(disk_cache, "link", lambda source, target: False)
    base = os.urandom(50_000)
    first, second = (make(name, base=base, copy=base, own=name.encode()).digest for name in ("a", "b"))
    cache = DiskCache(tmp_path / "cache", max_bytes=250_000, store=distant)
    assert (cache.fetch(first) / "copy").read_bytes() == base
    assert (cache.fetch(second) / "base").read_bytes() == base
    assert cache.used_bytes() == 200_002
    cache.remove(first)
    assert cache.used_bytes() == 100_001


def test_ten_waiters_cause_one_download(
    web: WebServer, distant: ArtifactStore, make: Make, tmp_path: Path, small_chunks: int
) -> None:
    digest = make("m", weights=os.urandom(10 * small_chunks), small=b"1").digest
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    told: list[list[int]] = [[] for _ in range(10)]
    barrier = threading.Barrier(10)

    def fetch(number: int) -> Path:
        barrier.wait(30)
        return cache.fetch(digest, progress=lambda done, total: told[number].append(done))

    with ThreadPoolExecutor(10) as pool:
        paths = set(pool.map(fetch, range(10)))
    assert paths == {tmp_path / "cache" / "artifacts" / digest}
    assert len(web.asked) == len(set(web.asked)) == 13  # the manifest, the small file, the size, ten chunks
    assert all(each == sorted(each) for each in told)


def test_waiters_hear_of_the_same_failure(web: WebServer, distant: ArtifactStore, make: Make, tmp_path: Path) -> None:
    digest = make("m", weights=b"weights").digest
    web.status = 500
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    barrier = threading.Barrier(5)

    def fetch(_: int) -> str:
        barrier.wait(30)
        with pytest.raises(StoreUnavailable) as caught:
            cache.fetch(digest)
        return str(caught.value)

    with ThreadPoolExecutor(5) as pool:
        texts = set(pool.map(fetch, range(5)))
    assert len(texts) == 1
    assert "status 500" in texts.pop()
    web.status = 0
    assert cache.fetch(digest).is_dir()


def test_a_store_that_stumbles_is_asked_again(
    web: WebServer, distant: ArtifactStore, make: Make, tmp_path: Path, small_chunks: int
) -> None:
    weights = os.urandom(10 * small_chunks)
    digest = make("m", weights=weights).digest
    web.failures = 2
    web.break_after, web.breaks = 1000, 3
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    assert (cache.fetch(digest) / "weights").read_bytes() == weights


def test_a_store_that_vanishes_in_the_middle_is_gone_on_with_when_it_is_back(
    distant_store: ArtifactStore, cable: Cable, tmp_path: Path, small_chunks: int
) -> None:
    weights = os.urandom(60 * small_chunks)
    manifest = put(distant_store, tmp_path / "m", weights=weights)
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant_store)
    cable.cut_after(len(weights) // 2)
    with pytest.raises(StoreUnavailable, match="failed 4 times"):
        cache.fetch(manifest.digest)
    assert not (tmp_path / "cache" / "artifacts" / manifest.digest).exists()
    cable.mend()
    before = cable.received
    assert (cache.fetch(manifest.digest) / "weights").read_bytes() == weights
    assert cable.received - before < 0.75 * len(weights)
    assert left(tmp_path / "cache") == []


def test_a_download_that_nobody_wants_any_more_is_given_up_and_gone_on_with(
    web: WebServer, distant: ArtifactStore, make: Make, tmp_path: Path, small_chunks: int
) -> None:
    weights = os.urandom(40 * small_chunks)
    digest = make("m", weights=weights).digest
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    came = 0

    def progress(done: int, total: int) -> None:
        nonlocal came
        came = done

    with pytest.raises(ModelUnavailable, match="given up"):
        cache.fetch(digest, progress=progress, cancelled=lambda: came > 3 * small_chunks)
    assert came < len(weights)
    web.asked.clear()
    assert (cache.fetch(digest) / "weights").read_bytes() == weights
    assert len(web.asked) < 40


def test_when_the_one_that_downloads_gives_up_a_waiter_goes_on(
    distant: ArtifactStore, make: Make, tmp_path: Path, small_chunks: int
) -> None:
    weights = os.urandom(40 * small_chunks)
    digest = make("m", weights=weights).digest
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    begun, waits = threading.Event(), threading.Event()

    def lead() -> None:
        def progress(done: int, total: int) -> None:
            begun.set()
            assert waits.wait(30)

        with pytest.raises(ModelUnavailable):
            cache.fetch(digest, progress=progress, cancelled=waits.is_set)

    def wait() -> bool:
        waits.set()
        return False

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(lead)
        assert begun.wait(30)
        follower = pool.submit(cache.fetch, digest, cancelled=wait)
        leader.result()
        assert (follower.result() / "weights").read_bytes() == weights


@pytest.mark.parametrize("content", [b"other b", b"short", b"longer than it was"])
def test_wrong_bytes_in_the_store_are_refused_after_a_second_try(
    web: WebServer, distant: ArtifactStore, make: Make, tmp_path: Path, content: bytes
) -> None:
    manifest = make("m", weights=b"weights")
    spoil(blob(web.root, manifest), content)
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    with pytest.raises(InvalidArtifact, match="corrupt"):
        cache.fetch(manifest.digest)
    asked = [path for path, _ in web.asked if "/blobs/" in path]
    assert len(asked) == 2
    assert left(tmp_path / "cache") == []
    assert cache.used_bytes() == 0
    spoil(blob(web.root, manifest), b"weights")
    assert (cache.fetch(manifest.digest) / "weights").read_bytes() == b"weights"


def test_wrong_bytes_in_a_folder_are_refused(folder_store: ArtifactStore, tmp_path: Path) -> None:
    manifest = put(folder_store, tmp_path / "m", weights=b"weights")
    spoil(blob(tmp_path / "store", manifest), b"w3ights")
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=folder_store)
    with pytest.raises(InvalidArtifact, match=r"store/blobs/\w+ is corrupt"):
        cache.fetch(manifest.digest)
    assert left(tmp_path / "cache") == []


def test_a_missing_blob_is_told(
    folder_store: ArtifactStore, distant: ArtifactStore, make: Make, tmp_path: Path
) -> None:
    manifest = put(folder_store, tmp_path / "m", weights=b"weights")
    blob(tmp_path / "store", manifest).unlink()
    with pytest.raises(InvalidArtifact, match="has no blobs/"):
        DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=folder_store).fetch(manifest.digest)
    manifest = make("far", weights=b"weights")
    blob(tmp_path / "web", manifest).unlink()
    with pytest.raises(InvalidArtifact, match="has no blobs/"):
        DiskCache(tmp_path / "other", max_bytes=1 << 30, store=distant).fetch(manifest.digest)


@pytest.mark.parametrize("content", [b"w3ights", b"short"])
def test_files_that_were_changed_in_the_cache_are_fetched_again(
    distant: ArtifactStore, make: Make, tmp_path: Path, content: bytes
) -> None:
    digest = make("m", weights=b"weights", other=b"other").digest
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    path = cache.fetch(digest)
    spoil(path / "weights", content)
    assert (cache.fetch(digest) / "weights").read_bytes() == b"weights"
    (path / "other").unlink()
    assert (cache.fetch(digest) / "other").read_bytes() == b"other"


def test_after_a_start_of_the_machine_files_are_checked_once(
    web: WebServer, distant: ArtifactStore, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = make("m", weights=b"weights").digest
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    path = cache.fetch(digest)
    status = (path / "weights").stat()
    # What a crash does: the file is there with its size and time, and has zeros in it.
    spoil(path / "weights", b"\0" * 7)
    os.utime(path / "weights", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (cache.fetch(digest) / "weights").read_bytes() == b"\0" * 7
    monkeypatch.setattr(cache_folder, "boot", lambda: "the next one")
    again = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    assert (again.fetch(digest) / "weights").read_bytes() == b"weights"
    asked = len(web.asked)
    assert (again.fetch(digest) / "weights").read_bytes() == b"weights"
    assert len(web.asked) == asked


def test_what_is_in_the_cache_needs_no_store(
    web: WebServer, distant: ArtifactStore, make: Make, tmp_path: Path
) -> None:
    digest = make("m", weights=b"weights").digest
    DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant).fetch(digest)
    web.status = 503
    assert DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant).fetch(digest).is_dir()


def test_the_least_recently_used_goes_first_and_what_is_held_stays(
    distant: ArtifactStore, make: Make, tmp_path: Path
) -> None:
    digests = [make(str(number), weights=os.urandom(1000)).digest for number in range(8)]
    cache = DiskCache(tmp_path / "cache", max_bytes=4500, store=distant)
    with cache.holding(digests[0]) as held:
        for number, digest in enumerate(digests):
            cache.fetch(digest)
            # Uses may be closer to each other than the clock of the file system can tell.
            os.utime(tmp_path / "cache" / "entries" / f"{digest}.json", (1000 + number, 1000 + number))
            assert cache.used_bytes() <= 4500
        assert (held / "weights").exists()
        assert not cache.remove(digests[0])
    assert [each.digest for each in cache.contents()] == [digests[0], *digests[5:]]
    assert cache.remove(digests[0])
    assert [each.size for each in cache.contents()] == [1000, 1000, 1000]


def test_holds_are_counted(distant: ArtifactStore, make: Make, tmp_path: Path) -> None:
    digest = make("m", weights=b"weights").digest
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    cache.hold(digest)
    cache.hold(digest)
    cache.release(digest)
    assert not cache.remove(digest)
    cache.release(digest)
    assert cache.remove(digest)
    assert cache.contents() == []
    cache.hold(digest)
    cache.close()
    cache.release(digest)
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    assert cache.remove(digest)
    assert cache.used_bytes() == 0


def test_a_cache_that_is_full_of_what_is_used_says_so(distant: ArtifactStore, make: Make, tmp_path: Path) -> None:
    first, second = (make(name, weights=os.urandom(1000)).digest for name in "ab")
    cache = DiskCache(tmp_path / "cache", max_bytes=1500, store=distant)
    with cache.holding(first), pytest.raises(Overloaded, match="1,000 of 1,500 bytes are in use, 1,000 more"):
        cache.fetch(second)
    assert cache.fetch(second).is_dir()


def test_an_artifact_that_is_larger_than_the_cache_is_refused_before_it_is_downloaded(
    web: WebServer, distant: ArtifactStore, make: Make, tmp_path: Path
) -> None:
    first, large = make("first", weights=b"1").digest, make("large", weights=os.urandom(2000)).digest
    cache = DiskCache(tmp_path / "cache", max_bytes=1500, store=distant)
    cache.fetch(first)
    web.asked.clear()
    with pytest.raises(LoadError, match=r"has 2,000 bytes; the disk cache .* may have 1,500"):
        cache.fetch(large)
    assert not [path for path, _ in web.asked if "/blobs/" in path]
    assert [each.digest for each in cache.contents()] == [first]


def test_a_disk_that_fills_up_gives_what_nobody_uses(
    distant: ArtifactStore, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (make(name, weights=os.urandom(1000)).digest for name in "ab")
    cache = DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant)
    cache.fetch(first)

    def reserve(partial: Path, size: int) -> None:
        if (tmp_path / "cache" / "artifacts" / first).exists():
            raise OSError(28, "No space left on device")
        transfer.reserve(partial, size)

    monkeypatch.setattr(room, "reserve", reserve)
    assert cache.fetch(second).is_dir()
    assert [each.digest for each in cache.contents()] == [second]


def test_a_folder_that_cannot_be_made_is_told(distant: ArtifactStore, make: Make, tmp_path: Path) -> None:
    digest = make("m", weights=b"weights").digest
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match=r"the disk cache .*/cache: a file stands where a folder is needed"):
        DiskCache(tmp_path / "cache", max_bytes=1 << 30, store=distant).fetch(digest)


@pytest.mark.parametrize("digest", ["", "../../etc", "0" * 63])
def test_digests_that_are_none_are_refused(distant: ArtifactStore, tmp_path: Path, digest: str) -> None:
    cache = DiskCache(tmp_path / "cache", max_bytes=1, store=distant)
    with pytest.raises(InvalidArtifact, match="not a SHA-256"):
        cache.fetch(digest)
    assert not (tmp_path / "cache").exists()


def test_left_overs_of_killed_processes_go_when_room_is_needed(
    distant: ArtifactStore, make: Make, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    DiskCache(root, max_bytes=1500, store=distant).fetch(make("first", weights=b"1").digest)
    (root / "partial" / ("aa" * 32)).write_bytes(b"x" * 1000)
    (root / "partial" / f"{'aa' * 32}.chunks").write_bytes(b"x")
    (root / "partial" / f"{'bb' * 32}.artifact").mkdir()
    os.link(root / "partial" / ("aa" * 32), root / "blobs" / ("cc" * 32))
    os.link(root / "blobs" / ("cc" * 32), root / "partial" / f"{'bb' * 32}.artifact" / "file")
    (root / "partial" / f"{'dd' * 32}.1.trash").mkdir()
    cache = DiskCache(root, max_bytes=1500, store=distant)
    cache.fetch(make("second", weights=os.urandom(1400)).digest)
    assert left(root) == []
    assert cache.used_bytes() == 1401


def test_threads_may_fetch_and_remove_at_the_same_time(distant: ArtifactStore, make: Make, tmp_path: Path) -> None:
    base = os.urandom(10_000)
    contents = {make(str(n), base=base, own=str(n).encode()).digest: str(n).encode() for n in range(6)}
    cache = DiskCache(tmp_path / "cache", max_bytes=15_000, store=distant)

    def use(seed: int) -> None:
        for step in range(25):
            digest = list(contents)[(seed * 7 + step) % len(contents)]
            with cache.holding(digest) as path:
                assert (path / "own").read_bytes() == contents[digest]
                assert (path / "base").read_bytes() == base
            cache.remove(digest)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(6)))
    assert cache.used_bytes() <= 15_000
