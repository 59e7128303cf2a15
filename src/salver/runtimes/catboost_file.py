"""Reads CatBoost's binary models and holds their trees against what the library takes for granted.

CatBoost checks that a file is whole, and then follows the indices in it: of 1,200 files that were cut off or had bytes
changed, it crashed on 56 (1.2), on most of them while it loaded them.

A file is ``CBM1``, a length, and a FlatBuffers table of that length (catboost/libs/model/flatbuffers/model.fbs and
features.fbs; https://flatbuffers.dev/internals). Where it has categorical features, tables of what they say of the
target follow (ctr_data.fbs): their number, and of each its length and itself. What follows of text and embedding
features isn't looked through.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np

from salver.core.tensor import Array

MAGIC: Final = b"CBM1"
_HEADER: Final = 8
_MAX_DEPTH: Final = 16  # of symmetric trees: CatBoost's own bound
_MAX_TABLE: Final = 256  # bytes that say where a table's fields are: 126 fields
_MAX_FEATURE: Final = 10_000_000
_TREES: Final = 1  # a field of the model; those below are fields of its trees
_DIMENSION, _SPLITS, _TREE_SIZES, _TREE_STARTS = range(4)
_CATEGORICAL, _FLOAT, _ONE_HOT, _CTR, _LEAVES = range(4, 9)
_STEPS, _LEAF_OF_NODE, _TEXT, _ESTIMATED = range(10, 14)
_INDICES: Final = {_CATEGORICAL: 0, _FLOAT: 1, _TEXT: 0}  # kinds of features -> their field Index; FlatIndex follows
_PARTS: Final = 3  # of the model: what follows the table
_CTR_PART: Final = b"static_provider_v1"
_HASHED, _VALUES, _CLASSES = 1, 2, 4  # of a table of a categorical feature
_HISTORY_TYPES: Final = (0, 1)  # kinds of such tables, with a number for each class (ECtrType)
_MEAN_TYPES: Final = (2, 3)
_COUNT_TYPES: Final = (4, 5)
_EMPTY: Final = 2**64 - 1
_BUCKET: Final = np.dtype([("hash", "<u8"), ("index", "<u4")])
_BORDERS: Final = {_FLOAT: 3, _ONE_HOT: 1, _CTR: 1, _ESTIMATED: 3}  # in the order in which splits count them


_Key: TypeAlias = tuple[int, tuple[int, ...], bytes, bytes]


class Malformed(Exception):
    """The file isn't as CatBoost writes it; the text says where."""


def check(content: bytes) -> None:
    """Look through a file.

    Raises:
        Malformed: it is cut off, or its trees or features don't hold together.
    """
    if content[: len(MAGIC)] != MAGIC or len(content) < _HEADER:
        raise Malformed("no binary model, as save_model writes it")
    length = struct.unpack_from("<I", content, len(MAGIC))[0]
    if length > len(content) - _HEADER:
        raise Malformed(f"cut off: it speaks of {length} bytes, and has {len(content) - _HEADER}")
    buffer = memoryview(content)[_HEADER : _HEADER + length]
    try:
        model = _Table(buffer, struct.unpack_from("<I", buffer, 0)[0])
        trees = model.table(_TREES)
        if trees is None:
            raise Malformed("it has no trees")
        _check_features(trees)
        _check_trees(trees)
        if trees.count(_CTR):
            if next(model.texts(_PARTS), b"") != _CTR_PART:
                raise Malformed("it has no tables for its categorical features")
            _check_tables(trees, memoryview(content)[_HEADER + length :])
    except struct.error as error:
        raise Malformed(f"a place in it is none: {error}") from None


