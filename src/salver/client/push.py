"""Sends a version's files to a server, several at a time, and goes on where a connection broke."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from salver.client.exchange import raise_for, read_json
from salver.client.model_store import Progress, Tally, model_path
from salver.core.artifact import ArtifactFile, Manifest
from salver.core.errors import Conflict, InvalidArtifact, NotFound, StoreUnavailable, UnknownUpload

if TYPE_CHECKING:
    from salver.client.model_store import ModelStoreClient

T = TypeVar("T")

CHUNK_BYTES = 8 << 20
"""Bytes that one request sends."""

_PARALLEL = 4
_ROUNDS = 5  # how often it is asked anew what is missing
_BUSY = "another request"
_AT_WORK = 1800.0  # seconds that the server may take to check a large file, or to bring files to its store


class Push:
    """One push, to be run once.

    Args: see :meth:`ModelStoreClient.push`.
    """

    def __init__(
        self,
        client: ModelStoreClient,
        name: str,
        path: Path,
        manifest: Manifest,
        version: str,
        metadata: Mapping[str, Any],
        progress: Progress | None,
    ) -> None:
        self._client = client
        self._name = name
        self._path = path
        self._files = {file.sha256: file for file in manifest.files}
        self._request = {
            "version": version,
            "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files],
            "metadata": dict(metadata),
        }
        self._tally = Tally(sum(file.size for file in self._files.values()), progress)
        self._counted: dict[str, int] = {}  # blob -> bytes of it that the tally has
        self._stop = threading.Event()

    def run(self) -> dict[str, Any]:
        """Push; the version."""
        upload = self._begin()
        for _ in range(_ROUNDS):
            try:
                self._send_all(upload)
                return self._persist(partial(self._commit, upload["upload"]))
            except (UnknownUpload, Conflict) as error:
                # Another push of the same files was faster; it expired; a file that the store had was removed there;
                # or the answer to the commit was lost. Asking what is missing tells which.
                last = error
                upload = self._persist(self._begin)
        raise last

    def _begin(self) -> dict[str, Any]:
        path = f"{model_path(self._name)}/versions"
        upload = self._client.call("POST", path, self._request)
        left = {each["sha256"]: each["size"] - each["received"] for each in upload["missing"]}
        for sha256, file in self._files.items():
            self._count(sha256, file.size - left.get(sha256, 0))
        return upload

    def _commit(self, upload_id: str) -> dict[str, Any]:
        try:
            return self._client.call("POST", f"/uploads/{upload_id}/commit", answers_within=_AT_WORK)
        except NotFound as error:
            raise UnknownUpload(str(error)) from None

    def _send_all(self, upload: dict[str, Any]) -> None:
        with ThreadPoolExecutor(_PARALLEL, "salver-push") as pool:
            sending = [pool.submit(self._send, upload["upload"], **each) for each in upload["missing"]]
            try:
                for each in sending:
                    each.result()
            except BaseException:
                self._stop.set()  # the others end with their chunk
                for each in sending:
                    each.cancel()
                raise
            finally:
                pool.shutdown()
                self._stop.clear()

    def _send(self, upload_id: str, sha256: str, size: int, received: int) -> None:
        file = self._files[sha256]
        offset = received
        while offset < size and not self._stop.is_set():
            chunk = self._read(file, offset)
            offset = self._persist(partial(self._send_chunk, upload_id, file, offset, chunk))
            self._count(sha256, offset)

    def _send_chunk(self, upload_id: str, file: ArtifactFile, offset: int, chunk: bytes) -> int:
        """Send bytes; how many of the file the server has now."""
        path = f"/uploads/{upload_id}/blobs/{file.sha256}?offset={offset}"
        answer = self._client.send("PUT", path, chunk, "application/octet-stream", answers_within=_AT_WORK)
        told = read_json(answer.body)
        received = told.get("received") if isinstance(told, dict) else None
        if answer.status == 409 and isinstance(told, dict) and isinstance(received, int):
            if str(told.get("error")).startswith(_BUSY):
                raise StoreUnavailable(f"{file.path!r}: {told['error']}")
            return received  # an answer was lost, or the server was restarted: on from there
        try:
            raise_for(answer, None, {503: StoreUnavailable})
        except NotFound as error:
            raise UnknownUpload(str(error)) from None
        if not isinstance(received, int):
            raise StoreUnavailable(f"{self._client.url} answered the bytes of {file.path!r} with something else")
        return received

    def _read(self, file: ArtifactFile, offset: int) -> bytes:
        path = self._path / file.path if self._path.is_dir() else self._path
        try:
            with path.open("rb") as opened:
                opened.seek(offset)
                chunk = opened.read(min(CHUNK_BYTES, file.size - offset))
        except OSError as error:
            raise InvalidArtifact(f"{path}: can't be read: {error.strerror}") from None
        if not chunk:
            raise InvalidArtifact(f"{path} became shorter while it was pushed; wait until it is written")
        return chunk

    def _count(self, sha256: str, received: int) -> None:
        self._tally.add(received - self._counted.get(sha256, 0))
        self._counted[sha256] = received

    def _persist(self, attempt: Callable[[], T]) -> T:
        def unless_stopped() -> T:
            if self._stop.is_set():
                raise _Stopped
            return attempt()

        return self._client.persist(unless_stopped, since=lambda: self._tally.moved_at)


class _Stopped(Exception):
    """Another thread of the push has failed; this one needn't go on."""
