"""Loading model archives, and giving requests to their handlers."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from salver.core.errors import CodeNotAllowed, InvalidConfig, InvalidInput, ModelFailed
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Array
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.python.importing import ModelPackage
from salver.runtimes.python.requirements import check_requirements, read_requirements
from salver.runtimes.settings import check_options, gpu_index
from salver.runtimes.torchserve import ts
from salver.runtimes.torchserve.archive import unpack
from salver.runtimes.torchserve.handler import Handle, load_handler
from salver.runtimes.torchserve.manifest import read_manifest
from salver.runtimes.torchserve.ts.context import Context, RequestProcessor
from salver.runtimes.torchserve.ts.utils.util import PredictionException
from salver.runtimes.torchserve.unpacked import UnpackedFolder
from salver.runtimes.warm_up import probing

logger = logging.getLogger(__name__)

_VERSION = "0.12.0"
"""The release of TorchServe whose interface handlers see."""

_INPUTS = tuple(TensorSpec(name, "BYTES", (-1,), optional=True) for name in ("data", "body", "json"))
_OUTPUT = TensorSpec("output", "BYTES", (-1,))


class TorchserveRuntime(Runtime):
    """Loads ``.mar`` files, and folders that torch-model-archiver made with ``--archive-format no-archive``.

    Each row of a batch is one of TorchServe's requests. A row of ``data`` is the field of that name as bytes, one of
    ``body`` the whole body as bytes, one of ``json`` a body of JSON, decoded. Other fields can be declared as inputs in
    model.yaml. Each row of ``output`` is an answer: text and bytes as they are, all else as JSON. Handlers see a
    request's parameters as headers.

    Options: ``requirements`` (pip requirement strings that must be installed; those that the archive names are checked,
    too), ``max_unpacked_bytes`` (what the archive may unpack to; 1 GiB or 20 times its size by default).
    """

    name = "torchserve"
    extra = "torch"
    imported_by_load = (f"{ts.__name__}.torch_handler.base_handler",)
    carries_code: ClassVar[bool] = True

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Unpack the archive and initialize its handler; see :meth:`Runtime.load`."""
        if not self.allow_code:
            raise CodeNotAllowed(
                f"model {spec.name!r}: loading {spec.path} runs the code in it, which isn't allowed; if you trust it, "
                "set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
            )
        options = check_options(spec, ("requirements", "max_unpacked_bytes"))
        limit = options.get("max_unpacked_bytes")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InvalidConfig(f"model {spec.name!r}: option 'max_unpacked_bytes' is a number of bytes, not {limit!r}")
        if spec.path.is_dir():
            return _load(spec, spec.path, None, options)
        unpacked = UnpackedFolder()
        try:
            unpack(spec.path, unpacked.path, max_bytes=limit)
            return _load(spec, unpacked.path, unpacked, options)
        except BaseException:
            unpacked.remove()
            raise


def _load(spec: ModelSpec, folder: Path, unpacked: UnpackedFolder | None, options: Mapping[str, Any]) -> LoadedModel:
    manifest = read_manifest(folder)
    wanted = read_requirements(folder, manifest.requirements) if manifest.requirements else []
    check_requirements(spec.name, [*(options.get("requirements") or ()), *wanted])
    context = Context(
        model_name=spec.name,
        model_dir=str(folder),
        manifest=manifest.content,
        batch_size=spec.scheduling.max_batch_size or 1,
        gpu=gpu_index(spec),
        mms_version=_VERSION,
        model_yaml_config=manifest.settings,
    )
    handle, package = load_handler(spec.name, folder, manifest, context)
    torch = sys.modules.get("torch")
    if spec.threads is not None and torch is not None:
        torch.set_num_threads(spec.threads)
    return _TorchserveModel(spec, folder, unpacked, handle, package, context)


