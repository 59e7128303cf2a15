"""Loading and calling a user's model class."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from salver.core.errors import (
    CodeNotAllowed,
    InvalidArtifact,
    InvalidConfig,
    InvalidRequest,
    ModelFailed,
    Overloaded,
)
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature
from salver.runtimes import values
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.python.annotations import PredictParameters, inspect_predict
from salver.runtimes.python.importing import ModelPackage
from salver.runtimes.python.outputs import OutputWriter
from salver.runtimes.python.requirements import check_requirements, read_requirements
from salver.runtimes.settings import check_options, declare, gpu_index
from salver.runtimes.warm_up import probing

logger = logging.getLogger(__name__)

_PASSED_ON = (InvalidRequest, Overloaded, ModelFailed)  # what a model may raise for the caller to see


class PythonRuntime(Runtime):
    """Loads ``model.py`` (or any ``.py`` file) with one class that has ``predict``: ``Model``, or the only such class.

    The class is made without arguments. Its ``load`` is then called where it has one, with ``path`` (the version's
    folder) and ``device`` where it takes them ("auto" in the settings means the CPU here), and its ``close`` when the
    model is unloaded. ``predict`` may be sync, async, or a generator of either kind.

    Options: ``requirements`` (pip requirement strings that must be installed), ``max_concurrency`` (calls of a sync
    ``predict`` that may run at once; 1 by default, since few models are thread-safe), ``entry`` (the name of the class,
    or of a function that is called as ``predict`` is).
    """

    name = "python"

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Import the file and make the model; see :meth:`Runtime.load`."""
        if not self.allow_code:
            raise CodeNotAllowed(
                f"model {spec.name!r}: loading {spec.path} runs the code in it, which isn't allowed; if you trust it, "
                "set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
            )
        options = check_options(spec, ("requirements", "max_concurrency", "entry"))
        max_concurrency = options.get("max_concurrency", 1)
        if not isinstance(max_concurrency, int) or max_concurrency < 1:
            raise InvalidConfig(
                f"model {spec.name!r}: option 'max_concurrency' is an integer of at least 1, not {max_concurrency!r}"
            )
        gpu = None if spec.device == "auto" else gpu_index(spec)
        file = spec.path / "model.py" if spec.path.is_dir() else spec.path
        if not file.is_file():
            raise InvalidArtifact(f"model {spec.name!r}: there is no {file}")
        requirements = options.get("requirements") or []
        if not isinstance(requirements, list | tuple) or not all(isinstance(text, str) for text in requirements):
            raise InvalidConfig(f"model {spec.name!r}: 'requirements' is a list of texts, not {requirements!r}")
        check_requirements(spec.name, [*requirements, *read_requirements(file.parent)])
        package = ModelPackage(spec.name, file)
        device = "cpu" if gpu is None else f"cuda:{gpu}"
        try:
            model = _make(spec, package, device, options.get("entry"))
            predict = inspect_predict(model.predict, f"model {spec.name!r}: predict in {file}")
            return _PythonModel(spec, package, model, predict, device, max_concurrency)
        except BaseException:
            package.remove()
            raise


class _FunctionModel:
    """A function in place of a model."""

    def __init__(self, function: Any) -> None:
        self.predict = function


def _make(spec: ModelSpec, package: ModelPackage, device: str, entry: object) -> Any:
    """An object of the model's class, loaded; or its function."""
    model_class = _model_class(spec, package) if entry is None else _entry(spec, package, str(entry))
    if inspect.isroutine(model_class):
        return _FunctionModel(model_class)
    stage = f"{model_class.__name__}() failed"
    try:
        model = model_class()
        load = getattr(model, "load", None)
        if load is not None:
            stage = "load failed"
            _call_load(spec, load, package.folder, device)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - explain raises
        package.explain(error, stage)
    return model


def _entry(spec: ModelSpec, package: ModelPackage, name: str) -> Any:
    """The class or function of a name."""
    module = package.module
    found = getattr(module, name, None)
    if inspect.isroutine(found) or (inspect.isclass(found) and callable(getattr(found, "predict", None))):
        return found
    what = "has no" if found is None else "has, but it is neither a function nor a class with a method predict:"
    raise InvalidArtifact(f"model {spec.name!r}: {module.__file__} {what} {name}")


