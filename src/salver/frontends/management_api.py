"""The management API: models, versions, aliases, pushes and the history of a model store, as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import orjson

from salver.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    RequestTooLarge,
    UnknownRoute,
)
from salver.core.registry import ModelVersion, VersionState
from salver.frontends.file_download import send_file
from salver.frontends.http import (
    MAX_DIGITS,
    ClientLeft,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    id_header,
    read_body,
    send_answer,
)
from salver.frontends.v2_rest import JSON, answer_error
from salver.monitoring.metrics import FailedRequests
from salver.monitoring.request_id import begin_request
from salver.registration.model_store import Missing, ModelStore
from salver.registration.uploads import Upload, WrongOffset
from salver.wire.json_depth import parse
from salver.wire.model_store_json import decode_push, encode_audit, encode_manifest, encode_model, encode_version

PREFIX: Final = "/api/v1"
ACTOR_HEADER: Final = b"x-salver-actor"

_FRONT_END: Final = "management"
_OFF_LOOP: Final = 256 * 1024  # bytes of JSON from which parsing would hold up the event loop too long
_SILENCE: Final = 60.0  # seconds that the sender of a file may pause
_DRAINED: Final = 64 << 20  # bytes of a refused request that are taken nevertheless
_DRAIN_SECONDS: Final = 10.0
_MAX_QUERY: Final = 8192
_MAX_VALUES: Final = 500_000  # in a document: many more than 20,000 files have, and not enough to fill the memory
_MANY_FILES: Final = 1000  # whose list is put together on a thread
_MAX_ACTOR: Final = 128
_MAX_VERSION: Final = 64

T = TypeVar("T")

_log = logging.getLogger("salver.rest")


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way to a handler.

    Attributes:
        arguments: what stands in the path for the names in braces.
        query: parameters from the URL.
        headers: by lower-case name.
        scope, receive, send: ASGI's.
    """

    arguments: tuple[str, ...]
    query: Mapping[str, str]
    headers: Headers
    scope: Scope
    receive: Receive
    send: Send

    async def answer(self, document: Any, status: int = 200) -> None:
        """Send a JSON answer; times are in UTC."""
        body = orjson.dumps(document, option=orjson.OPT_UTC_Z)
        await send_answer(self.send, status, body, JSON, [id_header()])

    @property
    def actor(self) -> str:
        """Who the history is to name.

        Raises:
            InvalidRequest: the header can't be a name.
        """
        given = self.headers.get(ACTOR_HEADER)
        if given is None:
            return "api"
        name = given.decode("utf-8", "replace").strip()
        if not name or len(name) > _MAX_ACTOR or not name.isprintable():
            raise InvalidRequest(f"X-Salver-Actor is a name of at most {_MAX_ACTOR} characters")
        return name


Handler: TypeAlias = Callable[[Call], Awaitable[None]]


class Body:
    """The body of a request, and whether all of it has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> Message:
        """ASGI's receive."""
        message = await self._receive()
        self._ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def drain(self, headers: Headers) -> None:
        """Take what still comes, up to a bound: a client that only writes doesn't see that it was refused."""
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return
        left = _DRAINED
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._ended and left > 0:
                    left -= len((await self.receive()).get("body", b""))


