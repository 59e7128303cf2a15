"""What is found in files of XGBoost and LightGBM before the libraries get them: they crash on what isn't."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost

from salver.runtimes import lightgbm_file, xgboost_file

pytestmark = pytest.mark.e2e

RANDOM = np.random.default_rng(5)
ROWS = np.c_[RANDOM.integers(0, 40, 400), RANDOM.normal(size=(400, 2))]
TARGET = (ROWS[:, 0] % 3 == 1) + ROWS[:, 1] > 0.5


@cache
def xgboost_model(**parameters: Any) -> xgboost.Booster:
    data = xgboost.DMatrix(ROWS, TARGET, feature_types=["c", "q", "q"], enable_categorical=True)
    return xgboost.train({"nthread": 1, "max_cat_to_onehot": 1, **parameters}, data, 3)


@cache
def lightgbm_model() -> str:
    data = lightgbm.Dataset(ROWS, TARGET, categorical_feature=[0], params={"verbose": -1})
    settings = {"objective": "binary", "verbose": -1, "min_data_per_group": 1, "cat_smooth": 0, "num_threads": 1}
    return str(lightgbm.train(settings, data, 3).model_to_string())


def linear() -> xgboost.Booster:
    return xgboost.train({"booster": "gblinear", "nthread": 1}, xgboost.DMatrix(ROWS, TARGET), 2)


def forest() -> xgboost.Booster:
    settings = {"num_parallel_tree": 4, "subsample": 0.5, "objective": "multi:softprob", "num_class": 2, "nthread": 1}
    return xgboost.train(settings, xgboost.DMatrix(ROWS, TARGET), 2)


def vector_leaves() -> xgboost.Booster:
    data = xgboost.DMatrix(ROWS, np.c_[TARGET, ~TARGET])
    return xgboost.train({"multi_strategy": "multi_output_tree", "tree_method": "hist", "nthread": 1}, data, 2)


def pruned() -> xgboost.Booster:
    return xgboost.train({"tree_method": "exact", "gamma": 5, "nthread": 1}, xgboost.DMatrix(ROWS, TARGET), 4)


def text_categories() -> xgboost.Booster:
    import pandas as pd

    frame = pd.DataFrame({"c": pd.Categorical(RANDOM.choice(["red", "green"], 100)), "q": RANDOM.normal(size=100)})
    data = xgboost.DMatrix(frame, frame["q"], enable_categorical=True)
    return xgboost.train({"nthread": 1}, data, 2)


@pytest.mark.parametrize(
    "train",
    [xgboost_model, lambda: xgboost_model(booster="dart"), linear, forest, vector_leaves, pruned, text_categories],
)
def test_what_xgboost_writes_is_taken(train: Callable[[], xgboost.Booster]) -> None:
    booster = train()
    for form in ("json", "ubj"):
        found = xgboost_file.read(bytes(booster.save_raw(form)))
        xgboost_file.check(found)
        assert int(found["learner"]["learner_model_param"]["num_feature"]) == booster.num_features()
    as_json = xgboost_file.read(bytes(booster.save_raw("json")))
    as_ubjson = xgboost_file.read(bytes(booster.save_raw("ubj")))
    assert as_json.keys() == as_ubjson.keys()
    assert as_json["learner"]["learner_model_param"] == as_ubjson["learner"]["learner_model_param"]


def trees(model: dict[str, Any]) -> Any:
    return model["learner"]["gradient_booster"]["model"]


def first(model: dict[str, Any]) -> Any:
    return trees(model)["trees"][0]


def put(key: str, index: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        first(model)[key][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("left_children", 0, 10_000), "'left_children' names a node that isn't there"),
        (put("right_children", 0, -2), "'right_children' names a node"),
        (put("left_children", 0, 0), "'left_children' names a node"),
        (put("left_children", 0, -1), "a node has one child"),
        (lambda model: put("left_children", 0, first(model)["right_children"][0])(model), "child of two"),
        (put("parents", 1, 10_000), "'parents' names a node that isn't there"),
        (put("parents", 1, 1), "'parents' names another parent"),
        (put("split_indices", 0, 3), "'split_indices' has a number out of 0 to 2"),
        (put("split_indices", 0, -1), "'split_indices'"),
        (put("split_type", 0, 7), "split_type of tree 0"),
        (put("categories_segments", 0, 10_000), "categories_segments of tree 0"),
        (put("categories_nodes", 0, 10_000), "categories_nodes of tree 0"),
        (put("categories", 0, -1), "categories of tree 0"),
        (put("left_children", 0, 1.5), "integers alone"),
        (lambda model: first(model)["left_children"].pop(), "'left_children' has"),
        (lambda model: first(model)["base_weights"].pop(), "'base_weights' has"),
        (lambda model: first(model)["categories_sizes"].pop(), "different lengths"),
        (lambda model: first(model).update(left_children=3), "a value is of the wrong kind"),
        (lambda model: first(model).pop("parents"), "'parents' is missing"),
        (lambda model: first(model)["tree_param"].update(num_feature="9"), "9 features"),
        (lambda model: first(model)["tree_param"].update(num_nodes="-1"), "-1 nodes"),
        (lambda model: trees(model)["trees"].pop(), "2 trees, where 'num_trees' is 3"),
        (lambda model: trees(model)["tree_info"].append(0), "'tree_info' isn't as long"),
        (lambda model: trees(model).update(tree_info=[0, 0, 1]), "'tree_info' has a number out of 0 to 0"),
        (lambda model: trees(model).update(iteration_indptr=[0, 5]), "'iteration_indptr'"),
        (lambda model: model["learner"]["gradient_booster"].update(name="mine"), "'mine', which is unknown"),
        (lambda model: model["learner"]["learner_model_param"].update(num_feature="many"), "wrong kind"),
        (lambda model: model.clear(), "'learner' is missing"),
    ],
)
def test_what_xgboost_would_follow_out_of_its_memory(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    model = json.loads(xgboost_model().save_raw("json"))
    xgboost_file.check(model)
    change(model)
    with pytest.raises(xgboost_file.Malformed, match=message):
        xgboost_file.check(model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither JSON nor UBJSON"),
        (b"binf\x00\x00", "before 3.1, which can't be read any more"),
        (b'{"a": ', "no JSON"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x01a" + b"[" * 100_000, "nested more than 64 deep"),
        (b"{L\x7f\xff\xff\xff\xff\xff\xff\xff", "speaks of 9223372036854775807 bytes"),
        (b"{L\xff\xff\xff\xff\xff\xff\xff\xff", "speaks of -1 bytes"),
        (b"{i\x01a", "a length of type 'i'"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x01a[$d#L\x7f\xff\xff\xff\xff\xff\xff\xff", "not so many"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x01a[#L\x7f\xff\xff\xff\xff\xff\xff\xff", "elements"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x01aQ", "the type 'Q'"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x01\xffZ}", "isn't UTF-8"),
        (b"{L\x00\x00\x00\x00\x00\x00\x00\x01aZ}}", "1 bytes after its end"),
    ],
)
def test_what_is_no_file_of_xgboost(content: bytes, message: str) -> None:
    with pytest.raises(xgboost_file.Malformed, match=message):
        xgboost_file.read(content)


def test_leaves_that_are_vectors() -> None:
    model = json.loads(vector_leaves().save_raw("json"))
    tree = first(model)
    leaf = tree["left_children"].index(-1)
    for place in (-1, len(tree["leaf_weights"]) // 2):
        tree["right_children"][leaf] = place
        with pytest.raises(xgboost_file.Malformed, match="right_children of tree 0"):
            xgboost_file.check(model)


def mutations(content: bytes, count: int) -> Iterator[bytes]:
    """Cut off, or with some bytes changed; always the same ones."""
    for seed in range(count):
        chance = random.Random(seed)
        changed = bytearray(content)
        if seed % 4 == 0:
            del changed[chance.randrange(len(changed)) :]
        for _ in range(chance.choice([1, 2, 8]) if seed % 4 else 0):
            changed[chance.randrange(len(changed))] = chance.choice([chance.randrange(256), *b"0123456789-e. "])
        yield bytes(changed)


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_xgboost_files_with_other_bytes_in_them(form: str) -> None:
    refused = 0
    for content in mutations(bytes(xgboost_model().save_raw(form)), 400):
        try:
            xgboost_file.check(xgboost_file.read(content))
        except xgboost_file.Malformed:
            refused += 1
    assert refused > 200


def test_lightgbm_files_with_other_bytes_in_them() -> None:
    refused = 0
    for content in mutations(lightgbm_model().encode(), 400):
        try:
            lightgbm_file.check(content.decode(errors="replace"))
        except lightgbm_file.Malformed:
            refused += 1
    assert refused > 100


def test_what_lightgbm_writes_is_taken() -> None:
    text, header = lightgbm_file.check(lightgbm_model())
    assert header["objective"] == "binary sigmoid:1"
    assert "tree_sizes" not in text
    assert "parameters" not in text
    stump = lightgbm.train({"verbose": -1, "min_data_in_leaf": 1000}, lightgbm.Dataset(ROWS, TARGET), 1)
    lightgbm_file.check(stump.model_to_string())


def replaced(field: str, change: Callable[[list[str]], Any]) -> str:
    """The model, with the first line of a field changed."""
    lines = lightgbm_model().split("\n")
    at = next(index for index, line in enumerate(lines) if line.startswith(f"{field}="))
    values = lines[at].partition("=")[2].split(" ")
    change(values)
    lines[at] = f"{field}={' '.join(values)}"
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("left_child", lambda values: values.__setitem__(0, "999"), "tree 0: a child that isn't there"),
        ("left_child", lambda values: values.__setitem__(0, "-999"), "a child that isn't there"),
        ("left_child", lambda values: values.__setitem__(0, "0"), "the child of none or of two"),
        ("left_child", lambda values: values.pop(), "'left_child' has"),
        ("split_feature", lambda values: values.__setitem__(0, "3"), "a feature that isn't there"),
        ("cat_boundaries", lambda values: values.__setitem__(-1, "999"), "categories don't fit together"),
        ("num_cat", lambda values: values.__setitem__(0, "0"), "splits by categories, and has none"),
        ("num_leaves", lambda values: values.__setitem__(0, "999999999"), "has 999999999 leaves"),
        ("num_tree_per_iteration", lambda values: values.__setitem__(0, "2"), "3 trees, which aren't 2 in each round"),
        ("num_class", lambda values: values.__setitem__(0, "0"), "no classes, trees or features"),
        ("max_feature_idx", lambda values: values.__setitem__(0, "x"), "a value is no number"),
    ],
)
def test_what_lightgbm_would_follow_out_of_its_memory(
    field: str, change: Callable[[list[str]], Any], message: str
) -> None:
    with pytest.raises(lightgbm_file.Malformed, match=message):
        lightgbm_file.check(replaced(field, change))
