"""The ``openvino`` runtime: OpenVINO IR, and ONNX and TensorFlow Lite files, in OpenVINO on the CPU."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov  # type: ignore[import-untyped]

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidInput, ModelFailed
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import DTYPES, Array, Shape
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.openvino_shapes import ShapeCheck, needs_check
from salver.runtimes.settings import check_options, cores, declare, gpu_index, nearest

_DATATYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "bf16": "BF16",
    "f32": "FP32",
    "f64": "FP64",
}
_BFLOAT16 = DTYPES["BF16"]
_HINTS = {"latency": "LATENCY", "throughput": "THROUGHPUT", "cumulative_throughput": "CUMULATIVE_THROUGHPUT"}
_MODES = {"accuracy": "ACCURACY", "performance": "PERFORMANCE"}
_SUFFIXES = (".xml", ".onnx", ".tflite")
_IR = re.compile(rb"<net\b[^>]*\bversion=")


class OpenvinoRuntime(Runtime):
    """Loads OpenVINO IR (``.xml`` with its ``.bin``), and ``.onnx`` and ``.tflite`` files where model.yaml says so.

    Options: ``performance_hint`` ("latency", "throughput", "cumulative_throughput": OpenVINO chooses streams and
    threads; else one stream an execution), ``num_streams`` (executions that it really runs side by side),
    ``execution_mode`` ("accuracy", the default, computes as precisely as the model says; "performance" lets OpenVINO
    compute in BF16 or FP16 where the CPU has instructions for it), ``cpu_pinning`` (threads stay on their cores; false
    by default, for other models want these, too).
    """

    name = "openvino"
    extra = "openvino"

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load a model; see :meth:`Runtime.load`."""
        properties = _properties(spec)
        if spec.device != "auto" and gpu_index(spec) is not None:
            raise InvalidConfig(
                f"model {spec.name!r}: device is {spec.device!r}, but Salver's openvino runtime runs on the CPU; for "
                "NVIDIA GPUs use the onnx runtime"
            )
        _check_files(spec)
        core = ov.Core()
        # Weights that are only mapped would change under a loaded model when its file is overwritten.
        core.set_property({"ENABLE_MMAP": False})
        try:
            model = core.read_model(spec.path)
            compiled = core.compile_model(model, "CPU", properties)
        except Exception as error:
            raise InvalidArtifact(f"model {spec.name!r}: OpenVINO can't load {spec.path}: {_message(error)}") from error
        return _OpenvinoModel(spec, model, compiled)