class ManagementApp:
    """Answers ``/api/v1/models``, ``/api/v1/uploads`` and ``/api/v1/audit``.

    Args:
        store: the model store.
        max_request_bytes: larger bodies are refused, but for those of files.
        failed: counts the requests that are answered with an error.
    """

    def __init__(self, store: ModelStore, *, max_request_bytes: int, failed: FailedRequests) -> None:
        self._store = store
        self._limit = max_request_bytes
        self._failed = failed
        self.routes: dict[str, dict[str, Handler]] = {
            "/models": {"GET": self._models},
            "/models/{model}": {"GET": self._model, "DELETE": self._delete_model},
            "/models/{model}/versions": {"POST": self._push},
            "/models/{model}/versions/{version}": {"GET": self._version, "DELETE": self._delete_version},
            "/models/{model}/versions/{version}/files": {"GET": self._files},
            "/models/{model}/versions/{version}/files/{path}": {"GET": self._file},
            "/models/{model}/aliases/{alias}": {"PUT": self._set_alias, "DELETE": self._delete_alias},
            "/models/{model}/audit": {"GET": self._audit},
            "/audit": {"GET": self._audit},
            "/uploads/{upload}": {"GET": self._upload, "DELETE": self._give_up},
            "/uploads/{upload}/blobs/{sha256}": {"PUT": self._receive},
            "/uploads/{upload}/commit": {"POST": self._commit},
        }
        """Paths after ``/api/v1`` -> methods -> handlers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        headers: Headers = dict(scope["headers"])
        begin_request(headers.get(b"x-request-id"))
        body = Body(receive)
        try:
            handler, arguments = self.route(scope["path"], scope["method"])
            await handler(Call(arguments, _query(scope), headers, scope, body.receive, send))
        except ClientLeft:
            _log.debug("%s %s: the client left", scope["method"], scope["path"])
        except Exception as error:  # noqa: BLE001  the last line of defence: nothing else may reach the client
            await body.drain(headers)
            more = {"received": error.received} if isinstance(error, WrongOffset) else {}
            await answer_error(error, scope, send, failed=self._failed, front_end=_FRONT_END, more=more)

    def route(self, path: str, method: str) -> tuple[Handler, tuple[str, ...]]:
        """The handler of a path, and what stands for the names in braces.

        Raises:
            UnknownRoute: there is no such path.
            MethodNotAllowed: it takes other methods.
        """
        parts = path.removeprefix(PREFIX).removeprefix("/").split("/")
        if len(parts) > 1 and not parts[-1] and parts[4:5] != ["files"]:
            parts.pop()
        pattern, arguments = _pattern(parts) if path.startswith(PREFIX + "/") else ("", ())
        handlers = self.routes.get(pattern)
        if handlers is None or "" in arguments:
            raise UnknownRoute(f"no such URL: {path}; see /docs for those that there are")
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise MethodNotAllowed(f"{path} takes {' or '.join(handlers)}, not {method}", allowed=tuple(handlers))
        return handler, arguments

    # Models and versions

    async def _models(self, call: Call) -> None:
        query = _known(call.query, "prefix", "tag", "after", "limit")
        limit = _number(query, "limit", 100)
        tag = None
        if "tag" in query:
            name, colon, value = query["tag"].partition(":")
            if not name or not colon:
                raise InvalidRequest(f"'tag' is NAME:VALUE, got {query['tag'][:80]!r}")
            tag = (name, value)
        found = await self._store.models(
            prefix=query.get("prefix", ""), tag=tag, after=query.get("after", ""), limit=limit
        )
        following = found[-1].name if len(found) == limit else None
        await call.answer({"models": [encode_model(model) for model in found], "next": following})

    async def _model(self, call: Call) -> None:
        _known(call.query)
        (name,) = call.arguments
        await call.answer(encode_model(await self._store.model(name)))

    async def _delete_model(self, call: Call) -> None:
        (name,) = call.arguments
        await self._store.delete_model(name, actor=call.actor, force=_force(call.query))
        await call.answer({})

    async def _version(self, call: Call) -> None:
        _known(call.query)
        await call.answer(encode_version(await self._store.version(*call.arguments)))

    async def _delete_version(self, call: Call) -> None:
        name, version = call.arguments
        if version.startswith("@"):
            raise InvalidRequest("a version is deleted by its own name; DELETE .../aliases/ALIAS takes an alias away")
        await self._store.delete(name, version, actor=call.actor, force=_force(call.query))
        await call.answer({})

    async def _set_alias(self, call: Call) -> None:
        name, alias = call.arguments
        document = await self._object(call, "version")
        wanted = document.get("version")
        if type(wanted) is int:
            wanted = str(wanted)
        if not isinstance(wanted, str) or not 0 < len(wanted) <= _MAX_VERSION + 1:
            raise InvalidRequest('expected {"version": "3"}: a version of the model, or "@ALIAS" for another alias\'s')
        version = (await self._store.version(name, wanted)).version if wanted.startswith("@") else wanted
        await self._store.set_alias(name, alias, version, actor=call.actor)
        await call.answer({"name": name, "alias": alias, "version": version})

    async def _delete_alias(self, call: Call) -> None:
        name, alias = call.arguments
        await self._store.delete_alias(name, alias, actor=call.actor)
        await call.answer({})

    async def _audit(self, call: Call) -> None:
        query = _known(call.query, "limit", "before")
        before = _number(query, "before", 0) if "before" in query else None
        name = call.arguments[0] if call.arguments else ""
        limit = _number(query, "limit", 100)
        found = await self._store.audit(name, limit=limit, before=before)
        following = found[-1].revision if len(found) == limit else None
        await call.answer({"entries": [encode_audit(entry) for entry in found], "next": following})

    # Pushing

    async def _push(self, call: Call) -> None:
        (name,) = call.arguments
        body = await self._body(call)
        version, manifest, metadata = await _off_loop(body, lambda text: decode_push(parse(text)))
        upload, missing = await self._store.begin_push(name, version, manifest, metadata)
        await self._answer_upload(call, upload, missing)

    async def _upload(self, call: Call) -> None:
        _known(call.query)
        await self._answer_upload(call, *await self._store.upload(*call.arguments))

    async def _answer_upload(self, call: Call, upload: Upload, missing: list[Missing]) -> None:
        many = len(upload.manifest.files) > _MANY_FILES
        await call.answer(await asyncio.to_thread(_upload, upload, missing) if many else _upload(upload, missing))

    async def _receive(self, call: Call) -> None:
        upload_id, sha256 = call.arguments
        offset = _number(_known(call.query, "offset"), "offset", 0)
        if b"content-encoding" in call.headers:
            raise InvalidRequest("the bytes of files are sent as they are, without Content-Encoding")
        received = await self._store.receive(upload_id, sha256, offset, _chunks(call.receive))
        await call.answer({"received": received})

    async def _commit(self, call: Call) -> None:
        _known(call.query)
        version = await self._store.commit(*call.arguments, actor=call.actor)
        await self._answer_version(call, version)

    async def _answer_version(self, call: Call, version: ModelVersion) -> None:
        await call.answer(encode_version(version), 202 if version.state is VersionState.PENDING else 200)

    async def _give_up(self, call: Call) -> None:
        await self._store.give_up(*call.arguments)
        await call.answer({})

    # Files

    async def _files(self, call: Call) -> None:
        _known(call.query)
        version, manifest = await self._store.files(*call.arguments)
        await call.answer(
            {
                "name": version.name,
                "version": version.version,
                "digest": version.digest,
                "size": version.size,
                "files": encode_manifest(manifest),
            }
        )

    async def _file(self, call: Call) -> None:
        file = await self._store.file(*call.arguments)
        await send_file(file, self._store.read, call.headers, call.send, head=call.scope["method"] == "HEAD")

    async def _body(self, call: Call) -> bytes:
        if b"content-encoding" in call.headers:
            raise InvalidRequest("bodies of the management API are sent without Content-Encoding")
        body = await read_body(call.receive, call.headers, limit=self._limit)
        # A value takes two bytes of the body and dozens of memory, and parsing holds up all else.
        if body.count(b",") > _MAX_VALUES or body.count(b"[") > _MAX_VALUES:
            raise RequestTooLarge(f"the document has more than {_MAX_VALUES} values, which nothing here needs")
        return body

    async def _object(self, call: Call, *keys: str) -> dict[str, Any]:
        document = await _off_loop(await self._body(call), parse)
        if not isinstance(document, dict):
            raise MalformedBody(f"the body is a JSON object with {', '.join(keys)}")
        for key in document:
            if key not in keys:
                raise InvalidRequest(f"unknown key {key[:80]!r}; the body has {', '.join(keys)}")
        return document


def _pattern(parts: list[str]) -> tuple[str, tuple[str, ...]]:
    """The route that a path's parts may stand for, and its arguments."""
    match parts:
        case ["models", model]:
            return "/models/{model}", (model,)
        case ["models", model, "versions", version]:
            return "/models/{model}/versions/{version}", (model, version)
        case ["models", model, "versions", version, "files", *path] if path:
            return "/models/{model}/versions/{version}/files/{path}", (model, version, "/".join(path))
        case ["models", model, "versions", version, action]:
            return f"/models/{{model}}/versions/{{version}}/{action}", (model, version)
        case ["models", model, "aliases", alias]:
            return "/models/{model}/aliases/{alias}", (model, alias)
        case ["models", model, action]:
            return f"/models/{{model}}/{action}", (model,)
        case ["uploads", upload]:
            return "/uploads/{upload}", (upload,)
        case ["uploads", upload, "blobs", sha256]:
            return "/uploads/{upload}/blobs/{sha256}", (upload, sha256)
        case ["uploads", upload, action]:
            return f"/uploads/{{upload}}/{action}", (upload,)
    return "/" + "/".join(parts), ()


