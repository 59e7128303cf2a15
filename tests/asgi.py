"""Drives an ASGI application without a server: the messages in, the answer out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Answer:
    """What an application sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.parts)

    def json(self) -> Any:
        """The body's JSON."""
        return orjson.loads(self.body)

    @property
    def error(self) -> str:
        """The text of a V2 error; everything about its form is checked."""
        document = self.json()
        assert list(document) == ["error"]
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"]
        return str(document["error"])

    async def send(self, message: Any) -> None:
        """ASGI's send, as strict as a server's."""
        if message["type"] == "http.response.start":
            if self.status:
                raise RuntimeError("the answer has begun")
            self.status = message["status"]
            for name, value in message["headers"]:
                key = name.decode()
                assert key == key.lower()
                assert key not in self.headers, f"{key} is there twice"
                self.headers[key] = value.decode("ascii")
        else:
            assert message["type"] == "http.response.body"
            assert self.status
            assert not self.ended
            self.parts.append(message["body"])
            self.ended = not message.get("more_body", False)


App = Callable[[Any, Any, Any], Awaitable[None]]


async def call(
    app: App,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] | object = b"",
    headers: dict[str, str] | None = None,
    *,
    query: str = "",
    leaves: bool = False,
    send: Callable[[Any], Awaitable[None]] | None = None,
) -> Answer:
    """Ask an application.

    Args:
        body: bytes, a list of chunks, or anything else, which is sent as JSON.
        query: what stands in the URL behind "?".
        leaves: the client leaves before the body has ended.
        send: takes the messages in place of the answer.
    """
    if isinstance(body, bytes):
        chunks = [body]
    elif isinstance(body, list | tuple):
        chunks = list(body)
    else:
        chunks = [orjson.dumps(body)]
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if leaves:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()  # nothing more comes, and the client doesn't leave
        raise AssertionError

    given = {"content-length": str(sum(map(len, chunks)))} if len(chunks) == 1 and chunks[0] else {}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(errors="replace"),
        "query_string": query.encode(),
        "headers": [
            (name.lower().encode(), value.encode("latin-1")) for name, value in {**given, **(headers or {})}.items()
        ],
    }
    answer = Answer()
    async with asyncio.timeout(30):
        await app(scope, receive, send or answer.send)
    if answer.ended and "content-length" in answer.headers:
        assert int(answer.headers["content-length"]) == len(answer.body)
    return answer
