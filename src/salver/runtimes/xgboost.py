"""The ``xgboost`` runtime: XGBoost's own model files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xgboost

from salver.core.model import ModelSpec
from salver.core.signature import TensorSpec
from salver.core.tensor import Array
from salver.runtimes import xgboost_file
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.boosting import (
    INPUT,
    Answer,
    BoostedModel,
    Classes,
    ManyLabels,
    Values,
    check_placement,
    choice,
    corrupt,
    integers,
    numeric_input,
)
from salver.runtimes.renaming import NAMES, renamed
from salver.runtimes.settings import check_options


class XgboostRuntime(Runtime):
    """Loads ``.ubj`` and ``.json`` files, under any name (``Booster.save_model``, ``XGBClassifier.save_model``).

    The one input is ``input``, ``[-1, features]``; NaN is a missing value, and categories are the numbers that XGBoost
    was trained with. Outputs are ``label`` and ``probabilities`` of models with the objectives binary:logistic,
    multi:softprob and multi:softmax, ``label`` of binary:hinge, ``prediction`` of all others. Labels are 0, 1, 2 and so
    on: XGBoost has no others.

    Options: ``outputs`` ("classes", as above; "raw": ``prediction`` is what ``Booster.predict`` gives, whatever the
    objective is; "sklearn": "classes" where an XGBClassifier wrote the file, else "raw"), ``names`` (see
    :mod:`salver.runtimes.renaming`).
    """

    name = "xgboost"
    extra = "xgboost"

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load an XGBoost model; see :meth:`Runtime.load`."""
        options = check_options(spec, ("outputs", NAMES))
        outputs = choice(spec, options, "outputs", ("classes", "raw", "sklearn"))
        threads = check_placement(spec, "XGBoost")
        try:
            content = spec.path.read_bytes()
            xgboost_file.check(xgboost_file.read(content))
            booster = xgboost.Booster({"nthread": threads})
            # Not by its path: the suffix would say how to read it, and .bst or .xgb say nothing.
            booster.load_model(bytearray(content))
            booster.set_param({"nthread": threads, "device": "cpu"})
            learner = json.loads(booster.save_config())["learner"]
            if outputs == "sklearn":
                outputs = "classes" if _is_classifier(booster) else "raw"
            return renamed(spec, _XgboostModel(spec, booster, learner, threads, raw=outputs == "raw"))
        except (xgboost_file.Malformed, xgboost.core.XGBoostError, ValueError, KeyError, OSError) as error:
            raise corrupt(spec, "XGBoost", error) from error


def _is_classifier(booster: xgboost.Booster) -> bool:
    try:
        return bool(json.loads(booster.attr("scikit_learn") or "{}").get("_estimator_type") == "classifier")
    except (ValueError, AttributeError):
        return False


def _answer(learner: dict[str, Any], *, raw: bool) -> Answer:
    """By the objective. What the numbers are is in XGBoost's list of learning task parameters."""
    objective = learner["objective"]["name"]
    parameters = learner["learner_model_param"]
    classes, targets = int(parameters["num_class"]), int(parameters["num_target"])
    if not raw and objective == "binary:logistic":
        return Classes("FP32", integers(2)) if targets <= 1 else ManyLabels("FP32", targets)
    if not raw and objective in ("multi:softprob", "multi:softmax"):
        return Classes("FP32", integers(classes))
    if not raw and objective == "binary:hinge" and targets <= 1:
        return _Hinge()
    # multi:softmax predicts the class alone.
    return Values("FP32", classes if objective == "multi:softprob" else max(targets, 1))


class _Hinge(Answer):
    """``label`` alone: binary:hinge predicts 0 or 1, and no probability."""

    def __init__(self) -> None:
        self.outputs = (TensorSpec("label", "INT64", (-1,)),)

    def __call__(self, raw: Array, asked: Sequence[str] | None) -> Outputs:
        return {"label": raw.astype(np.int64)}


class _XgboostModel(BoostedModel):
    # "All prediction functions [...] are thread safe when the underlying booster is gbtree or dart" (XGBoost's
    # documentation, Prediction). Linear models have neither that nor prediction in place.
    platform = "xgboost"

    def __init__(
        self, spec: ModelSpec, booster: xgboost.Booster, learner: dict[str, Any], threads: int, *, raw: bool
    ) -> None:
        self._booster = booster
        self._linear = learner["gradient_booster"]["name"] == "gblinear"
        if self._linear:
            self.max_concurrency = 1
        # multi:softmax predicts the class; its probabilities are made of the margins, as XGBClassifier does it.
        self._margins = not raw and learner["objective"]["name"] == "multi:softmax"
        inputs = (numeric_input(spec, booster.num_features()),)
        super().__init__(spec, "XGBoost", inputs, _answer(learner, raw=raw), threads)

    def raw(self, inputs: Inputs) -> Array:
        features = inputs[INPUT]
        found: Any
        try:
            if self._linear:
                matrix = xgboost.DMatrix(features, nthread=self.threads)
                found = self._booster.predict(matrix, output_margin=self._margins, validate_features=False)
            else:
                kind = "margin" if self._margins else "value"
                found = self._booster.inplace_predict(features, predict_type=kind)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise self.failure(error, features) from error
        return _softmax(found) if self._margins else found

    def close(self) -> None:
        del self._booster


def _softmax(margins: Array) -> Array:
    powers = np.exp(margins - margins.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