def _upload(upload: Upload, missing: list[Missing]) -> dict[str, Any]:
    return {
        "upload": upload.upload_id,
        "name": upload.name,
        "version": upload.version,
        "digest": upload.manifest.digest,
        "size": upload.manifest.size,
        "missing": [{"sha256": each.sha256, "size": each.size, "received": each.received} for each in missing],
    }


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    """A body as it comes.

    Raises:
        ClientLeft: the client has gone.
        DeadlineExceeded: nothing came for too long.
    """
    more = True
    while more:
        try:
            async with asyncio.timeout(_SILENCE):
                message = await receive()
        except TimeoutError:
            raise DeadlineExceeded(
                f"nothing came for {_SILENCE:.0f} s; what came before is kept, go on from there"
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientLeft
        more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            yield chunk


async def _off_loop(body: bytes, decode: Callable[[bytes], T]) -> T:
    return await asyncio.to_thread(decode, body) if len(body) > _OFF_LOOP else decode(body)


def _query(scope: Scope) -> dict[str, str]:
    text: bytes = scope.get("query_string", b"")
    if len(text) > _MAX_QUERY:
        raise InvalidRequest(f"the URL's query has {len(text)} bytes; {_MAX_QUERY} are allowed")
    return dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True))


def _known(query: Mapping[str, str], *names: str) -> Mapping[str, str]:
    for name in query:
        if name not in names:
            raise InvalidRequest(f"unknown parameter {name[:80]!r}; there is {', '.join(names) or 'none here'}")
    return query


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > MAX_DIGITS:
        raise InvalidRequest(f"{name!r} is a number, got {text[:80]!r}")
    return int(text)


def _force(query: Mapping[str, str]) -> bool:
    value = _known(query, "force").get("force", "false")
    if value not in ("true", "false"):
        raise InvalidRequest(f"'force' is true or false, got {value[:80]!r}")
    return value == "true"
