"""What changed after a revision, for servers that follow the registry."""

from __future__ import annotations

from itertools import accumulate

from sqlalchemy import Connection, func, literal, select, union_all

from salver.core.registry import RegistryChanges
from salver.store.registry.rows import aliases_of, version_from
from salver.store.registry.tables import counter, models, versions

MAX_BYTES = 32 * 1024 * 1024
"""JSON that one answer may hold, but for its last version."""


def changes(connection: Connection, since: int, limit: int) -> RegistryChanges:
    """See :meth:`salver.store.registry.registry.Registry.changes`."""
    revision: int = connection.execute(select(counter.c.revision)).scalar_one()
    if since == revision:
        return RegistryChanges(revision)
    if since > revision:
        since = 0
    revision = _end_of_page(connection, since, limit) or revision
    changed = versions.c.revision.between(since + 1, revision)
    rows = connection.execute(select(versions).where(changed).order_by(versions.c.revision))
    told = tuple(map(version_from, rows))
    marked = models.c.aliases_revision.between(since + 1, revision)
    names = connection.execute(select(models.c.name).where(marked).order_by(models.c.aliases_revision)).scalars().all()
    return RegistryChanges(revision, told, aliases_of(connection, names))


def _end_of_page(connection: Connection, since: int, limit: int) -> int | None:
    """The last revision that fits; None where all does."""
    size = func.length(versions.c.config) + func.length(versions.c.properties)
    changed = select(versions.c.revision, size.label("size")).where(versions.c.revision > since)
    marked = select(models.c.aliases_revision, literal(0)).where(models.c.aliases_revision > since)
    both = union_all(changed, marked).subquery()
    query = select(both.c.revision, both.c.size).order_by(both.c.revision).limit(limit + 1)
    page = connection.execute(query).all()
    sizes = accumulate(row.size for row in page)
    fits = next((index for index, size in enumerate(sizes) if size > MAX_BYTES), len(page) - 1) + 1
    fits = min(limit, fits)
    return page[fits - 1].revision if fits < len(page) else None
