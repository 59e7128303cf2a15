"""A Python model's configuration: from its ``config.pbtxt``, a model.yaml, or the model itself; and its signature."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salver.core.errors import InvalidArtifact, InvalidConfig
from salver.core.model import ModelSpec
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import DTYPES
from salver.runtimes.settings import declare

_DATATYPES = {f"TYPE_{name}": name for name in DTYPES if name != "BYTES"} | {"TYPE_STRING": "BYTES"}
_WRITTEN = {datatype: written for written, datatype in _DATATYPES.items()}


def configuration_of(spec: ModelSpec) -> dict[str, Any]:
    """The configuration that the model is told: its option ``config``, else what model.yaml says, in Triton's words.

    Raises:
        InvalidConfig: the option is of another form.
    """
    given = spec.options.get("config")
    if given is not None:
        if not isinstance(given, Mapping):
            raise InvalidConfig(f"model {spec.name!r}: option 'config' is a Triton configuration, not {given!r:.40}")
        return copy.deepcopy(dict(given))
    return {
        "name": spec.name,
        "platform": "",
        "backend": "python",
        "max_batch_size": (spec.scheduling.max_batch_size or 64) if spec.batched else 0,
        "input": _tensors(spec, spec.inputs),
        "output": _tensors(spec, spec.outputs),
        "parameters": {},
    }


def _tensors(spec: ModelSpec, tensors: Sequence[TensorSpec] | None) -> list[dict[str, Any]]:
    found = []
    for tensor in tensors or ():
        if tensor.datatype is None or tensor.shape is None:
            raise InvalidConfig(f"model {spec.name!r}: {tensor.name!r} needs a datatype and a shape in its settings")
        dims = list(tensor.shape[1:] if spec.batched else tensor.shape)
        each = {"name": tensor.name, "data_type": _WRITTEN[tensor.datatype], "dims": dims}
        found.append({**each, "optional": True} if tensor.optional else each)
    return found


def signature_of(spec: ModelSpec, configuration: Mapping[str, Any]) -> Signature:
    """The signature that a configuration describes.

    Raises:
        InvalidArtifact: it names no inputs or no outputs, or one of a datatype that doesn't exist.
        InvalidConfig: model.yaml contradicts it.
    """
    batched = int(configuration.get("max_batch_size") or 0) > 0
    tensors: dict[str, tuple[TensorSpec, ...]] = {}
    for kind in ("input", "output"):
        tensors[kind] = tuple(_tensor(spec, each, batched=batched) for each in configuration.get(kind) or ())
        if not tensors[kind]:
            raise InvalidArtifact(
                f"model {spec.name!r}: its configuration has no {kind}s, and the model completes none "
                "(auto_complete_config); name them in its config.pbtxt"
            )
    found = declare(spec, tensors["input"], tensors["output"], one_batch=batched)
    return Signature(found.inputs, found.outputs, batched if spec.batched is None else spec.batched)


def _tensor(spec: ModelSpec, config: Mapping[str, Any], *, batched: bool) -> TensorSpec:
    datatype = _DATATYPES.get(str(config.get("data_type")))
    if datatype is None:
        raise InvalidArtifact(
            f"model {spec.name!r}: data_type of {config.get('name')!r} is {config.get('data_type')!r}; expected one of "
            f"{', '.join(_DATATYPES)}"
        )
    reshape = config.get("reshape")
    dims = [int(size) for size in (reshape.get("shape", []) if reshape is not None else config.get("dims", []))]
    shape = (-1, *dims) if batched else tuple(dims)
    return TensorSpec(str(config.get("name")), datatype, shape, optional=bool(config.get("optional")))


class CompletedConfig:
    """What ``auto_complete_config`` of a model is given: it adds to it what its config.pbtxt leaves out."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        self._configuration = configuration

    def as_dict(self) -> dict[str, Any]:
        return self._configuration

    def add_input(self, tensor: Mapping[str, Any]) -> None:
        self._add("input", tensor)

    def add_output(self, tensor: Mapping[str, Any]) -> None:
        self._add("output", tensor)

    def set_max_batch_size(self, size: int) -> None:
        self._configuration["max_batch_size"] = size

    def set_dynamic_batching(self) -> None:
        self._configuration.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, policy: Mapping[str, Any]) -> None:
        self._configuration["model_transaction_policy"] = dict(policy)

    def _add(self, kind: str, tensor: Mapping[str, Any]) -> None:
        unknown = set(tensor) - {"name", "data_type", "dims", "optional"}
        if unknown or not {"name", "data_type", "dims"} <= set(tensor):
            raise ValueError(
                f"an {kind} has 'name', 'data_type' and 'dims' (and may have 'optional'), not {list(tensor)}"
            )
        there = [each["name"] for each in self._configuration[kind]]
        if tensor["name"] not in there:
            self._configuration[kind].append(dict(tensor))


@dataclass(frozen=True, slots=True)
class ControlTensor:
    """A tensor by which a model is told where in its sequence a request stands.

    Attributes:
        name: the tensor's.
        kind: CONTROL_SEQUENCE_START, _END, _READY or _CORRID.
        values: what it holds for false and true; none for _CORRID.
        datatype: of V2.
    """

    name: str
    kind: str
    values: tuple[float, float] | None
    datatype: str


def control_tensors(spec: ModelSpec, configuration: Mapping[str, Any]) -> tuple[ControlTensor, ...]:
    """The control tensors of ``sequence_batching``.

    Raises:
        InvalidConfig: one is of a kind or datatype that doesn't exist.
    """
    found = []
    for each in configuration.get("sequence_batching", {}).get("control_input", ()):
        for control in each.get("control", ()):
            kind = str(control.get("kind", "CONTROL_SEQUENCE_START"))
            pairs = {"int32_false_true": "INT32", "fp32_false_true": "FP32", "bool_false_true": "BOOL"}
            named = next((name for name in pairs if control.get(name)), None)
            if kind == "CONTROL_SEQUENCE_CORRID":
                datatype = _DATATYPES.get(str(control.get("data_type")), "UINT64")
                found.append(ControlTensor(str(each.get("name")), kind, None, datatype))
            elif named is not None and len(control[named]) == 2:
                low, high = control[named]
                found.append(ControlTensor(str(each.get("name")), kind, (low, high), pairs[named]))
            else:
                raise InvalidConfig(
                    f"model {spec.name!r}: control input {each.get('name')!r} needs one of {', '.join(pairs)} with two "
                    "values"
                )
    return tuple(found)
