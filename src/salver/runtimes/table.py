"""The built-in runtimes by name, and those that other packages add."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from salver.core.errors import InvalidConfig, MissingDependency
from salver.runtimes.base import Runtime
from salver.runtimes.settings import nearest

BUILT_IN = {
    "onnx": "salver.runtimes.onnx:OnnxRuntime",
    "pytorch": "salver.runtimes.pytorch:PytorchRuntime",
    "sklearn": "salver.runtimes.sklearn:SklearnRuntime",
    "python": "salver.runtimes.python:PythonRuntime",
    "tensorflow": "salver.runtimes.tensorflow:TensorflowRuntime",
    "xgboost": "salver.runtimes.xgboost:XgboostRuntime",
    "lightgbm": "salver.runtimes.lightgbm:LightgbmRuntime",
    "catboost": "salver.runtimes.catboost:CatboostRuntime",
    "openvino": "salver.runtimes.openvino:OpenvinoRuntime",
    "mlflow": "salver.runtimes.mlflow:MlflowRuntime",
    "transformers": "salver.runtimes.transformers:TransformersRuntime",
    "torchserve": "salver.runtimes.torchserve:TorchserveRuntime",
    "triton_python": "salver.runtimes.triton_python:TritonPythonRuntime",
    "triton_fil": "salver.runtimes.triton_fil:TritonFilRuntime",
}
"""Name -> module and class. They are imported on first use: a runtime's framework may be slow to import, or missing."""

ENTRY_POINT_GROUP = "salver.runtimes"

_EXTRAS = {
    "pytorch": ("PyTorch", "torch"),
    "sklearn": ("scikit-learn", "sklearn"),
    "tensorflow": ("TensorFlow", "tensorflow"),
    "xgboost": ("XGBoost", "xgboost"),
    "lightgbm": ("LightGBM", "lightgbm"),
    "catboost": ("CatBoost", "catboost"),
    "openvino": ("OpenVINO", "openvino"),
    "mlflow": ("MLflow", "mlflow"),
    "transformers": ("transformers and PyTorch", "transformers"),
    "torchserve": ("PyTorch", "torch"),
}


_CARRY_CODE = frozenset({"mlflow", "torchserve", "triton_python"})


def carries_code(name: str) -> bool:
    """Whether a runtime's artifacts bring code of their own by nature, see :class:`Runtime`. Imports no framework."""
    if name in BUILT_IN:
        return name in _CARRY_CODE
    points = entry_points(group=ENTRY_POINT_GROUP, name=name)
    return any(getattr(point.load(), "carries_code", False) for point in points)


def names() -> list[str]:
    """Names of all runtimes there are, the built-in ones first."""
    return [*BUILT_IN, *sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))]


def create(name: str, *, allow_code: bool = False) -> Runtime:
    """A runtime by its name.

    Args:
        name: as ``runtime:`` in model.yaml has it.
        allow_code: whether the operator allows models that bring code of their own.

    Raises:
        InvalidConfig: there is no such runtime.
        MissingDependency: its framework isn't installed.
    """
    try:
        return _runtime_class(name)(allow_code=allow_code)
    except ImportError as error:
        raise _missing(name, error) from error


def _runtime_class(name: str) -> type[Runtime]:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: type[Runtime] = getattr(import_module(module), attribute)
    else:
        points = entry_points(group=ENTRY_POINT_GROUP, name=name)
        if not points:
            raise InvalidConfig(f"there is no runtime {name!r}; {nearest(name, names())}")
        found = next(iter(points)).load()
    assert issubclass(found, Runtime), f"{found} is no Runtime"
    return found


def _missing(name: str, error: ImportError) -> MissingDependency:
    if name in _EXTRAS and isinstance(error, ModuleNotFoundError):
        framework, extra = _EXTRAS[name]
        return MissingDependency(
            f"the {name} runtime needs {framework}; install it with: pip install 'salver[{extra}]'"
        )
    return MissingDependency(f"the {name} runtime can't be imported: {error}")
