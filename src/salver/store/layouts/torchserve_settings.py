"""Settings that TorchServe has for a model, as model.yaml has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salver.core.errors import InvalidConfig

_FOR_HANDLERS = frozenset({"handler", "pt2", "tokenizer", "model_name", "modelName"})
"""The handler reads these itself."""

_WHY = {
    "parallelType": "a model is one process on one device",
    "torchrun": "a model is one process on one device",
    "parallelLevel": "a model is one process on one device",
    "pippy": "a model is one process on one device",
    "deepspeed": "a model is one process on one device",
    "startupTimeout": "a model may take its time to load",
    "sequenceBatching": "requests of a sequence come with its id, and go to one instance by themselves",
    "continuousBatching": "batches are made anew for each execution",
    "asyncCommunication": "Salver has a way of its own to its processes",
}


def to_keys(settings: Mapping[str, Any], shown: str, problems: list[str]) -> dict[str, Any]:
    """Keys of model.yaml for a model's settings in ``config.properties`` or model-config.yaml.

    A handler that isn't told otherwise gets one request at a time, as in TorchServe.

    Args:
        settings: name -> value.
        shown: the archive, in messages.
        problems: is added to.

    Raises:
        InvalidConfig: a value is no number.
    """
    rest = {name: value for name, value in settings.items() if name not in _FOR_HANDLERS}
    keys: dict[str, Any] = {"max_batch_size": max(1, _take(rest, "batchSize", shown, 1))}
    if delay := _take(rest, "maxBatchDelay", shown):
        keys["max_queue_delay"] = delay / 1000
        if keys["max_batch_size"] == 1:
            del keys["max_queue_delay"]  # a batch of one waits for nobody
    fewest, most = _take(rest, "minWorkers", shown), _take(rest, "maxWorkers", shown)
    if fewest or most:
        keys["instances"] = fewest or most
        if fewest and most and fewest != most:
            problems.append(f"{shown}: there are {fewest} instances (minWorkers) at all times, not up to {most}")
    if timeout := _take(rest, "responseTimeout", shown):
        keys |= {"execution_timeout": float(timeout), "isolation": "process"}
    if bound := _take(rest, "jobQueueSize", shown):
        keys["max_queue"] = bound
    keys |= _device(rest, shown, problems)
    rest.pop("marName", None)
    for name in rest:
        why = f": {_WHY[name]}" if name in _WHY else ""
        problems.append(f"{shown}: setting {str(name)[:80]!r} has no equivalent here, and is not followed{why}")
    return keys


def _device(rest: dict[str, Any], shown: str, problems: list[str]) -> dict[str, str]:
    kind, numbers = rest.pop("deviceType", None), rest.pop("deviceIds", None)
    if kind == "cpu":
        return {"device": "cpu"}
    if kind not in (None, "gpu"):
        problems.append(f"{shown}: deviceType is {str(kind)[:40]!r}; here it is cpu or gpu")
        return {}
    if numbers:
        first = numbers[0] if isinstance(numbers, list) else numbers
        if isinstance(first, bool) or not isinstance(first, int):
            raise InvalidConfig(f"{shown}: deviceIds is a list of numbers, not {str(numbers)[:80]!r}")
        if isinstance(numbers, list) and len(numbers) > 1:
            problems.append(f"{shown}: a version runs on one device, on cuda:{first}; others of deviceIds are not used")
        return {"device": f"cuda:{first}"}
    return {"device": "cuda"} if kind == "gpu" else {}


def _take(rest: dict[str, Any], name: str, shown: str, default: int = 0) -> int:
    value = rest.pop(name, None)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidConfig(f"{shown}: {name} is a whole number, not {str(value)[:40]!r}")
    return value
