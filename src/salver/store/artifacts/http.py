"""A web server as a place that files are read from: in parts where it can, whole where it can't."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from salver.core.artifact import ArtifactFile
from salver.core.errors import InvalidConfig, StoreUnavailable
from salver.store.artifacts.backend import StoredFile
from salver.store.artifacts.retries import Backoff, masked, retrying

T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+)")
_OPTIONS = frozenset({"headers", "auth", "verify", "timeout"})


class HttpBackend:
    """Files below an http(s) URL. Nothing can be written or listed there.

    Options: ``headers`` (a mapping), ``auth`` (user and password), ``verify`` (False, or a file of certificates),
    ``timeout`` (seconds without an answer or another byte; 30).
    """

    read_only = True

    def __init__(self, url: str, *, options: Mapping[str, Any], backoff: Backoff) -> None:
        if unknown := sorted(set(options) - _OPTIONS):
            raise InvalidConfig(
                f"{masked(url)}: unknown option {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}"
            )
        self._url = url
        self.name = masked(url)
        self._backoff = backoff
        auth = options.get("auth")
        try:
            self._client = httpx2.Client(
                headers={**dict(options.get("headers") or {}), "Accept-Encoding": "identity"},
                auth=(str(auth[0]), str(auth[1])) if auth else None,
                verify=options.get("verify", True),
                timeout=httpx2.Timeout(float(options.get("timeout", 30.0)), connect=10.0),
                follow_redirects=True,
            )
        except (TypeError, ValueError, IndexError, AttributeError, OSError) as error:
            raise InvalidConfig(f"{self.name}: its options can't be used: {error}") from None
        self._close = weakref.finalize(self, self._client.close)

    def info(self, path: str) -> StoredFile | None:
        try:
            return self._retrying(lambda: self._info(path), f"asking for {path}")
        except FileNotFoundError:
            return None

    def read(self, path: str, start: int, end: int) -> bytes:
        return self._retrying(lambda: self._read(path, start, end), f"reading {path}")

    def stream(self, path: str) -> Iterator[bytes]:
        try:
            with self._get(path, {}) as response:
                yield from response.iter_raw()
        except httpx2.HTTPError as error:
            raise StoreUnavailable(f"{self.name}: reading {path} broke off: {type(error).__name__}") from None

    def list(self, folder: str) -> list[StoredFile]:
        raise StoreUnavailable(f"{self.name}: the files of a web server can't be listed")

    def put_file(self, source: Path, file: ArtifactFile, path: str, *, consume: bool) -> None:
        raise StoreUnavailable(f"{self.name}: nothing can be stored on a web server; it is read only")

    def put_bytes(self, data: bytes, path: str) -> None:
        raise StoreUnavailable(f"{self.name}: nothing can be stored on a web server; it is read only")

    def remove(self, path: str) -> None:
        raise StoreUnavailable(f"{self.name}: nothing can be removed from a web server; it is read only")

    def close(self) -> None:
        self._close()

    def local(self, path: str) -> Path | None:
        return None

    def _info(self, path: str) -> StoredFile:
        with self._get(path, {"Range": "bytes=0-0"}) as response:
            headers = response.headers
            total = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
            ranges = response.status_code == 206
            if total is not None:
                size: int | None = int(total[1])
            else:
                size = int(headers["content-length"]) if headers.get("content-length", "").isdigit() else None
            modified = headers.get("last-modified")
            try:
                seconds = parsedate_to_datetime(modified).timestamp() if modified else None
            except ValueError:
                seconds = None
            state = headers.get("etag") or modified or ""
            return StoredFile(path, size, seconds, state, ranges=ranges)

    def _read(self, path: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        with self._get(path, {"Range": f"bytes={start}-{end - 1}"}) as response:
            if response.status_code == 416:
                return b""
            skip = 0 if response.status_code == 206 else start
            data = bytearray()
            for part in response.iter_raw():
                data += part
                # A server that knows no ranges sends everything; what isn't wanted is not kept.
                if len(data) > skip + end - start:
                    break
            else:
                _check_whole(response, len(data))
            return bytes(memoryview(data)[skip : skip + end - start])

    @contextmanager
    def _get(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        url = f"{self._url}/{path}" if path else self._url
        with self._client.stream("GET", url, headers=headers) as response:
            status = response.status_code
            if status in (404, 410):
                raise FileNotFoundError(masked(url))
            if status in (401, 403):
                raise PermissionError(f"status {status}")
            if status == 408 or status == 429 or status >= 500:
                raise OSError(f"status {status}")
            if status not in (200, 206, 416):
                raise StoreUnavailable(f"{masked(url)}: the server answers with status {status}")
            yield response

    def _retrying(self, action: Callable[[], T], what: str) -> T:
        return retrying(action, what=what, name=self.name, backoff=self._backoff)


def _check_whole(response: httpx2.Response, count: int) -> None:
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and int(announced) != count:
        raise OSError(f"{count} bytes came, {announced} were announced")
