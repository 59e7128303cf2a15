"""Reads LightGBM's text models and holds their trees against what the library takes for granted.

LightGBM follows the indices in a file without a look at them: of 300 files that were cut off or had bytes changed, it
crashed or ran for ever on 4 (4.7), and on half of them while it read the trees on several threads.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from salver.core.tensor import Array

_TREE_SIZES = re.compile(r"^tree_sizes=.*\n", re.MULTILINE)
_FIELD = re.compile(r"^(\w+)=(.*)$", re.MULTILINE)
_CATEGORICAL: Final = 1  # a bit of decision_type


class Malformed(Exception):
    """The file isn't as LightGBM writes it; the text says where."""


def check(text: str) -> tuple[str, dict[str, str]]:
    """The text as LightGBM may have it, and the fields of its header.

    The sizes of the trees are left out: with them LightGBM reads the trees on several threads, and ends the whole
    process at the first error in one. So is what comes after the trees, how the model was trained: predictions don't
    need it, and LightGBM crashes on a line there that it can't take apart.

    Raises:
        Malformed: it is no text model, is cut off, or a tree doesn't hold together.
    """
    header, first, rest = text.partition("\nTree=")
    if not text.startswith("tree") or not first:
        raise Malformed("no text model, as Booster.save_model writes it")
    trees, end, after = rest.partition("\nend of trees")
    if not end or ("\nparameters:" in after and "\nend of parameters" not in after):
        raise Malformed("cut off: its trees or parameters have no end")
    fields = dict(_FIELD.findall(header))
    try:
        features = int(fields["max_feature_idx"]) + 1
        if int(fields["num_class"]) < 1 or int(fields["num_tree_per_iteration"]) < 1 or features < 1:
            raise Malformed("its header speaks of no classes, trees or features")
        blocks = trees.split("\nTree=")
        if len(blocks) % int(fields["num_tree_per_iteration"]):
            raise Malformed(f"{len(blocks)} trees, which aren't {fields['num_tree_per_iteration']} in each round")
        for block in blocks:
            _check_tree(dict(_FIELD.findall(block)), block[:10].split("\n")[0], features)
    except KeyError as error:
        raise Malformed(f"{error} is missing") from None
    except ValueError as error:
        raise Malformed(f"a value is no number: {str(error)[:200]}") from None
    return _TREE_SIZES.sub("", header, count=1) + first + trees + end + "\n", fields


def _check_tree(tree: dict[str, str], name: str, features: int) -> None:
    leaves = int(tree["num_leaves"])
    inner = leaves - 1
    if leaves < 1 or leaves > max(len(tree["leaf_value"]), 1):
        raise Malformed(f"tree {name} has {leaves} leaves")
    if not inner:
        return
    left, right = _integers(tree, "left_child", inner, name), _integers(tree, "right_child", inner, name)
    children = np.concatenate([left, right])
    # Leaf n is written as ~n. Each node but the first, and each leaf, is the child of one: then every way down ends.
    if children.min() < -leaves or children.max() >= inner:
        raise Malformed(f"tree {name}: a child that isn't there")
    seen = np.bincount(children + leaves, minlength=leaves + inner)
    if seen[leaves] or (np.delete(seen, leaves) != 1).any():
        raise Malformed(f"tree {name}: a node is the child of none or of two")
    split = _integers(tree, "split_feature", inner, name)
    if split.min() < 0 or split.max() >= features:
        raise Malformed(f"tree {name} splits by a feature that isn't there")
    kinds = _integers(tree, "decision_type", inner, name)
    _check_categories(tree, name, kinds & _CATEGORICAL > 0)


def _check_categories(tree: dict[str, str], name: str, categorical: Array) -> None:
    count = int(tree["num_cat"])
    if not count:
        if categorical.any():
            raise Malformed(f"tree {name} splits by categories, and has none")
        return
    bounds = _integers(tree, "cat_boundaries", count + 1, name)
    if bounds[0] != 0 or (np.diff(bounds) < 0).any() or len(tree["cat_threshold"].split()) != bounds[-1]:
        raise Malformed(f"tree {name}: its lists of categories don't fit together")
    thresholds = np.array(tree["threshold"].split(), np.float64)
    if len(thresholds) != len(categorical):
        raise Malformed(f"tree {name}: {len(thresholds)} thresholds, not {len(categorical)}")
    chosen = thresholds[categorical]
    if len(chosen) and not ((chosen >= 0) & (chosen < count)).all():
        raise Malformed(f"tree {name}: a list of categories that isn't there")


def _integers(tree: dict[str, str], field: str, count: int, name: str) -> Array:
    numbers = np.array(tree[field].split(), np.int64)
    if len(numbers) != count:
        raise Malformed(f"tree {name}: {field!r} has {len(numbers)} numbers, not {count}")
    return numbers
