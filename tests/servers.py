"""Fixtures that start `salver serve` as a real process on a free port, and stop it as an operator would."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import IO

import pytest

from salver import Client

SALVER = str(Path(sys.executable).with_name("salver"))
START_SECONDS = 60.0
STOP_SECONDS = 40.0

_LISTENING = re.compile(r"listening on (http://[^\s\"]+)")


class Server:
    """A running `salver serve`.

    Attributes:
        url: where it listens, such as "http://127.0.0.1:34567".
        process: the process itself, for tests that send it signals.
    """

    def __init__(self, path: Path | str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        command = [SALVER, "serve", "--port", "0", str(path), *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stderr is not None
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        try:
            self.url = self.wait_for_log(_LISTENING)[1]
        except BaseException:
            self.kill()
            raise

    @property
    def address(self) -> str:
        """The URL without its scheme, as gRPC clients take it."""
        return self.url.removeprefix("http://")

    @property
    def log(self) -> str:
        """What the server has logged so far; all of it, where the server has ended."""
        if self.process.poll() is not None:
            self._reader.join(10)
        with self._changed:
            return "".join(self._lines)

    def client(self) -> Client:
        """A client of the server; close it."""
        return Client(self.url, timeout=30.0)

    def wait_for_log(self, pattern: re.Pattern[str] | str, timeout: float = START_SECONDS) -> re.Match[str]:
        """The first match of a pattern in the log, waited for. Fails when the server ends or the time is over."""
        deadline = monotonic() + timeout
        with self._changed:
            while True:
                found = re.search(pattern, "".join(self._lines))
                if found is not None:
                    return found
                left = deadline - monotonic()
                if self._ended or left <= 0:
                    pytest.fail(f"no {pattern!r} in the server's log:\n{''.join(self._lines)}")
                self._changed.wait(left)

    def wait_until_ready(self, timeout: float = START_SECONDS) -> None:
        """Return when the server says that it is ready."""
        deadline = monotonic() + timeout
        with self.client() as client:
            while not client.server_ready():
                if monotonic() > deadline or self.process.poll() is not None:
                    pytest.fail(f"the server isn't ready; its log:\n{self.log}")
                try:
                    self.process.wait(0.02)
                except subprocess.TimeoutExpired:
                    continue

    def stop(self) -> int:
        """Send SIGTERM; the exit code. A server that doesn't end is killed, and the test fails."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the server didn't end within {STOP_SECONDS} s of SIGTERM; its log:\n{self.log}")
        self._close()
        return code

    def kill(self) -> None:
        """End it at once, whatever happens."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def running(path: Path | str, *arguments: str) -> Iterator[Server]:
    """A server that is ready, and that ends with exit code 0 on SIGTERM."""
    server = Server(path, *arguments)
    try:
        server.wait_until_ready()
        yield server
    except BaseException:
        server.kill()
        raise
    assert server.stop() == 0, server.log


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers: ``server = serve(path, "--allow-code")``. Each is ready, and is stopped at the test's end."""
    servers: list[Server] = []

    def start(path: Path | str, *arguments: str) -> Server:
        server = Server(path, *arguments)
        servers.append(server)
        server.wait_until_ready()
        return server

    yield start
    running_still = [server for server in servers if server.process.returncode is None]
    codes = [server.stop() for server in running_still]
    for server in servers:
        server.kill()  # of those that a test ended, this closes what is left
    assert not any(codes), "\n".join(server.log for server in servers)


@pytest.fixture(scope="session")
def example_server(example_repository: Path) -> Iterator[Server]:
    """One server of the example models for the whole run; don't load, unload or stop anything there."""
    with running(example_repository, "--allow-code") as server:
        yield server
