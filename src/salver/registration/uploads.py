"""Uploads of artifacts that can be broken off and taken up again, in a folder of the server's disk.

What lies on disk is the truth: no state in memory has to be kept in step with it, so that a restart or ``kill -9``
costs no more than the bytes that weren't written yet::

    UPLOAD/upload.json     which version the upload is for, and its files; written once, in one step
    UPLOAD/partial/SHA256  what has come of a file, from its beginning
    UPLOAD/blobs/SHA256    a file that is whole, and whose SHA-256 was checked
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any

from salver.core.artifact import ArtifactFile, Manifest, manifest_of
from salver.core.errors import (
    Conflict,
    InvalidArtifact,
    InvalidRequest,
    Overloaded,
    RequestTooLarge,
    StoreUnavailable,
    UnknownUpload,
)
from salver.core.registry import VersionMetadata

_log = logging.getLogger("salver.uploads")

_DESCRIPTION = "upload.json"
_ID_DIGITS = 32
_GONE = ".gone-"
_EMPTY_SECONDS = 600.0
"""After which an upload that nothing has come of makes room, where there are as many as may be."""
_HEX = frozenset("0123456789abcdef")


class WrongOffset(Conflict):
    """Bytes were sent for another place of the file than its end; ``received`` bytes are there."""

    def __init__(self, message: str, *, received: int) -> None:
        super().__init__(message)
        self.received = received


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that is under way.

    Attributes:
        upload_id: which.
        name: the model.
        version: that it is to become; "" for the next number.
        manifest: its files.
        metadata: what is told of the version.
    """

    upload_id: str
    name: str
    version: str
    manifest: Manifest
    metadata: VersionMetadata = field(default_factory=VersionMetadata)

    def blobs(self) -> dict[str, ArtifactFile]:
        """One file by each SHA-256 that the upload has."""
        return {file.sha256: file for file in self.manifest.files}