def _model_class(spec: ModelSpec, package: ModelPackage) -> Any:
    module = package.module
    named = getattr(module, "Model", None)
    if inspect.isclass(named) and hasattr(named, "predict"):
        return named
    candidates = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__ and callable(getattr(value, "predict", None))
    ]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise InvalidArtifact(f"model {spec.name!r}: {module.__file__} has no class with a method predict")
    raise InvalidArtifact(
        f"model {spec.name!r}: {module.__file__} has several classes with predict "
        f"({', '.join(each.__name__ for each in candidates)}); name the one to serve Model"
    )


def _call_load(spec: ModelSpec, load: Any, folder: Path, device: str) -> None:
    if inspect.iscoroutinefunction(load):
        raise InvalidArtifact(f"model {spec.name!r}: its load is async; it is called on a thread, and has to be sync")
    known = {"path": folder, "device": device}
    arguments = {}
    for parameter in inspect.signature(load).parameters.values():
        if parameter.name in known:
            arguments[parameter.name] = known[parameter.name]
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise InvalidArtifact(
                f"model {spec.name!r}: its load wants {parameter.name!r}; it can be given path and device"
            )
    load(**arguments)


class _PythonModel(LoadedModel):
    platform = "python"

    def __init__(
        self,
        spec: ModelSpec,
        package: ModelPackage,
        model: Any,
        predict: PredictParameters,
        device: str,
        max_concurrency: int,
    ) -> None:
        self.signature = _signature(spec, predict)
        self.device = device
        self.kind = predict.kind
        self.max_concurrency = max_concurrency if predict.kind in ("sync", "stream") else None
        self._name = spec.name
        self._package = package
        self._model = model
        self._predict = model.predict
        self._readers = predict.readers
        self._absent = predict.absent
        self.sees_parameters = predict.wants_parameters
        self._write = OutputWriter(spec.name, self.signature.outputs).write

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        arguments = self._arguments(inputs, parameters)
        try:
            value = self._predict(**arguments)
        except _PASSED_ON:
            raise
        except (Exception, SystemExit) as error:
            raise self._failure(error) from error
        return self._write(value)

    async def predict_async(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        arguments = self._arguments(inputs, parameters)
        try:
            value = await self._predict(**arguments)
        except _PASSED_ON:
            raise
        except (Exception, SystemExit) as error:
            raise self._failure(error) from error
        return self._write(value)

    def stream(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Iterator[Outputs]:
        arguments = self._arguments(inputs, parameters)
        iterator: Any = None
        try:
            iterator = iter(self._predict(**arguments))
            for value in iterator:
                yield self._write(value)
        except _PASSED_ON:
            raise
        except (Exception, SystemExit) as error:
            raise self._failure(error) from error
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    async def stream_async(
        self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters
    ) -> AsyncIterator[Outputs]:
        arguments = self._arguments(inputs, parameters)
        iterator: Any = None
        try:
            iterator = aiter(self._predict(**arguments))
            async for value in iterator:
                yield self._write(value)
        except _PASSED_ON:
            raise
        except (Exception, SystemExit) as error:
            raise self._failure(error) from error
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()

    def _arguments(self, inputs: Inputs, parameters: Parameters) -> dict[str, object]:
        readers = self._readers
        arguments: dict[str, object] = dict(self._absent)
        for name, array in inputs.items():
            arguments[name] = readers.get(name, values.read_array)(name, array)
        if self.sees_parameters:
            arguments["parameters"] = parameters
        return arguments

    def _failure(self, error: BaseException) -> ModelFailed:
        """What a request is told of an exception; the log has its traceback."""
        message = f"model {self._name!r} failed in predict: {type(error).__name__}: {str(error)[:1000]}"
        logger.log(logging.DEBUG if probing.get() else logging.ERROR, "%s", message, exc_info=error)
        return ModelFailed(message)

    def memory_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._package.folder.rglob("*") if file.is_file())

    def close(self) -> None:
        close = getattr(self._model, "close", None)
        try:
            if callable(close):
                close()
        except Exception as error:
            logger.exception("model %r failed in close: %s", self._name, error)
        finally:
            del self._model, self._predict
            self._package.remove()


def _signature(spec: ModelSpec, predict: PredictParameters) -> Signature:
    inputs = predict.inputs
    if predict.takes_any:
        known = {tensor.name for tensor in inputs}
        inputs += tuple(tensor for tensor in spec.inputs or () if tensor.name not in known)
    if not inputs:
        raise InvalidArtifact(
            f"model {spec.name!r}: its predict takes no input by name; give it parameters, or list the inputs of "
            "a predict(self, **inputs) in model.yaml"
        )
    # That all first dimensions are free doesn't say that they are one batch: `predict(self, words: list[str])`.
    return declare(spec, inputs, predict.outputs or spec.outputs or (), one_batch=False)
