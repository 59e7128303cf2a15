"""Reads XGBoost's model files and holds them against what the library takes for granted.

XGBoost itself ends the process on an empty file, and follows a wrong index in one out of its memory: of 150 UBJSON
files that were cut off or had bytes changed, it crashed on 16 (3.2). So files are looked through before it gets them.
The format is XGBoost's JSON schema (doc/model.schema) as text, or as UBJSON (https://ubjson.org, draft 12) in which
lengths are of type L, keys have no type of their own, and arrays of numbers are typed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from salver.core.tensor import Array

_MAX_DEPTH = 64
_NUMBERS = {"i": ">i1", "U": ">u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}
_LENGTH = struct.Struct(">q")
_NO_PARENT = 2**31 - 1
_CONSTANTS = {"Z": None, "T": True, "F": False}


class Malformed(Exception):
    """The file isn't as XGBoost writes it; the text says where."""


def read(content: bytes) -> dict[str, Any]:
    """The file's tree of maps, lists, NumPy arrays, texts and numbers.

    Raises:
        Malformed: it is neither JSON nor UBJSON.
    """
    if content[:1] != b"{":
        old = content[:4] == b"binf" or b"gbtree" in content[:512]
        raise Malformed(
            "the binary format of XGBoost before 3.1, which can't be read any more; load it with the XGBoost that "
            "wrote it and save it as .ubj"
            if old
            else "neither JSON nor UBJSON"
        )
    if content[1:2] in (b'"', b" ", b"\n", b"\r", b"\t", b"}"):
        try:
            found = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise Malformed(f"no JSON that could be read: {error}") from None
    else:
        found = _Ubjson(content).read()
    assert isinstance(found, dict)
    return found