class Uploads:
    """The uploads in a folder. Blocks on the disk; safe to share between threads, not between processes.

    Args:
        folder: of the server's own; made where it doesn't exist.
        max_bytes: that an artifact may have.
        max_open: uploads that may be under way at a time.
        expire_seconds: after which an upload that nothing was sent for is forgotten.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, max_open: int = 64, expire_seconds: float = 24 * 3600.0
    ) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        self._max_open = max_open
        self._expire_seconds = expire_seconds
        self._lock = threading.Lock()
        self._writing: dict[str, set[str]] = {}  # upload -> blobs that somebody writes or checks
        self._known: dict[str, Upload] = {}  # read already: a list of thousands of files isn't parsed for every chunk

    def begin(self, name: str, version: str, manifest: Manifest, metadata: VersionMetadata) -> Upload:
        """The upload of these files as this version: a new one, or the one that was begun before.

        Raises:
            InvalidArtifact: files contradict each other.
            RequestTooLarge: the artifact is larger than it may be.
            Overloaded: too many uploads are under way.
            StoreUnavailable: the disk can't be written to.
        """
        check_sizes(manifest)
        if manifest.size > self.max_bytes:
            raise RequestTooLarge(
                f"the artifact has {manifest.size} bytes; the server takes {self.max_bytes} (max_artifact_bytes)"
            )
        upload = Upload(_upload_id(name, version, manifest.digest), name, version, manifest, metadata)
        folder = self._folder / upload.upload_id
        with self._lock, _writable():
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (folder / _DESCRIPTION).exists():
                self._make_room()
                (folder / "partial").mkdir(parents=True, exist_ok=True)
                (folder / "blobs").mkdir(exist_ok=True)
            _write_at_once(folder / _DESCRIPTION, _describe(upload))
            self._known[upload.upload_id] = upload
        return upload

    def check_space(self, needed: int) -> None:
        """Refuse what the disk has no room for, before it is sent.

        Raises:
            StoreUnavailable: fewer than ``needed`` bytes are free.
        """
        with _writable():
            free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise StoreUnavailable(f"the server's disk has {free} bytes free, and {needed} are still to come")

    def get(self, upload_id: str) -> Upload:
        """An upload that is under way.

        Raises:
            UnknownUpload: there is no such upload.
        """
        if len(upload_id) != _ID_DIGITS or not _HEX.issuperset(upload_id):
            raise _unknown(upload_id)
        description = self._folder / upload_id / _DESCRIPTION
        with self._lock:
            upload = self._known.get(upload_id)
            if upload is not None and description.exists():
                return upload
            try:
                upload = self._known[upload_id] = _read(upload_id, description.read_bytes())
            except FileNotFoundError:
                self._known.pop(upload_id, None)
                raise _unknown(upload_id) from None
            return upload

    def touch(self, upload: Upload) -> None:
        """Keep an upload from expiring: somebody is at work on it."""
        with suppress(OSError):
            os.utime(self._folder / upload.upload_id / _DESCRIPTION)

    def received(self, upload: Upload, sha256: str) -> int:
        """Bytes of a blob that have come."""
        folder = self._folder / upload.upload_id
        for path in (folder / "blobs" / sha256, folder / "partial" / sha256):
            with suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    @contextmanager
    def appending(self, upload: Upload, sha256: str, offset: int) -> Iterator[BlobWriter]:
        """Write bytes from ``offset`` on, which must be where the blob ends so far. One writer a blob at a time.

        Where the block ends as it should and the blob is whole, it is checked.

        Raises:
            InvalidRequest: the upload has no such blob.
            UnknownUpload: the upload was given up.
            WrongOffset: the offset isn't the blob's end, or somebody else writes to it.
            RequestTooLarge: more bytes come than the blob has.
            InvalidArtifact: the blob is whole, and has another SHA-256. It starts anew.
            StoreUnavailable: the disk is full, or can't be written to.
        """
        file = upload.blobs().get(sha256)
        if file is None:
            raise InvalidRequest(f"the upload has no file with the SHA-256 {sha256[:80]!r}")
        with self._sole_writer(upload, sha256):
            received = self.received(upload, sha256)
            if offset != received:
                raise WrongOffset(
                    f"{received} bytes of {file.path!r} are here already; go on from there, not from {offset}",
                    received=received,
                )
            folder = self._folder / upload.upload_id
            if self._is_whole(upload, file):
                yield BlobWriter(None, file, received)
                return
            with _writable(), (folder / "partial" / sha256).open("ab") as opened:
                try:
                    yield BlobWriter(opened.fileno(), file, received)
                finally:
                    self.touch(upload)
            if not (folder / _DESCRIPTION).exists():
                raise _unknown(upload.upload_id)  # it was given up meanwhile
            if self.received(upload, sha256) == file.size:
                self._check(upload, file)

    def complete(self, upload: Upload, file: ArtifactFile) -> Path | None:
        """A file's bytes, checked; None where not all of them have come.

        Raises:
            InvalidArtifact: they have, and are wrong ones. The file starts anew.
            WrongOffset: somebody writes to it.
        """
        whole = self._folder / upload.upload_id / "blobs" / file.sha256
        if whole.exists():
            return whole
        if self.received(upload, file.sha256) != file.size:
            return None
        with self._sole_writer(upload, file.sha256):
            if not whole.exists():
                # Whole, and the server died before it was checked; or nothing has to be sent of an empty file.
                with _writable():
                    (whole.parent.parent / "partial" / file.sha256).touch()
                self._check(upload, file)
        return whole

    def remove(self, upload_id: str) -> None:
        """Forget an upload and what has come of it; nothing where there is no such upload."""
        gone = self._folder / f"{_GONE}{upload_id}-{os.getpid()}-{threading.get_ident()}"
        with suppress(OSError):
            os.rename(self._folder / upload_id, gone)  # in one step: a half of an upload is never seen
        shutil.rmtree(gone, ignore_errors=True)
        self._known.pop(upload_id, None)

    def remove_expired(self) -> int:
        """Forget uploads that nothing was sent for in a long time, and what a killed server has left; how many."""
        with self._lock:
            return self._remove_expired()

    def open_count(self) -> int:
        """How many uploads are under way."""
        return sum(1 for _ in self._entries())

    def _remove_expired(self, *, empty_only: bool = False, seconds: float | None = None) -> int:
        removed = 0
        longest = self._expire_seconds if seconds is None else min(seconds, self._expire_seconds)
        with suppress(FileNotFoundError):
            for entry in list(os.scandir(self._folder)):
                if entry.name.startswith(_GONE):
                    shutil.rmtree(entry.path, ignore_errors=True)
        for folder in list(self._entries()):
            if self._writing.get(folder.name):
                continue
            if time() - _last_use(folder) > longest and not (empty_only and _has_bytes(folder)):
                _log.info("upload %s has expired", folder.name)
                self.remove(folder.name)
                removed += 1
        return removed

    def _make_room(self) -> None:
        if self.open_count() >= self._max_open:
            self._remove_expired()
        if self.open_count() >= self._max_open:
            self._remove_expired(empty_only=True, seconds=_EMPTY_SECONDS)
        if self.open_count() >= self._max_open:
            raise Overloaded(
                f"{self._max_open} uploads are under way, as many as may be; try again later, or give some up",
                retry_after=30.0,
            )

    def _entries(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                if not entry.name.startswith(".") and entry.is_dir():
                    yield Path(entry.path)

    @contextmanager
    def _sole_writer(self, upload: Upload, sha256: str) -> Iterator[None]:
        with self._lock:
            writing = self._writing.setdefault(upload.upload_id, set())
            if sha256 in writing:
                raise WrongOffset(
                    "another request sends or checks this file just now; ask what was received, and go on from there",
                    received=self.received(upload, sha256),
                )
            writing.add(sha256)
        try:
            yield
        finally:
            with self._lock:
                writing.discard(sha256)
                if not writing:
                    self._writing.pop(upload.upload_id, None)

    def _is_whole(self, upload: Upload, file: ArtifactFile) -> bool:
        return (self._folder / upload.upload_id / "blobs" / file.sha256).exists()

    def _check(self, upload: Upload, file: ArtifactFile) -> None:
        folder = self._folder / upload.upload_id
        partial = folder / "partial" / file.sha256
        with _writable():
            with partial.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found == file.sha256:
                os.replace(partial, folder / "blobs" / file.sha256)
                return
            partial.unlink()
        raise InvalidArtifact(
            f"{file.path!r} came with other bytes than announced: expected the SHA-256 {file.sha256}, got {found}. "
            "It changed while it was read, or on the way; send it again from its beginning"
        )


class BlobWriter:
    """Takes a blob's next bytes; ``received`` says how many have come altogether."""

    def __init__(self, descriptor: int | None, file: ArtifactFile, received: int) -> None:
        self._descriptor = descriptor
        self._file = file
        self.received = received

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            RequestTooLarge: there are more than the file is to have; nothing of ``data`` is written.
            StoreUnavailable: the disk is full, or can't be written to.
        """
        if self.received + len(data) > self._file.size:
            raise RequestTooLarge(f"{self._file.path!r} was announced with {self._file.size} bytes, and more came")
        left = memoryview(data)
        with _writable():
            while left:
                assert self._descriptor is not None
                written = os.write(self._descriptor, left)
                self.received += written
                left = left[written:]


def check_sizes(manifest: Manifest) -> None:
    """Refuse files that can't be: one content has one size.

    Raises:
        InvalidArtifact: there is a SHA-256 with two sizes.
    """
    sizes: dict[str, ArtifactFile] = {}
    for file in manifest.files:
        other = sizes.setdefault(file.sha256, file)
        if other.size != file.size:
            raise InvalidArtifact(f"{other.path!r} and {file.path!r} have one SHA-256 and different sizes")


def _unknown(upload_id: str) -> UnknownUpload:
    return UnknownUpload(
        f"there is no upload {upload_id[:80]!r}: it was committed, given up, or has expired; begin the push anew"
    )


def _upload_id(name: str, version: str, digest: str) -> str:
    return hashlib.sha256(f"{name}\0{version}\0{digest}".encode()).hexdigest()[:_ID_DIGITS]


def _describe(upload: Upload) -> bytes:
    return json.dumps(
        {
            "name": upload.name,
            "version": upload.version,
            "files": [[file.path, file.size, file.sha256] for file in upload.manifest.files],
            "metadata": dataclasses.asdict(upload.metadata),
        }
    ).encode()


def _read(upload_id: str, description: bytes) -> Upload:
    found: Mapping[str, Any] = json.loads(description)
    return Upload(
        upload_id,
        found["name"],
        found["version"],
        manifest_of(ArtifactFile(*each) for each in found["files"]),
        VersionMetadata(**found["metadata"]),
    )


def _write_at_once(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def _last_use(folder: Path) -> float:
    for path in (folder / _DESCRIPTION, folder):
        with suppress(OSError):
            return path.stat().st_mtime
    return time()


def _has_bytes(folder: Path) -> bool:
    """Whether anything has come of an upload."""
    with suppress(FileNotFoundError):
        return any(os.listdir(folder / part) for part in ("partial", "blobs"))
    return False


@contextmanager
def _writable() -> Iterator[None]:
    """What the disk refuses, in words."""
    try:
        yield
    except FileNotFoundError:
        raise UnknownUpload("the upload was given up or has expired; begin the push anew") from None
    except OSError as error:
        raise StoreUnavailable(f"the server can't write the upload to its disk: {error.strerror}") from error