class _TorchserveModel(LoadedModel):
    platform = "torchserve"
    max_concurrency = 1
    sees_parameters = True

    def __init__(
        self,
        spec: ModelSpec,
        folder: Path,
        unpacked: UnpackedFolder | None,
        handle: Handle,
        package: ModelPackage | None,
        context: Context,
    ) -> None:
        self.signature = _signature(spec)
        self.device = str(getattr(getattr(handle, "__self__", None), "device", None) or "cpu")
        self._name = spec.name
        self._size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        self._unpacked = unpacked
        self._handle = handle
        self._package = package
        self._context = context

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        rows = self._rows(inputs)
        context = self._context
        headers = {name: str(value) for name, value in parameters.items()}
        context.request_ids = {index: f"{index}" for index in range(len(rows))}
        context.request_processor = [RequestProcessor(headers) for _ in rows]
        try:
            answers = self._handle(rows, context)
        except PredictionException as error:
            raise self._refusal(error.error_code, error.message) from error
        except (Exception, SystemExit) as error:
            message = f"model {self._name!r} failed in its handler: {type(error).__name__}: {str(error)[:1000]}"
            logger.log(logging.DEBUG if probing.get() else logging.ERROR, "%s", message, exc_info=error)
            raise ModelFailed(message) from error
        for processor in context.request_processor:
            if processor.get_response_status_code() >= 400:
                raise self._refusal(processor.get_response_status_code(), processor.get_response_status_phrase())
        if not isinstance(answers, list | tuple) or len(answers) != len(rows):
            came = f"{len(answers)} answers" if isinstance(answers, list | tuple) else f"a {type(answers).__name__}"
            raise ModelFailed(f"model {self._name!r}: its handler gave {came} to {len(rows)} requests; expected a list")
        output = np.empty(len(rows), object)
        for index, answer in enumerate(answers):
            output[index] = self._encoded(answer)
        return {_OUTPUT.name: output}

    def _rows(self, inputs: Inputs) -> list[dict[str, Any]]:
        if not inputs:
            raise InvalidInput(
                f"model {self._name!r} takes one of 'data', 'body' and 'json' (BYTES), each row being one request"
            )
        columns = {name: _column(name, array) for name, array in inputs.items()}
        if "json" in columns and "body" in columns:
            raise InvalidInput("a request has either 'body' or 'json', which is a body, too")
        if "json" in columns:
            columns["body"] = [_decoded(index, text) for index, text in enumerate(columns.pop("json"))]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _refusal(self, status: int, text: str) -> Exception:
        """What a status that the handler has chosen means."""
        kind = InvalidInput if 400 <= status < 500 else ModelFailed
        return kind(f"model {self._name!r} answered with status {status}: {str(text)[:1000]}")

    def _encoded(self, answer: object) -> bytes:
        if isinstance(answer, bytes | bytearray):
            return bytes(answer)
        if isinstance(answer, str):
            return answer.encode()
        try:
            return json.dumps(answer, ensure_ascii=False, default=_plain).encode()
        except (TypeError, ValueError) as error:
            raise ModelFailed(
                f"model {self._name!r}: its handler's answer can't be written as JSON: {error}"
            ) from error

    def memory_bytes(self) -> int:
        return self._size

    def close(self) -> None:
        del self._handle, self._context
        if self._package is not None:
            self._package.remove()
        if self._unpacked is not None:
            self._unpacked.remove()


def _signature(spec: ModelSpec) -> Signature:
    known = {tensor.name for tensor in _INPUTS}
    for tensor in spec.inputs or ():
        if tensor.shape is not None and tensor.shape[:1] != (-1,):
            raise InvalidConfig(
                f"model {spec.name!r}: each row is one request, so the shape of {tensor.name!r} begins with -1, not "
                f"{list(tensor.shape)}"
            )
    fields = tuple(tensor for tensor in spec.inputs or () if tensor.name not in known)
    return Signature((*_INPUTS, *fields), (_OUTPUT,), batched=True)


def _column(name: str, array: Array) -> list[Any]:
    """A field of each request: bytes, a number, or lists of numbers."""
    if array.ndim == 0:
        raise InvalidInput(f"input {name!r} has no rows: expected a row for each request")
    rows: list[Any] = array.tolist()
    return rows


def _decoded(index: int, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"input 'json': row {index} isn't JSON: {error}") from None


def _plain(value: Any) -> Any:
    """A tensor or array as lists, a number of theirs as a number."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is neither text, bytes, a number, nor a list or dict of these")
