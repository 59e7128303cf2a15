"""``ModelStoreClient``: pushes, names, lists, deletes and downloads the model versions of a Salver server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import httpx2
import orjson

from salver.client.client import DEFAULT_URL, failure, with_scheme
from salver.client.exchange import Answer, raise_for, read_json
from salver.core.artifact import Manifest
from salver.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MalformedBody,
    Overloaded,
    SalverError,
    ServerUnreachable,
    StoreUnavailable,
    UnknownModel,
    UnsupportedRequest,
)

Progress: TypeAlias = Callable[[int, int], None]
"""Is told the bytes that are done, and all bytes; on any thread."""

T = TypeVar("T")

_PREFIX = "/api/v1"
_BY_STATUS: Mapping[int, type[SalverError]] = {503: StoreUnavailable, 504: DeadlineExceeded}
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class ModelStoreClient:
    """A client of a server with a model store. It is safe to share between threads.

    All methods raise :class:`ServerUnreachable` where there is no connection, :class:`DeadlineExceeded` after
    ``timeout``, :class:`StoreUnavailable` where the server's store is, and otherwise the error that the server's
    status stands for, with the server's text.

    Args:
        url: where the server listens.
        timeout: seconds that each call may take to connect and, again, to answer.
        headers: sent with every call.
        actor: who the history is to name.
        patience: seconds for which pushes and downloads try again while nothing moves.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
        actor: str = "",
        patience: float = 60.0,
    ) -> None:
        self.url = with_scheme(url)
        self.patience = patience
        own = {"accept-encoding": "identity"} | ({"x-salver-actor": actor} if actor else {})
        self.http = httpx2.Client(timeout=timeout, headers={**own, **(headers or {})})

    def push(
        self,
        name: str,
        path: Path,
        manifest: Manifest,
        *,
        version: str = "",
        metadata: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Push a version. What the server has already isn't sent; a push that broke off goes on where it ended.

        Args:
            name: the model.
            path: the file or folder.
            manifest: its files, see :func:`salver.store.artifacts.describe.describe`.
            version: "" for the next number, or for the version that has these files already.
            metadata: framework, framework_version, algorithm, run_id, owner, tenant, description (texts), tags (an
                object of texts) and properties (any object).
            progress: is told of the bytes that the server has.

        Returns:
            The version as the registry has it; PENDING until it was probed, see :meth:`wait`.

        Raises:
            InvalidRequest: the server takes no such push; or a file has changed meanwhile.
            Conflict: the version has other files.
        """
        from salver.client.push import Push

        return Push(self, name, path, manifest, version, metadata or {}, progress).run()

    def wait(self, name: str, version: str, *, timeout: float | None = None) -> dict[str, Any]:
        """A version once its probe has ended: its ``state`` is READY, or FAILED with a ``reason``.

        Raises:
            DeadlineExceeded: it hasn't ended within ``timeout`` seconds.
        """
        deadline = None if timeout is None else monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            found = self.persist(lambda: self.version(name, version))
            if found["state"] != "PENDING":
                return found
            if deadline is not None and monotonic() + pause > deadline:
                raise DeadlineExceeded(
                    f"version {version} of model '{name}' is pushed, and wasn't probed within {timeout:g} s; "
                    f"'salver show {name}:{version}' tells how it goes on"
                )
            sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.5)

    def models(self, *, prefix: str = "", tag: str = "") -> Iterator[dict[str, Any]]:
        """All models by name, or those whose names begin with a prefix, or that have a version with a tag.

        Args:
            prefix: of the name.
            tag: ``NAME:VALUE``.
        """
        asked = {"limit": "1000"} | ({"prefix": prefix} if prefix else {}) | ({"tag": tag} if tag else {})
        while True:
            page = self.call("GET", f"/models?{urlencode(asked)}")
            yield from page["models"]
            if page["next"] is None:
                return
            asked["after"] = page["next"]

    def model(self, name: str) -> dict[str, Any]:
        """A model, its aliases and versions. Raises UnknownModel."""
        return self.call("GET", model_path(name), model=name)

    def version(self, name: str, reference: str) -> dict[str, Any]:
        """All about a version, by its name or ``@ALIAS``. Raises UnknownModel."""
        return self.call("GET", f"{model_path(name)}/versions/{quoted(reference)}", model=name)

    def newest(self, name: str) -> str:
        """The newest version that is READY. Raises UnknownModel where there is none."""
        ready = [each["version"] for each in self.model(name)["versions"] if each["state"] == "READY"]
        if not ready:
            raise UnknownModel(f"model '{name}' has no version that is ready")
        return str(ready[-1])

    def set_alias(self, name: str, alias: str, version: str) -> str:
        """Let an alias point to a version, or to that of another ``@ALIAS``; the version's name.

        Raises:
            UnknownModel: there is no such model or version.
            Conflict: the version isn't READY.
        """
        path = f"{model_path(name)}/aliases/{quoted(alias)}"
        return str(self.call("PUT", path, {"version": version}, model=name)["version"])

    def delete_alias(self, name: str, alias: str) -> None:
        """Take an alias away. Raises UnknownModel."""
        self.call("DELETE", f"{model_path(name)}/aliases/{quoted(alias)}", model=name)

    def delete(self, name: str, version: str = "", *, force: bool = False) -> None:
        """Delete a version, or ("" for the version) a model with all its versions and aliases.

        Args:
            force: also where it was used in the last minute.

        Raises:
            UnknownModel: there is no such model or version.
            Conflict: it serves traffic.
        """
        path = f"{model_path(name)}/versions/{quoted(version)}" if version else model_path(name)
        self.call("DELETE", path + ("?force=true" if force else ""), model=name)

    def audit(self, name: str = "", *, limit: int = 100) -> list[dict[str, Any]]:
        """The last changes, newest first, of one model or of all."""
        path = f"{model_path(name)}/audit" if name else "/audit"
        entries: list[dict[str, Any]] = self.call("GET", f"{path}?limit={limit}")["entries"]
        return entries

    def download(self, name: str, reference: str, target: Path, *, progress: Progress | None = None) -> dict[str, Any]:
        """Download a version's files into a new folder, which is there as a whole or not at all.

        What broke off goes on where it ended. Every file's SHA-256 is checked.

        Args:
            name: the model.
            reference: a version, ``@ALIAS``, or "" for the newest version that is ready.
            target: the folder; it must not exist, or be empty.
            progress: is told of the bytes that are here.

        Returns:
            ``name``, ``version``, ``digest``, ``size`` and ``files``.

        Raises:
            UnknownModel: there is no such model or version.
            InvalidRequest: the target is there already, or can't be written.
            InvalidArtifact: the server sends other bytes than it should.
        """
        from salver.client.download import Download

        return Download(self, name, reference, target, progress).run()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def call(
        self,
        method: str,
        path: str,
        document: object = None,
        *,
        model: str | None = None,
        answers_within: float | None = None,
    ) -> dict[str, Any]:
        """One call of the management API; the JSON object that answers it."""
        body = b"" if document is None else orjson.dumps(document)
        answer = self.send(method, path, body, "application/json", answers_within=answers_within)
        self.check(answer, model)
        found = read_json(answer.body)
        if not isinstance(found, dict):
            raise MalformedBody(f"{self.url}{_PREFIX}{path} didn't answer as a Salver server with a model store does")
        return found

    def send(
        self,
        method: str,
        path: str,
        body: bytes,
        content_type: str,
        *,
        answers_within: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call; its answer, whatever the status is.

        Args:
            answers_within: seconds for an answer that takes long; the client's timeout by default.
            headers: more of them.
        """
        sent = ({"content-type": content_type} if body else {}) | dict(headers or {})
        timeout = self.http.timeout
        if answers_within is not None:
            timeout = httpx2.Timeout(
                connect=timeout.connect, read=answers_within, write=timeout.write, pool=timeout.pool
            )
        try:
            response = self.http.request(method, self.url + _PREFIX + path, content=body, headers=sent, timeout=timeout)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise failure(error, self.url, self.http.timeout) from error
        return Answer(response.status_code, response.headers, response.content)

    def check(self, answer: Answer, model: str | None) -> None:
        """Raise the error that an answer tells of."""
        if answer.status in (404, 405) and not _is_management(answer):
            raise UnsupportedRequest(
                f"the server at {self.url} has no model store; 'salver serve --store FOLDER' starts one that has"
            )
        raise_for(answer, model, _BY_STATUS)

    def persist(self, attempt: Callable[[], T], *, since: Callable[[], float] | None = None) -> T:
        """Try again what fails for reasons that pass, until nothing has moved for ``patience`` seconds.

        Args:
            attempt: may be repeated.
            since: when something moved last, by ``time.monotonic``; when this began, by default.

        Raises:
            SalverError: the attempt's last error.
        """
        began = monotonic()
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except (ServerUnreachable, DeadlineExceeded, StoreUnavailable, Overloaded) as error:
                if monotonic() - (began if since is None else max(began, since())) + pause > self.patience:
                    raise
                sleep(max(pause, error.retry_after if isinstance(error, Overloaded) else 0.0))
                pause = min(_LONGEST_PAUSE, pause * 2)

    def file_url(self, name: str, version: str, path: str) -> str:
        """Where a file of a version is downloaded."""
        return f"{self.url}{_PREFIX}{model_path(name)}/versions/{quoted(version)}/files/{quote(path)}"


class Tally:
    """Counts bytes that several threads move, and tells of them.

    Attributes:
        moved_at: when something moved last, by ``time.monotonic``.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self.moved_at = monotonic()

    def add(self, count: int) -> None:
        """So many bytes more are done; fewer, where some have to be done again."""
        with self._lock:
            self._done += count
            if count > 0:
                self.moved_at = monotonic()
            if self._progress is not None:
                self._progress(self._done, self._total)


def _is_management(answer: Answer) -> bool:
    """Whether an error is of the management API, not of a server that has none."""
    told = read_json(answer.body)
    text = told.get("error") if isinstance(told, dict) else None
    return isinstance(text, str) and not text.startswith("no such URL")


def model_path(name: str) -> str:
    """The path of a model."""
    return f"/models/{quoted(name)}"


def quoted(part: str) -> str:
    """A part of a path.

    Raises:
        InvalidRequest: it can't be one.
    """
    if not part or part in (".", ".."):
        raise InvalidRequest(f"{part!r} can't be a name")
    return quote(part, safe="@")