class _Ubjson:
    """A reader that checks every length against what is left."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def read(self) -> Any:
        value = self._value(self._mark(), 0)
        if self._at != len(self._content):
            raise Malformed(f"{len(self._content) - self._at} bytes after its end")
        return value

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if count < 0 or end > len(self._content):
            raise Malformed(
                f"cut off, or no UBJSON: byte {self._at} speaks of {count} bytes, and there are not so many"
            )
        taken = self._content[self._at : end]
        self._at = end
        return taken

    def _mark(self) -> str:
        return chr(self._take(1)[0])

    def _length(self) -> int:
        mark = self._mark()
        if mark != "L":
            raise Malformed(f"no UBJSON of XGBoost's: a length of type {mark!r} at byte {self._at}")
        length: int = _LENGTH.unpack(self._take(8))[0]
        return length

    def _text(self) -> str:
        try:
            return self._take(self._length()).decode()
        except UnicodeDecodeError:
            raise Malformed(f"a text before byte {self._at} isn't UTF-8") from None

    def _value(self, mark: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise Malformed(f"maps and lists nested more than {_MAX_DEPTH} deep")
        if mark == "{":
            return self._map(depth)
        if mark == "[":
            return self._list(depth)
        if mark == "S":
            return self._text()
        if mark in _NUMBERS:
            return np.frombuffer(self._take(int(_NUMBERS[mark][-1])), _NUMBERS[mark])[0].item()
        if mark in _CONSTANTS:
            return _CONSTANTS[mark]
        raise Malformed(f"no UBJSON: the type {mark!r} at byte {self._at - 1}")

    def _map(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._content[self._at : self._at + 1] != b"}":
            key = self._text()
            found[key] = self._value(self._mark(), depth + 1)
        self._at += 1
        return found

    def _list(self, depth: int) -> Any:
        mark = self._mark()
        if mark == "$":
            kind = self._mark()
            if kind not in _NUMBERS or self._mark() != "#":
                raise Malformed(f"no UBJSON of XGBoost's: a list of type {kind!r} at byte {self._at}")
            count, size = self._length(), int(_NUMBERS[kind][-1])
            return np.frombuffer(self._take(count * size), _NUMBERS[kind])
        found = []
        if mark == "#":
            count = self._length()
            if count > len(self._content) - self._at:
                raise Malformed(f"cut off: byte {self._at} speaks of {count} elements")
            for _ in range(count):
                found.append(self._value(self._mark(), depth + 1))  # noqa: PERF401 - nothing is gained by it
            return found
        while mark != "]":
            found.append(self._value(mark, depth + 1))
            mark = self._mark()
        return found


def check(model: dict[str, Any]) -> None:
    """Hold a model against what XGBoost takes for granted: indices within bounds, lists of the right length.

    Raises:
        Malformed: it doesn't hold.
    """
    try:
        learner = model["learner"]
        features = int(learner["learner_model_param"]["num_feature"])
        groups = max(int(learner["learner_model_param"]["num_class"]), 1)
        targets = max(int(learner["learner_model_param"].get("num_target", 1)), 1)
        booster = learner["gradient_booster"]
        str(learner["objective"]["name"])
        if booster["name"] == "gblinear":
            _check_linear(booster["model"], features, max(groups, targets))
        elif booster["name"] in ("gbtree", "dart"):
            trees = (booster["gbtree"] if booster["name"] == "dart" else booster)["model"]
            _check_trees(trees, features, max(groups, targets))
            if booster["name"] == "dart" and len(booster["weight_drop"]) != len(trees["trees"]):
                raise Malformed("'weight_drop' isn't as long as there are trees")
        else:
            raise Malformed(f"a booster of the kind {str(booster['name'])[:40]!r}, which is unknown")
    except KeyError as error:
        raise Malformed(f"{error} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Malformed(f"a value is of the wrong kind: {str(error)[:200]}") from None


def _check_linear(model: dict[str, Any], features: int, groups: int) -> None:
    if len(model["weights"]) != (features + 1) * groups:
        raise Malformed(f"{len(model['weights'])} weights, for {features} features and {groups} outputs")


def _check_trees(model: dict[str, Any], features: int, groups: int) -> None:
    trees: list[dict[str, Any]] = model["trees"]
    count = int(model["gbtree_model_param"]["num_trees"])
    if len(trees) != count:
        raise Malformed(f"{len(trees)} trees, where 'num_trees' is {count}")
    info = _numbers(model["tree_info"])
    if len(info) != count:
        raise Malformed("'tree_info' isn't as long as there are trees")
    _within(info, 0, groups, "tree_info")
    rounds = _numbers(model.get("iteration_indptr", ()))
    if len(rounds) and (rounds[0] != 0 or rounds[-1] != count or (np.diff(rounds) < 0).any()):
        raise Malformed("'iteration_indptr' doesn't divide the trees")
    if not trees:
        return
    sizes = np.array([int(tree["tree_param"]["num_nodes"]) for tree in trees], np.int64)
    for index, tree in enumerate(trees):
        _check_lengths(tree, int(sizes[index]), features, index)
        _check_categories(tree, int(sizes[index]), index)
    _check_nodes(trees, sizes, features)


_PER_NODE = ("left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left")
_PER_NODE_OR_NONE = ("split_type", "loss_changes", "sum_hessian")


def _check_lengths(tree: dict[str, Any], nodes: int, features: int, index: int) -> None:
    parameters = tree["tree_param"]
    if nodes < 1 or int(parameters["num_feature"]) > features:
        raise Malformed(f"tree {index} has {nodes} nodes and {parameters['num_feature']} features")
    if not 0 <= int(parameters.get("num_deleted", 0)) < nodes:
        raise Malformed(f"tree {index} has {nodes} nodes, {parameters['num_deleted']} of them deleted")
    leaf = max(int(parameters.get("size_leaf_vector", 1)), 1)
    for name in (*_PER_NODE, *(key for key in _PER_NODE_OR_NONE if key in tree)):
        if len(tree[name]) != nodes:
            raise Malformed(f"tree {index}: {name!r} has {len(tree[name])} elements, for {nodes} nodes")
    weights = len(tree["base_weights"])
    if leaf == 1 and weights != nodes:
        raise Malformed(f"tree {index}: 'base_weights' has {weights} elements, for {nodes} nodes")
    if leaf > 1 and (weights % leaf or weights > nodes * leaf):
        raise Malformed(f"tree {index}: 'base_weights' has {weights} elements, for vectors of {leaf}")


def _check_categories(tree: dict[str, Any], nodes: int, index: int) -> None:
    split = _numbers(tree["categories_nodes"]) if "categories_nodes" in tree else np.empty(0, np.int64)
    kinds = _numbers(tree.get("split_type", ()))
    categorical = np.flatnonzero(kinds == 1)
    _within(kinds, 0, 2, f"split_type of tree {index}")
    left = _numbers(tree["left_children"])
    inner = categorical[left[categorical] >= 0] if len(categorical) else categorical
    if not len(split):
        if len(inner):
            raise Malformed(f"tree {index} splits by categories, and has none")
        return
    begins, sizes = _numbers(tree["categories_segments"]), _numbers(tree["categories_sizes"])
    if not len(split) == len(begins) == len(sizes):
        raise Malformed(f"tree {index}: its lists of categories are of different lengths")
    _within(split, 0, nodes, f"categories_nodes of tree {index}")
    total = len(tree["categories"])
    _within(begins, 0, total + 1, f"categories_segments of tree {index}")
    _within(sizes, 0, total + 1, f"categories_sizes of tree {index}")
    if (np.diff(split) <= 0).any() or (begins + sizes > total).any() or not np.isin(inner, split).all():
        raise Malformed(f"tree {index}: its lists of categories don't fit together")
    _within(_numbers(tree["categories"]), 0, 1 << 24, f"categories of tree {index}")


def _check_nodes(trees: Sequence[dict[str, Any]], sizes: Array, features: int) -> None:
    """Of all trees at once: children that are there, once each and never the root, so that every way down ends."""
    left = np.concatenate([_numbers(tree["left_children"]) for tree in trees])
    right = np.concatenate([_right_children(tree, index) for index, tree in enumerate(trees)])
    bounds = np.repeat(sizes, sizes)
    for name, children in (("left_children", left), ("right_children", right)):
        if ((children < -1) | (children >= bounds) | (children == 0)).any():
            raise Malformed(f"{name!r} names a node that isn't there")
    if ((left == -1) != (right == -1)).any():
        raise Malformed("a node has one child")
    begins = np.repeat(np.cumsum(sizes) - sizes, sizes)
    inner = left != -1
    children = np.concatenate([(left + begins)[inner], (right + begins)[inner]])
    if len(children) and np.bincount(children).max() > 1:
        raise Malformed("a node is the child of two")
    parents = np.concatenate([_numbers(tree["parents"]) for tree in trees])
    if ((parents != _NO_PARENT) & ((parents < -1) | (parents >= bounds))).any():
        raise Malformed("'parents' names a node that isn't there")
    if (parents[children] + begins[children] != np.concatenate([np.flatnonzero(inner)] * 2)).any():
        raise Malformed("'parents' names another parent than the one that has the child")
    indices = np.concatenate([_numbers(tree["split_indices"]) for tree in trees])
    _within(indices[inner], 0, features, "split_indices")


def _right_children(tree: dict[str, Any], index: int) -> Array:
    """Where leaves are vectors, a leaf has its place among them for a right child; here it has none."""
    right = _numbers(tree["right_children"])
    vectors = len(tree.get("leaf_weights", ())) // max(int(tree["tree_param"].get("size_leaf_vector", 1)), 1)
    if not vectors:
        return right
    leaves = _numbers(tree["left_children"]) == -1
    _within(right[leaves], 0, vectors, f"right_children of tree {index}")
    return np.where(leaves, -1, right)


def _within(numbers: Array, least: int, end: int, name: str) -> None:
    if len(numbers) and (numbers.min() < least or numbers.max() >= end):
        raise Malformed(f"{name!r} has a number out of {least} to {end - 1}")


def _numbers(values: Any) -> Array:
    numbers = np.asarray(values)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iub"):
        raise Malformed("a list that should hold integers alone holds others")
    return numbers.astype(np.int64)
