"""Which server should have which model: rendezvous hashing with bounded loads, as pure functions.

Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998) ranks the nodes for
each model by a hash of both, so that every server finds the same order without talking to the others, and a node that
comes or goes moves only the models that it gets or had. Bounded loads (Mirrokni, Thorup and Zadimoghaddam, "Consistent
hashing with bounded loads", 2018) pass over nodes that have more than their part already.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

CAPACITY_FACTOR = 1.25
"""How much more than the average load a node may have."""


def ranked_nodes(key: str, nodes: Iterable[str], *, weights: Mapping[str, float] | None = None) -> list[str]:
    """The nodes in the order in which they should have a model.

    Args:
        key: the model's.
        nodes: their names.
        weights: how much each can take, relative to the others; 1 where it isn't named. A node of weight 2 comes first
            for twice as many models as one of weight 1.
    """
    return sorted(
        nodes, key=lambda node: (-_score(key, node, 1.0 if weights is None else weights.get(node, 1.0)), node)
    )


def owner(
    key: str,
    loads: Mapping[str, int],
    *,
    weights: Mapping[str, float] | None = None,
    capacity_factor: float = CAPACITY_FACTOR,
) -> str:
    """The node that should have a model that no node has yet.

    Args:
        key: the model's.
        loads: how many models each node has already.
        weights: as for :func:`ranked_nodes`.
        capacity_factor: at least 1: a node may have this many times the average, by its weight, rounded up.

    Raises:
        ValueError: there are no nodes.
    """
    if not loads:
        raise ValueError("there are no nodes to choose from")
    weight_of = {node: 1.0 if weights is None else weights.get(node, 1.0) for node in loads}
    average = (sum(loads.values()) + 1) / max(sum(weight_of.values()), 1e-9)
    ranked = ranked_nodes(key, loads, weights=weights)
    for node in ranked:
        if loads[node] + 1 <= math.ceil(capacity_factor * average * weight_of[node]):
            return node
    return ranked[0]


def _score(key: str, node: str, weight: float) -> float:
    """Of a node for a key: the larger, the sooner. Weights as by Schindelhauer and Schomaker (2005)."""
    digest = hashlib.blake2b(f"{len(node)}:{node}{key}".encode(), digest_size=8).digest()
    uniform = ((int.from_bytes(digest, "big") >> 11) + 0.5) / 2**53
    return weight / -math.log(uniform) if weight > 0 else 0.0
