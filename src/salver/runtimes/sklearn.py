"""The ``sklearn`` runtime: scikit-learn estimators and pipelines from skops, joblib and pickle files."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
import sklearn.base
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from salver.core.errors import (
    CodeNotAllowed,
    InvalidArtifact,
    InvalidConfig,
    InvalidInput,
    MissingDependency,
    ModelFailed,
)
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import TensorSpec
from salver.core.tensor import Array, as_tensor
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.renaming import NAMES, renamed
from salver.runtimes.settings import check_options, declare, gpu_index
from salver.runtimes.values import read_text_list

logger = logging.getLogger(__name__)

INPUT = "input"
_MAX_DENSE_BYTES = 1 << 30


class SklearnRuntime(Runtime):
    """Loads estimators: ``.skops`` files, and ``.joblib``, ``.pkl`` and ``.pickle`` files where code is allowed.

    The one input is ``input``: FP64 ``[-1, n_features_in_]``, or BYTES ``[-1]`` for a pipeline that begins with a text
    vectorizer. model.yaml may declare another datatype for it, such as BYTES for columns of categories. Outputs are
    ``label`` and ``probabilities`` of classifiers, ``label`` of clusterers and outlier detectors, ``prediction`` of
    other estimators that predict, ``output`` of transformers.

    Options: ``names`` (see :mod:`salver.runtimes.renaming`).
    """

    name = "sklearn"
    extra = "sklearn"
    imported_by_load = ("skops.io",)

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load an estimator; see :meth:`Runtime.load`."""
        check_options(spec, (NAMES,))
        if spec.device != "auto" and gpu_index(spec) is not None:
            raise InvalidConfig(f"model {spec.name!r}: scikit-learn runs on the CPU, and device is {spec.device!r}")
        if not spec.path.is_file():
            raise InvalidArtifact(f"model {spec.name!r}: {spec.path} isn't a file; expected .skops, .joblib or .pkl")
        with _warnings_logged(spec.name):
            if spec.path.suffix.lower() == ".skops":
                estimator = _load_skops(spec, allow_code=self.allow_code)
            elif self.allow_code:
                estimator = _unpickle(spec)
            else:
                raise CodeNotAllowed(
                    f"model {spec.name!r}: loading {spec.path} unpickles it, which can run any code and isn't allowed; "
                    "if you trust the file, set allow_code (--allow-code, or SALVER_ALLOW_CODE=1). Models saved with "
                    "skops (skops.io.dump(model, 'model.skops')) need no permission"
                )
        _check_estimator(spec, estimator)
        return renamed(spec, _SklearnModel(spec, estimator))


def _load_skops(spec: ModelSpec, *, allow_code: bool) -> Any:
    try:
        import skops.io
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"model {spec.name!r}: .skops files need skops; install it with: pip install 'salver[sklearn]'"
        ) from error
    try:
        untrusted = skops.io.get_untrusted_types(file=spec.path)
        if not untrusted or allow_code:
            return skops.io.load(spec.path, trusted=untrusted)
    except ModuleNotFoundError as error:
        raise _missing(spec, error) from error
    except Exception as error:
        raise _corrupt(spec, error) from error
    raise CodeNotAllowed(
        f"model {spec.name!r}: {spec.path} has types that skops doesn't trust: {', '.join(untrusted)}; "
        "if you trust the file, set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
    )


def _unpickle(spec: ModelSpec) -> Any:
    try:
        return joblib.load(spec.path)
    except ModuleNotFoundError as error:
        raise _missing(spec, error) from error
    except (Exception, SystemExit) as error:
        raise _corrupt(spec, error) from error


def _missing(spec: ModelSpec, error: ModuleNotFoundError) -> MissingDependency:
    return MissingDependency(
        f"model {spec.name!r}: {spec.path} was saved with the module {error.name!r}, which isn't installed here"
    )


def _corrupt(spec: ModelSpec, error: BaseException) -> InvalidArtifact:
    return InvalidArtifact(f"model {spec.name!r}: {spec.path} can't be loaded: {type(error).__name__}: {error}")


