"""A Triton ensemble as a graph: pure, from its config.pbtxt to what ``graph.yaml`` would hold.

Described in https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/ensemble_models.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from salver.store.layouts.text_protobuf import Message

_NO_NAME = re.compile(r"[^A-Za-z0-9_]")


def is_ensemble(message: Message) -> bool:
    """Whether a configuration is an ensemble's."""
    return message.text("platform") == "ensemble" or "ensemble_scheduling" in message


def read_ensemble(message: Message, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The graph that an ensemble is.

    Args:
        message: its configuration.
        keys: its inputs and outputs, as :func:`salver.store.layouts.triton_tensors.read_tensors` gives them.

    Raises:
        InvalidConfig: a step is not complete, or two give one tensor.
    """
    scheduling = message.message("ensemble_scheduling")
    found = [] if scheduling is None else scheduling.messages("step")
    if not found:
        raise message.wrong(
            "platform", "an ensemble has its models in 'ensemble_scheduling { step [...] }'; there are none"
        )
    for key in ("input", "output"):
        if f"{key}s" not in keys:
            raise message.wrong("platform", f"an ensemble has to name its tensors: {key!r} is missing")
    names = _names(found)
    origins = {tensor["name"]: f"inputs.{tensor['name']}" for tensor in keys["inputs"]}
    for name, step in zip(names, found, strict=True):
        for output, tensor in _map(step, "output_map").items():
            if tensor in origins:
                raise step.wrong("output_map", f"two steps (or an input and a step) give the tensor {tensor!r}")
            origins[tensor] = f"{name}.{output}"
    steps = []
    for name, step in zip(names, found, strict=True):
        inputs = {}
        for key, tensor in _map(step, "input_map").items():
            inputs[key] = _origin(step, "input_map", tensor, origins)
        steps.append({"name": name, "model": _model(step), "inputs": inputs})
    outputs = [
        {"name": tensor["name"], "from": _origin(message, "output", tensor["name"], origins)}
        for tensor in keys["outputs"]
    ]
    return {"inputs": keys["inputs"], "outputs": outputs, "steps": steps}


def _names(steps: list[Message]) -> list[str]:
    """A name for each step: its model's, with a number where two have one."""
    names: list[str] = []
    for step in steps:
        name = _NO_NAME.sub("_", step.text("model_name"))[:50] or "step"
        name = f"_{name}" if name[0].isdigit() or name in ("inputs", "item", "parameters", "outputs") else name
        number = 1
        unique = name
        while unique in names:
            number += 1
            unique = f"{name}_{number}"
        names.append(unique)
    return names


def _model(step: Message) -> str:
    name = step.text("model_name")
    if not name:
        raise step.wrong("model_name", "a step of an ensemble has no 'model_name'")
    if step.text("model_namespace"):
        raise step.wrong("model_namespace", "models have no namespaces here; leave 'model_namespace' out")
    version = step.integer("model_version", -1)
    return name if version == -1 else f"{name}/{version}"


def _map(step: Message, field: str) -> dict[str, str]:
    """The model's name of a tensor -> the ensemble's."""
    found: dict[str, str] = {}
    for key, value in step.entries(field).items():
        if not isinstance(value, str) or not key or not value:
            raise step.wrong(field, f"{field!r} wants a key (the model's tensor) and a value (the ensemble's)")
        found[key] = value
    if not found:
        raise step.wrong(field, f"a step of an ensemble has no {field!r}")
    return found


def _origin(message: Message, field: str, tensor: str, origins: Mapping[str, str]) -> str:
    if tensor not in origins:
        known = ", ".join(map(repr, origins))
        raise message.wrong(field, f"nothing gives the tensor {tensor!r}; there are {known}")
    return origins[tensor]
