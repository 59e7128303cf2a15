"""A file or folder at any URL, brought to a folder here: in chunks, in parallel, resumed where it was left."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from salver.core.artifact import MAX_FILES, check_artifact_path
from salver.core.errors import InvalidArtifact, LoadError, ModelUnavailable, StoreUnavailable
from salver.store.artifacts.backend import Backend, StoredFile
from salver.store.artifacts.hashing import hash_file
from salver.store.artifacts.locations import open_backend
from salver.store.artifacts.parallel import Count, in_parallel
from salver.store.artifacts.retries import Backoff, disk_error
from salver.store.artifacts.transfer import CHUNK, Cancelled, Source, WrongSize, chunk_log, fill
from salver.store.files import is_ignored

_EMPTY: Mapping[str, Any] = {}
_LOCK_SECONDS = 3600.0
_POLL_SECONDS = 0.05


def download(
    url: str,
    target: Path,
    *,
    options: Mapping[str, Any] = _EMPTY,
    max_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    backoff: Backoff | None = None,
) -> Path:
    """Bring what lies at a URL to a folder of its own; what is there already is not asked for again.

    It comes into ``<target>.partial``, which stays where the download is cut short: the next one goes on from there,
    unless the files at the URL have changed. Hidden files are left out. Several processes may ask for the same.

    Args:
        url: of a file or a folder: ``hf://org/repo``, ``https://host/model.onnx``, ``s3://bucket/models/iris``.
        target: the folder; where it exists, an earlier download has brought it.
        options: what fsspec's file system of this protocol takes.
        max_bytes: how large all files together may be.
        progress: called with the bytes that are there, and all bytes, on any thread.
        cancelled: asked now and then whether to give up.
        backoff: how often operations are tried.

    Returns:
        ``target``, or the file in it where the URL names a single file.

    Raises:
        InvalidConfig: the URL can't be understood.
        InvalidArtifact: there is nothing at the URL, or its files changed while they were downloaded.
        LoadError: it is larger than allowed.
        MissingDependency: the protocol needs a package that isn't installed.
        StoreUnavailable: the URL can't be reached, or the disk is full.
        ModelUnavailable: ``cancelled`` said so.
    """
    backend = open_backend(url, options=options, backoff=backoff or Backoff())
    gives_up = cancelled or _never
    try:
        with _partial_folder(target, gives_up) as partial:
            if not target.exists():
                _Download(url, backend, partial, max_bytes, progress or _ignore, gives_up).run()
                (partial / "files").rename(target)
            shutil.rmtree(partial, ignore_errors=True)
    except Cancelled:
        raise ModelUnavailable("the download was given up; asked for again, it goes on from there") from None
    except OSError as error:
        raise disk_error(error, str(target)) from None
    finally:
        backend.close()
    file = target / _name(url)
    return file if file.is_file() and len(os.listdir(target)) == 1 else target


class _Download:
    """One try to bring everything into a partial folder.

    ``files/`` has what is whole, ``parts/`` what isn't, and ``state.json`` says what lay at the URL.
    """

    def __init__(
        self,
        url: str,
        backend: Backend,
        partial: Path,
        max_bytes: int | None,
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._url = url
        self._backend = backend
        self._partial = partial
        self._max_bytes = max_bytes
        self._progress = progress
        self._cancelled = cancelled

    def run(self) -> None:
        listed = self._listing()
        self._prepare(listed)
        total = sum(file.size or 0 for file in listed.values())
        done = Count(total, self._progress)

        def get(item: tuple[int, tuple[str, StoredFile]]) -> None:
            number, (name, file) = item
            self._get(name, file, self._partial / "parts" / str(number), done)

        numbered = list(enumerate(listed.items()))
        in_parallel(get, [item for item in numbered if _is_small(item[1][1])])
        for item in numbered:
            if not _is_small(item[1][1]):
                get(item)
        if _states(self._listing()) != _states(listed):
            self._clear()
            raise InvalidArtifact(f"{self._backend.name} changed while it was downloaded; try again")

    def _listing(self) -> dict[str, StoredFile]:
        """What lies at the URL, by path in the target."""
        single = self._backend.info("")
        if single is not None:
            found = {_name(self._url): single}
        else:
            files = [] if self._url.startswith(("http://", "https://")) else self._backend.list("")
            found = {file.path: file for file in files if not any(is_ignored(part) for part in file.path.split("/"))}
        if not found:
            raise InvalidArtifact(f"there is nothing at {self._backend.name}; check the URL, and the access to it")
        if len(found) > MAX_FILES:
            raise InvalidArtifact(f"{self._backend.name} has {len(found)} files; {MAX_FILES} are allowed")
        for name in found:
            check_artifact_path(name)
        self._check_size(sum(file.size or 0 for file in found.values()))
        return found

    def _check_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise LoadError(f"{self._backend.name} has {size:,} bytes or more; {self._max_bytes:,} are allowed")

    def _prepare(self, listed: Mapping[str, StoredFile]) -> None:
        """Keep what an earlier download has left, if it was of the same files."""
        state = self._partial / "state.json"
        now = json.dumps(_states(listed))
        try:
            same = state.read_text() == now and all(file.state for file in listed.values())
        except OSError:
            same = False
        if not same:
            self._clear()
        for folder in ("files", "parts"):
            (self._partial / folder).mkdir(exist_ok=True)
        state.write_text(now)

    def _clear(self) -> None:
        (self._partial / "state.json").unlink(missing_ok=True)
        for folder in ("files", "parts"):
            shutil.rmtree(self._partial / folder, ignore_errors=True)

    def _get(self, name: str, file: StoredFile, part: Path, done: Count) -> None:
        target = self._partial / "files" / name
        if target.exists():
            done.add(file.size or 0)
            return
        try:
            if file.size is None:
                self._stream(file, part, done)
                sha256 = hash_file(part)[1] if file.sha256 else ""
            else:
                source = Source(self._backend, file.path)
                sha256 = fill(part, source, file.size, on_bytes=done.add, cancelled=self._cancelled, durable=True)
        except (WrongSize, FileNotFoundError):
            raise InvalidArtifact(f"{self._backend.name}: {name} changed while it was downloaded; try again") from None
        if file.sha256 and file.sha256 != sha256:
            chunk_log(part).unlink(missing_ok=True)
            part.unlink(missing_ok=True)
            raise InvalidArtifact(f"{self._backend.name}: {name} came with wrong bytes; try again")
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.rename(target)
        chunk_log(part).unlink(missing_ok=True)

    def _stream(self, file: StoredFile, part: Path, done: Count) -> None:
        """Bring a file whose size nobody tells."""
        size = 0
        with part.open("wb") as written:
            for data in self._backend.stream(file.path):
                if self._cancelled():
                    raise Cancelled
                size += len(data)
                self._check_size(size)
                written.write(data)
                done.add(len(data))


@contextmanager
def _partial_folder(target: Path, cancelled: Callable[[], bool]) -> Iterator[Path]:
    """The folder for what isn't whole yet, which nobody else uses for now. Raises OSError."""
    partial = target.with_name(f"{target.name}.partial")
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        partial.mkdir(parents=True, exist_ok=True)
        handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _lock(handle) and _is(partial, handle):
                yield partial
                return
        finally:
            os.close(handle)
        if cancelled():
            raise Cancelled
        if time.monotonic() > deadline:
            raise StoreUnavailable(f"{partial}: another process has used it for {_LOCK_SECONDS:.0f} seconds")
        time.sleep(_POLL_SECONDS)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(folder: Path, handle: int) -> bool:
    """Whether the folder wasn't removed, and perhaps made anew, since it was opened."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _is_small(file: StoredFile) -> bool:
    return file.size is not None and file.size <= CHUNK


def _states(listed: Mapping[str, StoredFile]) -> list[list[object]]:
    return [[name, file.size, file.state] for name, file in sorted(listed.items())]


def _name(url: str) -> str:
    """What the file at a URL is called."""
    path = url if "://" not in url else urlsplit(url).path or urlsplit(url).netloc
    name = unquote(path.rstrip("/").rpartition("/")[2])
    try:
        return check_artifact_path(name) if "/" not in name else "model"
    except InvalidArtifact:
        return "model"


def _ignore(done: int, total: int) -> None:
    pass


def _never() -> bool:
    return False