def _check_estimator(spec: ModelSpec, estimator: Any) -> None:
    if not hasattr(estimator, "predict") and not hasattr(estimator, "transform"):
        raise InvalidArtifact(
            f"model {spec.name!r}: {spec.path} holds a {type(estimator).__name__}, "
            "which has neither predict nor transform"
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise InvalidArtifact(
            f"model {spec.name!r}: {spec.path} holds a {type(estimator).__name__} not fitted"
        ) from error
    except TypeError:
        pass  # a class that only looks like an estimator


class _SklearnModel(LoadedModel):
    platform = "sklearn"

    def __init__(self, spec: ModelSpec, estimator: Any) -> None:
        self._name = spec.name
        self._path = spec.path
        self._columns = _columns(estimator)
        tensor = _input(spec, estimator)
        self._prepare = _reader(tensor)
        self._outputs = _outputs(estimator)
        self.signature = declare(spec, (tensor,), self._output_specs(tensor))

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        data = self._prepare(inputs[INPUT])
        if self._columns is not None:
            data = self._columns(data)
        try:
            return {name: self._outputs[name](data) for name in asked or self._outputs}
        except ValueError as error:
            # What estimators raise where values don't suit them: NaN, no rows at all, an unknown category.
            raise InvalidInput(f"model {self._name!r} refused its input: {str(error).partition(chr(10))[0]}") from error

    def _output_specs(self, tensor: TensorSpec) -> tuple[TensorSpec, ...]:
        """Outputs with the shapes that one row of zeros gives; scikit-learn doesn't tell them otherwise."""
        shape = tuple(max(size, 1) for size in tensor.shape or ())
        probe = np.full(shape, b"", np.object_) if tensor.datatype == "BYTES" else np.zeros(shape, np.float64)
        specs = []
        for name, compute in self._outputs.items():
            try:
                array = self._probe(compute, probe)
                specs.append(TensorSpec(name, compute.datatype, (-1, *array.shape[1:])))
            except Exception as error:  # noqa: BLE001 - zeros may be nothing that the estimator takes
                logger.debug("model %r: its output %r can't be probed: %s", self._name, name, error)
                specs.append(TensorSpec(name, compute.datatype, (-1,) if name == "label" else None))
        return tuple(specs)

    def _probe(self, compute: _Output, probe: Array) -> Array:
        with _catching, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = self._prepare(probe)
            return compute(data if self._columns is None else self._columns(data))

    def memory_bytes(self) -> int:
        return self._path.stat().st_size


class _Output:
    """One output of an estimator: its method, and the datatype that its answers get."""

    def __init__(self, method: Callable[[Any], Any], datatype: str) -> None:
        self._method = method
        self.datatype = datatype

    def __call__(self, data: Any) -> Array:
        result = self._method(data)
        if hasattr(result, "toarray"):
            if result.shape[0] * result.shape[1] * 8 > _MAX_DENSE_BYTES:
                raise ModelFailed(
                    f"the sparse output of shape {list(result.shape)} is too large as a tensor; send fewer rows at once"
                )
            result = result.toarray()
        array = np.asarray(result)
        if self.datatype == "BYTES":
            return as_tensor(array.astype(np.str_) if array.dtype.kind == "O" else array)
        return array.astype({"INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}[self.datatype], copy=False)


def _outputs(estimator: Any) -> dict[str, _Output]:
    if sklearn.base.is_classifier(estimator):
        classes = getattr(estimator, "classes_", None)
        several = isinstance(classes, list)  # one array of classes for each target
        outputs = {"label": _Output(estimator.predict, _label_datatype(classes[0] if several and classes else classes))}
        if hasattr(estimator, "predict_proba") and not several:
            outputs["probabilities"] = _Output(estimator.predict_proba, "FP64")
        return outputs
    if hasattr(estimator, "predict"):
        if sklearn.base.is_clusterer(estimator) or sklearn.base.is_outlier_detector(estimator):
            return {"label": _Output(estimator.predict, "INT64")}
        return {"prediction": _Output(estimator.predict, "FP64")}
    return {"output": _Output(estimator.transform, "FP64")}


def _label_datatype(classes: Any) -> str:
    kind = np.asarray(classes).dtype.kind if classes is not None else "i"
    return {"b": "BOOL", "i": "INT64", "u": "INT64", "f": "FP64"}.get(kind, "BYTES")


def _input(spec: ModelSpec, estimator: Any) -> TensorSpec:
    first = estimator
    while isinstance(first, Pipeline):
        first = first.steps[0][1]
    if isinstance(first, CountVectorizer | HashingVectorizer):  # TfidfVectorizer is a CountVectorizer
        return TensorSpec(INPUT, "BYTES", (-1,))
    declared = next((tensor for tensor in spec.inputs or () if tensor.name == INPUT), None)
    datatype = declared.datatype if declared is not None and declared.datatype else "FP64"
    features = getattr(estimator, "n_features_in_", -1)
    return TensorSpec(INPUT, datatype, (-1, features), safe_cast=datatype == "FP64")


def _reader(tensor: TensorSpec) -> Callable[[Array], Any]:
    if tensor.datatype != "BYTES":
        return lambda array: array
    if tensor.shape is not None and len(tensor.shape) == 1:
        return lambda array: read_text_list(INPUT, array)
    return lambda array: np.array(read_text_list(INPUT, array), np.object_).reshape(array.shape)


def _columns(estimator: Any) -> Callable[[Any], Any] | None:
    """For an estimator fitted on a frame: makes one, since it may pick its columns by name."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return None
    try:
        import pandas
    except ModuleNotFoundError:
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
        return None
    return lambda data: pandas.DataFrame(data, columns=names)


_catching = threading.Lock()


@contextmanager
def _warnings_logged(model: str) -> Iterator[None]:
    """Warnings (the estimator was saved with another version of scikit-learn) go to the log.

    One load at a time: ``catch_warnings`` swaps the interpreter's one list of filters.
    """
    with _catching, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(each.message) for each in caught):
        logger.warning("model %r: %s", model, text)
