"""The database under the registry: URLs, migrations, losing it and having it back, secrets."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from postgresql import PASSWORD, PostgresqlServer
from registered_versions import ready, version
from sqlalchemy import Connection, create_engine, text

from salver.core.errors import InvalidConfig, MissingDependency, StoreUnavailable
from salver.store.registry import database as database_module
from salver.store.registry.database import Database
from salver.store.registry.migration import HEAD, scripts
from salver.store.registry.registry import Registry
from salver.store.registry.tables import metadata


@pytest.fixture
def connection(url: str, registry: Registry) -> Iterator[Connection]:
    """To the registry's database, past the registry."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def test_migrations_give_the_declared_tables(connection: Connection) -> None:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    assert compare_metadata(context, metadata) == []
    assert scripts().get_current_head() == HEAD
    for name in ("models", "versions", "audit"):
        assert connection.execute(text(f"SELECT count(*) FROM {name}")).scalar() == 0


@pytest.mark.e2e
def test_names_sort_by_their_characters_codes_in_postgresql_too(postgresql_url: str) -> None:
    Registry.open(postgresql_url).close()
    with psycopg.connect(postgresql_url) as connection:
        found = connection.execute(
            "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE collation_name = 'C'"
        )
        ordered = {name for (name,) in found}
    assert ordered >= {"models.name", "versions.name", "versions.version", "versions.sort_key", "version_tags.tag"}


