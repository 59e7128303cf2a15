"""The ``pytorch`` runtime: TorchScript modules and ``torch.export`` programs, on the CPU or a CUDA GPU."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import torch
from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument
from torch.utils import _pytree as pytree

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidInput, ModelFailed, SalverError
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Array
from salver.runtimes import torchscript_code, values
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.detect import CHECKPOINT
from salver.runtimes.settings import check_options, declare
from salver.runtimes.torch_device import storage_bytes, torch_device
from salver.runtimes.torch_files import torch_format

T = TypeVar("T")

_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
_RUN_ERRORS = (torch.jit.Error, RuntimeError, AssertionError, TypeError, ValueError, IndexError, InvalidInput)
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class PytorchRuntime(Runtime):
    """Loads TorchScript files, and ``torch.export`` programs (``.pt2``) where code is allowed.

    TorchScript is a language of its own, which PyTorch interprets. A ``.pt2`` file is unpickled in part, and the shape
    expressions in it are evaluated as Python: PyTorch itself says to load none that isn't trusted.

    TorchScript tells the names of inputs, not their datatypes and shapes: model.yaml may declare them. Inputs that it
    calls ``INPUT__0``, ``INPUT__1``, ... are the arguments of ``forward`` in their order, as Triton has it. Outputs are
    named by the dict or named tuple that ``forward`` gives, else ``output``, or ``output_0``, ``output_1``, ... for a
    tuple.

    ``threads`` sets the threads of all PyTorch models in the process: PyTorch has one number for all of them.
    """

    name = "pytorch"
    extra = "torch"
    imported_by_load = ("torch.export.passes",)

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load a TorchScript module or an exported program; see :meth:`Runtime.load`."""
        check_options(spec, ())
        device = torch_device(spec)
        if not spec.path.is_file():
            raise InvalidArtifact(f"model {spec.name!r}: {spec.path} isn't a file; expected .pt or .pt2")
        form = torch_format(spec.path)
        if form is None:
            raise InvalidArtifact(
                f"model {spec.name!r}: {spec.path} is neither TorchScript nor a torch.export program: it "
                "is damaged, or a pickle. Export the model with torch.export.save or torch.jit.script(model).save"
            )
        if form == "checkpoint":
            raise InvalidArtifact(f"model {spec.name!r}: {CHECKPOINT.format(file=spec.path)}")
        if form == "export" and not self.allow_code:
            raise CodeNotAllowed(
                f"model {spec.name!r}: loading {spec.path} can run code in it (PyTorch unpickles and evaluates parts "
                "of .pt2 files), which isn't allowed; if you trust the file, set allow_code (--allow-code, or "
                "SALVER_ALLOW_CODE=1). TorchScript files need no permission"
            )
        if form == "torchscript" and not self.allow_code:
            torchscript_code.check_harmless(spec)
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        try:
            return _TorchScriptModel(spec, device) if form == "torchscript" else _ExportedModel(spec, device)
        except SalverError:
            raise
        except Exception as error:
            raise InvalidArtifact(
                f"model {spec.name!r}: PyTorch can't load {spec.path}: {_last_line(error)}"
            ) from error


