"""A web server that counts and misbehaves on demand, and a network cable that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def s3_options(port: int) -> dict[str, Any]:
    """How the S3 server of the tests is reached."""
    return {"key": "tester", "secret": "geheim", "endpoint_url": f"http://127.0.0.1:{port}"}


class WebServer:
    """Serves the files of a folder over HTTP.

    Attributes:
        ranges: whether it knows ranges.
        lengths: whether it tells how long files are.
        failures: how many answers to come have status 503.
        status: of all answers, if it isn't 0.
        break_after: bytes after which answers break off, if it isn't 0; counts down ``breaks``.
        asked: paths and ranges, in order.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ranges = True
        self.lengths = True
        self.failures = 0
        self.status = 0
        self.break_after = 0
        self.breaks = 0
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    outer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that leaves is nothing to tell of."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        path = unquote(urlsplit(handler.path).path)
        self.asked.append((path, wanted))
        self.headers.append(dict(handler.headers))
        file = self.root / path.lstrip("/")
        status = self.status or (200 if file.is_file() else 404)
        if self.failures:
            self.failures -= 1
            status = 503
        if status != 200:
            handler.send_response(status)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        data = file.read_bytes()
        etag = f'"{file.stat().st_mtime_ns}-{len(data)}"'
        total = len(data)
        if wanted and self.ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
            handler.send_response(206 if data else 416)
            handler.send_header("Content-Range", f"bytes {first}-{last}/{total}" if data else f"bytes */{total}")
        else:
            handler.send_response(200)
        handler.send_header("ETag", etag)
        if self.lengths:
            handler.send_header("Content-Length", str(len(data)))
        else:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        handler.end_headers()
        if self.break_after and self.breaks and len(data) > self.break_after:
            self.breaks -= 1
            handler.wfile.write(data[: self.break_after])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.wfile.write(data)


class Cable:
    """Forwards TCP connections to a port, until it is cut.

    Attributes:
        port: where it listens.
        received: bytes that came back through it.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._cut = False
        self._cut_after: int | None = None
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        with self._lock:
            self._cut = True
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def cut_after(self, count: int) -> None:
        """Cut it when so many more bytes have come back."""
        self._cut_after = self.received + count

    def mend(self) -> None:
        """Let connections pass again."""
        self._cut_after = None
        self._cut = False

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._to))
            with self._lock:
                self._open |= {here, there}
            for source, target, back in ((here, there, False), (there, here, True)):
                thread = threading.Thread(target=self._forward, args=(source, target, back))
                self._threads.append(thread)
                thread.start()

    def _forward(self, source: socket.socket, target: socket.socket, back: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if back:
                    self.received += len(data)
                    if self._cut_after is not None and self.received >= self._cut_after:
                        self.cut()
                        break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            if source in self._open:
                self._open.discard(source)
                source.close()
