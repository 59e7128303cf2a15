"""Which server should have which model."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.cluster.placement import owner, ranked_nodes

NODES = [f"http://10.0.0.{number}:8000" for number in range(1, 6)]
KEYS = [f"model{number}/1" for number in range(2000)]

node_lists = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8, unique=True)


def test_the_order_is_the_same_everywhere() -> None:
    assert ranked_nodes("iris/1", NODES) == ranked_nodes("iris/1", reversed(NODES))
    # As long as this holds, servers of different releases agree.
    assert ranked_nodes("iris/1", ["a", "b", "c"]) == ["a", "b", "c"]


def test_models_are_spread_evenly() -> None:
    counts = Counter(ranked_nodes(key, NODES)[0] for key in KEYS)
    assert all(300 < counts[node] < 500 for node in NODES)


def test_a_larger_node_has_more() -> None:
    counts = Counter(ranked_nodes(key, ["a", "b"], weights={"a": 3.0, "b": 1.0})[0] for key in KEYS)
    assert 2.5 < counts["a"] / counts["b"] < 3.6


@given(nodes=node_lists, key=st.text(max_size=20), more=st.text(min_size=1, max_size=12))
def test_a_node_that_joins_moves_only_what_it_gets(nodes: list[str], key: str, more: str) -> None:
    before = ranked_nodes(key, nodes)
    after = ranked_nodes(key, {*nodes, more})
    assert [node for node in after if node != more or more in nodes] == before


@given(nodes=node_lists, key=st.text(max_size=20), data=st.data())
def test_a_node_that_leaves_moves_only_what_it_had(nodes: list[str], key: str, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(nodes))
    before = ranked_nodes(key, nodes)
    assert ranked_nodes(key, [node for node in nodes if node != gone]) == [node for node in before if node != gone]


@given(nodes=node_lists, keys=st.lists(st.text(max_size=8), max_size=60, unique=True))
def test_no_node_gets_more_than_its_bound(nodes: list[str], keys: list[str]) -> None:
    loads = dict.fromkeys(nodes, 0)
    for key in keys:
        loads[owner(key, loads)] += 1
    average = len(keys) / len(nodes)
    assert max(loads.values()) <= int(1.25 * average) + 1


def test_the_first_choice_holds_while_it_has_room() -> None:
    loads = dict.fromkeys(NODES, 10)
    assert all(owner(key, loads) == ranked_nodes(key, NODES)[0] for key in KEYS[:100])


def test_without_nodes_there_is_no_owner() -> None:
    with pytest.raises(ValueError, match="no nodes"):
        owner("iris/1", {})