class _TorchModel(LoadedModel):
    """What both formats share: tensors in, tensors out."""

    def __init__(self, spec: ModelSpec, device: torch.device, signature: Signature) -> None:
        self.signature = signature
        self.device = str(device)
        self.threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._name = spec.name
        self._path = spec.path
        self._device = device
        self._output_names = [tensor.name for tensor in signature.outputs]
        # A shape or datatype that the signature leaves open is judged by the first layer that it doesn't suit.
        self._is_open = any(tensor.datatype is None or tensor.shape is None for tensor in signature.inputs)

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        arguments = self._arguments(inputs)
        try:
            with torch.inference_mode():
                named = self._named(self._run(arguments))
                wanted = named if asked is None else {name: named[name] for name in asked if name in named}
                return {name: _to_array(value) for name, value in wanted.items()}
        except _RUN_ERRORS as error:
            raise self._failure(error) from error

    def _arguments(self, inputs: Inputs) -> dict[str, Any]:
        return {name: _to_tensor(name, array, self._device) for name, array in inputs.items()}

    def _run(self, arguments: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _named(self, result: Any) -> dict[str, Any]:
        named = dict(_name_outputs(result, "output"))
        # model.yaml names the outputs of a tuple in its own words.
        if len(named) == len(self._output_names) and not named.keys() <= set(self._output_names):
            return dict(zip(self._output_names, named.values(), strict=True))
        return named

    def _failure(self, error: Exception) -> Exception:
        text = _last_line(error)
        if _REFUSED.search(text) or (self._is_open and _UNSUITABLE.search(text)):
            return InvalidInput(f"model {self._name!r} refused its input: {text}")
        return ModelFailed(f"model {self._name!r} failed in PyTorch: {text}")

    def _tensors(self) -> Iterable[torch.Tensor]:
        raise NotImplementedError

    def memory_bytes(self) -> int:
        return storage_bytes(self._tensors())


class _TorchScriptModel(_TorchModel):
    platform = "pytorch_torchscript"

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning)
        module = torch.jit.load(spec.path, map_location=device)
        self._module = module.eval()
        self._readers: dict[str, values.Reader] = {}
        schema = module.forward.schema
        inputs = []
        shown = _names_by_place(spec.inputs, [argument.name for argument in schema.arguments[1:]])
        self._own_names = {name: own for own, name in shown.items()}
        for argument in schema.arguments[1:]:
            datatype, shape, reader = _script_input(spec, argument)
            name = shown.get(argument.name, argument.name)
            inputs.append(TensorSpec(name, datatype, shape, optional=_is_optional(argument)))
            if reader is not None:
                self._readers[name] = reader
        # Absent ones are None, as TorchScript passes arguments without defaults.
        self._absent = [a.name for a in schema.arguments[1:] if _is_optional(a) and not a.has_default_value()]
        found = tuple(TensorSpec(name, None, None) for name in _script_outputs(schema))
        if spec.outputs is not None and {tensor.name for tensor in spec.outputs} - {tensor.name for tensor in found}:
            found = tuple(TensorSpec(tensor.name, None, None) for tensor in spec.outputs)
        super().__init__(spec, device, declare(spec, tuple(inputs), found))

    def _arguments(self, inputs: Inputs) -> dict[str, Any]:
        arguments: dict[str, Any] = dict.fromkeys(self._absent)
        for name, array in inputs.items():
            reader = self._readers.get(name)
            value = reader(name, array) if reader else _to_tensor(name, array, self._device)
            arguments[self._own_names.get(name, name)] = value
        return arguments

    def _run(self, arguments: dict[str, Any]) -> Any:
        return self._module(**arguments)

    def _tensors(self) -> Iterable[torch.Tensor]:
        return (*self._module.parameters(), *self._module.buffers())

    def close(self) -> None:
        del self._module


class _ExportedModel(_TorchModel):
    platform = "pytorch_export"

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        program = _load_exported(spec)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        self._weights = [*program.state_dict.values(), *program.constants.values()]
        self._structure = program.call_spec.in_spec
        nodes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
        inputs = []
        self._leaves: list[Callable[[Mapping[str, Any]], Any]] = []
        for argument in (each.arg for each in program.graph_signature.input_specs if each.kind is InputKind.USER_INPUT):
            if isinstance(argument, TensorArgument):
                inputs.append(_tensor_spec(spec, argument.name, nodes[argument.name]))
                self._leaves.append(_getter(argument.name))
            elif isinstance(argument, ConstantArgument):
                self._leaves.append(_constant(argument.value))
            else:
                raise InvalidArtifact(
                    f"model {spec.name!r}: {spec.path} takes {argument.name!r} as a number, which no tensor can be"
                )
        found = _exported_outputs(spec, program)
        self._module = program.module()
        batches = {str(nodes[tensor.name].shape[0]) for tensor in inputs if tensor.shape}
        super().__init__(spec, device, declare(spec, tuple(inputs), found, one_batch=len(batches) <= 1))

    def _run(self, arguments: dict[str, Any]) -> Any:
        positional, keywords = pytree.tree_unflatten([leaf(arguments) for leaf in self._leaves], self._structure)
        return self._module(*positional, **keywords)

    def _tensors(self) -> Iterable[torch.Tensor]:
        return (tensor for tensor in self._weights if isinstance(tensor, torch.Tensor))

    def close(self) -> None:
        del self._module, self._weights


def _load_exported(spec: ModelSpec) -> torch.export.ExportedProgram:
    # torch.export keeps what it is loading in a global, and fails where two programs load at the same time.
    with _export_lock, spec.path.open("rb") as file:  # of a path, PyTorch wants that it ends in .pt2
        return torch.export.load(file)


def _script_input(spec: ModelSpec, argument: Any) -> tuple[str | None, tuple[int, ...] | None, values.Reader | None]:
    """Datatype, shape and, where it isn't a tensor, the reader of an argument of ``forward``."""
    kind = str(argument.type)
    inner = kind.removeprefix("Optional[").removesuffix("]") if kind.startswith("Optional[") else kind
    if inner == "Tensor":
        return None, None, None
    if inner in _SCRIPT_SCALARS:
        datatype, reader = _SCRIPT_SCALARS[inner]
        return datatype, (-1,) if inner.startswith("List") else None, reader
    raise InvalidArtifact(
        f"model {spec.name!r}: forward in {spec.path} takes {argument.name!r} as {kind}, which no tensor can be; "
        "expected Tensor, int, float, bool, str or a list of str"
    )


