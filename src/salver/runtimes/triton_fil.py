"""The ``triton_fil`` runtime: models of Triton's FIL backend, with its one input and one output.

What its settings mean: https://github.com/triton-inference-server/fil_backend/blob/main/docs/model_config.md.
XGBoost and LightGBM themselves do the computing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from salver.core.errors import InvalidArtifact, InvalidConfig
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import DTYPES, Array
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.settings import check_options
from salver.runtimes.table import create

_LIBRARIES = {"xgboost": "xgboost", "xgboost_json": "xgboost", "xgboost_ubj": "xgboost", "lightgbm": "lightgbm"}

_INPUT = "input"
"""What the runtimes of both libraries call their one input."""


class TritonFilRuntime(Runtime):
    """Loads XGBoost and LightGBM models as Triton's FIL backend serves them.

    Options: ``model_type`` (xgboost, xgboost_json, xgboost_ubj or lightgbm), ``file`` (in the version's folder),
    ``output_class`` (the output is a class), ``predict_proba`` (it is the classes' probabilities), ``threshold`` (the
    probability above which a row is of the second of two classes).
    """

    name = "triton_fil"

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load a model with the library that wrote it; see :meth:`Runtime.load`."""
        options = check_options(spec, ("model_type", "file", "output_class", "predict_proba", "threshold"))
        kind = options.get("model_type", "xgboost")
        if kind not in _LIBRARIES:
            raise InvalidConfig(f"model {spec.name!r}: model_type is one of {', '.join(_LIBRARIES)}, not {kind!r}")
        threshold = options.get("threshold", 0.5)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise InvalidConfig(f"model {spec.name!r}: option 'threshold' is a number, not {threshold!r}")
        path = spec.path
        if path.is_dir():
            path = path / str(options.get("file", ""))
        if not path.is_file():
            raise InvalidArtifact(f"model {spec.name!r}: there is no {path}")
        is_class, is_probability = bool(options.get("output_class")), bool(options.get("predict_proba"))
        library = _LIBRARIES[kind]
        inner = create(library, allow_code=self.allow_code).load(
            replace(
                spec,
                path=path,
                runtime=library,
                inputs=(TensorSpec(_INPUT, "FP32", None),),
                outputs=None,
                batched=None,
                options={"outputs": "classes" if is_class or is_probability else "raw"},
            )
        )
        wanted = "probabilities" if is_probability else "label" if is_class else "prediction"
        return _FilModel(spec, inner, wanted, float(threshold))


class _FilModel(LoadedModel):
    platform = "triton_fil"

    def __init__(self, spec: ModelSpec, inner: LoadedModel, wanted: str, threshold: float) -> None:
        (features,) = inner.signature.inputs
        found = {tensor.name: tensor for tensor in inner.signature.outputs}
        if wanted not in found:
            raise InvalidConfig(
                f"model {spec.name!r}: output_class and predict_proba are for classifiers, and it has no {wanted}"
            )
        self._threshold = None
        if wanted == "label" and threshold != 0.5:
            if found.get("probabilities", found[wanted]).shape != (-1, 2):
                raise InvalidConfig(f"model {spec.name!r}: a threshold of {threshold:g} is for models of two classes")
            self._threshold = threshold
        self._inner = inner
        self._wanted = "probabilities" if self._threshold is not None else wanted
        self._feature_name = features.name
        declared = _only(spec, "input", spec.inputs) or TensorSpec("input__0", "FP32", None)
        if (
            declared.shape is not None
            and features.shape is not None
            and declared.shape[-1] not in (-1, features.shape[-1])
        ):
            raise InvalidConfig(
                f"model {spec.name!r}: its input has {declared.shape[-1]} features in its settings, and "
                f"{features.shape[-1]} in its file"
            )
        output = _only(spec, "output", spec.outputs) or TensorSpec("output__0", "FP32", None)
        shape = found[wanted].shape or (-1,)
        shown = output.shape or shape
        if math.prod(shown[1:]) not in (math.prod(shape[1:]), -1):
            raise InvalidConfig(
                f"model {spec.name!r}: its output has the shape {list(shape)}, and its settings say {list(shown)}"
            )
        self._output = TensorSpec(output.name, output.datatype or "FP32", shown)
        self._dtype = DTYPES[self._output.datatype or "FP32"]
        self._row = tuple(shape[1:]) if -1 in shown[1:] else tuple(shown[1:])
        self.signature = Signature((replace(features, name=declared.name),), (self._output,), batched=True)
        self.device = inner.device
        self.max_concurrency = inner.max_concurrency
        self.threads = inner.threads
        self.may_run_inline = inner.may_run_inline

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        (features,) = inputs.values()
        answer: Array = self._inner.predict({self._feature_name: features}, [self._wanted], parameters)[self._wanted]
        if self._threshold is not None:
            answer = answer[:, 1] > self._threshold
        return {self._output.name: answer.astype(self._dtype).reshape(len(features), *self._row)}

    def memory_bytes(self) -> int:
        return self._inner.memory_bytes()

    def close(self) -> None:
        self._inner.close()


def _only(spec: ModelSpec, kind: str, tensors: Sequence[TensorSpec] | None) -> TensorSpec | None:
    if tensors and len(tensors) > 1:
        raise InvalidConfig(
            f"model {spec.name!r}: of a FIL model's {kind}s, one is served; its settings name {len(tensors)}"
        )
    return tensors[0] if tensors else None
