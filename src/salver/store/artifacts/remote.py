"""Everything else that fsspec reaches as the place where an artifact store's files lie: S3, GCS, Azure, hf:// ..."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec  # type: ignore[import-untyped]

from salver.core.artifact import ArtifactFile
from salver.core.errors import StoreUnavailable
from salver.store.artifacts.backend import StoredFile
from salver.store.artifacts.folder import INCOMING
from salver.store.artifacts.hashing import check, hash_file
from salver.store.artifacts.retries import Backoff, masked, reason, retrying

T = TypeVar("T")

READ_ONLY = frozenset({"hf"})
# Where a file is visible only when it was stored as a whole. Elsewhere it is written under another name, and renamed.
_ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"})
_STREAM_PART = 1 << 23
_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")


class FsspecBackend:
    """Files below an fsspec URL.

    The file system is made when it is first used, and again in a forked process: fsspec's own threads don't live on
    in one.
    """

    def __init__(self, url: str, *, protocol: str, options: Mapping[str, Any], backoff: Backoff) -> None:
        self._url = url
        self._protocol = protocol
        self._options = {**_defaults(protocol), **options}
        self._backoff = backoff
        self._lock = threading.Lock()
        self._made: tuple[int, Any, str] | None = None
        self.name = masked(url)
        self.read_only = protocol in READ_ONLY

    def info(self, path: str) -> StoredFile | None:
        def ask() -> StoredFile | None:
            system, root = self._system()
            try:
                found = system.info(_join(root, path))
            except FileNotFoundError:
                return None
            return None if found.get("type") == "directory" else _stored(path, found)

        return self._retrying(ask, f"asking for {path}")

    def read(self, path: str, start: int, end: int) -> bytes:
        def get() -> bytes:
            system, root = self._system()
            data: bytes = system.cat_file(_join(root, path), start=start, end=end)
            return data

        return self._retrying(get, f"reading {path}")

    def stream(self, path: str) -> Iterator[bytes]:
        system, root = self._system()
        try:
            with system.open(_join(root, path), "rb") as file:
                while part := file.read(_STREAM_PART):
                    yield part
        except FileNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001 - each file system has its own errors
            raise StoreUnavailable(f"{self.name}: reading {path} broke off: {reason(error)}") from None

    def list(self, folder: str) -> list[StoredFile]:
        def find() -> list[StoredFile]:
            system, root = self._system()
            top = _join(root, folder)
            try:
                found = system.find(top, detail=True, withdirs=False)
            except FileNotFoundError:
                return []
            prefix = f"{root.rstrip('/')}/"
            return [
                _stored(name[len(prefix) :], each)
                for name, each in sorted(found.items())
                if name.startswith(prefix) and each.get("type") == "file" and not name.endswith("/")
            ]

        return self._retrying(find, f"listing {folder}")

    def put_file(self, source: Path, file: ArtifactFile, path: str, *, consume: bool) -> None:
        check(hash_file(source), file)
        self._write(path, lambda system, target: system.put_file(str(source), target))

    def put_bytes(self, data: bytes, path: str) -> None:
        self._write(path, lambda system, target: system.pipe_file(target, data))

    def remove(self, path: str) -> None:
        def rm() -> None:
            system, root = self._system()
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(_join(root, path))

        self._check_writable()
        self._retrying(rm, f"removing {path}")

    def close(self) -> None:
        with self._lock:
            self._made = None  # fsspec's file systems end their connections when nobody has them any more

    def local(self, path: str) -> Path | None:
        return None

    def _write(self, path: str, write: Callable[[Any, str], object]) -> None:
        def put() -> None:
            system, root = self._system()
            target = _join(root, path)
            if self._protocol in _ATOMIC:
                write(system, target)
                return
            temporary = _join(root, f"{INCOMING}/{uuid.uuid4().hex}")
            for each in (temporary, target):
                system.makedirs(each.rpartition("/")[0], exist_ok=True)
            try:
                write(system, temporary)
                system.mv(temporary, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    system.rm_file(temporary)
                raise

        self._check_writable()
        try:
            self._retrying(put, f"storing {path}")
        except FileNotFoundError as error:
            raise StoreUnavailable(
                f"{self.name}: storing {path}: {masked(str(error))}; does the bucket exist?"
            ) from None

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreUnavailable(f"{self.name}: nothing can be stored there; {self._protocol}:// is read only")

    def _system(self) -> tuple[Any, str]:
        """The file system, and the URL's path in it."""
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                system, root = fsspec.core.url_to_fs(
                    self._url, skip_instance_cache=True, use_listings_cache=False, **self._options
                )
                if self._protocol in ("s3", "s3a"):
                    system.retries = 2  # it is tried again here, too
                self._made = (os.getpid(), system, root)
            return self._made[1], self._made[2]

    def _retrying(self, action: Callable[[], T], what: str) -> T:
        return retrying(action, what=what, name=self.name, backoff=self._backoff)


def _defaults(protocol: str) -> dict[str, Any]:
    """Options that make S3 give up within a bound when nobody answers; the others' own bounds are minutes."""
    if protocol in ("s3", "s3a"):
        return {"config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 0}}}
    return {}


def _join(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path}" if path else root


def _stored(path: str, info: Mapping[str, Any]) -> StoredFile:
    found = next((info[key] for key in _TIMES if info.get(key) is not None), None)
    if isinstance(found, datetime):
        modified: float | None = found.timestamp()
    else:
        modified = float(found) if isinstance(found, int | float) else None
    lfs = info.get("lfs")
    sha256 = str(lfs.get("sha256") or "") if isinstance(lfs, Mapping) else ""
    state = next((str(info[key]) for key in ("ETag", "etag", "blob_id", "md5Hash") if info.get(key)), "")
    size = info.get("size")
    return StoredFile(
        path, int(size) if size is not None else None, modified, state or str(modified or ""), sha256=sha256
    )
