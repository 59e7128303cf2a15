from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from artifact_servers import Cable, WebServer, s3_options

from salver.core.artifact import ArtifactFile
from salver.core.errors import InvalidArtifact, StoreUnavailable
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.describe import describe
from salver.store.artifacts.retries import Backoff


def model(folder: Path, **files: bytes) -> Path:
    """A model's folder; "__" in names stands for "/"."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def stored(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_what_is_stored_comes_back(store: ArtifactStore, tmp_path: Path) -> None:
    weights = os.urandom(100_000)
    manifest = store.put(model(tmp_path / "m", model=weights, part__vocabulary=b"a b c", part__empty=b""))
    assert store.manifest(manifest.digest) == manifest
    by_path = {file.path: file for file in manifest.files}
    assert sorted(by_path) == ["model", "part/empty", "part/vocabulary"]
    sha256 = by_path["model"].sha256
    assert store.read_blob(sha256) == weights
    assert store.read_blob(sha256, start=10, end=20) == weights[10:20]
    assert store.read_blob(sha256, start=99_990, end=200_000) == weights[99_990:]
    assert store.read_blob(by_path["part/empty"].sha256) == b""


def test_storing_again_changes_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", model=b"weights")
    assert store.put(folder) == store.put(folder)
    file = describe(folder).files[0]
    # Nothing is read when the blob is there.
    store.put_blob(tmp_path / "not there", file)


def test_what_is_not_there_is_told(store: ArtifactStore) -> None:
    nothing = "0" * 64
    assert not store.has_blob(nothing)
    with pytest.raises(InvalidArtifact, match="no artifact 000000000000"):
        store.manifest(nothing)
    with pytest.raises(InvalidArtifact, match="push the model again"):
        store.read_blob(nothing)
    with pytest.raises(InvalidArtifact, match="push the model again"):
        store.read_blob(nothing, start=0, end=10)


@pytest.mark.parametrize("name", ["", "../../../etc/passwd", "0" * 63, "A" * 64, "0" * 63 + "\n"])
def test_digests_that_are_none_are_refused(folder_store: ArtifactStore, name: str) -> None:
    for ask in (folder_store.has_blob, folder_store.manifest, folder_store.read_blob):
        with pytest.raises(InvalidArtifact, match="not a SHA-256"):
            ask(name)


@pytest.mark.parametrize("consume", [False, True])
def test_other_bytes_than_announced_are_refused(store: ArtifactStore, tmp_path: Path, *, consume: bool) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    file = describe(path).files[0]
    path.write_bytes(b"w3ights")
    with pytest.raises(InvalidArtifact, match="SHA-256"):
        store.put_blob(path, file, consume=consume)
    path.write_bytes(b"weights and more")
    with pytest.raises(InvalidArtifact, match="16 bytes; 7 were announced"):
        store.put_blob(path, file, consume=consume)
    assert not store.has_blob(file.sha256)


def test_manifests_come_after_their_blobs(store: ArtifactStore, tmp_path: Path) -> None:
    manifest = describe(model(tmp_path / "m", a=b"1", b=b"2"))
    store.put_blob(tmp_path / "m" / "a", manifest.files[0])
    with pytest.raises(InvalidArtifact, match="'b' wasn't stored"):
        store.put_manifest(manifest)
    with pytest.raises(InvalidArtifact, match="no artifact"):
        store.manifest(manifest.digest)


def test_garbage_is_collected(store: ArtifactStore, tmp_path: Path) -> None:
    shared = os.urandom(1000)
    keep = store.put(model(tmp_path / "keep", shared=shared, own=b"keep"))
    drop = store.put(model(tmp_path / "drop", shared=shared, own=b"drop"))
    assert store.collect_garbage(live={keep.digest}, older_than=3600) == 0
    assert store.manifest(drop.digest) == drop
    assert store.collect_garbage(live={keep.digest}, older_than=-60) == 2  # a manifest, and its one blob
    with pytest.raises(InvalidArtifact):
        store.manifest(drop.digest)
    assert store.manifest(keep.digest) == keep
    assert [store.has_blob(file.sha256) for file in keep.files] == [True, True]
    assert not store.has_blob(next(file.sha256 for file in drop.files if file.path == "own"))


def test_blobs_that_a_push_asks_for_are_not_collected(folder_store: ArtifactStore, tmp_path: Path) -> None:
    manifest = folder_store.put(model(tmp_path / "m", model=b"weights"))
    sha256 = manifest.files[0].sha256
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)
    assert folder_store.has_blob(sha256)  # a push begins
    assert folder_store.collect_garbage(live=(), older_than=3600) == 1  # the manifest only
    folder_store.put_manifest(manifest)
    assert folder_store.manifest(manifest.digest) == manifest


def test_no_blob_is_collected_while_a_live_manifest_is_corrupt(folder_store: ArtifactStore, tmp_path: Path) -> None:
    manifest = folder_store.put(model(tmp_path / "m", model=b"weights"))
    path = tmp_path / "store" / "manifests" / f"{manifest.digest}.json"
    path.chmod(0o644)
    path.write_bytes(b'{"files": []}')
    with pytest.raises(InvalidArtifact, match="corrupt"):
        folder_store.collect_garbage(live={manifest.digest}, older_than=-60)
    assert folder_store.has_blob(manifest.files[0].sha256)
    assert folder_store.collect_garbage(live=(), older_than=-60) == 2


@pytest.mark.parametrize(
    "said", [b"", b"[]", b'{"files": 3}', b'{"files": [["../x", 1, "' + b"0" * 64 + b'"]]}', b"[" * 100_000]
)
def test_corrupt_manifests_are_told(folder_store: ArtifactStore, tmp_path: Path, said: bytes) -> None:
    digest = "ab" * 32
    folder = tmp_path / "store" / "manifests"
    folder.mkdir(parents=True)
    (folder / f"{digest}.json").write_bytes(said)
    with pytest.raises(InvalidArtifact, match="corrupt"):
        folder_store.manifest(digest)


def test_a_folder_has_nothing_half_made(folder_store: ArtifactStore, tmp_path: Path) -> None:
    manifest = folder_store.put(model(tmp_path / "m", model=b"weights"))
    with pytest.raises(InvalidArtifact):
        folder_store.put_blob(tmp_path / "m" / "model", ArtifactFile("model", 7, "ff" * 32))
    sha256 = manifest.files[0].sha256
    assert stored(tmp_path / "store") == [f"blobs/{sha256}", f"manifests/{manifest.digest}.json"]
    assert stat.S_IMODE((tmp_path / "store" / "blobs" / sha256).stat().st_mode) == 0o444


def test_a_file_can_be_moved_into_the_store(folder_store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"weights")
    os.utime(path, (1, 1))
    inode, file = path.stat().st_ino, describe(path).files[0]
    folder_store.put_blob(path, file, consume=True)
    assert not path.exists()
    blob = folder_store.local_blob(file.sha256)
    assert blob is not None
    assert blob.stat().st_ino == inode
    assert blob.stat().st_mtime > time.time() - 60  # its age counts from now on


def test_a_truncated_blob_is_replaced(folder_store: ArtifactStore, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", model=b"weights")
    manifest = folder_store.put(folder)
    blob = folder_store.local_blob(manifest.files[0].sha256)
    assert blob is not None
    blob.unlink()
    blob.write_bytes(b"wei")
    folder_store.put(folder)
    assert blob.read_bytes() == b"weights"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = ArtifactStore(str(tmp_path / "file" / "store"))
    with pytest.raises(StoreUnavailable, match="a file stands where a folder is needed"):
        store.put(model(tmp_path / "m", model=b"weights"))


def test_large_files_go_to_s3_in_parts(s3_store: ArtifactStore, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 120
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    told: list[tuple[int, int]] = []
    manifest = s3_store.put(path, progress=lambda done, total: told.append((done, total)))
    assert told == [(len(content), len(content))]
    sha256 = manifest.files[0].sha256
    assert s3_store.read_blob(sha256, start=len(content) - 100, end=len(content)) == content[-100:]


def test_a_store_that_is_gone_is_told_and_one_that_is_back_is_used(
    distant_store: ArtifactStore, cable: Cable, tmp_path: Path
) -> None:
    manifest = distant_store.put(model(tmp_path / "m", model=b"weights"))
    cable.cut()
    with pytest.raises(StoreUnavailable, match=r"s3://models-\w+/store: reading manifests/\w+.json failed 4 times"):
        distant_store.manifest(manifest.digest)
    cable.mend()
    assert distant_store.manifest(manifest.digest) == manifest


def test_a_bucket_that_does_not_exist_is_told(s3_port: int, tmp_path: Path) -> None:
    store = ArtifactStore("s3://no-such-bucket/x", options=s3_options(s3_port), backoff=Backoff(attempts=1))
    with pytest.raises(StoreUnavailable, match="does the bucket exist"):
        store.put(model(tmp_path / "m", model=b"weights"))


def test_a_copy_behind_a_web_server_is_read_only(web: WebServer, tmp_path: Path) -> None:
    manifest = ArtifactStore(str(web.root)).put(model(tmp_path / "m", model=b"weights"))
    store = ArtifactStore(f"{web.url}/")
    assert store.manifest(manifest.digest) == manifest
    assert store.read_only
    assert store.has_blob(manifest.files[0].sha256)
    assert store.read_blob(manifest.files[0].sha256, start=2) == b"ights"
    with pytest.raises(StoreUnavailable, match="read only"):
        store.put(model(tmp_path / "other", model=b"other"))
    with pytest.raises(StoreUnavailable, match="can't be listed"):
        store.collect_garbage(live=(), older_than=0)
