"""Batches, queue, sequences, instances and warm-up of a Triton configuration as model.yaml has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from salver.store.layouts.text_protobuf import Message

_MICROSECONDS = 1e-6


def read_scheduling(message: Message, problems: list[str], *, is_python: bool) -> dict[str, Any]:
    """Keys of batches, queue and sequences.

    Args:
        message: the configuration.
        problems: is added to.
        is_python: it is a model of the Python backend, which gets the control tensors of its sequences.

    Raises:
        InvalidConfig: a field has a value of another kind.
    """
    keys: dict[str, Any] = {}
    if (batching := message.message("dynamic_batching")) is not None:
        keys |= _dynamic_batching(batching, problems)
    if (sequences := message.message("sequence_batching")) is not None:
        keys["sequences"] = _sequences(sequences, problems, is_python=is_python)
    return keys


def _dynamic_batching(message: Message, problems: list[str]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if sizes := message.integers("preferred_batch_size"):
        keys["preferred_batch_sizes"] = sizes
    if delay := message.integer("max_queue_delay_microseconds"):
        keys["max_queue_delay"] = delay * _MICROSECONDS
    levels = message.integer("priority_levels")
    bounds: dict[int, int] = {}
    for level, policy in message.entries("priority_queue_policy").items():
        if isinstance(policy, Message) and level.isdecimal() and (bound := _queue_policy(policy, problems)):
            bounds[int(level)] = bound
    if levels:
        keys["priorities"] = {
            "levels": levels,
            "default": message.integer("default_priority_level", (levels + 1) // 2),
            "max_queue": bounds,
        }
    policy_ = message.message("default_queue_policy")
    if policy_ is not None and (bound := _queue_policy(policy_, problems)):
        keys["max_queue"] = bound
    if message.boolean("preserve_ordering"):
        _add(message, problems, "preserve_ordering", "answers are given as they are ready, not in order of requests")
    read = ("preferred_batch_size", "max_queue_delay_microseconds", "priority_levels", "default_priority_level",
            "priority_queue_policy", "default_queue_policy", "preserve_ordering")  # fmt: skip
    _name_others(message, problems, read, "dynamic_batching")
    return keys


def _queue_policy(message: Message, problems: list[str]) -> int:
    """The bound of a queue; 0 for none."""
    _name_others(message, problems, ("max_queue_size",), "a queue's policy")
    return message.integer("max_queue_size")


def _sequences(message: Message, problems: list[str], *, is_python: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if idle := message.integer("max_sequence_idle_microseconds"):
        keys["idle_timeout"] = idle * _MICROSECONDS
    oldest = message.message("oldest")
    if oldest is not None:
        if count := oldest.integer("max_candidate_sequences"):
            keys["max_sequences"] = count
        _name_others(oldest, problems, ("max_candidate_sequences",), "'oldest'")
    if (direct := message.message("direct")) is not None:
        _name_others(direct, problems, (), "'direct'")
    if "control_input" in message and not is_python:
        _add(
            message,
            problems,
            "control_input",
            "control tensors are given to models of the Python backend only; here, clients have to send them",
        )
    read = ("max_sequence_idle_microseconds", "oldest", "direct", "control_input")
    _name_others(message, problems, read, "sequence_batching")
    return keys


def read_instances(message: Message, problems: list[str]) -> dict[str, Any]:
    """Keys ``instances`` and ``device`` of the ``instance_group`` list.

    Raises:
        InvalidConfig: a field has a value of another kind.
    """
    groups = [group for group in message.messages("instance_group") if not group.boolean("passive")]
    keys: dict[str, Any] = {}
    devices: list[str] = []
    count = 0
    for group in groups:
        kind = group.text("kind", "KIND_AUTO")
        gpus = group.integers("gpus")
        known = {"KIND_CPU": "cpu", "KIND_GPU": "cuda", "KIND_AUTO": "auto", "KIND_MODEL": "auto"}
        if kind not in known:
            raise group.wrong("kind", f"'kind' is {kind}; expected one of {', '.join(known)}")
        here = [f"cuda:{gpu}" for gpu in gpus] if gpus and kind != "KIND_CPU" else [known[kind]]
        devices += [device for device in here if device not in devices]
        if devices[0] in here:
            count += group.integer("count")
        _name_others(group, problems, ("name", "kind", "count", "gpus", "rate_limiter", "passive"), "instance_group")
    if devices:
        keys["device"] = devices[0]
    if len(devices) > 1:
        _add(
            message,
            problems,
            "instance_group",
            f"a version runs on one device: on {devices[0]}, not on {', '.join(devices[1:])}, too",
        )
    if count > 0:
        keys["instances"] = count
    return keys


def read_rate_limiter(groups: Sequence[Message], problems: list[str]) -> dict[str, int]:
    """What an execution takes of named resources, by the first group that says so.

    Raises:
        InvalidConfig: a field has a value of another kind.
    """
    found: dict[str, int] = {}
    for group in groups:
        limiter = group.message("rate_limiter")
        if limiter is None:
            continue
        _name_others(limiter, problems, ("resources",), "rate_limiter")
        for resource in limiter.messages("resources"):
            name, count = resource.text("name"), resource.integer("count", 1)
            if not name or count < 1:
                raise resource.wrong("name", "a resource has a 'name' and a 'count' of at least 1")
            if found.setdefault(name, count) != count:
                _add(resource, problems, "count", f"instances take the same of {name!r}: {found[name]}, not {count}")
    return found


def read_warm_up(message: Message, problems: list[str]) -> dict[str, Any]:
    """Key ``warm_up`` of the ``model_warmup`` list.

    Raises:
        InvalidConfig: a field has a value of another kind.
    """
    requests: list[dict[str, int]] = []
    for each in message.messages("model_warmup"):
        name = each.text("name") or "without a name"
        tensors = [tensor for tensor in each.entries("inputs").values() if isinstance(tensor, Message)]
        if any("input_data_file" in tensor for tensor in tensors):
            _add(each, problems, "inputs", f"warm-up {name!r} is left out: data files of Triton's form are not read")
            continue
        if tensors:
            _add(
                each, problems, "inputs", f"the inputs of warm-up {name!r} are drawn from the signature, not as it says"
            )
        requests.append({"batch_size": max(1, each.integer("batch_size")), "count": max(1, each.integer("count"))})
        _name_others(each, problems, ("name", "batch_size", "count", "inputs"), "model_warmup")
    return {"warm_up": requests} if requests else {}


def _name_others(message: Message, problems: list[str], read: Sequence[str], inside: str) -> None:
    for field in message:
        if field not in read:
            _add(message, problems, field, f"{field!r} of {inside} has no equivalent here, and is not followed")


def _add(message: Message, problems: list[str], field: str, text: str) -> None:
    problems.append(f"{message.shown_as}, line {message.line_of(field)}: {text}")