_SCRIPT_SCALARS: dict[str, tuple[str, values.Reader]] = {
    "int": ("INT64", values.read_element),
    "float": ("FP64", values.read_element),
    "bool": ("BOOL", values.read_element),
    "str": ("BYTES", values.read_text),
    "List[str]": ("BYTES", values.read_text_list),
}


def _names_by_place(declared: Sequence[TensorSpec] | None, arguments: Sequence[str]) -> dict[str, str]:
    """Arguments of ``forward`` that settings call by their places, as Triton does: ``INPUT__0`` is the first.

    Empty where a declared name is an argument's own, or tells no place.
    """
    shown: dict[str, str] = {}
    for tensor in declared or ():
        place = _PLACE.fullmatch(tensor.name)
        if place is None or tensor.name in arguments or int(place[1]) >= len(arguments):
            return {}
        shown[arguments[int(place[1])]] = tensor.name
    return shown


_PLACE = re.compile(r".+__([0-9]{1,4})")


def _is_optional(argument: Any) -> bool:
    return bool(argument.has_default_value()) or str(argument.type).startswith("Optional[")


def _script_outputs(schema: Any) -> list[str]:
    """Names of the outputs, where the type of what ``forward`` gives tells them."""
    returned = schema.returns[0].type
    if returned.kind() == "TensorType":
        return ["output"]
    is_plain_tuple = returned.kind() == "TupleType" and str(returned).startswith("Tuple[")
    # A named tuple doesn't tell its names before it has run; nor does a dict.
    if is_plain_tuple and all(element.kind() == "TensorType" for element in returned.elements()):
        return [f"output_{index}" for index in range(len(returned.elements()))]
    return []


def _tensor_spec(spec: ModelSpec, name: str, value: Any) -> TensorSpec:
    datatype = _DATATYPES.get(value.dtype)
    if datatype is None:
        raise InvalidArtifact(
            f"model {spec.name!r}: {name!r} of {spec.path} is {value.dtype}, which no request carries"
        )
    return TensorSpec(name, datatype, tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _exported_outputs(spec: ModelSpec, program: torch.export.ExportedProgram) -> tuple[TensorSpec, ...]:
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    count = len(program.graph_signature.user_outputs)
    leaves = [getattr(leaf, "meta", {}).get("val") for leaf in output.args[0][len(output.args[0]) - count :]]
    result = pytree.tree_unflatten(leaves, program.call_spec.out_spec)
    named = dict(_name_outputs(result, "output"))
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    return tuple(_tensor_spec(spec, name, value) for name, value in tensors.items())


def _name_outputs(value: T | Mapping[str, T] | Sequence[T], name: str) -> Iterator[tuple[str, T]]:
    """Names for the leaves of what a model gives: keys, fields, or ``output_0``, ``output_1``, ..."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _name_outputs(inner, str(key))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for key, inner in zip(value._fields, value, strict=True):
            yield from _name_outputs(inner, key)
    elif isinstance(value, list | tuple) and not (value and isinstance(value[0], str | int | float)):
        if len(value) == 1:
            yield from _name_outputs(value[0], name)
        else:
            for index, inner in enumerate(value):
                yield from _name_outputs(inner, f"{name}_{index}")
    elif value is not None:
        yield name, value  # type: ignore[misc]


def _getter(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda arguments: arguments[name]


def _constant(value: Any) -> Callable[[Mapping[str, Any]], Any]:
    return lambda arguments: value


def _to_tensor(name: str, array: Array, device: torch.device) -> torch.Tensor:
    if array.dtype.hasobject:
        raise InvalidInput(f"input {name!r}: expected numbers, got BYTES")
    # PyTorch warns about buffers that it mustn't write to, and requests are such: they are copied.
    array = np.require(array, requirements=["C", "A", "W"])
    if array.dtype == _BFLOAT16:
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device)


def _to_array(value: Any) -> Array:
    if not isinstance(value, torch.Tensor):
        return values.to_array(value)
    tensor = value.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(_BFLOAT16)
    if tensor.dtype not in _DATATYPES:
        raise ModelFailed(f"an output is {tensor.dtype}, which no response can carry")
    array: Array = tensor.resolve_conj().resolve_neg().numpy()
    return array


_REFUSED = re.compile(r"^Guard failed|index out of range")
"""What PyTorch says of sizes that an exported program excludes, and of ids beyond an embedding."""

_export_lock = threading.Lock()
_UNSUITABLE = re.compile(
    r"shapes? cannot be multiplied|size mismatch|must match the size|expected scalar type|same dtype|Given groups|"
    r"[Ee]xpected .*(?:input|dimension|tensor)|Dimension out of range|must have the same|not implemented for"
)
"""What PyTorch's operators say of tensors of the wrong shape or datatype."""


def _last_line(error: BaseException) -> str:
    """PyTorch's own words: TorchScript puts the model's source lines above them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Traceback of TorchScript" in str(error):
        return lines[-1].removeprefix("builtins.").removeprefix("RuntimeError: ")
    return lines[0]
