"""The ``mlflow`` runtime: any MLflow model, by its ``python_function`` flavor."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

# Before MLflow is imported: it reports to its makers which functions are used, and a server shouldn't do so unasked.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about type hints of its own functions
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

from salver.core.errors import (
    CodeNotAllowed,
    InvalidArtifact,
    InvalidConfig,
    InvalidInput,
    MissingDependency,
    ModelFailed,
)
from salver.core.model import ModelSpec
from salver.core.request import Parameter, Parameters
from salver.core.signature import TensorSpec
from salver.runtimes import mlflow_files
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.mlflow_tensors import INPUT, Reader, input_specs, output_specs, to_outputs
from salver.runtimes.renaming import NAMES, renamed
from salver.runtimes.settings import check_options, declare, gpu_index

logger = logging.getLogger(__name__)

_PYFUNC = "python_function"


class MlflowRuntime(Runtime):
    """Loads folders with an ``MLmodel`` file that has the flavor ``python_function``.

    Inputs and outputs are those of the model's signature, see :mod:`salver.runtimes.mlflow_tensors`. A model without a
    signature has the one input ``input``, of any datatype and shape, which it gets as an array; or the ``inputs`` of
    model.yaml, which it gets as the columns of a data frame. Request parameters that the signature names are the
    model's ``params``.

    Options: ``model_config`` (a map that replaces entries of the model's own), ``names`` (see
    :mod:`salver.runtimes.renaming`).
    """

    name = "mlflow"
    extra = "mlflow"
    carries_code: ClassVar[bool] = True

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load a model folder; see :meth:`Runtime.load`."""
        options = check_options(spec, ("model_config", NAMES))
        config = options.get("model_config")
        if config is not None and not isinstance(config, dict):
            raise InvalidConfig(f"model {spec.name!r}: option 'model_config' is a map, not {str(config)[:80]!r}")
        if spec.device != "auto" and gpu_index(spec) is not None:
            raise InvalidConfig(
                f"model {spec.name!r}: MLflow models choose their device themselves, and device is {spec.device!r}"
            )
        flavors = mlflow_files.read_flavors(spec.path)
        if _PYFUNC not in flavors:
            raise InvalidArtifact(
                f"model {spec.name!r}: {spec.path} has no flavor {_PYFUNC}, but {', '.join(sorted(flavors))}"
            )
        if not self.allow_code:
            raise CodeNotAllowed(
                f"model {spec.name!r}: loading {spec.path} as a {_PYFUNC} runs code from it, which isn't allowed; if "
                "you trust the model, set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
            )
        return renamed(spec, _MlflowModel(spec, _load(spec, config)))


def _load(spec: ModelSpec, config: dict[str, Any] | None) -> Any:
    unlike = mlflow_files.differences(spec.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = mlflow.pyfunc.load_model(str(spec.path), suppress_warnings=True, model_config=config)
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"model {spec.name!r}: {spec.path} needs the module {error.name!r}, which isn't installed here"
            f"{_told(unlike)}; install what it was saved with: pip install -r {spec.path / 'requirements.txt'}"
        ) from error
    except (Exception, SystemExit) as error:
        raise InvalidArtifact(
            f"model {spec.name!r}: MLflow can't load {spec.path}: {_first_line(error)}{_told(unlike)}"
        ) from error
    if unlike:
        logger.warning("model %r was saved with other packages than those here%s", spec.name, _told(unlike))
    return model


def _told(unlike: Sequence[str]) -> str:
    shown = ", ".join(unlike[:20]) + (f" and {len(unlike) - 20} more" if len(unlike) > 20 else "")
    return f" ({shown})" if unlike else ""


class _MlflowModel(LoadedModel):
    # Whether a model's own code is thread-safe is not known.
    platform = "mlflow_pyfunc"
    max_concurrency = 1

    def __init__(self, spec: ModelSpec, model: Any) -> None:
        self._name = spec.name
        self._model = model
        self._size = _bytes(spec.path)
        signature = model.metadata.signature
        inputs = signature.inputs if signature is not None else None
        outputs = signature.outputs if signature is not None else None
        declared = spec.inputs or ()
        listed = model.metadata._is_signature_from_type_hint()
        self._read = Reader(inputs, [tensor.name for tensor in declared], listed=listed)
        tensors = input_specs(inputs) if inputs is not None else declared or (TensorSpec(INPUT, None, None),)
        self._outputs = output_specs(outputs) if outputs is not None else spec.outputs or ()
        # A model that doesn't tell its outputs may well give one answer for all rows.
        self.signature = declare(spec, tensors, self._outputs, one_batch=bool(self._outputs))
        params = signature.params.params if signature is not None and signature.params is not None else ()
        self._params: Mapping[str, Any] = {each.name: each for each in params}
        self.sees_parameters = bool(self._params)

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        data = self._read(inputs)
        params = {name: self._param(name, value) for name, value in parameters.items() if name in self._params}
        try:
            result = self._model.predict(data, params=params or None)
        except MlflowException as error:
            if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise InvalidInput(f"model {self._name!r} refused its input: {_reason(error)}") from error
            raise ModelFailed(f"model {self._name!r} failed: {_first_line(error)}") from error
        except Exception as error:
            raise ModelFailed(f"model {self._name!r} failed: {type(error).__name__}: {_first_line(error)}") from error
        return to_outputs(self._name, result, self._outputs)

    def _param(self, name: str, value: Parameter) -> Any:
        """Lists and maps come as JSON: request parameters are single values."""
        known = self._params[name]
        if isinstance(value, str) and (known.shape is not None or not hasattr(known.dtype, "name")):
            try:
                return json.loads(value)
            except ValueError as error:
                raise InvalidInput(f"parameter {name!r}: expected a list or map as JSON: {error}") from None
        return value

    def memory_bytes(self) -> int:
        return self._size

    def close(self) -> None:
        del self._model


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _reason(error: MlflowException) -> str:
    """MLflow's reason, without the data that it shows before it."""
    text = str(error.message)
    return _shortened(text.rpartition("Error: ")[2])


def _first_line(error: BaseException) -> str:
    return _shortened(str(error) or type(error).__name__)


def _shortened(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason is given")
    return line if len(line) <= 300 else line[:297] + "..."
