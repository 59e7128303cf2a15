"""Bringing a database to this release's tables, with alembic, in one transaction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, inspect, text

from salver.core.errors import InvalidConfig

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

FOLDER = Path(__file__).parent / "migrations"
HEAD = "0001"
"""The newest migration."""

_ADVISORY_LOCK = 0x73616C766572  # "salver": servers that start together migrate one after the other


def revision_of(connection: Connection) -> str | None:
    """The migration that the database was last brought to; None for an empty one.

    Raises:
        InvalidConfig: the database has tables, and they aren't Salver's.
    """
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if not tables >= {"alembic_version", "registry"}:
        raise InvalidConfig("it has tables of something else; give the registry a database of its own")
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def migrate(connection: Connection) -> None:
    """Run what migrations are missing, within the caller's transaction, which has to be a writing one.

    Raises:
        InvalidConfig: the database was written by a newer Salver, or isn't a registry.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    revision = revision_of(connection)
    if revision == HEAD:
        return
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    script = scripts()
    known = {each.revision for each in script.walk_revisions()}
    if revision is not None and revision not in known:
        raise InvalidConfig(f"it was written by a newer Salver (its tables are at {revision!r}); update this one")

    def missing(current: Any, context: MigrationContext) -> Any:
        return script._upgrade_revs("head", current)

    context = MigrationContext.configure(connection, opts={"fn": missing, "script": script})
    with Operations.context(context):
        context.run_migrations()


def scripts() -> ScriptDirectory:
    """All migrations."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(FOLDER), version_locations=[str(FOLDER)])
