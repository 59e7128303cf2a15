"""A Triton configuration as JSON: what a model of the Python backend is told of itself."""

from __future__ import annotations

from typing import Any

from salver.store.layouts.text_protobuf import Message, Value

_LISTS = frozenset(
    {
        "input", "output", "batch_input", "batch_output", "dims", "shape", "versions", "preferred_batch_size",
        "instance_group", "gpus", "profile", "control_input", "control", "state", "initial_state", "model_warmup",
        "resources", "secondary_devices", "op_library_filename", "agents", "int32_false_true", "fp32_false_true",
        "bool_false_true", "execution_accelerator", "gpu_execution_accelerator", "cpu_execution_accelerator",
    }
)  # fmt: skip
"""Repeated fields of Triton's ``model_config.proto``."""

_MAPS = frozenset({"parameters", "cc_model_filenames", "metric_tags", "priority_queue_policy", "inputs"})


def to_json(message: Message) -> dict[str, Any]:
    """The configuration as Triton writes it: with the fields that models look at, also where it leaves them out."""
    return {
        "name": "",
        "platform": "",
        "backend": "python",
        "max_batch_size": 0,
        "input": [],
        "output": [],
        "parameters": {},
        **_object(message),
    }


def _object(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in message.items():
        if name in _MAPS:
            found[name] = {key: _value(value) for key, value in message.entries(name).items()}
        elif name in _LISTS:
            found[name] = [_value(value) for value in values]
        else:
            found[name] = _value(values[-1])
    return found


def _value(value: Value) -> Any:
    return _object(value) if isinstance(value, Message) else str(value) if isinstance(value, str) else value
