"""Downloads a version's files into a folder that is there as a whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import httpx2

from salver.client.client import failure
from salver.client.exchange import Answer
from salver.client.model_store import Progress, Tally, model_path, quoted
from salver.core.artifact import ArtifactFile
from salver.core.errors import InvalidArtifact, InvalidRequest, MalformedBody, ServerUnreachable
from salver.wire.model_store_json import decode_manifest

if TYPE_CHECKING:
    from salver.client.model_store import ModelStoreClient

_PARALLEL = 4
_CHUNK_BYTES = 1 << 20


class Download:
    """One download, to be run once.

    Args: see :meth:`ModelStoreClient.download`.
    """

    def __init__(
        self, client: ModelStoreClient, name: str, reference: str, target: Path, progress: Progress | None
    ) -> None:
        self._client = client
        self._name = name
        self._reference = reference
        self._target = target.absolute()
        self._progress = progress
        self._tally = Tally(0, None)

    def run(self) -> dict[str, Any]:
        """Download; what the server says of the files."""
        if not _is_free(self._target):
            raise InvalidRequest(f"{self._target} is there already; name a new folder")
        reference = self._reference or self._client.newest(self._name)
        path = f"{model_path(self._name)}/versions/{quoted(reference)}/files"
        listing = self._client.call("GET", path, model=self._name)
        try:
            manifest = decode_manifest(listing.get("files"))
        except (InvalidRequest, InvalidArtifact) as error:
            raise MalformedBody(f"the server's list of files can't be used: {error}") from None
        if manifest.digest != listing.get("digest"):
            raise InvalidArtifact("the server's list of files doesn't fit the digest of the version")
        self._tally = Tally(manifest.size, self._progress)
        # By its digest: what came of another version isn't taken for a part of this one.
        partial = self._target.with_name(f".{self._target.name}.partial-{manifest.digest[:16]}")
        with _writing(self._target), _alone(partial):
            with ThreadPoolExecutor(_PARALLEL, "salver-download") as pool:
                for _ in pool.map(lambda file: self._fetch(partial, listing["version"], file), manifest.files):
                    pass
            os.rename(partial, self._target)
        return listing

    def _fetch(self, folder: Path, version: str, file: ArtifactFile) -> None:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in (1, 2):
            self._fill(path, version, file)
            with path.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found == file.sha256:
                return
            # What was here before may have been damaged; what comes anew is either right or damaged at the server.
            path.unlink()
            self._tally.add(-file.size)
            if attempt == 2:
                raise InvalidArtifact(f"{file.path!r} came with the SHA-256 {found}, expected {file.sha256}")

    def _fill(self, path: Path, version: str, file: ArtifactFile) -> None:
        """Append what is missing of a file."""
        with path.open("ab") as opened:
            if opened.tell() > file.size:
                opened.truncate(0)
            self._tally.add(opened.tell())
            while opened.tell() < file.size:
                self._client.persist(
                    lambda: self._append(opened.fileno(), version, file), since=lambda: self._tally.moved_at
                )
                opened.seek(0, os.SEEK_END)

    def _append(self, descriptor: int, version: str, file: ArtifactFile) -> None:
        start = os.fstat(descriptor).st_size
        headers = {"range": f"bytes={start}-", "if-range": f'"{file.sha256}"'} if start else {}
        url = self._client.file_url(self._name, version, file.path)
        try:
            with self._client.http.stream("GET", url, headers=headers) as response:
                if response.status_code not in (200, 206):
                    self._client.check(Answer(response.status_code, response.headers, response.read()), self._name)
                if start and response.status_code == 200:
                    os.ftruncate(descriptor, 0)
                    self._tally.add(-start)
                    start = 0
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    if start + len(chunk) > file.size:
                        raise InvalidArtifact(f"{file.path!r} came with more than its {file.size} bytes")
                    _write(descriptor, chunk)
                    start += len(chunk)
                    self._tally.add(len(chunk))
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise failure(error, self._client.url, self._client.http.timeout) from error
        if start < file.size:
            raise ServerUnreachable(f"the connection to {self._client.url} broke off; is it still up?")


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _is_free(target: Path) -> bool:
    if target.is_symlink() or target.is_file():
        return False
    return not target.exists() or not any(target.iterdir())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A folder that no other download writes to; what a killed one left there is gone on with."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(f"another download writes to {folder} just now; wait for it") from None
        yield
    except InvalidArtifact:
        with suppress(OSError):
            rmtree(folder)
        raise
    finally:
        os.close(descriptor)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """What the disk refuses, in words."""
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f"{target} can't be written: {error.strerror}") from None
