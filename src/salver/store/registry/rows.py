"""Rows as registry values, and the questions that several methods of the registry ask."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, func, literal, select

from salver.core.errors import UnknownModel
from salver.core.registry import AuditEntry, ModelVersion, RegisteredModel, VersionMetadata, VersionState
from salver.store.registry.checks import TEXTS
from salver.store.registry.serialized import probe_from, signature_from
from salver.store.registry.tables import aliases, models, versions


def now(connection: Connection) -> datetime:
    """The database's clock, in UTC: servers that share a registry need not agree on the time."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment.astimezone(UTC)


def version_from(row: Row[Any]) -> ModelVersion:
    """A row of all columns of ``versions``."""
    return ModelVersion(
        name=row.name,
        version=row.version,
        digest=row.digest,
        size=row.size,
        state=VersionState(row.state),
        reason=row.reason,
        runtime=row.runtime,
        config=json.loads(row.config),
        metadata=VersionMetadata(
            **{name: getattr(row, name) for name in TEXTS},
            tags=json.loads(row.tags),
            properties=json.loads(row.properties),
        ),
        signature=None if row.signature is None else signature_from(row.signature),
        probe=None if row.probe is None else probe_from(row.probe),
        created_at=row.created_at,
        updated_at=row.updated_at,
        revision=row.revision,
    )


def audit_from(row: Row[Any]) -> AuditEntry:
    """A row of all columns of ``audit``."""
    details = json.loads(row.details)
    return AuditEntry(row.at, row.actor, row.action, row.name, row.version, details, row.revision)


def not_deleted() -> ColumnElement[bool]:
    """A condition on ``versions``."""
    return versions.c.state != VersionState.DELETED.value


def find(connection: Connection, name: str, version: str) -> ModelVersion | None:
    """A version, deleted or not; None where its name isn't taken."""
    key = (versions.c.name == name) & (versions.c.version == version)
    row = connection.execute(select(versions).where(key)).one_or_none()
    return None if row is None else version_from(row)


def existing(connection: Connection, name: str, version: str) -> ModelVersion:
    """A version that isn't deleted.

    Raises:
        UnknownModel: there is none; the message tells which part is unknown.
    """
    found = find(connection, name, version)
    if found is None:
        check_exists(connection, name)
        raise UnknownModel(f"model {name!r} has no version {version!r}")
    if found.state is VersionState.DELETED:
        raise UnknownModel(f"version {version!r} of model {name!r} was deleted")
    return found


def check_exists(connection: Connection, name: str) -> None:
    """Nothing, where a model has a version that isn't deleted.

    Raises:
        UnknownModel: it has none.
    """
    if (
        connection.execute(select(versions.c.name).where(versions.c.name == name, not_deleted()).limit(1)).first()
        is None
    ):
        raise UnknownModel(f"the registry has no model {name!r}")


def newest_ready(connection: Connection, name: str) -> ModelVersion | None:
    """The version that who names none gets."""
    ready = versions.c.state == VersionState.READY.value
    query = select(versions).where(versions.c.name == name, ready).order_by(versions.c.sort_key.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else version_from(row)


def next_number(connection: Connection, name: str) -> str:
    """One more than the greatest version of a model that is a number, deleted ones counted."""
    number = (versions.c.name == name) & (versions.c.sort_key >= "1") & (versions.c.sort_key < "2")
    greatest = connection.execute(select(func.max(versions.c.sort_key)).where(number)).scalar()
    return "1" if greatest is None else str(int(greatest[3:].split(" ")[0] or "0") + 1)


def aliases_of(connection: Connection, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Model -> alias -> version, for each of the models."""
    found: dict[str, dict[str, str]] = {name: {} for name in names}
    query = select(aliases).where(aliases.c.name.in_(names)).order_by(aliases.c.name, aliases.c.alias)
    for row in connection.execute(query):
        found[row.name][row.alias] = row.version
    return found


def registered(connection: Connection, names: Sequence[str], *, brief: bool = False) -> list[RegisteredModel]:
    """Models with their versions and aliases, in the order of the names; in brief, without config and properties."""
    of_model: dict[str, list[ModelVersion]] = {name: [] for name in names}
    large = {"config", "properties"} if brief else set()
    columns = [literal("{}").label(column.name) if column.name in large else column for column in versions.c]
    query = select(*columns).where(versions.c.name.in_(names), not_deleted())
    for row in connection.execute(query.order_by(versions.c.name, versions.c.sort_key)):
        of_model[row.name].append(version_from(row))
    created = {row.name: row.created_at for row in connection.execute(select(models).where(models.c.name.in_(names)))}
    pointing = aliases_of(connection, names)
    return [
        RegisteredModel(
            name,
            description=_newest(version.metadata.description for version in reversed(of_model[name])),
            owner=_newest(version.metadata.owner for version in reversed(of_model[name])),
            aliases=pointing[name],
            versions=tuple(of_model[name]),
            created_at=created[name],
        )
        for name in names
    ]


def _newest(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")
