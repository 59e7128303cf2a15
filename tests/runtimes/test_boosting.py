"""The runtimes of XGBoost, LightGBM and CatBoost, on models trained here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_iris

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidInput
from salver.core.model import ModelSpec
from salver.core.signature import TensorSpec
from salver.runtimes.base import LoadedModel
from salver.runtimes.table import create

pytestmark = pytest.mark.e2e

X, Y = load_iris(return_X_y=True)
BINARY = (Y == 2).astype(int)
HOLES = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
QUIET = {"iterations": 5, "verbose": 0, "allow_writing_files": False, "bootstrap_type": "No"}
INPUT = TensorSpec("input", "FP64", (-1, 4), safe_cast=True)
GROUPS = np.arange(len(X)) // 10


def load(path: Path, runtime: str, **settings: Any) -> LoadedModel:
    return create(runtime).load(ModelSpec(name="iris", version="1", path=path, runtime=runtime, **settings))


def outputs(model: LoadedModel) -> dict[str, tuple[Any, Any]]:
    return {tensor.name: (tensor.datatype, tensor.shape) for tensor in model.signature.outputs}


def answer(model: LoadedModel, rows: Any = HOLES) -> dict[str, Any]:
    inputs = model.signature.check_inputs({"input": np.asarray(rows)})
    found = model.predict(inputs, None, {})
    for tensor in model.signature.outputs:
        array = found[tensor.name]
        assert array.shape[1:] == (tensor.shape or ())[1:]
    return found


def xgb_train(objective: str, labels: Any, **parameters: Any) -> xgboost.Booster:
    data = xgboost.DMatrix(X, labels)
    if objective.startswith("rank"):
        data.set_group([10] * 15)
    return xgboost.train({"objective": objective, "nthread": 1, **parameters}, data, num_boost_round=4)


def lgb_train(objective: str, labels: Any, **parameters: Any) -> lightgbm.Booster:
    data = lightgbm.Dataset(X, labels, group=[10] * 15 if objective == "lambdarank" else None)
    return lightgbm.train({"objective": objective, "verbose": -1, "num_threads": 1, **parameters}, data, 4)


@pytest.mark.parametrize("suffix", ["ubj", "json", "xgb", "bst"])
def test_xgboost_classifiers(tmp_path: Path, suffix: str) -> None:
    for labels, classes in ((Y, 3), (BINARY, 2)):
        classifier = xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(X, labels)
        path = tmp_path / f"model.{suffix}"
        path.write_bytes(classifier.get_booster().save_raw("json" if suffix == "json" else "ubj"))
        model = load(path, "xgboost")
        assert model.signature.inputs == (INPUT,)
        assert model.signature.batched
        assert outputs(model) == {"label": ("INT64", (-1,)), "probabilities": ("FP32", (-1, classes))}
        found = answer(model)
        np.testing.assert_array_equal(found["label"], classifier.predict(HOLES))
        np.testing.assert_array_equal(found["probabilities"], classifier.predict_proba(HOLES))
        assert found["label"].dtype == np.int64
        assert model.memory_bytes() == path.stat().st_size
        assert list(model.predict({"input": X}, ["probabilities"], {})) == ["probabilities"]


@pytest.mark.parametrize(
    ("booster", "expected"),
    [
        (lambda: xgb_train("reg:squarederror", Y), {"prediction": ("FP32", (-1,))}),
        (lambda: xgb_train("reg:squarederror", np.c_[Y, Y + 1]), {"prediction": ("FP32", (-1, 2))}),
        (lambda: xgb_train("rank:ndcg", Y), {"prediction": ("FP32", (-1,))}),
        (lambda: xgb_train("count:poisson", Y), {"prediction": ("FP32", (-1,))}),
        (lambda: xgb_train("reg:squarederror", Y, booster="gblinear"), {"prediction": ("FP32", (-1,))}),
        (lambda: xgb_train("reg:squarederror", Y, booster="dart"), {"prediction": ("FP32", (-1,))}),
    ],
)
def test_xgboost_regression_and_ranking(tmp_path: Path, booster: Any, expected: Any) -> None:
    trained = booster()
    trained.save_model(tmp_path / "model.ubj")
    model = load(tmp_path / "model.ubj", "xgboost")
    assert outputs(model) == expected
    np.testing.assert_allclose(answer(model)["prediction"], trained.predict(xgboost.DMatrix(HOLES)), rtol=1e-6)


def test_xgboost_objectives_that_predict_classes(tmp_path: Path) -> None:
    softmax = xgb_train("multi:softmax", Y, num_class=3)
    softmax.save_model(tmp_path / "softmax.json")
    found = answer(load(tmp_path / "softmax.json", "xgboost"))
    np.testing.assert_array_equal(found["label"], softmax.predict(xgboost.DMatrix(HOLES)))
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, rtol=1e-6)

    hinge = xgb_train("binary:hinge", BINARY)
    hinge.save_model(tmp_path / "hinge.json")
    found = answer(load(tmp_path / "hinge.json", "xgboost"))
    np.testing.assert_array_equal(found["label"], hinge.predict(xgboost.DMatrix(HOLES)))
    assert set(found) == {"label"}

    several = xgboost.XGBClassifier(n_estimators=3).fit(X, np.c_[Y == 1, Y == 2].astype(int))
    several.save_model(tmp_path / "several.ubj")
    found = answer(load(tmp_path / "several.ubj", "xgboost"))
    np.testing.assert_array_equal(found["label"], several.predict(HOLES))
    np.testing.assert_array_equal(found["probabilities"], several.predict_proba(HOLES))


def test_xgboost_outputs_as_the_library_gives_them(tmp_path: Path) -> None:
    trained = xgb_train("binary:logistic", BINARY)
    trained.save_model(tmp_path / "booster.ubj")
    classifier = xgboost.XGBClassifier(n_estimators=3).fit(X, BINARY)
    classifier.save_model(tmp_path / "classifier.ubj")
    for options in ({"outputs": "raw"}, {"outputs": "sklearn"}):
        model = load(tmp_path / "booster.ubj", "xgboost", options=options)
        assert outputs(model) == {"prediction": ("FP32", (-1,))}
        np.testing.assert_allclose(answer(model)["prediction"], trained.predict(xgboost.DMatrix(HOLES)), rtol=1e-6)
    model = load(tmp_path / "classifier.ubj", "xgboost", options={"outputs": "sklearn"})
    np.testing.assert_array_equal(answer(model)["label"], classifier.predict(HOLES))
    softmax = xgb_train("multi:softmax", Y, num_class=3)
    softmax.save_model(tmp_path / "softmax.json")
    model = load(tmp_path / "softmax.json", "xgboost", options={"outputs": "raw"})
    np.testing.assert_array_equal(answer(model)["prediction"], softmax.predict(xgboost.DMatrix(HOLES)))


def test_xgboost_categories_are_their_numbers(tmp_path: Path) -> None:
    rows = np.c_[np.random.default_rng(1).integers(0, 5, 300), np.random.default_rng(2).normal(size=300)]
    trained = xgboost.train(
        {"nthread": 1, "max_cat_to_onehot": 1},
        xgboost.DMatrix(rows, rows[:, 0] % 2, feature_types=["c", "q"], enable_categorical=True),
        num_boost_round=3,
    )
    trained.save_model(tmp_path / "model.ubj")
    found = answer(load(tmp_path / "model.ubj", "xgboost"), rows)
    expected = trained.predict(xgboost.DMatrix(rows, feature_types=["c", "q"], enable_categorical=True))
    np.testing.assert_array_equal(found["prediction"], expected)


@pytest.mark.parametrize("suffix", ["lgb", "txt", "bst"])
def test_lightgbm_classifiers(tmp_path: Path, suffix: str) -> None:
    for labels, classes in ((Y, 3), (BINARY, 2)):
        classifier = lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(X, labels)
        classifier.booster_.save_model(tmp_path / f"model.{suffix}")
        model = load(tmp_path / f"model.{suffix}", "lightgbm")
        assert model.signature.inputs == (INPUT,)
        assert outputs(model) == {"label": ("INT64", (-1,)), "probabilities": ("FP64", (-1, classes))}
        found = answer(model)
        np.testing.assert_array_equal(found["label"], classifier.predict(HOLES))
        np.testing.assert_array_equal(found["probabilities"], classifier.predict_proba(HOLES))


@pytest.mark.parametrize("objective", ["regression", "lambdarank", "poisson", "quantile", "cross_entropy"])
def test_lightgbm_regression_and_ranking(tmp_path: Path, objective: str) -> None:
    trained = lgb_train(objective, BINARY if objective == "cross_entropy" else Y)
    trained.save_model(tmp_path / "model.txt")
    model = load(tmp_path / "model.txt", "lightgbm")
    assert outputs(model) == {"prediction": ("FP64", (-1,))}
    np.testing.assert_array_equal(answer(model)["prediction"], trained.predict(HOLES))


def test_lightgbm_outputs_as_the_library_gives_them_by_other_names(tmp_path: Path) -> None:
    trained = lgb_train("binary", BINARY)
    trained.save_model(tmp_path / "model.txt")
    options = {"outputs": "raw", "names": {"prediction": "predict", "input": "rows", "label": "unused"}}
    model = load(tmp_path / "model.txt", "lightgbm", options=options)
    assert outputs(model) == {"predict": ("FP64", (-1,))}
    np.testing.assert_array_equal(model.predict({"rows": X}, ["predict"], {})["predict"], trained.predict(X))


def test_lightgbm_categories_are_their_numbers(tmp_path: Path) -> None:
    rows = np.c_[np.random.default_rng(1).integers(0, 50, 600), np.random.default_rng(2).normal(size=600)]
    data = lightgbm.Dataset(rows, rows[:, 0] % 3 == 1, categorical_feature=[0], params={"verbose": -1})
    settings = {"objective": "binary", "verbose": -1, "min_data_per_group": 1, "cat_smooth": 0, "num_threads": 1}
    trained = lightgbm.train(settings, data, 4)
    trained.save_model(tmp_path / "model.txt")
    assert "cat_threshold" in (tmp_path / "model.txt").read_text()
    found = answer(load(tmp_path / "model.txt", "lightgbm"), rows)
    np.testing.assert_array_equal(found["probabilities"][:, 1], trained.predict(rows))


@pytest.mark.parametrize(
    "labels",
    [Y, np.array(["setosa", "versicolor", "virginica"])[Y], BINARY, BINARY.astype(bool), BINARY + 0.5, BINARY + 7],
)
def test_catboost_classifiers(tmp_path: Path, labels: Any) -> None:
    classifier = catboost.CatBoostClassifier(**QUIET).fit(X, labels)
    classifier.save_model(str(tmp_path / "model.cbm"))
    model = load(tmp_path / "model.cbm", "catboost")
    assert model.signature.inputs == (INPUT,)
    kind = {"U": "BYTES", "i": "INT64", "b": "BOOL", "f": "FP64"}[labels.dtype.kind]
    assert outputs(model)["label"] == (kind, (-1,))
    found = answer(model)
    expected = classifier.predict(HOLES).ravel()
    if labels.dtype.kind == "b":
        expected = expected == "True" if expected.dtype.kind == "U" else expected
    got = [each.decode() for each in found["label"]] if kind == "BYTES" else found["label"]
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(found["probabilities"], classifier.predict_proba(HOLES))


def test_catboost_classifiers_with_a_threshold_or_several_labels(tmp_path: Path) -> None:
    classifier = catboost.CatBoostClassifier(**QUIET).fit(X, BINARY)
    classifier.set_probability_threshold(0.9)
    classifier.save_model(str(tmp_path / "model.cbm"))
    found = answer(load(tmp_path / "model.cbm", "catboost"))
    np.testing.assert_array_equal(found["label"], found["probabilities"][:, 1] > 0.9)
    np.testing.assert_array_equal(found["label"], classifier.predict(HOLES))

    several = catboost.CatBoostClassifier(loss_function="MultiLogloss", **QUIET).fit(X, np.c_[Y == 1, Y == 2] * 1)
    several.save_model(str(tmp_path / "several.cbm"))
    found = answer(load(tmp_path / "several.cbm", "catboost"))
    np.testing.assert_array_equal(found["label"], several.predict(HOLES))
    np.testing.assert_array_equal(found["probabilities"], several.predict_proba(HOLES))


@pytest.mark.parametrize("loss", ["RMSE", "Poisson", "MultiRMSE", "RMSEWithUncertainty", "Quantile:alpha=0.9"])
def test_catboost_regression(tmp_path: Path, loss: str) -> None:
    trained = catboost.CatBoostRegressor(loss_function=loss, **QUIET).fit(X, np.c_[Y, Y] if loss == "MultiRMSE" else Y)
    trained.save_model(str(tmp_path / "model.cbm"))
    model = load(tmp_path / "model.cbm", "catboost")
    np.testing.assert_array_equal(answer(model)["prediction"], trained.predict(HOLES))


def test_catboost_ranking(tmp_path: Path) -> None:
    trained = catboost.CatBoostRanker(**QUIET).fit(X, Y, group_id=GROUPS)
    trained.save_model(str(tmp_path / "model.cbm"))
    found = answer(load(tmp_path / "model.cbm", "catboost"))
    np.testing.assert_array_equal(found["prediction"], trained.predict(HOLES))


def mixed_rows(count: int) -> dict[str, Any]:
    random = np.random.default_rng(3)
    words = np.array(["good", "bad", "so so", "größer", "fine"])
    return {
        "size": np.where(random.random(count) < 0.1, np.nan, random.normal(size=count)),
        "colour": random.choice(["red", "green", "blau"], count),
        "age": random.integers(0, 5, count),
        "shop": random.choice([1, 2, 3], count),
        "note": np.array([" ".join(each) for each in random.choice(words, (count, 6))]),
        "vector": random.normal(size=(count, 3)).astype(np.float32),
    }


def test_catboost_categories_texts_and_embeddings(tmp_path: Path) -> None:
    import pandas as pd

    columns = mixed_rows(200)
    frame = pd.DataFrame({**columns, "vector": list(columns["vector"])})
    target = ((columns["colour"] == "red") + np.nan_to_num(columns["size"]) > 0.4).astype(int)
    classifier = catboost.CatBoostClassifier(**QUIET).fit(
        frame, target, cat_features=["colour", "shop"], text_features=["note"], embedding_features=["vector"]
    )
    classifier.save_model(str(tmp_path / "model.cbm"))
    with pytest.raises(InvalidConfig, match=r"'vector' are; say it in model.yaml, such as inputs"):
        load(tmp_path / "model.cbm", "catboost")
    model = load(tmp_path / "model.cbm", "catboost", inputs=(TensorSpec("vector", "FP32", (-1, 3)),))
    assert {tensor.name: (tensor.datatype, tensor.shape) for tensor in model.signature.inputs} == {
        "size": ("FP64", (-1,)),
        "colour": ("BYTES", (-1,)),
        "age": ("FP64", (-1,)),
        "shop": ("BYTES", (-1,)),
        "note": ("BYTES", (-1,)),
        "vector": ("FP32", (-1, 3)),
    }
    assert model.signature.batched
    inputs = {
        name: np.array([str(each).encode() for each in column], object)
        if name in ("colour", "shop", "note")
        else column
        for name, column in columns.items()
    }
    found = model.predict(model.signature.check_inputs(inputs), None, {})
    np.testing.assert_allclose(found["probabilities"], classifier.predict_proba(frame), rtol=1e-12)
    np.testing.assert_array_equal(found["label"], classifier.predict(frame))
    with pytest.raises(InvalidInput, match="'colour': expected UTF-8"):
        model.predict({**inputs, "colour": np.array([b"\xff"] * 200, object)}, None, {})
    with pytest.raises(InvalidInput, match="expected shape"):
        model.signature.check_inputs({**inputs, "vector": np.zeros((200, 2), np.float32)})


MODELS = {
    "xgboost": ("model.ubj", lambda path: xgb_train("multi:softprob", Y, num_class=3).save_model(path)),
    "lightgbm": ("model.lgb", lambda path: lgb_train("multiclass", Y, num_class=3).save_model(path)),
    "catboost": ("model.cbm", lambda path: catboost.CatBoostClassifier(**QUIET).fit(X, Y).save_model(str(path))),
}


@pytest.mark.parametrize("runtime", MODELS)
def test_threads_share_a_model(tmp_path: Path, runtime: str) -> None:
    file, save = MODELS[runtime]
    save(tmp_path / file)
    model = load(tmp_path / file, runtime)
    assert (model.max_concurrency, model.threads, model.device) == (None, 1, "cpu")
    expected = model.predict({"input": X}, None, {})
    rows = [np.tile(X[index : index + 1], (20, 1)) for index in range(len(X))]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda each: model.predict({"input": each}, None, {}), rows * 4))
    for index, each in enumerate(found):
        for name, array in each.items():
            np.testing.assert_array_equal(array, np.repeat(expected[name][index % 150][None], 20, axis=0))
    model.close()


@pytest.mark.parametrize("runtime", MODELS)
def test_settings(tmp_path: Path, runtime: str) -> None:
    file, save = MODELS[runtime]
    save(tmp_path / file)
    assert load(tmp_path / file, runtime, threads=3).threads == 3
    model = load(tmp_path / file, runtime, inputs=(TensorSpec("input", "FP32", None),))
    assert model.signature.inputs[0].datatype == "FP32"
    found = model.predict({"input": X.astype(np.float32)}, None, {})
    assert found["probabilities"].shape == (150, 3)
    for settings, message in (
        ({"options": {"rounds": 3}}, "has no option 'rounds'"),
        ({"options": {"names": ["a"]}}, "'names' is a map"),
        ({"options": {"names": {"label": "x", "probabilities": "x"}}}, "two tensors one name"),
        ({"device": "cuda"}, "run on the CPU"),
        ({"inputs": (TensorSpec("input", "FP64", (-1, 5)),)}, "has the shape"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            load(tmp_path / file, runtime, **settings)
    if runtime != "catboost":
        with pytest.raises(InvalidConfig, match="'outputs' is one of classes, raw"):
            load(tmp_path / file, runtime, options={"outputs": "all"})


@pytest.mark.parametrize("runtime", MODELS)
def test_rows_at_the_edge(tmp_path: Path, runtime: str) -> None:
    file, save = MODELS[runtime]
    save(tmp_path / file)
    model = load(tmp_path / file, runtime)
    inputs = model.signature.check_inputs({"input": np.array([[5, 3, 1, 0]], np.int32)})
    assert model.predict(inputs, None, {})["label"].tolist() == [0]
    strided = np.asfortranarray(HOLES)[::3]
    np.testing.assert_array_equal(
        model.predict({"input": strided}, None, {})["probabilities"], answer(model)["probabilities"][::3]
    )
    read_only = HOLES.copy()
    read_only.flags.writeable = False
    assert model.predict({"input": read_only}, None, {})["label"].shape == (150,)
    empty = model.predict({"input": np.zeros((0, 4))}, None, {})
    assert {name: (array.shape, array.dtype.kind) for name, array in empty.items()} == {
        "label": ((0,), "i"),
        "probabilities": ((0, 3), "f"),
    }
    assert model.predict({"input": np.full((1, 4), np.inf)}, None, {})["label"].shape == (1,)


def test_linear_models_take_no_infinite_numbers(tmp_path: Path) -> None:
    xgb_train("reg:squarederror", Y, booster="gblinear").save_model(tmp_path / "model.ubj")
    model = load(tmp_path / "model.ubj", "xgboost")
    assert model.max_concurrency == 1
    with pytest.raises(InvalidInput, match="no infinite numbers"):
        model.predict({"input": np.full((1, 4), np.inf)}, None, {})


@pytest.mark.parametrize("runtime", MODELS)
@pytest.mark.parametrize("content", [b"", b"\x80\x04not a model", b"{}", b'{"learner": {}}', b"tree\n", b"CBM1xxxx"])
def test_what_is_no_model(tmp_path: Path, runtime: str, content: bytes) -> None:
    path = tmp_path / MODELS[runtime][0]
    path.write_bytes(content)
    with pytest.raises(InvalidArtifact, match=r"iris.*model\."):
        load(path, runtime)
    with pytest.raises(InvalidArtifact, match="isn't a file"):
        load(tmp_path, runtime)


@pytest.mark.parametrize("runtime", MODELS)
def test_files_that_were_cut_off(tmp_path: Path, runtime: str) -> None:
    file, save = MODELS[runtime]
    save(tmp_path / file)
    whole = (tmp_path / file).read_bytes()
    for part in (0.02, 0.3, 0.6, 0.9):
        (tmp_path / file).write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(InvalidArtifact, match=r"iris.*model\."):
            load(tmp_path / file, runtime)
