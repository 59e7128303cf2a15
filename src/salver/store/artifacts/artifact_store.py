"""The artifact store: files by their SHA-256, and manifests that name the files of an artifact."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from salver.core.artifact import ArtifactFile, Manifest, manifest_of
from salver.core.errors import InvalidArtifact
from salver.store.artifacts.backend import StoredFile
from salver.store.artifacts.describe import describe
from salver.store.artifacts.folder import INCOMING
from salver.store.artifacts.hashing import check_sha256
from salver.store.artifacts.locations import open_backend
from salver.store.artifacts.retries import Backoff
from salver.store.artifacts.transfer import Source

PARALLEL = 8
MAX_MANIFEST_BYTES = 64 << 20
LEASE_SECONDS = 60.0
"""A blob that is asked for, and older than this, gets a lease: a mark that somebody is about to use it."""

_EMPTY: Mapping[str, Any] = {}


class ArtifactStore:
    """Artifacts below one URL. Every method blocks and may be called on any thread.

    Layout: ``blobs/<sha256>``, ``manifests/<digest>.json`` and ``leases/<sha256>``, empty files whose age tells when
    a blob was last asked for. Every file is visible as a whole or not at all, and blobs before the manifests that name
    them, so that a process may be killed at any time.
    """

    def __init__(self, url: str, *, options: Mapping[str, Any] = _EMPTY, backoff: Backoff | None = None) -> None:
        """Connects to nothing.

        Args:
            url: a folder, or an fsspec URL such as ``s3://bucket/path``. ``http(s)://`` and ``hf://`` are read only.
            options: what fsspec's file system of this protocol takes (credentials, endpoints).
            backoff: how often operations are tried that fail.

        Raises:
            InvalidConfig: the URL can't be understood.
            MissingDependency: its protocol needs a package that isn't installed; the text names the extra.
        """
        self._backend = open_backend(url, options=options, backoff=backoff or Backoff())

    def close(self) -> None:
        """End its connections; it must not be used any more."""
        self._backend.close()

    @property
    def name(self) -> str:
        """The URL without secrets, for messages."""
        return self._backend.name

    @property
    def read_only(self) -> bool:
        """Whether nothing can be stored there."""
        return self._backend.read_only

    def has_blob(self, sha256: str, *, size: int | None = None) -> bool:
        """Whether a blob is there; if so, the garbage collection leaves it alone for a while.

        Args:
            sha256: the blob's.
            size: that it is to have; one of another size isn't there. None for any.

        Raises:
            InvalidArtifact: ``sha256`` can't be one.
            StoreUnavailable: the store can't be reached.
        """
        found = self._backend.info(_blob(sha256))
        if found is None or (size is not None and found.size != size):
            return False
        self._lease(sha256, found)
        return True

    def put_blob(self, path: Path, file: ArtifactFile, *, consume: bool = False) -> None:
        """Store a file; nothing happens if it is there already.

        Args:
            path: where it lies on disk.
            file: its size and SHA-256, which are checked.
            consume: whether it may be moved away rather than copied, where that is faster.

        Raises:
            InvalidArtifact: its size or SHA-256 is another.
            StoreUnavailable: the store can't be reached, is read only or full.
        """
        found = self._backend.info(_blob(file.sha256))
        if found is not None and found.size == file.size:
            self._lease(file.sha256, found)
            return
        self._backend.put_file(path, file, _blob(file.sha256), consume=consume)

    def put_manifest(self, manifest: Manifest) -> None:
        """Make an artifact visible, whose blobs are stored.

        Raises:
            InvalidArtifact: a blob is missing or has another size.
            StoreUnavailable: the store can't be reached, is read only or full.
        """
        files = [[file.path, file.size, file.sha256] for file in manifest.files]
        self._check_blobs(manifest)
        path = _manifest(manifest.digest)
        self._backend.put_bytes(json.dumps({"files": files}, separators=(",", ":")).encode(), path)
        try:
            # Once more, for a garbage collection that had begun before the manifest could be seen.
            self._check_blobs(manifest)
        except InvalidArtifact:
            self._backend.remove(path)
            raise

    def put(self, path: Path, *, progress: Callable[[int, int], None] | None = None) -> Manifest:
        """Store a file or folder on disk as an artifact.

        Args:
            path: the file or folder.
            progress: called with the bytes stored, and all bytes.

        Raises:
            InvalidArtifact: see :func:`salver.store.artifacts.describe.describe`.
            StoreUnavailable: the store can't be reached, is read only or full.
        """
        manifest = describe(path)
        done = 0
        for file in manifest.files:
            self.put_blob(path / file.path if path.is_dir() else path, file)
            done += file.size
            if progress is not None:
                progress(done, manifest.size)
        self.put_manifest(manifest)
        return manifest

    def manifest(self, digest: str) -> Manifest:
        """The files of an artifact.

        Raises:
            InvalidArtifact: there is none of this digest, or its manifest is corrupt.
            StoreUnavailable: the store can't be reached.
        """
        path = _manifest(digest)
        try:
            data = self._backend.read(path, 0, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            raise InvalidArtifact(f"{self.name} has no artifact {digest[:12]}...; push the model again") from None
        manifest = parse_manifest(data)
        if manifest is None or manifest.digest != digest:
            raise InvalidArtifact(f"{self.name}: {path} is corrupt; remove it, and push the model again")
        return manifest

    def read_blob(self, sha256: str, *, start: int = 0, end: int | None = None) -> bytes:
        """Bytes of a blob, from ``start`` up to ``end``; fewer where it ends. Not checked.

        Raises:
            InvalidArtifact: it isn't in the store.
            StoreUnavailable: the store can't be reached.
        """
        path = _blob(sha256)
        try:
            if end is None:
                found = self._backend.info(path)
                if found is None:
                    raise FileNotFoundError
                end = found.size or 0
            return self._backend.read(path, start, end) if end > start else b""
        except FileNotFoundError:
            raise self.missing(sha256) from None

    def source(self, sha256: str) -> Source:
        """A blob to download."""
        return Source(self._backend, _blob(sha256))

    def local_blob(self, sha256: str) -> Path | None:
        """The file that is a blob, where the store is a folder; it may not be there."""
        return self._backend.local(_blob(sha256))

    def missing(self, sha256: str) -> InvalidArtifact:
        """The error for a blob that isn't there."""
        return InvalidArtifact(f"{self.name} has no {_blob(sha256)}, which an artifact needs; push the model again")

    def collect_garbage(self, *, live: Collection[str], older_than: float) -> int:
        """Remove manifests that aren't live, and blobs that no manifest names; the number of files removed.

        Args:
            live: the digests of the artifacts that are still needed.
            older_than: seconds since a file was stored or asked for. What is younger stays: it may belong to a push
                that goes on. Choose more than the longest push takes, and more than a few minutes.

        Raises:
            InvalidArtifact: the manifest of a live artifact is corrupt; no blob is removed then.
            StoreUnavailable: the store can't be reached or is read only.
        """
        keep, before = frozenset(live), time.time() - older_than
        # In this order: blobs that come later are not in the list, manifests that come later are read.
        blobs = self._backend.list("blobs")
        removed = 0
        digests: list[str] = []
        for each in self._backend.list("manifests"):
            digest = each.path.removeprefix("manifests/").removesuffix(".json")
            if digest not in keep and _is_older(each, before):
                self._backend.remove(each.path)
                removed += 1
            else:
                digests.append(digest)
        named = self._named(digests, keep)
        leases = {each.path.removeprefix("leases/"): each for each in self._backend.list("leases")}
        for blob in blobs:
            sha256 = blob.path.removeprefix("blobs/")
            lease = leases.get(sha256)
            if sha256 in named or not _is_older(blob, before) or (lease and not _is_older(lease, before)):
                continue
            again = self._backend.info(_lease(sha256))
            if again is None or _is_older(again, before):
                self._backend.remove(blob.path)
                removed += 1
        unfinished = self._backend.list(INCOMING)
        for each in (*leases.values(), *unfinished):
            if _is_older(each, before):
                self._backend.remove(each.path)
        return removed

    def _named(self, digests: list[str], live: frozenset[str]) -> set[str]:
        """The SHA-256 of all blobs that manifests name."""

        def files(digest: str) -> list[str]:
            try:
                return [file.sha256 for file in self.manifest(digest).files]
            except InvalidArtifact:
                if digest in live and self._backend.info(_manifest(digest)) is not None:
                    raise
                return []

        with ThreadPoolExecutor(PARALLEL, "salver-garbage") as pool:
            return {sha256 for named in pool.map(files, digests) for sha256 in named}

    def _check_blobs(self, manifest: Manifest) -> None:
        sizes = {file.sha256: file for file in manifest.files}

        def check(file: ArtifactFile) -> None:
            found = self._backend.info(_blob(file.sha256))
            if found is None or found.size != file.size:
                raise InvalidArtifact(f"{file.path!r} wasn't stored as a whole; push the model again")

        if len(sizes) == 1 or self._backend.local("") is not None:
            for file in sizes.values():
                check(file)
            return
        with ThreadPoolExecutor(min(PARALLEL, len(sizes)), "salver-check") as pool:
            list(pool.map(check, sizes.values()))

    def _lease(self, sha256: str, blob: StoredFile) -> None:
        before = time.time() - LEASE_SECONDS
        if self.read_only or not _is_older(blob, before):
            return
        lease = self._backend.info(_lease(sha256))
        if lease is None or _is_older(lease, before):
            self._backend.put_bytes(b"", _lease(sha256))


def parse_manifest(data: bytes) -> Manifest | None:
    """The manifest that bytes say; None where they don't say one."""
    try:
        return manifest_of(ArtifactFile(path, size, sha256) for path, size, sha256 in json.loads(data)["files"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidArtifact):
        return None


def _is_older(file: StoredFile, before: float) -> bool:
    # Where the place doesn't tell the time, nothing is ever thought to be old.
    return file.modified is not None and file.modified <= before


def _blob(sha256: str) -> str:
    return f"blobs/{check_sha256(sha256)}"


def _manifest(digest: str) -> str:
    return f"manifests/{check_sha256(digest)}.json"


def _lease(sha256: str) -> str:
    return f"leases/{check_sha256(sha256)}"