class _OpenvinoModel(LoadedModel):
    platform = "openvino"
    may_run_inline = True

    def __init__(self, spec: ModelSpec, model: Any, compiled: Any) -> None:
        self._name = spec.name
        self._input_names, self._output_names = _names(compiled.inputs, "input"), _names(compiled.outputs, "output")
        inputs = _tensor_specs(spec, "input", self._input_names, compiled.inputs)
        outputs = _tensor_specs(spec, "output", self._output_names, compiled.outputs)
        self.signature: Signature = declare(spec, inputs, outputs)
        threads, streams = compiled.get_property("INFERENCE_NUM_THREADS"), compiled.get_property("NUM_STREAMS")
        self.threads = max(1, int(threads) // max(1, int(streams)))
        self._memory_bytes = sum(file.stat().st_size for file in _files(spec.path))
        self._index = {name: index for index, name in enumerate(self._input_names)}
        self._bfloat16_outputs = [tensor.name for tensor in outputs if tensor.datatype == "BF16"]
        self._types = [each.get_element_type() for each in compiled.inputs]
        shapes = [tensor.shape for tensor in inputs]
        is_open = needs_check(model, shapes, batched=self.signature.batched)
        self._shapes = ShapeCheck(model) if is_open else None
        self._compiled = compiled
        first = compiled.create_infer_request()
        self._is_stateful = bool(first.query_state())
        self._idle = deque([first])  # as many as there were calls at a time

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        if self._shapes is not None:
            try:
                self._shapes.check(tuple(inputs[name].shape for name in self._input_names))
            except RuntimeError as error:
                raise InvalidInput(f"model {self._name!r} refused its input: {_message(error)}") from error
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            if self._is_stateful:
                request.reset_state()  # or this caller would get what the one before it has left
            feeds = {self._index[name]: self._feed(name, array) for name, array in inputs.items()}
            # Inputs are shared, not copied; outputs are copied, for the next call writes over the request's.
            found = request.infer(feeds, share_inputs=True, share_outputs=False)
            outputs: Outputs = {name: found[index] for index, name in enumerate(self._output_names)}
        except Exception as error:
            raise self._failure(error) from error
        finally:
            self._idle.append(request)
        for name in self._bfloat16_outputs:  # which OpenVINO gives as what NumPy takes for FP16
            outputs[name] = outputs[name].view(_BFLOAT16)
        return outputs

    def _feed(self, name: str, array: Array) -> Any:
        if array.dtype == _BFLOAT16:
            bits = np.ascontiguousarray(array).view(np.uint16)
            return ov.Tensor(bits, ov.Shape(array.shape), self._types[self._index[name]])
        return array

    def _failure(self, error: Exception) -> Exception:
        text = _message(error)
        if "shape" in text.lower() or "dimension" in text.lower():
            return InvalidInput(f"model {self._name!r} refused its input: {text}")
        return ModelFailed(f"model {self._name!r} failed in OpenVINO: {text}")

    def memory_bytes(self) -> int:
        return self._memory_bytes

    def close(self) -> None:
        self._idle.clear()
        self._shapes = None
        del self._compiled


def _properties(spec: ModelSpec) -> dict[str, Any]:
    """Options as OpenVINO's properties. Only these: others name files to read and to write."""
    options = check_options(spec, ("performance_hint", "num_streams", "execution_mode", "cpu_pinning"))
    pinning = options.get("cpu_pinning", False)
    if not isinstance(pinning, bool):
        raise InvalidConfig(f"model {spec.name!r}: option 'cpu_pinning' is true or false, not {pinning!r}")
    properties: dict[str, Any] = {
        "ENABLE_CPU_PINNING": pinning,
        "EXECUTION_MODE_HINT": _choice(spec, options, "execution_mode", _MODES) or _MODES["accuracy"],
    }
    streams = options.get("num_streams")
    if streams is not None and (isinstance(streams, bool) or not isinstance(streams, int) or not 1 <= streams <= 1024):
        raise InvalidConfig(f"model {spec.name!r}: option 'num_streams' is a number from 1 to 1024, not {streams!r}")
    hint = _choice(spec, options, "performance_hint", _HINTS)
    if hint is not None:
        properties["PERFORMANCE_HINT"] = hint
        if streams is not None:
            properties["NUM_STREAMS"] = streams
        if spec.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = spec.threads * (streams or 1)
        return properties
    threads = spec.threads or (cores() if spec.one_at_a_time else 1)
    if streams is None:
        streams = spec.scheduling.instances or max(1, cores() // threads)
    # Executions beyond the streams would wait for each other in OpenVINO.
    return {**properties, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads * streams}


def _choice(spec: ModelSpec, options: Mapping[str, Any], name: str, known: Mapping[str, str]) -> str | None:
    value = options.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or value.lower() not in known:
        raise InvalidConfig(f"model {spec.name!r}: option {name!r} can't be {value!r}; {nearest(str(value), known)}")
    return known[value.lower()]


def _check_files(spec: ModelSpec) -> None:
    """Hold the files against what OpenVINO reads: of others it tries one reader after another, which all complain."""
    path = spec.path
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
        raise InvalidArtifact(
            f"model {spec.name!r}: {path} isn't a {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file"
        )
    if path.suffix.lower() != ".xml":
        return
    with path.open("rb") as file:
        if _IR.search(file.read(4096)) is None:
            raise InvalidArtifact(f"model {spec.name!r}: {path} is no OpenVINO IR, which begins with <net ... version=")
    if not path.with_suffix(".bin").is_file():
        raise InvalidArtifact(
            f"model {spec.name!r}: {path} has no {path.with_suffix('.bin').name} beside it, which holds its weights"
        )


def _files(path: Path) -> list[Path]:
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]


def _names(ports: Sequence[Any], kind: str) -> list[str]:
    """A name for each input or output: the shortest of those that it has; of those that have none, a number."""
    found: list[str] = []
    for index, port in enumerate(ports):
        names = sorted(port.get_names(), key=lambda name: (len(name), name))
        name = names[0] if names else (kind if len(ports) == 1 else f"{kind}_{index}")
        found.append(f"{kind}_{index}" if name in found else name)
    return found


def _tensor_specs(spec: ModelSpec, kind: str, names: Sequence[str], ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, port in zip(names, ports, strict=True):
        element = port.get_element_type().get_type_name()
        if element not in _DATATYPES:
            raise InvalidArtifact(
                f"model {spec.name!r}: {kind} {name!r} of {spec.path} is of type {element}, which the openvino runtime "
                "can't carry"
            )
        specs.append(TensorSpec(name, _DATATYPES[element], _shape(port.get_partial_shape())))
    return tuple(specs)


def _shape(shape: Any) -> Shape | None:
    if shape.rank.is_dynamic:
        return None
    return tuple(dimension.get_length() if dimension.is_static else -1 for dimension in shape)


_NOISE = re.compile(
    r"Exception from \S+:\d+:|Check '.*?' failed(?: at \S+:\d+:)?|\S+\.[ch]pp:\d+:?|While validating node '.*?'"
    r" with friendly_name '[^']*':"
)


def _message(error: Exception) -> str:
    """OpenVINO's own words, less its source lines."""
    return " ".join(_NOISE.sub("", str(error)).split())[:1000] or type(error).__name__
