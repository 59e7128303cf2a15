"""The mlflow runtime, and which runtime takes an MLflow folder: on models saved with MLflow here."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.catboost
    import mlflow.lightgbm
    import mlflow.onnx
    import mlflow.pyfunc
    import mlflow.sklearn
    import mlflow.xgboost
    from mlflow.models import infer_signature
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Object, Property, Schema

from salver.core.errors import (
    CodeNotAllowed,
    InvalidArtifact,
    InvalidConfig,
    InvalidInput,
    MissingDependency,
    ModelFailed,
)
from salver.core.model import ModelSpec
from salver.core.signature import TensorSpec
from salver.runtimes.base import LoadedModel
from salver.runtimes.detect import detect
from salver.runtimes.mlflow import MlflowRuntime

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

X, Y = load_iris(return_X_y=True)
FRAME = pd.DataFrame(X, columns=["a", "b", "c", "d"])
PLAIN = {"pip_requirements": ["numpy"]}


def load(path: Path, *, allow_code: bool = True, **settings: Any) -> LoadedModel:
    spec = ModelSpec(name="iris", version="1", path=path, runtime="mlflow", **settings)
    return MlflowRuntime(allow_code=allow_code).load(spec)


def predict(model: LoadedModel, inputs: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return model.predict(model.signature.check_inputs(inputs), None, parameters)


def text(*values: str) -> Any:
    return np.array([value.encode() for value in values], object)


def save(path: Path, predict: Any, signature: Any = None, **settings: Any) -> Path:
    class Model(mlflow.pyfunc.PythonModel):
        pass

    Model.predict = predict
    mlflow.pyfunc.save_model(path, python_model=Model(), signature=signature, **{**PLAIN, **settings})
    return path


def specs(tensors: Any) -> dict[str, Any]:
    return {tensor.name: (tensor.datatype, tensor.shape) for tensor in tensors}


def test_columns_are_inputs(tmp_path: Path) -> None:
    estimator = LogisticRegression(max_iter=500).fit(FRAME, Y)
    mlflow.sklearn.save_model(estimator, tmp_path / "m", signature=infer_signature(FRAME, Y), **PLAIN)
    model = load(tmp_path / "m")
    assert specs(model.signature.inputs) == dict.fromkeys("abcd", ("FP64", (-1,)))
    assert specs(model.signature.outputs) == {"output": ("INT64", (-1,))}
    assert model.signature.batched
    assert (model.platform, model.max_concurrency, MlflowRuntime.carries_code) == ("mlflow_pyfunc", 1, True)
    columns = {name: FRAME[name].to_numpy() for name in FRAME}
    np.testing.assert_array_equal(predict(model, columns)["output"], estimator.predict(FRAME))
    columns["d"] = columns["d"].astype(np.float32)
    assert predict(model, columns)["output"].shape == (150,)
    assert model.memory_bytes() > 500
    with pytest.raises(InvalidInput, match="missing input 'd'"):
        predict(model, {name: columns[name] for name in "abc"})
    model.close()


def test_tensors_are_inputs(tmp_path: Path) -> None:
    regression = LinearRegression().fit(X, np.c_[Y, Y + 1])
    mlflow.sklearn.save_model(regression, tmp_path / "m", signature=infer_signature(X, regression.predict(X)), **PLAIN)
    model = load(tmp_path / "m")
    assert specs(model.signature.inputs) == {"input": ("FP64", (-1, 4))}
    assert specs(model.signature.outputs) == {"output": ("FP64", (-1, 2))}
    np.testing.assert_array_equal(predict(model, {"input": X})["output"], regression.predict(X))

    named = save(
        tmp_path / "n",
        lambda self, context, model_input, params=None: {"sum": model_input["x"] + model_input["y"]},
        infer_signature({"x": X, "y": X}, {"sum": X}),
    )
    model = load(named)
    assert specs(model.signature.inputs) == {"x": ("FP64", (-1, 4)), "y": ("FP64", (-1, 4))}
    np.testing.assert_array_equal(predict(model, {"x": X, "y": X})["sum"], X + X)


def test_every_kind_of_column_and_parameters(tmp_path: Path) -> None:
    def describe(self: Any, context: Any, model_input: Any, params: Any = None) -> Any:
        assert model_input["when"].dtype.kind == "M"
        return pd.DataFrame(
            {
                "text": model_input["text"] + "!",
                "day": model_input["when"],
                "count": model_input["count"] * params["factor"],
                "size": [len(each) for each in model_input["raw"]],
                "mean": [float(np.mean(each)) for each in model_input["vector"]],
                "city": [each["city"] for each in model_input["address"]],
                "list": [json.dumps(params["list"])] * len(model_input),
            }
        )

    inputs = Schema(
        [
            ColSpec(DataType.string, "text"),
            ColSpec(DataType.datetime, "when"),
            ColSpec(DataType.long, "count"),
            ColSpec(DataType.binary, "raw"),
            ColSpec(DataType.boolean, "flag", required=False),
            ColSpec(Array(DataType.double), "vector"),
            ColSpec(Object([Property("city", DataType.string)]), "address"),
        ]
    )
    outputs = Schema(
        [
            ColSpec(DataType.string, "text"),
            ColSpec(DataType.datetime, "day"),
            ColSpec(DataType.long, "count"),
            ColSpec(DataType.integer, "size"),
            ColSpec(DataType.float, "mean"),
            ColSpec(DataType.string, "city"),
            ColSpec(DataType.string, "list"),
        ]
    )
    params = infer_signature(params={"factor": 2, "list": [1.0, 2.0]}).params
    model = load(save(tmp_path / "m", describe, ModelSignature(inputs, outputs, params)))
    assert specs(model.signature.inputs) == {
        "text": ("BYTES", (-1,)),
        "when": ("BYTES", (-1,)),
        "count": ("INT64", (-1,)),
        "raw": ("BYTES", (-1,)),
        "flag": ("BOOL", (-1,)),
        "vector": ("FP64", (-1, -1)),
        "address": ("BYTES", (-1,)),
    }
    assert model.sees_parameters
    rows = {
        "text": text("ä", "b"),
        "when": text("2025-01-31T12:00:00", "2025-02-01"),
        "count": np.array([1, 2]),
        "raw": np.array([b"\xff\x00", b""], object),
        "vector": np.array([[1.0, 2.0], [3.0, 5.0]]),
        "address": text('{"city": "Bonn"}', '{"city": "Rom"}'),
    }
    found = predict(model, rows, factor=3, list="[0.5]", unknown="x")
    assert [each.decode() for each in found["text"]] == ["ä!", "b!"]
    assert found["day"].tolist() == [b"2025-01-31T12:00:00", b"2025-02-01T00:00:00"]
    assert found["count"].tolist() == [3, 6]
    assert (found["size"].tolist(), found["size"].dtype) == ([2, 0], np.int32)
    assert (found["mean"].tolist(), found["mean"].dtype) == ([1.5, 4.0], np.float32)
    assert found["city"].tolist() == [b"Bonn", b"Rom"]
    assert found["list"].tolist() == [b"[0.5]", b"[0.5]"]
    assert predict(model, rows)["count"].tolist() == [2, 4]
    for changed, parameters, message in (
        ({"when": text("soon", "later")}, {}, "'when': expected dates in ISO 8601"),
        ({"address": text("{", "{}")}, {}, "'address': expected JSON"),
        ({"address": text('{"town": "Bonn"}', '{"town": "Rom"}')}, {}, "iris.*refused its input"),
        ({}, {"factor": "many"}, "refused its input.*factor"),
        ({}, {"list": "[1"}, "'list': expected a list or map as JSON"),
    ):
        with pytest.raises(InvalidInput, match=message):
            predict(model, {**rows, **changed}, **parameters)


def test_models_without_a_signature(tmp_path: Path) -> None:
    path = save(tmp_path / "m", lambda self, context, model_input, params=None: type(model_input).__name__)
    model = load(path)
    assert model.signature.inputs == (TensorSpec("input", None, None),)
    assert not model.signature.batched
    assert predict(model, {"input": X})["output"].tolist() == [b"ndarray"]
    declared = (TensorSpec("a", "FP64", (-1,)), TensorSpec("t", "BYTES", (-1,)))
    model = load(path, inputs=declared)
    assert predict(model, {"a": X[:1, 0], "t": text("x")})["output"].tolist() == [b"DataFrame"]


def test_type_hints(tmp_path: Path) -> None:
    class Upper(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[str]) -> list[str]:
            return [each.upper() for each in model_input]

    mlflow.pyfunc.save_model(tmp_path / "m", python_model=Upper(), **PLAIN)
    model = load(tmp_path / "m")
    assert specs(model.signature.inputs) == {"input": ("BYTES", (-1,))}
    assert predict(model, {"input": text("a", "ß")})["output"].tolist() == [b"A", b"SS"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (pd.Series([1.5, 2.0]), {"output": [1.5, 2.0]}),
        (pd.Series(["a", "b"]), {"output": [b"a", b"b"]}),
        ([1, 2], {"output": [1, 2]}),
        (["a"], {"output": [b"a"]}),
        ("one text", {"output": [b"one text"]}),
        ({"x": [1], "y": "t"}, {"x": [1], "y": [b"t"]}),
        ([{"x": 1, "y": "t"}, {"x": 2, "y": "u"}], {"x": [1, 2], "y": [b"t", b"u"]}),
        (pd.DataFrame({"p": [[0.1, 0.9]], "q": [{"k": 1}]}), {"p": [[0.1, 0.9]], "q": [b'{"k": 1}']}),
        (np.array(["a", "b"], object), {"output": [b"a", b"b"]}),
        (pd.DataFrame({"when": pd.to_datetime(["2025-01-31"])}), {"when": [b"2025-01-31T00:00:00"]}),
    ],
)
def test_what_models_give(tmp_path: Path, result: Any, expected: Any) -> None:
    model = load(save(tmp_path / "m", lambda self, context, model_input, params=None: result))
    found = predict(model, {"input": X})
    assert {name: array.tolist() for name, array in found.items()} == expected


def test_columns_of_an_array_get_the_names_of_the_signature(tmp_path: Path) -> None:
    outputs = Schema([ColSpec(DataType.double, "low"), ColSpec(DataType.double, "high")])
    inputs = Schema([ColSpec(DataType.double, "a")])
    path = save(
        tmp_path / "m",
        lambda self, context, model_input, params=None: np.c_[model_input["a"], model_input["a"] + 1],
        ModelSignature(inputs, outputs),
    )
    found = predict(load(path), {"a": np.array([1.0, 2.0])})
    assert {name: array.tolist() for name, array in found.items()} == {"low": [1.0, 2.0], "high": [2.0, 3.0]}


def test_models_that_fail(tmp_path: Path) -> None:
    def broken(self: Any, context: Any, model_input: Any, params: Any = None) -> Any:
        if model_input[0, 0] == 0:
            raise KeyError("no such row")
        return {1, 2} if model_input[0, 0] == 1 else None

    model = load(save(tmp_path / "m", broken))
    for value, message in ((0, "iris.*KeyError.*no such row"), (1, "no response can carry.*set"), (2, "NoneType")):
        with pytest.raises(ModelFailed, match=message):
            predict(model, {"input": np.full((1, 1), value)})
    outputs = Schema([ColSpec(DataType.string, "s"), ColSpec(DataType.string, "t")])
    path = save(tmp_path / "n", lambda self, c, model_input, params=None: {"s": ["x"]}, infer_signature(X))
    (path / "MLmodel").write_text(
        (path / "MLmodel").read_text().replace("outputs: null", f"outputs: '{json.dumps(outputs.to_dict())}'")
    )
    with pytest.raises(ModelFailed, match="gave 's', and its signature has the output 't'"):
        predict(load(path), {"input": X})


def test_nothing_is_loaded_without_permission(tmp_path: Path) -> None:
    path = save(tmp_path / "m", lambda self, context, model_input, params=None: 1)
    (path / "python_model.pkl").write_bytes(b"not even a pickle")
    with pytest.raises(CodeNotAllowed, match=r"iris.*allow_code \(--allow-code"):
        load(path, allow_code=False)
    with pytest.raises(InvalidArtifact, match=r"iris.*MLflow can't load"):
        load(path)


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(InvalidArtifact, match="has no file MLmodel"):
        load(tmp_path / "m")
    for content, message in (
        ("", "m/MLmodel: expected 'flavors'"),
        ("flavors: [a]", "expected 'flavors'"),
        ("flavors: {sklearn: {}}", "no flavor python_function, but sklearn"),
        ("flavors: {python_function: {}}", "can't load"),
    ):
        (tmp_path / "m" / "MLmodel").write_text(content)
        with pytest.raises(InvalidArtifact, match=message):
            load(tmp_path / "m")
    (tmp_path / "m" / "MLmodel").write_text("flavors: {a: [")
    with pytest.raises(InvalidConfig, match="m/MLmodel:2: not valid YAML"):
        detect(tmp_path / "m")


def test_packages_unlike_those_that_are_installed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "m", lambda self, context, model_input, params=None: 1)
    (path / "requirements.txt").write_text("mlflow\nnumpy==1.2.3\nno-such-package>=2\n# a remark\n-r other.txt\n")
    load(path)
    assert "numpy==1.2.3 is wanted and" in caplog.text
    assert "no-such-package isn't installed" in caplog.text
    assert "mlflow isn't" not in caplog.text
    (path / "MLmodel").write_text((path / "MLmodel").read_text().replace("mlflow.pyfunc.model", "no_such_module"))
    with pytest.raises(MissingDependency, match=r"module 'no_such_module'.*\(numpy==1.2.3 is wanted.*pip install -r"):
        load(path)


def test_settings(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m", lambda self, context, model_input, params=None: context.model_config["k"], model_config={"k": 1}
    )
    assert predict(load(path), {"input": X})["output"].tolist() == [1]
    model = load(path, options={"model_config": {"k": 5}, "names": {"input": "rows"}})
    assert predict(model, {"rows": X})["output"].tolist() == [5]
    for settings, message in (
        ({"options": {"model_config": 3}}, "'model_config' is a map"),
        ({"options": {"x": 3}}, "no option 'x'"),
        ({"device": "cuda"}, "device"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            load(path, **settings)


def test_native_flavors(tmp_path: Path) -> None:
    import catboost
    import lightgbm
    import onnx
    import xgboost
    from onnx_files import write_graph

    rows = lightgbm.Dataset(X, Y)
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, rows, 2)
    mlflow.xgboost.save_model(xgboost.XGBClassifier(n_estimators=2).fit(X, Y), tmp_path / "xgboost", **PLAIN)
    mlflow.lightgbm.save_model(booster, tmp_path / "lightgbm", **PLAIN)
    quiet = {"iterations": 2, "verbose": 0, "allow_writing_files": False}
    mlflow.catboost.save_model(catboost.CatBoostClassifier(**quiet).fit(X, Y), tmp_path / "catboost", **PLAIN)
    mlflow.sklearn.save_model(LogisticRegression().fit(X, Y), tmp_path / "sklearn", **PLAIN)
    write_graph(tmp_path / "source", "FP32", [("Neg", ["x"], "y")])
    mlflow.onnx.save_model(onnx.load(tmp_path / "source" / "model.onnx"), tmp_path / "onnx", **PLAIN)
    for name in ("xgboost", "lightgbm", "catboost", "sklearn", "onnx"):
        runtime, path = detect(tmp_path / name)
        assert (runtime, path.parent) == (name, tmp_path / name)
        assert detect(tmp_path / name, name) == (runtime, path)
        assert detect(tmp_path / name, "mlflow") == ("mlflow", tmp_path / name)

    # LightGBM's estimators are saved as skops files, and the sklearn runtime reads these.
    estimator = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, Y)
    mlflow.lightgbm.save_model(estimator, tmp_path / "estimator", **PLAIN)
    assert detect(tmp_path / "estimator") == ("sklearn", tmp_path / "estimator" / "model.skops")


@pytest.mark.parametrize(
    ("flavors", "files", "expected"),
    [
        ("tensorflow: {data: data}", ["data/model.keras"], ("tensorflow", "data/model.keras")),
        ("keras: {data: data}", ["data/model.keras"], ("tensorflow", "data/model.keras")),
        ("tensorflow: {saved_model_dir: tf2model}", ["tf2model/saved_model.pb"], ("tensorflow", "tf2model")),
        ("pytorch: {model_data: data}", ["data/model.pt2"], ("pytorch", "data/model.pt2")),
        ("pytorch: {model_data: data}", ["data/model.pth"], ("mlflow", "")),
        ("sklearn: {pickled_model: model.pkl, code: code}", ["model.pkl"], ("mlflow", "")),
        ("sklearn: {pickled_model: ../model.pkl}", ["../model.pkl"], ("mlflow", "")),
        ("onnx: {data: gone.onnx}", ["model.onnx"], ("mlflow", "")),
        ("python_function: {}", ["model.py", "other.onnx"], ("mlflow", "")),
        ("python_function: {}", ["model.pkl"], ("mlflow", "")),
    ],
)
def test_which_runtime_takes_a_folder(
    tmp_path: Path, flavors: str, files: list[str], expected: tuple[str, str]
) -> None:
    folder = tmp_path / "m"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_text(f"flavors:\n  {flavors}\n")
    assert detect(folder) == (expected[0], folder / expected[1])
