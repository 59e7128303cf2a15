"""MLServer's models, found and read as they stand, and the answers that its clients expect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from salver.core.errors import InvalidArtifact, InvalidConfig, LoadError
from salver.runtimes.base import LoadedModel
from salver.runtimes.detect import detect
from salver.runtimes.table import create
from salver.store.layouts.mlserver import read_model, read_root
from salver.store.repository import Layout, scan, to_spec

X, Y = load_iris(return_X_y=True)
SKLEARN = "mlserver_sklearn.SKLearnModel"


def write(folder: Path, files: tuple[str, ...] = ("model.joblib",), **settings: Any) -> Path:
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    (folder / "model-settings.json").write_text(json.dumps({"implementation": SKLEARN, **settings}))
    return folder


def load(path: Path, name: str | None = None) -> LoadedModel:
    models = scan(path).models
    entry = next(iter(models.values())) if name is None else models[name]
    assert not entry.error
    version = list(entry.versions)[-1]
    runtime, artifact = detect(entry.versions[version].path, entry.config.runtime)
    return create(runtime, allow_code=True).load(to_spec(entry, version, runtime=runtime, artifact=artifact))


@pytest.mark.parametrize(
    ("implementation", "files", "runtime", "artifact"),
    [
        (SKLEARN, ("model.joblib",), "sklearn", "model.joblib"),
        ("mlserver_sklearn.sklearn.SKLearnModel", ("model.pkl", "x.pkl"), "sklearn", "model.pkl"),
        ("mlserver_xgboost.XGBoostModel", ("model.json",), "xgboost", "model.json"),
        ("mlserver_xgboost.XGBoostModel", ("model.bst", "model.json"), "xgboost", "model.bst"),
        ("mlserver_lightgbm.LightGBMModel", ("model.bst",), "lightgbm", "model.bst"),
        ("mlserver_catboost.CatboostModel", ("model.cbm",), "catboost", "model.cbm"),
        ("mlserver_mlflow.MLflowRuntime", ("MLmodel",), "mlflow", "."),
        ("mlserver_huggingface.HuggingFaceRuntime", ("config.json",), "transformers", "."),
    ],
)
def test_implementations(
    tmp_path: Path, implementation: str, files: tuple[str, ...], runtime: str, artifact: str
) -> None:
    folder = write(tmp_path / "iris", files, implementation=implementation)
    found = read_model(folder)
    assert found is not None
    assert (found.name, found.system, found.config.runtime, found.wanted) == ("iris", "MLServer", runtime, ("1",))
    assert found.versions == {"1": folder / artifact}
    assert found.problems == ()


def test_settings(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "folder",
        ("deep/clf.pkl",),
        name="clf",
        platform="sklearn",
        max_batch_size=8,
        max_batch_time=0.25,
        inputs=[{"name": "rows", "datatype": "FP32", "shape": [-1, 4], "parameters": {"content_type": "np"}}],
        parallel_workers=None,
        parameters={"uri": "./deep/clf.pkl", "version": "v0.1.0", "content_type": "pd", "extra": {"a": 1}},
        colour="red",
    )
    found = read_model(folder)
    assert found is not None
    assert (found.name, found.wanted, found.aliases) == ("clf", ("v0p1p0",), {"v0.1.0": "v0p1p0"})
    assert found.versions == {"v0p1p0": folder / "deep" / "clf.pkl"}
    assert (found.config.max_batch_size, found.config.max_queue_delay) == (8, 0.25)
    assert found.config.options["names"]["input"] == "rows"
    told = "\n".join(found.problems)
    for text in ("'v0.1.0' is 'v0p1p0' here", "'parameters.content_type'", "'parameters.extra.a'", "'colour'"):
        assert text in told
    assert "platform" not in told
    stamp = found.stamp
    (folder / "model-settings.json").write_text(json.dumps({"implementation": SKLEARN, "name": "longer"}))
    (folder / "model.joblib").write_bytes(b"")
    changed = read_model(folder)
    assert changed is not None
    assert changed.stamp != stamp


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"implementation": "models.MyModel"}, "'models.MyModel', a class of your own.*write a model.py"),
        ({"implementation": "mlserver_alibi_detect.AlibiDetectRuntime"}, "detectors of alibi-detect"),
        ({"implementation": ""}, "'implementation' is missing; expected one of mlserver_sklearn"),
        ({"name": "a/b"}, "'name': 'a/b' can't be a model name"),
        ({"parameters": {"uri": "../other/model.pkl"}}, "leads out of the model's folder"),
        ({"parameters": {"uri": "/etc/passwd"}}, "leads out of the model's folder"),
        ({"parameters": {"uri": "s3://bucket/model"}}, "'parameters.uri' is s3:"),
        ({"parameters": {"uri": "gone.pkl"}}, "there is no such file"),
        ({"parameters": {"version": "..."}, "name": ""}, None),
        ({"parameters": {"version": "-"}}, "expected letters and digits"),
        ({"implementation": "mlserver_xgboost.XGBoostModel"}, "none of model.bst, model.json, model.ubj in iris"),
        ({"max_batch_size": "many"}, "max_batch_size"),
        ({"max_batch_size": -1}, "max_batch_size"),
        (
            {
                "implementation": "mlserver_huggingface.HuggingFaceRuntime",
                "parameters": {"extra": {"task": "text-classification", "pretrained_model": "distilbert-base"}},
            },
            "'distilbert-base', which is no folder here",
        ),
    ],
)
def test_settings_that_salver_cannot_follow(tmp_path: Path, settings: dict[str, Any], message: str | None) -> None:
    folder = write(tmp_path / "iris", **settings)
    if message is None:
        assert read_model(folder) is not None
        return
    with pytest.raises(LoadError, match=rf"(?s)iris/model-settings\.json.*{message}"):
        read_model(folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00", '{"parameters": 3}'])
def test_settings_that_are_none(tmp_path: Path, content: str) -> None:
    (write(tmp_path / "iris") / "model-settings.json").write_text(content)
    with pytest.raises(InvalidConfig, match=r"iris/model-settings\.json"):
        read_model(tmp_path / "iris")
    assert "model-settings.json" in scan(tmp_path).models["iris"].error


def test_versions_in_folders(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        write(tmp_path / "r" / "sum" / version, name="sum", parameters={"version": version})
    write(tmp_path / "r" / "iris")
    (tmp_path / "r" / "plain" / "1").mkdir(parents=True)
    (tmp_path / "r" / "plain" / "1" / "model.onnx").write_bytes(b"")
    listing = scan(tmp_path / "r")
    assert listing.layout is Layout.REPOSITORY
    assert {name: list(entry.versions) for name, entry in listing.models.items()} == {
        "iris": ["1"],
        "plain": ["1"],
        "sum": ["v1", "v2"],
    }
    write(tmp_path / "r" / "sum" / "v3", name="sum", implementation="models.Mine")
    assert "a class of your own" in scan(tmp_path / "r", previous=listing).models["sum"].error
    # A repository of one model is a repository: another may be added.
    write(tmp_path / "one" / "iris")
    assert scan(tmp_path / "one").layout is Layout.REPOSITORY
    write(tmp_path / "twice" / "a", name="twice")
    write(tmp_path / "twice" / "b", name="twice")
    with pytest.raises(InvalidArtifact, match="both version 1 of 'twice'"):
        read_model(tmp_path / "twice")


def test_models_at_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "r"
    write(root / "team" / "iris", name="iris")
    write(root / "team" / "deep" / "wine" / "1", name="wine", parameters={"version": "1"})
    write(root / "team" / "deep" / "wine" / "2", name="wine", parameters={"version": "2"})
    write(root / "broken", implementation="models.Mine")
    assert read_root(root) is None
    (root / "settings.json").write_text('{"debug": true}')
    listing = scan(root)
    assert listing.layout is Layout.FOREIGN
    assert {name: list(entry.versions) for name, entry in listing.models.items()} == {
        "broken": [],
        "iris": ["1"],
        "wine": ["1", "2"],
    }
    assert "a class of your own" in listing.models["broken"].error
    assert not listing.models["wine"].error
    write(root / "more" / "late")
    assert "late" in scan(root, previous=listing).models


@pytest.mark.e2e
def test_answers_are_called_as_mlserver_calls_them(tmp_path: Path) -> None:
    import catboost
    import lightgbm
    import xgboost

    classifier = LogisticRegression(max_iter=500).fit(X, Y)
    joblib.dump(classifier, write(tmp_path / "sklearn") / "model.joblib")
    found = load(tmp_path / "sklearn").predict({"input": X}, None, {})
    np.testing.assert_array_equal(found["predict"], classifier.predict(X))
    np.testing.assert_array_equal(found["predict_proba"], classifier.predict_proba(X))

    boosted = xgboost.XGBClassifier(n_estimators=2).fit(X, Y)
    implementation = "mlserver_xgboost.XGBoostModel"
    inputs = [{"name": "rows", "datatype": "FP32", "shape": [-1, 4]}]
    folder = write(tmp_path / "xgb", ("model.bst",), implementation=implementation, inputs=inputs)
    (folder / "model.bst").write_bytes(boosted.get_booster().save_raw("ubj"))
    found = load(folder).predict({"rows": X}, None, {})
    # Without XGBClassifier's mark in the file, MLServer has what the booster predicts.
    np.testing.assert_array_equal(found["predict"], boosted.predict_proba(X))
    folder = write(tmp_path / "xgb2", ("model.json",), implementation=implementation)
    boosted.save_model(folder / "model.json")
    found = load(folder).predict({"input": X}, ["predict"], {})
    np.testing.assert_array_equal(found["predict"], boosted.predict(X))

    trees = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X, Y == 1), 2)
    folder = write(tmp_path / "lgb", ("model.bst",), implementation="mlserver_lightgbm.LightGBMModel")
    trees.save_model(folder / "model.bst")
    np.testing.assert_array_equal(load(folder).predict({"input": X}, None, {})["predict"], trees.predict(X))

    quiet = {"iterations": 2, "verbose": 0, "allow_writing_files": False}
    cats = catboost.CatBoostClassifier(**quiet).fit(X, Y)
    folder = write(tmp_path / "cat", ("model.cbm",), implementation="mlserver_catboost.CatboostModel")
    cats.save_model(str(folder / "model.cbm"))
    np.testing.assert_array_equal(load(folder).predict({"input": X}, None, {})["predict"], cats.predict(X).ravel())
