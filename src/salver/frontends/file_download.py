"""One file of an artifact as an HTTP answer, the whole of it or a range (RFC 9110, section 14)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from typing import Final

import orjson

from salver.core.artifact import ArtifactFile
from salver.frontends.http import MAX_DIGITS, ClientLeft, Headers, Send, id_header, send_answer

_RANGE: Final = re.compile(rb"bytes=(\d{0,%d})-(\d{0,%d})" % (MAX_DIGITS, MAX_DIGITS))

# Servers hold some messages for a client that is slow to take them, h2corn 32, however large these are.
_MESSAGE_BYTES: Final = 16 << 10
_SILENCE: Final = 60.0  # seconds in which a client has to take something

Read = Callable[[ArtifactFile, int, int], AsyncGenerator[bytes]]


async def send_file(file: ArtifactFile, read: Read, headers: Headers, send: Send, *, head: bool) -> None:
    """Send a file, or the one range of it that is asked for; 416 where the range isn't in it.

    Args:
        file: which.
        read: gives the file's bytes from one place up to another.
        headers: the request's.
        send: ASGI's.
        head: only say what would be sent.

    Raises:
        ClientLeft: the client has gone, or takes nothing.
        SalverError: the file can't be read.
    """
    # The digest names the content: what a client has in part goes on with the same bytes, or not at all.
    tag = f'"{file.sha256}"'.encode()
    wanted = headers.get(b"range")
    if wanted is not None and headers.get(b"if-range", tag) == tag:
        span = _span(wanted, file.size)
    else:
        span = (0, file.size, 200)
    start, end, status = span
    about = [id_header(), (b"accept-ranges", b"bytes"), (b"etag", tag)]
    if status == 416:
        about.append((b"content-range", b"bytes */%d" % file.size))
        text = f"{file.path!r} has {file.size} bytes, and the range isn't in it"
        await send_answer(send, 416, orjson.dumps({"error": text}), b"application/json", about)
        return
    if status == 206:
        about.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, file.size)))
    about += [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % (end - start))]
    blocks = read(file, start, end)
    # The first block is there before the answer begins: what can't be read is an error, not a broken answer.
    block = b"" if head or start == end else await anext(blocks)
    try:
        await send({"type": "http.response.start", "status": status, "headers": about})
        if head or start == end:
            await send({"type": "http.response.body", "body": b""})
            return
        left = end - start
        while True:
            for at in range(0, len(block), _MESSAGE_BYTES):
                part = block[at : at + _MESSAGE_BYTES]
                left -= len(part)
                async with asyncio.timeout(_SILENCE):
                    await send({"type": "http.response.body", "body": part, "more_body": left > 0})
            if left <= 0:
                return
            block = await anext(blocks)
    except OSError:  # TimeoutError is one: the client takes nothing
        raise ClientLeft from None
    finally:
        await blocks.aclose()


def _span(wanted: bytes, size: int) -> tuple[int, int, int]:
    """Where a range begins and ends in a file, and the status of the answer."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match[0] == b"bytes=-":
        return 0, size, 200  # several ranges, or none that can be read: the whole file is a right answer, too
    first, last = match[1], match[2]
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if first and last and int(last) < int(first):
        return 0, size, 200
    return (start, end, 206) if start < end else (0, 0, 416)
