"""Loading and calling a ``TritonPythonModel``."""

from __future__ import annotations

import contextvars
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidInput, ModelFailed, SalverError
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature
from salver.core.tensor import DTYPES, Array
from salver.runtimes import values
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.python.importing import ModelPackage
from salver.runtimes.python.outputs import OutputWriter
from salver.runtimes.python.requirements import check_requirements, read_requirements
from salver.runtimes.settings import check_options, gpu_index
from salver.runtimes.triton_python import backend_utils
from salver.runtimes.triton_python.backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonError
from salver.runtimes.triton_python.configuration import (
    CompletedConfig,
    ControlTensor,
    configuration_of,
    control_tensors,
    signature_of,
)
from salver.runtimes.triton_python.responses import Channel
from salver.runtimes.warm_up import probing

logger = logging.getLogger(__name__)

_PROVIDED = {"triton_python_backend_utils": backend_utils.__name__}


class TritonPythonRuntime(Runtime):
    """Loads ``model.py`` with a class ``TritonPythonModel``, written for Triton's Python backend.

    Each batch comes to ``execute`` as one request whose tensors have the rows of all requests in it, as a client's own
    batch would. Decoupled models stream.

    Options: ``config`` (the model's configuration as Triton's JSON; where it is left out, it is made of model.yaml's
    ``inputs``, ``outputs``, ``batched`` and ``max_batch_size``), ``file`` (model.py), ``requirements``.
    """

    name = "triton_python"
    carries_code: ClassVar[bool] = True

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Import the file, and initialize the model; see :meth:`Runtime.load`."""
        if not self.allow_code:
            raise CodeNotAllowed(
                f"model {spec.name!r}: loading {spec.path} runs the code in it, which isn't allowed; if you trust it, "
                "set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
            )
        options = check_options(spec, ("config", "file", "requirements"))
        folder = spec.path if spec.path.is_dir() else spec.path.parent
        file = folder / str(options.get("file", "model.py")) if spec.path.is_dir() else spec.path
        if not file.is_file():
            raise InvalidArtifact(f"model {spec.name!r}: there is no {file}")
        check_requirements(spec.name, [*(options.get("requirements") or ()), *read_requirements(folder)])
        configuration = configuration_of(spec)
        package = ModelPackage(spec.name, file, provided=_PROVIDED)
        try:
            return _load(spec, package, configuration)
        except BaseException:
            package.remove()
            raise


def _load(spec: ModelSpec, package: ModelPackage, configuration: dict[str, Any]) -> LoadedModel:
    model_class = getattr(package.module, "TritonPythonModel", None)
    if not isinstance(model_class, type) or not callable(getattr(model_class, "execute", None)):
        raise InvalidArtifact(
            f"model {spec.name!r}: {package.module.__file__} has no class TritonPythonModel with a method execute"
        )
    gpu = None if spec.device == "auto" else gpu_index(spec)
    folder = str(package.folder)
    token = backend_utils.model_directory.set(folder)
    stage = "auto_complete_config failed"
    try:
        complete = getattr(model_class, "auto_complete_config", None)
        if callable(complete) and not (configuration["input"] and configuration["output"]):
            completed = complete(CompletedConfig(configuration))
            if isinstance(completed, CompletedConfig):
                configuration = completed.as_dict()
        signature = signature_of(spec, configuration)
        stage = "initialize failed"
        model = model_class()
        if callable(getattr(model, "initialize", None)):
            # Where the version's folder is named so, models look for files from the model's folder on.
            is_named = package.folder.name == spec.version
            model.initialize(
                {
                    "model_config": json.dumps(configuration),
                    "model_instance_kind": "CPU" if gpu is None else "GPU",
                    "model_instance_device_id": str(gpu or 0),
                    "model_instance_name": f"{spec.name}_0_0",
                    "model_repository": str(package.folder.parent) if is_named else folder,
                    "model_version": spec.version,
                    "model_name": spec.name,
                }
            )
    except SalverError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - explain raises
        package.explain(error, stage)
    finally:
        backend_utils.model_directory.reset(token)
    return _TritonPythonModel(spec, package, model, configuration, signature, "cpu" if gpu is None else f"cuda:{gpu}")


class _TritonPythonModel(LoadedModel):
    platform = "triton_python"
    max_concurrency = 1
    sees_parameters = True

    def __init__(
        self,
        spec: ModelSpec,
        package: ModelPackage,
        model: Any,
        configuration: Mapping[str, Any],
        signature: Signature,
        device: str,
    ) -> None:
        self.signature = signature
        self.device = device
        self._write = OutputWriter(spec.name, signature.outputs).write
        self._name = spec.name
        self._version = int(spec.version) if spec.version.isdecimal() else 1
        self._package = package
        self._model = model
        self._controls = control_tensors(spec, configuration)
        self._rank = 2 if int(configuration.get("max_batch_size") or 0) > 0 else 1
        self.kind = "stream" if backend_utils.using_decoupled_model_transaction_policy(configuration) else "sync"

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        request, channel = self._request(inputs, asked, parameters)
        answers = self._execute(request)
        if answers is None and channel.is_used:  # answered by its sender, maybe later and on another thread
            del request  # and with it the last sender, where the model has forgotten its own
            answers = list(channel)
        if not isinstance(answers, list | tuple) or len(answers) != 1:
            came = f"{len(answers)} responses" if isinstance(answers, list | tuple) else type(answers).__name__
            raise ModelFailed(f"model {self._name!r}: execute gave {came} for one request; expected a list of one")
        return self._outputs(answers[0])

    def stream(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Iterator[Outputs]:
        request, channel = self._request(inputs, asked, parameters)
        run = contextvars.copy_context().run
        # A daemon, since what the model does after its caller has gone is not to hold up the end of the process.
        thread = threading.Thread(target=run, args=(self._run_decoupled, request, channel), daemon=True)
        del request
        thread.start()
        try:
            for response in channel:
                yield self._outputs(response)
        finally:
            channel.close()
            thread.join()

    def _run_decoupled(self, request: InferenceRequest, channel: Channel[InferenceResponse]) -> None:
        try:
            for response in self._execute(request) or ():
                if response is not None:
                    channel.put(response)
            if not channel.is_used:
                channel.finish()
        except ModelFailed as failure:
            channel.finish(failure)
        except TypeError:
            channel.finish(ModelFailed(f"model {self._name!r}: execute gave neither None nor a list of responses"))

    def _execute(self, request: InferenceRequest) -> Any:
        token = backend_utils.model_directory.set(str(self._package.folder))
        try:
            return self._model.execute([request])
        except (Exception, SystemExit) as error:
            message = f"model {self._name!r} failed in execute: {type(error).__name__}: {str(error)[:1000]}"
            logger.log(logging.DEBUG if probing.get() else logging.ERROR, "%s", message, exc_info=error)
            raise ModelFailed(message) from error
        finally:
            backend_utils.model_directory.reset(token)

    def _request(
        self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters
    ) -> tuple[InferenceRequest, Channel[InferenceResponse]]:
        channel: Channel[InferenceResponse] = Channel()
        start, end = bool(parameters.get("sequence_start")), bool(parameters.get("sequence_end"))
        identifier = parameters.get("sequence_id") or 0
        tensors = [Tensor(name, values.read_array(name, array)) for name, array in inputs.items()]
        rows = next((array.shape[0] for array in inputs.values() if array.ndim), 1) if self._rank == 2 else 1
        states = {
            "CONTROL_SEQUENCE_START": start,
            "CONTROL_SEQUENCE_END": end,
            "CONTROL_SEQUENCE_READY": bool(identifier),
        }
        for control in self._controls:
            array = _control(control, states.get(control.kind), identifier, (rows, 1)[-self._rank :])
            tensors.append(Tensor(control.name, array))
        starting = backend_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START if start else 0
        ending = backend_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END if end else 0
        request = InferenceRequest(
            model_name=self._name,
            requested_output_names=asked if asked is not None else [tensor.name for tensor in self.signature.outputs],
            inputs=tensors,
            correlation_id=identifier if isinstance(identifier, int | str) else 0,
            model_version=self._version,
            flags=starting | ending,
            parameters=parameters,
            channel=channel,
        )
        return request, channel

    def _outputs(self, response: object) -> Outputs:
        if not isinstance(response, InferenceResponse):
            raise ModelFailed(
                f"model {self._name!r}: execute gave a {type(response).__name__}; expected an InferenceResponse"
            )
        if (error := response.error()) is not None:
            kind = InvalidInput if error.code() == TritonError.INVALID_ARG else ModelFailed
            raise kind(f"model {self._name!r} answered with an error: {error.message()[:1000]}")
        return self._write({tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()})

    def memory_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._package.folder.rglob("*") if file.is_file())

    def close(self) -> None:
        finalize = getattr(self._model, "finalize", None)
        token = backend_utils.model_directory.set(str(self._package.folder))
        try:
            if callable(finalize):
                finalize()
        except Exception as error:
            logger.exception("model %r failed in finalize: %s", self._name, error)
        finally:
            backend_utils.model_directory.reset(token)
            del self._model
            self._package.remove()


def _control(control: ControlTensor, state: bool | None, identifier: object, shape: tuple[int, ...]) -> Array:
    """A control tensor of one request."""
    dtype = DTYPES[control.datatype]
    if control.values is not None:
        return np.full(shape, control.values[bool(state)], dtype)
    if control.datatype == "BYTES":
        return np.full(shape, str(identifier).encode(), object)
    if not isinstance(identifier, int):
        raise InvalidInput(f"'sequence_id' has to be an integer for this model, not {identifier!r}")
    try:
        return np.full(shape, identifier, dtype)
    except OverflowError:
        raise InvalidInput(f"'sequence_id' {identifier} is no {control.datatype}") from None