def test_a_registry_of_a_newer_salver_is_refused(url: str, connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    connection.commit()
    with pytest.raises(InvalidConfig, match=r"was written by a newer Salver \(its tables are at '9999'\); update"):
        Registry.open(url)


def test_a_database_of_something_else_is_left_alone(url: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE recipes (id INTEGER)"))
    with pytest.raises(InvalidConfig, match="it has tables of something else"):
        Registry.open(url)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        assert [difference[1].name for difference in compare_metadata(context, type(metadata)())] == ["recipes"]
    engine.dispose()


def test_what_is_registered_is_there_when_it_is_opened_again(url: str, registry: Registry) -> None:
    ready(registry)
    before = registry.model("iris")
    registry.close()
    with pytest.raises(StoreUnavailable, match="is closed"):
        registry.model("iris")
    again = Registry.open(url)
    assert again.model("iris") == before
    again.close()


def test_servers_that_start_together_migrate_once(url: str) -> None:
    together = threading.Barrier(8)

    def open_one() -> Registry:
        together.wait(60)
        return Registry.open(url)

    with ThreadPoolExecutor(8) as pool:
        opened = [each.result() for each in [pool.submit(open_one) for _ in range(8)]]
    numbers = [each.register(version(), actor=str(index)).version for index, each in enumerate(opened)]
    assert numbers == [str(number) for number in range(1, 9)]
    for each in opened:
        each.close()


def test_processes_that_start_together_on_one_file(tmp_path: Path) -> None:
    code = f"""
import sys
from salver.store.registry.registry import Registry
from salver.core.registry import ModelVersion
sys.stdin.read()
registry = Registry.open("sqlite:///{tmp_path}/deep/down/registry.db")
print(registry.register(ModelVersion("iris", "", "0" * 64, 1), actor="").version)
registry.close()
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for each in started:
        assert each.stdin is not None
        each.stdin.close()
    numbers = []
    for each in started:
        assert each.stdout is not None
        numbers.append(each.stdout.read().strip())
        each.stdout.close()
        assert each.wait(60) == 0
    assert sorted(numbers) == ["1", "2", "3", "4"]


def test_sqlite_syncs_every_commit(tmp_path: Path) -> None:
    opened = Database.open(f"sqlite:///{tmp_path}/registry.db")
    with opened.write() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 2, 1, 30_000]
    opened.close()


def test_sqlite_readers_do_not_wait_for_a_writer(sqlite: Registry, tmp_path: Path) -> None:
    ready(sqlite)
    other = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert sqlite.model("iris").name == "iris"
    other.close()


def test_a_writer_that_waits_too_long_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "_WAIT_SECONDS", 0)
    registry = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    other = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"registry.db can't be used: database is locked"):
        registry.register(version(), actor="ann")
    other.execute("ROLLBACK")
    other.close()
    assert registry.register(version(), actor="ann").version == "1"
    registry.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("registry.db", "expected sqlite:///FILE or postgresql://"),
        ("", "expected sqlite:///FILE or postgresql://"),
        ("mysql://u:p4ss@host/db", "expected sqlite:///FILE or postgresql://"),
        ("postgresql://u:p4ss@host:port/db", "expected sqlite:///FILE or postgresql://"),
        ("u:p4ss@host", "expected sqlite:///FILE or postgresql://"),
        ("sqlite://", "a file is needed"),
        ("sqlite:///:memory:", "a file is needed"),
        ("sqlite:///file:x?mode=memory&uri=true", "a file is needed"),
        ("sqlite://u:p4ss@host/file", "a file is needed"),
        ("postgresql://u:p4ss@localhost:1/db?no_such_option=1&sslpassword=p4ss", 'invalid connection option "no_such'),
    ],
)
def test_urls_that_cannot_be_a_registrys(url: str, problem: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        Registry.open(url)
    assert problem in str(caught.value)
    assert "p4ss" not in str(caught.value)


def test_postgresql_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependency, match=r"pip install 'salver\[postgresql\]'"):
        Registry.open("postgresql://u:p4ss@localhost/db")


def test_files_that_cannot_be_a_registry(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to have what would be a header" * 50)
    with pytest.raises(InvalidConfig, match="the file isn't a SQLite database"):
        Registry.open(f"sqlite:///{tmp_path}/text")
    with pytest.raises(StoreUnavailable, match=r"Not a directory|File exists"):
        Registry.open(f"sqlite:///{tmp_path}/text/registry.db")
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        Registry.open(f"sqlite:///{tmp_path}")


def test_a_damaged_file_is_told_of(tmp_path: Path) -> None:
    registry = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    for _ in range(20):
        ready(registry)
    registry.close()
    file = tmp_path / "registry.db"
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises((StoreUnavailable, InvalidConfig), match=r"malformed|can't be used"):
        Registry.open(f"sqlite:///{tmp_path}/registry.db").model("iris")


@pytest.mark.e2e
def test_postgresql_that_cannot_be_reached_is_told_of_without_its_password(postgresql_server: PostgresqlServer) -> None:
    wrong = postgresql_server.url("postgres").replace(PASSWORD, "an0ther")
    for url in (
        wrong,
        "postgresql://u:an0ther@127.0.0.1:1/db",
        wrong.replace("salver:an0ther@", "") + "?password=an0ther",
    ):
        with pytest.raises(StoreUnavailable) as caught:
            Registry.open(url)
        assert "an0ther" not in str(caught.value)
        assert "failed" in str(caught.value)


@pytest.mark.e2e
def test_postgresql_may_be_restarted() -> None:
    server = PostgresqlServer()
    try:
        server.create()
        server.start()
        registry = Registry.open(server.fresh_database())
        ready(registry)
        server.stop()
        for ask in (lambda: registry.model("iris"), lambda: registry.register(version(), actor="ann")):
            with pytest.raises(StoreUnavailable, match=r"can't be used: .*connection") as caught:
                ask()
            assert PASSWORD not in str(caught.value)
        server.start()
        assert registry.model("iris").versions[0].version == "1"
        assert registry.register(version(), actor="ann").version == "2"
        registry.close()
    finally:
        server.remove()


@pytest.mark.e2e
def test_a_connection_that_breaks_within_a_change_leaves_nothing(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)

    def change() -> None:
        with database.write() as connection, psycopg.connect(postgresql_url, autocommit=True) as other:
            connection.execute(text("UPDATE registry SET revision = 7"))
            own = connection.execute(text("SELECT pg_backend_pid()")).scalar()
            other.execute("SELECT pg_terminate_backend(%s)", (own,))
            connection.execute(text("UPDATE registry SET revision = 8"))

    with pytest.raises(StoreUnavailable, match="terminating connection"):
        change()
    with database.read() as connection:
        assert connection.execute(text("SELECT revision FROM registry")).scalar() == 0
    database.close()


@pytest.mark.e2e
def test_readers_of_postgresql_see_one_moment_and_change_nothing(postgresql_url: str) -> None:
    database = Database.open(postgresql_url)
    registry = Registry(database)
    with database.read() as connection:
        count = text("SELECT count(*) FROM versions")
        assert connection.execute(count).scalar() == 0
        registry.register(version(), actor="ann")
        assert connection.execute(count).scalar() == 0
    with pytest.raises(StoreUnavailable, match="read-only"), database.read() as connection:
        connection.execute(text("DELETE FROM nodes"))
    assert registry.changes(0).revision == 1
    registry.close()
