"""Servers over one registry, and when each was last heard of."""

from __future__ import annotations

import json
from datetime import timedelta

from sqlalchemy import Connection, delete, insert, select, update

from salver.core.registry import Node
from salver.store.registry.rows import now
from salver.store.registry.tables import nodes as table

_FORGOTTEN = timedelta(days=1)
"""A server that wasn't heard of for so long has died without a word."""


def beat(connection: Connection, node: Node) -> None:
    """Keep what a server tells of itself; a new one drives out those that are long gone."""
    moment = now(connection)
    values = {
        "url": node.url,
        "budget_bytes": node.budget_bytes,
        "used_bytes": node.used_bytes,
        "loaded": json.dumps(dict(node.loaded)),
        "draining": node.draining,
        "seen_at": moment,
    }
    told = connection.execute(update(table).where(table.c.node_id == node.node_id).values(values))
    if told.rowcount == 0:
        connection.execute(delete(table).where(table.c.seen_at < moment - _FORGOTTEN))
        connection.execute(insert(table).values(values | {"node_id": node.node_id}))


def nodes(connection: Connection, within: float) -> list[Node]:
    """Servers that told of themselves within the last seconds, by id."""
    moment = now(connection)
    recent = table.c.seen_at >= moment - timedelta(seconds=within)
    return [
        Node(
            row.node_id,
            row.url,
            row.budget_bytes,
            row.used_bytes,
            json.loads(row.loaded),
            row.draining,
            max(0.0, (moment - row.seen_at).total_seconds()),
        )
        for row in connection.execute(select(table).where(recent).order_by(table.c.node_id))
    ]


def forget(connection: Connection, node_id: str) -> None:
    """A server is gone."""
    connection.execute(delete(table).where(table.c.node_id == node_id))
