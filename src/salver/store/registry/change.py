"""A changing transaction of the registry: it draws revisions and writes the audit trail."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, insert, select, update

from salver.core.model import check_version
from salver.core.registry import ModelVersion, VersionState
from salver.store.registry.checks import MAX_TEXT, key_values, storable
from salver.store.registry.rows import existing, now
from salver.store.registry.tables import Values, audit, counter, models, version_tags, versions


class Change:
    """Made at the beginning of a transaction. It locks the counter, so that changes follow each other: whoever sees a
    revision sees all lower ones.
    """

    def __init__(self, connection: Connection, actor: str) -> None:
        self.connection = connection
        self._actor = storable(actor)[:MAX_TEXT]
        self._revision: int = connection.execute(select(counter.c.revision).with_for_update()).scalar_one()
        self._now = now(connection)

    def record(self, action: str, name: str, version: str = "", **details: Any) -> None:
        """Keep the counter and write the audit trail: the last step of a change."""
        connection = self.connection
        connection.execute(update(counter).values(revision=self._revision))
        entry = {
            "revision": self._revision,
            "at": self._now,
            "actor": self._actor,
            "action": action,
            "name": name,
            "version": version,
            "details": json.dumps(details),
        }
        connection.execute(insert(audit).values(entry))

    def add_version(self, values: Values, tags: dict[str, str], version: str) -> ModelVersion:
        """A new version, and its model where that is new too."""
        connection, name = self.connection, values["name"]
        check_version(version)
        if connection.execute(select(models.c.name).where(models.c.name == name)).one_or_none() is None:
            connection.execute(insert(models).values(name=name, created_at=self._now))
        row = values | key_values(version) | self._touched() | {"created_at": self._now}
        connection.execute(insert(versions).values(row | {"state": VersionState.PENDING.value}))
        self._add_tags(name, version, tags)
        return existing(connection, name, version)

    def update_version(self, version: ModelVersion, values: Values, tags: dict[str, str] | None = None) -> ModelVersion:
        """Other values of a version's columns; whoever had claimed it has done so no longer."""
        of_version = (versions.c.name == version.name) & (versions.c.version == version.version)
        unclaimed = {"claimed_by": None, "claimed_until": None}
        self.connection.execute(update(versions).where(of_version).values(values | unclaimed | self._touched()))
        if tags is not None:
            tagged = (version_tags.c.name == version.name) & (version_tags.c.version == version.version)
            self.connection.execute(version_tags.delete().where(tagged))
            self._add_tags(version.name, version.version, tags)
        return existing(self.connection, version.name, version.version)

    def delete_versions(self, name: str, deleted: list[str]) -> None:
        """Leave nothing of versions but that they were there."""
        for version in deleted:
            of_version = (versions.c.name == name) & (versions.c.version == version)
            gone = {"state": VersionState.DELETED.value, "claimed_by": None, "claimed_until": None}
            self.connection.execute(update(versions).where(of_version).values(gone | self._touched()))

    def change_aliases(self, name: str) -> None:
        """Tell that a model's aliases are others now."""
        revision = self._touched()["revision"]
        self.connection.execute(update(models).where(models.c.name == name).values(aliases_revision=revision))

    def _add_tags(self, name: str, version: str, tags: dict[str, str]) -> None:
        if tags:
            rows = [{"name": name, "version": version, "tag": tag, "value": value} for tag, value in tags.items()]
            self.connection.execute(insert(version_tags), rows)

    def _touched(self) -> Values:
        # Each row that changes has a revision of its own: what changed can be told in pages.
        self._revision += 1
        return {"revision": self._revision, "updated_at": self._now}
