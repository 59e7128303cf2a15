"""The registry: models, versions, aliases, audit trail and nodes, in a database.

All methods block, and may be called on any thread. A change that returned is on disk. A change that raises has left
nothing, but for StoreUnavailable, after which it may have been made: each may be asked for again, and then does nothing
where it was made already (a version without a number, which :meth:`Registry.register` numbers, excepted).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, exists, insert, or_, select, update

from salver.core.errors import Conflict, ModelInUse, ModelUnavailable, UnknownModel, VersionExists
from salver.core.registry import (
    AuditEntry,
    ModelVersion,
    Node,
    Probe,
    RegisteredModel,
    RegistryChanges,
    VersionState,
    check_alias,
)
from salver.core.signature import Signature
from salver.store.registry import following, node_rows
from salver.store.registry.change import Change
from salver.store.registry.checks import MAX_REASON, check_limit, known_name, storable, version_values
from salver.store.registry.database import Database
from salver.store.registry.rows import (
    aliases_of,
    audit_from,
    check_exists,
    existing,
    find,
    newest_ready,
    next_number,
    not_deleted,
    now,
    registered,
    version_from,
)
from salver.store.registry.serialized import probe_text, signature_text
from salver.store.registry.tables import Values, aliases, audit, models, version_tags, versions

_AFTER_NAMES = "\x7f"
"""Sorts after every character of a name."""


class Registry:
    """Made by :meth:`open`. Every method raises StoreUnavailable where the database can't be reached."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> Registry:
        """A registry in SQLite (``sqlite:///FILE``) or PostgreSQL (``postgresql://USER:PASSWORD@HOST/DATABASE``).

        Its tables are created, or brought to this release.

        Raises:
            InvalidConfig: the URL is wrong, or what is there isn't a registry that this release reads.
            MissingDependency: PostgreSQL's driver isn't installed.
            StoreUnavailable: it can't be reached or written.
        """
        return cls(Database.open(url))

    def __str__(self) -> str:
        return str(self._database)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def register(self, version: ModelVersion, *, actor: str) -> ModelVersion:
        """A new version, PENDING; the model's next number where its ``version`` is "".

        Where the version is there with the same digest, it is given back as it is; one that FAILED becomes PENDING
        again, with the metadata that is given now. Of ``version``, what only a probe knows is passed over.

        Raises:
            InvalidRequest: a name, text, tag or JSON can't be kept, or is too large.
            VersionExists: it has another digest, or was deleted.
        """
        values = version_values(version)
        tags = dict(version.metadata.tags)
        with self._change(actor) as change:
            found = find(change.connection, version.name, version.version) if version.version else None
            if found is None:
                number = version.version or next_number(change.connection, version.name)
                made = change.add_version(values, tags, number)
                change.record("register", made.name, made.version, digest=made.digest, size=made.size)
                return made
            _check_same(found, version.digest)
            if found.state is not VersionState.FAILED:
                return found
            anew = values | {"state": VersionState.PENDING.value, "reason": ""}
            again = change.update_version(found, anew, tags)
            change.record("register_again", found.name, found.version, digest=found.digest)
            return again

    def check_free(self, name: str, version: str, *, digest: str) -> None:
        """Tell beforehand what :meth:`register` would say of a version of these files.

        Raises:
            VersionExists: it has another digest, or was deleted.
        """
        known_name(name, version)
        with self._database.read() as connection:
            found = find(connection, name, version)
        if found is not None:
            _check_same(found, digest)

    def claim(self, name: str, version: str, *, node: str, seconds: float) -> bool:
        """Take a PENDING version to be probed by this node alone, for some time; claim it again to have it longer.

        False where another node has it, or there is no such PENDING version.
        """
        with self._database.write() as connection:
            moment = now(connection)
            free = or_(
                versions.c.claimed_by.is_(None),
                versions.c.claimed_by == node,
                versions.c.claimed_until <= moment,
            )
            pending = versions.c.state == VersionState.PENDING.value
            claimed = {"claimed_by": node, "claimed_until": moment + timedelta(seconds=seconds)}
            wanted = (versions.c.name == storable(name)) & (versions.c.version == storable(version))
            result = connection.execute(update(versions).where(wanted, pending, free).values(claimed))
            return result.rowcount == 1

    def pending(self) -> list[ModelVersion]:
        """PENDING versions that no node has claimed, those that wait longest first."""
        with self._database.read() as connection:
            free = or_(versions.c.claimed_by.is_(None), versions.c.claimed_until <= now(connection))
            query = select(versions).where(versions.c.state == VersionState.PENDING.value, free)
            return [version_from(row) for row in connection.execute(query.order_by(versions.c.revision))]

    def ready_of(self, runtime: str) -> list[ModelVersion]:
        """READY versions that a runtime loads, in order of their names."""
        with self._database.read() as connection:
            query = select(versions).where(versions.c.state == VersionState.READY.value, versions.c.runtime == runtime)
            ordered = query.order_by(versions.c.name, versions.c.revision)
            return [version_from(row) for row in connection.execute(ordered)]

    def set_ready(
        self, name: str, version: str, *, runtime: str, signature: Signature, probe: Probe, actor: str
    ) -> ModelVersion:
        """A PENDING version's probe went well. A READY one is given back as it is.

        Raises:
            UnknownModel: there is no such version (any more).
            Conflict: it FAILED in the meantime.
        """
        values = {"runtime": runtime, "signature": signature_text(signature), "probe": probe_text(probe)}
        details = {"runtime": runtime, "memory_bytes": probe.memory_bytes, "load_seconds": probe.load_seconds}
        return self._settle(name, version, VersionState.READY, values, details, actor)

    def set_failed(self, name: str, version: str, *, reason: str, actor: str) -> ModelVersion:
        """A PENDING version's probe went wrong. A FAILED one is given back as it is.

        Raises:
            UnknownModel: there is no such version (any more).
            Conflict: it is READY.
        """
        kept = storable(reason)[:MAX_REASON]
        return self._settle(name, version, VersionState.FAILED, {"reason": kept}, {"reason": kept}, actor)

    def get(self, name: str, version: str) -> ModelVersion:
        """A version.

        Raises:
            UnknownModel: there is none, or it was deleted.
        """
        known_name(name, version)
        with self._database.read() as connection:
            return existing(connection, name, version)

    def model(self, name: str) -> RegisteredModel:
        """A model with its versions.

        Raises:
            UnknownModel: it has no version that isn't deleted.
        """
        known_name(name)
        with self._database.read() as connection:
            check_exists(connection, name)
            return registered(connection, [name])[0]

    def models(
        self, *, prefix: str = "", tag: tuple[str, str] | None = None, after: str = "", limit: int = 100
    ) -> list[RegisteredModel]:
        """A page of models by name: those after ``after``, with names that begin with ``prefix``, a version of which
        has the tag (name and value). What may be large isn't told in lists: the versions' config and properties are {}.

        Raises:
            InvalidRequest: the limit isn't one.
        """
        check_limit(limit)
        if not (prefix + after).isascii() or "\0" in prefix + after:
            return []  # no name is like that
        name = models.c.name
        live: ColumnElement[bool] = exists().where(versions.c.name == name, not_deleted())
        if tag is not None:
            same = (version_tags.c.name == versions.c.name) & (version_tags.c.version == versions.c.version)
            key, value = map(storable, tag)
            tagged = (version_tags.c.tag == key) & (version_tags.c.value == value)
            live = name.in_(select(versions.c.name).join(version_tags, same).where(tagged, not_deleted()))
        query = select(name).where(name > after, live)
        if prefix:
            query = query.where(name >= prefix, name < prefix + _AFTER_NAMES)
        with self._database.read() as connection:
            names = connection.execute(query.order_by(name).limit(limit)).scalars().all()
            return registered(connection, names, brief=True)

    def resolve(self, name: str, reference: str) -> ModelVersion:
        """The version that a reference means: a version, ``@ALIAS``, or "" for the newest READY one.

        Raises:
            UnknownModel: there is no such model, version or alias.
            ModelUnavailable: none of its versions is READY.
        """
        if not reference.startswith("@") and reference:
            return self.get(name, reference)
        known_name(name)
        with self._database.read() as connection:
            check_exists(connection, name)
            if not reference:
                newest = newest_ready(connection, name)
                if newest is None:
                    raise ModelUnavailable(f"no version of model {name!r} is ready")
                return newest
            pointing = aliases_of(connection, [name])[name]
            if (version := pointing.get(reference[1:])) is None:
                raise UnknownModel(f"model {name!r} has no alias {reference[1:]!r}")
            return existing(connection, name, version)

    def set_alias(self, name: str, alias: str, version: str, *, actor: str) -> None:
        """Let an alias point to a READY version; it may have pointed to another one.

        Raises:
            InvalidRequest: it can't be an alias.
            UnknownModel: there is no such version.
            Conflict: the version isn't READY.
        """
        check_alias(alias)
        known_name(name, version)
        with self._change(actor) as change:
            state = existing(change.connection, name, version).state
            if state is not VersionState.READY:
                raise Conflict(f"version {version!r} of model {name!r} is {state}; an alias points to a READY one")
            before = aliases_of(change.connection, [name])[name].get(alias)
            if before == version:
                return
            if before is None:
                change.connection.execute(insert(aliases).values(name=name, alias=alias, version=version))
            else:
                this = (aliases.c.name == name) & (aliases.c.alias == alias)
                change.connection.execute(update(aliases).where(this).values(version=version))
            change.change_aliases(name)
            change.record("set_alias", name, version, alias=alias, before=before)

    def delete_alias(self, name: str, alias: str, *, actor: str) -> None:
        """Take an alias away.

        Raises:
            UnknownModel: there is no such alias.
        """
        known_name(name)
        with self._change(actor) as change:
            check_exists(change.connection, name)
            before = aliases_of(change.connection, [name])[name].get(alias)
            if before is None:
                raise UnknownModel(f"model {name!r} has no alias {alias!r}")
            this = (aliases.c.name == name) & (aliases.c.alias == alias)
            change.connection.execute(delete(aliases).where(this))
            change.change_aliases(name)
            change.record("delete_alias", name, before, alias=alias)

    def delete(self, name: str, version: str, *, actor: str) -> None:
        """A version becomes DELETED; no other one can have its name.

        Raises:
            UnknownModel: there is no such version.
            ModelInUse: an alias points to it.
        """
        known_name(name, version)
        with self._change(actor) as change:
            existing(change.connection, name, version)
            pointing = aliases_of(change.connection, [name])[name]
            if using := [alias for alias, target in pointing.items() if target == version]:
                raise ModelInUse(
                    f"version {version!r} of model {name!r} has the alias {', '.join(map(repr, using))}; "
                    "let it point to another version first, or delete it"
                )
            change.delete_versions(name, [version])
            change.record("delete", name, version)

    def delete_model(self, name: str, *, actor: str) -> None:
        """All versions of a model become DELETED, and its aliases are gone.

        Raises:
            UnknownModel: there is no such model.
        """
        known_name(name)
        with self._change(actor) as change:
            query = select(versions.c.version).where(versions.c.name == name, not_deleted())
            live = change.connection.execute(query.order_by(versions.c.sort_key)).scalars().all()
            if not live:
                raise UnknownModel(f"the registry has no model {name!r}")
            if change.connection.execute(delete(aliases).where(aliases.c.name == name)).rowcount:
                change.change_aliases(name)
            change.delete_versions(name, list(live))
            change.record("delete_model", name, versions=len(live))

    def live_digests(self) -> set[str]:
        """Digests of artifacts that a version needs which isn't deleted."""
        with self._database.read() as connection:
            return set(connection.execute(select(versions.c.digest).where(not_deleted()).distinct()).scalars())

    def audit(self, name: str = "", *, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
        """What was changed, newest first: of one model or of all, before some revision or up to now.

        Raises:
            InvalidRequest: the limit isn't one.
        """
        check_limit(limit)
        query = select(audit).order_by(audit.c.revision.desc()).limit(limit)
        if name:
            query = query.where(audit.c.name == storable(name))
        if before is not None:
            query = query.where(audit.c.revision < before)
        with self._database.read() as connection:
            return [audit_from(row) for row in connection.execute(query)]

    def changes(self, since: int, *, limit: int = 1000) -> RegistryChanges:
        """What changed after a revision, as it is now, in the order of revisions; 0 for everything.

        At most ``limit`` versions and models with changed aliases come at once, and fewer where they are large: ask
        again from the answer's revision until it stays the same. A revision above the registry's own, as after a backup
        was put back, counts as 0.
        """
        with self._database.read() as connection:
            return following.changes(connection, since, limit)

    def beat(self, node: Node) -> None:
        """A server tells of itself; its ``age_seconds`` is passed over."""
        with self._database.write() as connection:
            node_rows.beat(connection, node)

    def nodes(self, *, within: float) -> list[Node]:
        """Servers that told of themselves within the last seconds, by id."""
        with self._database.read() as connection:
            return node_rows.nodes(connection, within)

    def forget_node(self, node_id: str) -> None:
        """A server stops, and tells so."""
        with self._database.write() as connection:
            node_rows.forget(connection, node_id)

    @contextmanager
    def _change(self, actor: str) -> Iterator[Change]:
        with self._database.write() as connection:
            yield Change(connection, actor)

    def _settle(
        self, name: str, version: str, state: VersionState, values: Values, details: Values, actor: str
    ) -> ModelVersion:
        known_name(name, version)
        with self._change(actor) as change:
            found = existing(change.connection, name, version)
            if found.state is state:
                return found
            if found.state is not VersionState.PENDING:
                raise Conflict(f"version {version!r} of model {name!r} is {found.state} already, not PENDING")
            settled = change.update_version(found, values | {"state": state.value})
            change.record(f"set_{state.value.lower()}", name, version, **details)
            return settled


def _check_same(found: ModelVersion, digest: str) -> None:
    if found.state is VersionState.DELETED:
        raise VersionExists(
            f"version {found.version!r} of model {found.name!r} was deleted, and its name stays taken; use another one"
        )
    if found.digest != digest:
        raise VersionExists(
            f"model {found.name!r} has a version {found.version!r} with other files, and versions never change; "
            "use another version"
        )
