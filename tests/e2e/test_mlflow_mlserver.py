"""A repository with models of MLflow and MLServer in it, behind a real server."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from servers import Server
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import mlflow.xgboost
    from mlflow.models import infer_signature

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

X, Y = load_iris(return_X_y=True)
FRAME = pd.DataFrame(X[:, :2], columns=["a", "b"])


def test_a_repository_of_both(tmp_path: Path) -> None:
    import xgboost

    class Sum(mlflow.pyfunc.PythonModel):  # here, so that its code goes along
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            import os

            total = (model_input["a"] + model_input["b"]) * params["factor"]
            return pd.DataFrame({"total": total, "process": [os.getpid()] * len(total)})

    mlflow.pyfunc.save_model(
        tmp_path / "sum",
        python_model=Sum(),
        signature=infer_signature(FRAME, pd.DataFrame({"total": [1.0], "process": [1]}), params={"factor": 1.0}),
        pip_requirements=["numpy"],
    )
    boosted = xgboost.XGBClassifier(n_estimators=3).fit(X, Y)
    mlflow.xgboost.save_model(boosted, tmp_path / "trees" / "3", pip_requirements=["xgboost"])
    (tmp_path / "iris" / "v0").mkdir(parents=True)
    settings = {"name": "iris", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"version": "v0.1"}}
    (tmp_path / "iris" / "v0" / "model-settings.json").write_text(json.dumps(settings))
    joblib.dump(LogisticRegression(max_iter=500).fit(X, Y), tmp_path / "iris" / "v0" / "model.joblib")
    server = Server(tmp_path, "--allow-code")
    try:
        server.wait_until_ready()
        with server.client() as client:
            columns = {name: FRAME[name].to_numpy() for name in FRAME}
            total = client.predict("sum", columns, parameters={"factor": 2.0})
            np.testing.assert_allclose(total["total"], (FRAME["a"] + FRAME["b"]) * 2)
            # MLflow's Python functions run in processes of their own.
            assert set(total["process"].tolist()).isdisjoint({server.process.pid, os.getpid()})
            trees = client.predict("trees", {"input": X}, version="3")
            np.testing.assert_array_equal(trees["label"], boosted.predict(X))
            for version in ("v0p1", "v0.1"):
                iris = client.predict("iris", {"input": X}, version=version)
                np.testing.assert_array_equal(iris["predict"], LogisticRegression(max_iter=500).fit(X, Y).predict(X))
    finally:
        server.stop()
