"""The registry's tables, as the newest migration leaves them.

JSON is kept as text: it comes back exactly as it was given, on every database. Names are compared and ordered by their
characters' codes, whatever the database's locale is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

Values: TypeAlias = dict[str, Any]
"""A row's values by column."""


class Moment(TypeDecorator[datetime]):
    """A time in UTC: PostgreSQL keeps it as one, SQLite as text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _name(length: int) -> TypeEngine[str]:
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, default="")


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# One row. Who changes anything locks it first: revisions are in the order of commits.
counter = Table(
    "registry",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("name", _name(128), primary_key=True),
    Column("created_at", Moment, nullable=False),
    Column("aliases_revision", BigInteger, nullable=False, default=0, index=True),
)

versions = Table(
    "versions",
    metadata,
    Column("name", _name(128), ForeignKey("models.name"), primary_key=True),
    Column("version", _name(64), primary_key=True),
    Column("sort_key", _name(160), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    _text("reason"),
    _text("runtime"),
    Column("config", Text, nullable=False),
    _text("framework"),
    _text("framework_version"),
    _text("algorithm"),
    _text("run_id"),
    _text("owner"),
    _text("tenant"),
    _text("description"),
    Column("tags", Text, nullable=False),
    Column("properties", Text, nullable=False),
    Column("signature", Text),
    Column("probe", Text),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("claimed_by", Text),
    Column("claimed_until", Moment),
    UniqueConstraint("name", "sort_key"),
    UniqueConstraint("revision"),
)

# What versions.tags says, to look versions up by.
version_tags = Table(
    "version_tags",
    metadata,
    Column("name", _name(128), primary_key=True),
    Column("version", _name(64), primary_key=True),
    Column("tag", _name(128), primary_key=True),
    Column("value", Text, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"]),
    Index(None, "tag", "value", "name"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", _name(128), primary_key=True),
    Column("alias", _name(64), primary_key=True),
    Column("version", _name(64), nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"]),
    Index(None, "name", "version"),
)

audit = Table(
    "audit",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("name", _name(128), nullable=False),
    Column("version", _name(64), nullable=False),
    Column("details", Text, nullable=False),
    Index(None, "name", "revision"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", _name(128), primary_key=True),
    Column("url", Text, nullable=False),
    Column("budget_bytes", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False),
    Column("loaded", Text, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("seen_at", Moment, nullable=False),
)


def sort_key(version: str) -> str:
    """A text that sorts as :func:`salver.core.model.version_order` does, character by character."""
    if version.isdecimal():
        digits = version.lstrip("0")
        return f"1{len(digits):02}{digits} {version}"
    return "0" + version
