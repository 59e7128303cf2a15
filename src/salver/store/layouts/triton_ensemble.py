"""A Triton ensemble as a graph: pure, from its config.pbtxt to what ``graph.yaml`` would hold.

Described in https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/ensemble_models.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from salver.core.errors import InvalidRequest
from salver.core.model import check_model_name
from salver.store.layouts.text_protobuf import Message

_NO_NAME = re.compile(r"[^A-Za-z0-9_]")

_PASSED = {name: f"${name}" for name in ("sequence_id", "sequence_start", "sequence_end")}
"""Parameters that an ensemble's stateful models get of its request."""


def is_ensemble(message: Message) -> bool:
    """Whether a configuration is an ensemble's."""
    return message.text("platform") == "ensemble" or "ensemble_scheduling" in message


def read_ensemble(message: Message, keys: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """The graph that an ensemble is.

    Args:
        message: its configuration.
        keys: its inputs and outputs, as :func:`salver.store.layouts.triton_tensors.read_tensors` gives them.
        problems: is added to: steps that no output needs are left out.

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
        for output, tensor, entry in _entries(step, "output_map"):
            if tensor in origins:
                raise entry.wrong("value", f"two steps (or an input and a step) give the tensor {tensor!r}")
            origins[tensor] = f"{name}.{output}"
    steps = []
    for name, step in zip(names, found, strict=True):
        inputs = {key: _origin(entry, "value", tensor, origins) for key, tensor, entry in _entries(step, "input_map")}
        steps.append({"name": name, "model": _model(step), "inputs": inputs, "parameters": _PASSED})
    outputs = [
        {"name": tensor["name"], "from": _origin(message, "output", tensor["name"], origins)}
        for tensor in keys["outputs"]
    ]
    needed = _needed(steps, outputs)
    for name, step in zip(names, found, strict=True):
        if name not in needed:
            problems.append(
                str(step.wrong("model_name", f"'{step.text('model_name')}' isn't asked: no output needs what it gives"))
            )
    return {"inputs": keys["inputs"], "outputs": outputs, "steps": [step for step in steps if step["name"] in needed]}


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


def _needed(steps: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> set[str]:
    """The steps without which an output couldn't be had."""
    reads = {step["name"]: step["inputs"].values() for step in steps}
    needed: set[str] = set()
    waiting = [output["from"] for output in outputs]
    while waiting:
        name = waiting.pop().partition(".")[0]
        if name in reads and name not in needed:
            needed.add(name)
            waiting += reads[name]
    return needed


def _model(step: Message) -> str:
    name = step.text("model_name")
    if not name:
        raise step.wrong("model_name", "a step of an ensemble has no 'model_name'")
    try:
        check_model_name(name)
    except InvalidRequest as error:
        raise step.wrong("model_name", str(error)) from None
    if step.text("model_namespace"):
        raise step.wrong("model_namespace", "models have no namespaces here; leave 'model_namespace' out")
    version = step.integer("model_version", -1)
    if version < -1 or version == 0:
        raise step.wrong("model_version", f"'model_version' is a version, or -1 for the newest, not {version}")
    return name if version == -1 else f"{name}/{version}"


def _entries(step: Message, field: str) -> list[tuple[str, str, Message]]:
    """The model's name of each tensor, the ensemble's, and where they stand."""
    found = [(entry.text("key"), entry.text("value"), entry) for entry in step.messages(field)]
    for key, tensor, entry in found:
        if not key or not tensor:
            raise entry.wrong("key", f"{field!r} wants a key (the model's tensor) and a value (the ensemble's)")
    if not found:
        raise step.wrong(field, f"a step of an ensemble has no {field!r}")
    return found


def _origin(message: Message, field: str, tensor: str, origins: Mapping[str, str]) -> str:
    if tensor not in origins:
        known = ", ".join(map(repr, origins))
        raise message.wrong(field, f"nothing gives the tensor {tensor!r}; there are {known}")
    return origins[tensor]