class _Table:
    """A table of a FlatBuffers buffer. Its methods raise struct.error and Malformed for places that are none."""

    def __init__(self, buffer: memoryview, at: int) -> None:
        self._buffer = buffer
        self._at = at
        self._fields = at - self._number("<i", at)
        self._end = self._fields + self._number("<H", self._fields)
        self._size = self._number("<H", self._fields + 2)
        if at + self._size > len(buffer) or self._end - self._fields > _MAX_TABLE:
            raise Malformed(f"a table at byte {_HEADER + at} is longer than it can be")
        for field in range((self._end - self._fields - 4) // 2):
            self._place(field)

    def number(self, field: int, default: int, kind: str = "<i") -> int:
        """A number, of 32 bits where ``kind`` says nothing else."""
        place = self._place(field)
        return default if place is None else self._number(kind, place)

    def count(self, field: int) -> int:
        """How many tables or texts a list has."""
        return self._list(field, 4)[1]

    def table(self, field: int) -> _Table | None:
        """Another table; None where there is none."""
        place = self._place(field)
        return None if place is None else _Table(self._buffer, place + self._number("<I", place))

    def numbers(self, field: int, datatype: str) -> Array:
        """A list of numbers."""
        start, count = self._list(field, np.dtype(datatype).itemsize)
        return np.frombuffer(self._buffer, datatype, count, start) if count else np.empty(0, datatype)

    def tables(self, field: int) -> Iterator[_Table]:
        """A list of tables."""
        start, count = self._list(field, 4)
        for place in range(start, start + 4 * count, 4):
            yield _Table(self._buffer, place + self._number("<I", place))

    def texts(self, field: int) -> Iterator[bytes]:
        """A list of texts."""
        start, count = self._list(field, 4)
        for place in range(start, start + 4 * count, 4):
            text = place + self._number("<I", place)
            size = self._number("<I", text)
            yield bytes(self._buffer[text + 4 : text + 4 + size])

    def _place(self, field: int) -> int | None:
        entry = self._fields + 4 + 2 * field
        offset = self._number("<H", entry) if entry + 2 <= self._end else 0
        if offset >= max(self._size, 1):
            raise Malformed(f"a table at byte {_HEADER + self._at} has a field outside of it")
        return self._at + offset if offset else None

    def _list(self, field: int, size: int) -> tuple[int, int]:
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + self._number("<I", place)
        count = self._number("<I", start)
        if start + 4 + count * size > len(self._buffer):
            raise Malformed(f"a list at byte {_HEADER + start} is longer than the file")
        return start + 4, count

    def _number(self, kind: str, at: int) -> int:
        if at < 0:  # which struct counts from the end
            raise Malformed("it points to what lies before its beginning")
        found: int = struct.unpack_from(kind, self._buffer, at)[0]
        return found


def _check_features(trees: _Table) -> None:
    flat: set[int] = set()
    for kind, field in _INDICES.items():
        of_kind: set[int] = set()
        for feature in trees.tables(kind):
            index, flat_index = feature.number(field, -1), feature.number(field + 1, -1)
            if not 0 <= index <= flat_index < _MAX_FEATURE or index in of_kind or flat_index in flat:
                raise Malformed(f"a feature has the number {flat_index} ({index} of its kind), which can't be")
            of_kind.add(index)
            flat.add(flat_index)
    categories = {feature.number(_INDICES[_CATEGORICAL], -1) for feature in trees.tables(_CATEGORICAL)}
    if any(feature.number(0, -1) not in categories for feature in trees.tables(_ONE_HOT)):
        raise Malformed("it splits by a categorical feature that isn't there")


def _check_tables(trees: _Table, part: memoryview) -> None:
    """Hold the tables of categorical features against the features that use them."""
    tables: dict[_Key, tuple[int, int]] = {}
    at = 4
    for _ in range(struct.unpack_from("<I", part, 0)[0]):
        size = struct.unpack_from("<I", part, at)[0]
        buffer = part[at + 4 : at + 4 + size]
        at += 4 + size
        table = _Table(buffer, struct.unpack_from("<I", buffer, 0)[0])
        key = _key(table)
        tables[key] = (key[0], _check_table(table, key[0]))
    floats = {feature.number(1, -1) for feature in trees.tables(_FLOAT)}
    categories = {feature.number(0, -1) for feature in trees.tables(_CATEGORICAL)}
    for feature in trees.tables(_CTR):
        ctr = feature.table(0)
        key = (-1, (), b"", b"") if ctr is None else _key(ctr)
        if ctr is None or key not in tables:
            raise Malformed("it has no table for one of its categorical features")
        kind, classes = tables[key]
        if kind in _HISTORY_TYPES and not 0 <= ctr.number(1, 0) < classes:
            raise Malformed(f"a categorical feature is of a class that isn't there: there are {classes}")
        _, used, by_number, by_value = key
        numbers = np.frombuffer(by_number, "<i4")[::2].tolist()
        values = np.frombuffer(by_value, "<i4")[::2].tolist()
        if not (categories.issuperset(used) and categories.issuperset(values) and floats.issuperset(numbers)):
            raise Malformed("a categorical feature is made of features that aren't there")


def _key(owner: _Table) -> _Key:
    """What tells a table from others: its kind, and the features it is of."""
    base = owner.table(0)
    combination = None if base is None else base.table(0)
    if base is None or combination is None:
        raise Malformed("a table of a categorical feature doesn't say of which")
    categories = tuple(combination.numbers(0, "<i4").tolist())
    by_number, by_value = (combination.numbers(field, "<u8").tobytes() for field in (1, 2))
    return base.number(1, 0, "<b"), categories, by_number, by_value


def _check_table(table: _Table, kind: int) -> int:
    """How many classes a table has."""
    classes = table.number(_CLASSES, 0)
    if kind in _HISTORY_TYPES:
        size = 4 * classes
    elif kind in _MEAN_TYPES or kind in _COUNT_TYPES:
        size = 8 if kind in _MEAN_TYPES else 4
    else:
        raise Malformed(f"a table of a categorical feature is of the kind {kind}, which there isn't")
    if kind in _HISTORY_TYPES and classes < 2:
        raise Malformed(f"a table of a categorical feature has {classes} classes")
    values = len(table.numbers(_VALUES, "<u1")) // size
    hashed = table.numbers(_HASHED, "<u1")
    if len(hashed) % _BUCKET.itemsize:
        raise Malformed("a table of a categorical feature is cut off")
    buckets = hashed.view(_BUCKET)
    used = buckets["hash"] != _EMPTY
    # A search goes on until it finds an empty place.
    if not len(buckets) or len(buckets) & (len(buckets) - 1) or used.all():
        raise Malformed("a table of a categorical feature can't be searched")
    if (buckets["index"][used] >= values).any():
        raise Malformed("a table of a categorical feature has an entry that isn't there")
    return classes


def _check_trees(trees: _Table) -> None:
    dimension = trees.number(_DIMENSION, 0)
    leaves = len(trees.numbers(_LEAVES, "<f8"))
    splits = trees.numbers(_SPLITS, "<i4")
    sizes = trees.numbers(_TREE_SIZES, "<i4").astype(np.int64)
    starts = trees.numbers(_TREE_STARTS, "<i4")
    steps = trees.numbers(_STEPS, "<u4")
    if dimension < 1 or (len(sizes) and dimension > leaves):
        raise Malformed(f"its predictions have {dimension} dimensions, and its trees {leaves} values")
    borders = sum(
        len(feature.numbers(field, "<i4")) for kind, field in _BORDERS.items() for feature in trees.tables(kind)
    )
    if (sizes < 0).any() or sizes.sum() != len(splits):
        raise Malformed(f"its trees have {sizes.sum()} splits, and there are {len(splits)}")
    if len(starts) != len(sizes) or (starts != np.cumsum(sizes) - sizes).any():
        raise Malformed("its trees don't follow each other")
    if len(splits) and not ((splits >= 0) & (splits < max(borders, 1))).all():
        raise Malformed(f"a tree splits by a border that isn't there: there are {borders}")
    if len(steps):
        _check_steps(steps.view("<u2").reshape(-1, 2), sizes, trees.numbers(_LEAF_OF_NODE, "<u4"), leaves - dimension)
        return
    if (sizes > _MAX_DEPTH).any() or (2**sizes).sum() * dimension != leaves:
        raise Malformed(f"its trees don't have {leaves} values, as it says")


def _check_steps(steps: Array, sizes: Array, leaf_of_node: Array, last_leaf: int) -> None:
    """Of trees that aren't symmetric, each node says how many nodes further its children are; 0 is none."""
    if len(steps) != sizes.sum() or len(leaf_of_node) != len(steps) or (sizes < 1).any():
        raise Malformed(f"its trees have {sizes.sum()} nodes, and there are {len(steps)}")
    left_in_tree = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(steps))
    if (steps.max(axis=1) >= left_in_tree).any():
        raise Malformed("a node has a child outside of its tree")
    if (leaf_of_node[steps.min(axis=1) == 0] > last_leaf).any():
        raise Malformed("a leaf has a value that isn't there")
