"""A database behind its URL: connections, reading and changing transactions, and what went wrong in words.

SQLite (its write-ahead log, every commit synced to disk) and PostgreSQL (through psycopg) behave alike here: a reader
sees one moment, a writer waits for the writer before it.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

from salver.core.errors import InvalidConfig, MissingDependency, StoreUnavailable
from salver.store.registry.migration import HEAD, migrate, revision_of

_WAIT_SECONDS = 30
"""For a connection of the pool, and for the writer before."""
_CONNECT_SECONDS = 10
_STATEMENT_SECONDS = 60
_WRITES = "salver_writes"


class Database:
    """Opened by :meth:`open`; all methods may be called on any thread."""

    def __init__(self, engine: Engine, shown: str) -> None:
        self._shown = shown
        self._engine = engine
        self._closed = False
        self._writer: threading.Lock | None = None
        if engine.dialect.name == "sqlite":
            # SQLite's own waiting is polling and unfair: threads of one process queue up here instead.
            self._writer = threading.Lock()
            self._readers = engine
            self._writers = engine.execution_options(**{_WRITES: True})
        else:
            self._readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writers = engine.execution_options(isolation_level="READ COMMITTED")

    @classmethod
    def open(cls, url: str) -> Database:
        """Connect, and bring the tables to this release.

        Raises:
            InvalidConfig: the URL is wrong, or what is there isn't a registry that this release reads.
            MissingDependency: PostgreSQL's driver isn't installed.
            StoreUnavailable: it can't be reached or written.
        """
        parsed = _parsed(url)
        shown = masked(parsed)
        engine = _sqlite(parsed, shown) if parsed.drivername == "sqlite" else _postgresql(parsed)
        database = cls(engine, shown)
        try:
            database._migrate()
        except BaseException:
            database.close()
            raise
        return database

    def __str__(self) -> str:
        return self._shown

    @property
    def dialect(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one moment and changes nothing.

        Raises:
            StoreUnavailable: the database can't be reached or doesn't answer in time.
        """
        with self._in_words(), self._readers.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on disk when this returns, or leaves nothing where an error passes through it.

        Raises:
            StoreUnavailable: as for :meth:`read`. Where the connection breaks during the commit, nobody knows whether
                it was made.
        """
        with self._in_words(), self._alone(), self._writers.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close all connections. Whatever is asked afterwards raises StoreUnavailable."""
        self._closed = True
        self._engine.dispose()

    def _migrate(self) -> None:
        try:
            with self.read() as connection:
                current = revision_of(connection)
            if current != HEAD:
                with self.write() as connection:
                    migrate(connection)
        except InvalidConfig as error:
            raise InvalidConfig(f"the registry {self._shown} can't be used: {error}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=_WAIT_SECONDS):
            raise StoreUnavailable(f"the registry {self._shown} is busy: other changes took over {_WAIT_SECONDS} s")
        try:
            yield
        finally:
            self._writer.release()

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        if self._closed:
            raise StoreUnavailable(f"the registry {self._shown} is closed")
        try:
            yield
        except exc.TimeoutError as error:
            raise StoreUnavailable(
                f"the registry {self._shown} is busy: no connection was free within {_WAIT_SECONDS} s"
            ) from error
        except exc.DBAPIError as error:
            if (wrong := self._explained(error)) is None:
                raise
            raise wrong from error

    def _explained(self, error: exc.DBAPIError) -> StoreUnavailable | InvalidConfig | None:
        """None for what is a fault of Salver's own, such as a wrong statement."""
        reason = " ".join(str(error.orig).split())
        if "file is not a database" in reason:
            return InvalidConfig(f"the registry {self._shown} can't be used: the file isn't a SQLite database")
        if isinstance(error, exc.ProgrammingError) and "invalid connection option" in reason:
            return InvalidConfig(f"the registry {self._shown} can't be used: {reason}")
        # Of sqlite3, DatabaseError itself stands for a damaged file; its subclasses ProgrammingError, IntegrityError
        # and DataError for wrong statements. Of psycopg, InternalError stands for a server that may only be read.
        unreachable = isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError)
        damaged = type(error.orig) is sqlite3.DatabaseError
        if unreachable or damaged or error.connection_invalidated:
            return StoreUnavailable(f"the registry {self._shown} can't be used: {reason}")
        return None


def masked(url: URL) -> str:
    """The URL without its secrets."""
    secret = {name: "***" for name in url.query if "password" in name.lower() or "passfile" in name.lower()}
    return url.update_query_dict(secret).render_as_string(hide_password=True)


def _parsed(url: str) -> URL:
    expected = "expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        hidden = re.sub(r"//.*@", "//***@", url) if "://" in url else "***" if "@" in url else url
        raise InvalidConfig(f"{hidden!r} can't be the registry's URL: {expected}") from error
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "sqlite":
        raise InvalidConfig(f"{masked(parsed)!r} can't be the registry's URL: {expected}")
    if parsed.host or not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise InvalidConfig(
            f"{masked(parsed)!r} can't be the registry's URL: a file is needed, as in sqlite:///registry.db or, with "
            "a path from the root, sqlite:////var/lib/salver/registry.db"
        )
    return parsed


def _sqlite(url: URL, shown: str) -> Engine:
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the registry {shown} can't be used: {error}") from error
    engine = create_engine(
        url,
        connect_args={"timeout": _WAIT_SECONDS, "isolation_level": None, "check_same_thread": False},
        pool_size=8,
        max_overflow=8,
        pool_timeout=_WAIT_SECONDS,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: Any) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    # With no isolation level, sqlite3 leaves transactions to us. One that writes says so at once: a reader that turned
    # into a writer would fail where somebody else has written in between.
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    defaults: dict[str, Any] = {
        "application_name": "salver",
        "connect_timeout": _CONNECT_SECONDS,
        # A server that vanishes without a word is noticed.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 1000 * _STATEMENT_SECONDS,
    }
    arguments = {name: value for name, value in defaults.items() if name not in url.query}
    # Statements prepared on a server's connection get lost behind pgbouncer.
    arguments["prepare_threshold"] = None
    try:
        engine = create_engine(
            url,
            connect_args=arguments,
            pool_size=8,
            max_overflow=8,
            pool_timeout=_WAIT_SECONDS,
            pool_pre_ping=True,
            pool_recycle=1800,
        )
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "a registry in PostgreSQL needs psycopg; install it with: pip install 'salver[postgresql]'"
        ) from error

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        timeouts = {
            "statement_timeout": _STATEMENT_SECONDS,
            "lock_timeout": _WAIT_SECONDS,
            "idle_in_transaction_session_timeout": 2 * _STATEMENT_SECONDS,
        }
        for name, seconds in timeouts.items():
            connection.execute(f"SET {name} = '{seconds}s'")
        connection.commit()

    return engine
