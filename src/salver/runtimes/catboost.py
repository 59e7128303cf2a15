"""The ``catboost`` runtime: CatBoost's binary models, with numeric, categorical, text and embedding features."""

from __future__ import annotations

from typing import Any

import catboost  # type: ignore[import-untyped]
import numpy as np

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidInput
from salver.core.model import ModelSpec
from salver.core.signature import TensorSpec
from salver.core.tensor import Array
from salver.runtimes import catboost_file
from salver.runtimes.base import Inputs, LoadedModel, Runtime
from salver.runtimes.boosting import (
    INPUT,
    Answer,
    BoostedModel,
    Classes,
    ManyLabels,
    Values,
    check_placement,
    corrupt,
    first_line,
    numeric_input,
)
from salver.runtimes.renaming import NAMES, renamed
from salver.runtimes.settings import check_options
from salver.runtimes.values import read_text_list


class CatboostRuntime(Runtime):
    """Loads ``.cbm`` files (``CatBoost.save_model``), under any name.

    A model of numeric features has the one input ``input``, ``[-1, features]``. One with others has an input a
    feature, ``[-1]``, by the features' names: FP64 for numbers, BYTES for categories (as text, also where they were
    integers) and texts, FP32 ``[-1, n]`` for embeddings, whose ``n``
    model.yaml has to say. NaN is a missing number.

    Outputs are ``label`` (the classes that the model was trained with) and ``probabilities`` of classifiers,
    ``prediction`` of all others: what CatBoostRegressor and CatBoostRanker predict.

    Options: ``names`` (see :mod:`salver.runtimes.renaming`).
    """

    name = "catboost"
    extra = "catboost"

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load a CatBoost model; see :meth:`Runtime.load`."""
        check_options(spec, (NAMES,))
        threads = check_placement(spec, "CatBoost")
        content = spec.path.read_bytes()
        if not content.startswith(catboost_file.MAGIC):
            raise InvalidArtifact(
                f"model {spec.name!r}: {spec.path} is no CatBoost model, as save_model(file) writes it; "
                "other formats than cbm (json, onnx, python) aren't read here"
            )
        try:
            catboost_file.check(content)
            model = catboost.CatBoost()
            model.load_model(blob=content)  # what was looked through, whatever becomes of the file
            return renamed(spec, _CatboostModel(spec, model, threads))
        except (catboost_file.Malformed, catboost.CatBoostError, ValueError, KeyError) as error:
            raise corrupt(spec, "CatBoost", error) from error


_BINARY = ("Logloss", "CrossEntropy")
_MULTICLASS = ("MultiClass", "MultiClassOneVsAll")
_MULTILABEL = ("MultiLogloss", "MultiCrossEntropy")


def _prediction_type(loss: str) -> str:
    """As CatBoostClassifier and CatBoostRegressor choose it (catboost/core.py, 1.2)."""
    if loss in _BINARY + _MULTICLASS + _MULTILABEL:
        return "Probability"
    if loss in ("Poisson", "Tweedie"):
        return "Exponent"
    return "RMSEWithUncertainty" if loss == "RMSEWithUncertainty" else "RawFormulaVal"


def _answer(model: Any, loss: str) -> Answer:
    columns = int(np.size(model.get_scale_and_bias()[1]))  # one for each dimension of the model
    classes = np.asarray(model.classes_)
    if loss in _BINARY + _MULTICLASS and len(classes) == (2 if loss in _BINARY else columns):
        threshold = model.get_metadata().get("binclass_probability_threshold")
        return Classes("FP64", classes, float(threshold) if threshold else 0.5)
    if loss in _MULTILABEL:
        return ManyLabels("FP64", columns)
    return Values("FP64", columns)


class _CatboostModel(BoostedModel):
    # CatBoost's authors: all const methods of TFullModel are thread-safe (github.com/catboost/catboost/issues/272).
    platform = "catboost"

    def __init__(self, spec: ModelSpec, model: Any, threads: int) -> None:
        self._model = model
        loss = model._object._get_loss_function_name()
        self._type = _prediction_type(loss)
        self._categories = [int(index) for index in model._get_cat_feature_indices()]
        self._texts = [int(index) for index in model._get_text_feature_indices()]
        self._embeddings = [int(index) for index in model._get_embedding_feature_indices()]
        self._features = [str(name) for name in model.feature_names_]
        self._by_name = bool(self._categories or self._texts or self._embeddings)
        inputs: tuple[TensorSpec, ...] = (numeric_input(spec, len(self._features)),)
        if self._by_name:
            inputs = tuple(self._feature(spec, index) for index in range(len(self._features)))
            if len({tensor.name for tensor in inputs}) < len(inputs):
                raise InvalidArtifact(f"model {spec.name!r}: two features in {spec.path} have one name")
        super().__init__(spec, "CatBoost", inputs, _answer(model, loss), threads)

    def _feature(self, spec: ModelSpec, index: int) -> TensorSpec:
        name = self._features[index]
        if index in self._categories or index in self._texts:
            return TensorSpec(name, "BYTES", (-1,))
        if index in self._embeddings:
            return TensorSpec(name, "FP32", (-1, _embedding_length(spec, name)))
        return TensorSpec(name, "FP64", (-1,), safe_cast=True)

    def raw(self, inputs: Inputs) -> Array:
        if not self._by_name:
            features = inputs[INPUT]
            try:
                return self._predict(features)
            except (catboost.CatBoostError, ValueError) as error:
                raise self.failure(error, features) from error
        table = self._table(inputs)
        try:
            return self._predict(
                catboost.Pool(
                    table,
                    cat_features=self._categories or None,
                    text_features=self._texts or None,
                    embedding_features=self._embeddings or None,
                )
            )
        except (catboost.CatBoostError, ValueError) as error:
            raise InvalidInput(f"model {self._name!r} refused its input: {first_line(error)}") from error

    def _predict(self, data: Any) -> Array:
        return np.asarray(self._model.predict(data, prediction_type=self._type, thread_count=self.threads))

    def _table(self, inputs: Inputs) -> Array:
        """One column a feature: 0.2 ms for a row of four features, where a data frame takes 1 ms."""
        table = np.empty((len(inputs[self._features[0]]), len(self._features)), np.object_)
        for index, name in enumerate(self._features):
            column = inputs[name]
            if column.dtype.kind == "O":
                table[:, index] = read_text_list(name, column)
            elif column.ndim == 1:
                table[:, index] = column
            else:
                for row, embedding in enumerate(column):
                    table[row, index] = embedding
        return table

    def close(self) -> None:
        del self._model


def _embedding_length(spec: ModelSpec, name: str) -> int:
    """What model.yaml says: the file doesn't tell it, and CatBoost (1.2) reads past the end of vectors too short."""
    for tensor in spec.inputs or ():
        if tensor.name == name and tensor.shape is not None and len(tensor.shape) == 2 and tensor.shape[1] > 0:
            return tensor.shape[1]
    raise InvalidConfig(
        f"model {spec.name!r}: {spec.path} doesn't tell how long the embeddings of its feature {name!r} are; say it in "
        f"model.yaml, such as inputs: [{{name: {name}, datatype: FP32, shape: [-1, 384]}}]"
    )
