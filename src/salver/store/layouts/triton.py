"""Triton's model repository: ``<model>/config.pbtxt`` and numbered version folders.

Described in https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html
and ``model_configuration.html`` beside it. Folders without a ``config.pbtxt`` have Salver's own form already.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from salver.config.explain import explain
from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidRequest
from salver.core.model import check_model_name, version_order
from salver.store.files import has_files, printable, subfolders
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.text_protobuf import Message, parse_file
from salver.store.layouts.triton_backends import Backend, find_backend
from salver.store.layouts.triton_ensemble import is_ensemble, read_ensemble
from salver.store.layouts.triton_json import to_json
from salver.store.layouts.triton_parameters import read_parameters
from salver.store.layouts.triton_scheduling import read_instances, read_rate_limiter, read_scheduling, read_warm_up
from salver.store.layouts.triton_tensors import read_tensors
from salver.store.layouts.version_policy import choose_versions
from salver.store.model_config import ModelConfig

CONFIG = "config.pbtxt"
RESPONSE_CACHE_BYTES = 64 << 20
"""Bytes of answers that a model with ``response_cache`` keeps: Triton has one cache for all, sized by the server."""

_READ = frozenset(
    {
        "name", "platform", "backend", "default_model_filename", "version_policy", "max_batch_size", "input",
        "output", "dynamic_batching", "sequence_batching", "ensemble_scheduling", "instance_group", "model_warmup",
        "response_cache", "parameters", "model_transaction_policy",
    }
)  # fmt: skip

_ITS_MODELS = frozenset(
    {"dynamic_batching", "sequence_batching", "instance_group", "model_transaction_policy", "model_warmup"}
)
"""What an ensemble's models have, and the ensemble itself hasn't."""

_READ_OF_ENSEMBLES = frozenset(
    {"name", "platform", "version_policy", "max_batch_size", "input", "output", "ensemble_scheduling", "response_cache"}
)


def read_model(folder: Path, *, any_name: bool = False) -> ForeignModel | None:
    """A model folder with a ``config.pbtxt``; None where there is none.

    Args:
        folder: the model's.
        any_name: the folder isn't named as the model is, as with artifacts, whose folders are named by their digests.

    Raises:
        InvalidConfig: its config.pbtxt can't be understood, or asks for what Salver can't do.
        InvalidArtifact: there is no version folder.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    name = printable(folder.name)
    try:
        check_model_name(name)
        status = file.stat()
    except InvalidRequest as error:
        raise InvalidConfig(f"{name}: {error}; rename the folder (and 'name' in its {CONFIG})") from None
    except OSError as error:
        raise InvalidConfig(f"{name}/{CONFIG}: can't be read: {error.strerror}") from None
    message = parse_file(file, shown_as=f"{name}/{CONFIG}")
    if (written := message.text("name")) not in ("", name) and not any_name:
        raise message.wrong("name", f"'name' is {written!r}, and Triton wants it to be the folder's, {name!r}")
    composed = is_ensemble(message)
    found = _versions(folder, may_be_empty=composed)
    if not found and composed:
        found = {"1": folder}  # the empty folders that Triton wants are kept neither by Git nor in artifacts
    if not found:
        raise InvalidArtifact(f"{name} has no version: expected {name}/1/ with the model's files in it")
    problems: list[str] = []
    backend = Backend("graph", "") if composed else find_backend(message, list(found.values())[-1])
    config = _config(message, backend, problems)
    return ForeignModel(
        name=name,
        system="Triton",
        folder=folder,
        config=config,
        versions={version: backend.artifact(path) for version, path in found.items()},
        wanted=choose_versions(message, "version_policy", list(found), problems)[1],
        stamp=f"{status.st_size} {status.st_mtime_ns} {status.st_ino}",
        problems=tuple(problems),
    )


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """None: every folder of a Triton repository tells of itself."""
    return None


def _versions(folder: Path, *, may_be_empty: bool = False) -> dict[str, Path]:
    """The version folders that Triton sees by their names, oldest first: positive numbers without a zero first.

    Args:
        folder: the model's.
        may_be_empty: those without a file count, too: an ensemble is all in its configuration.
    """
    found = {
        path.name: path
        for path in subfolders(folder)
        if path.name.isascii() and path.name.isdecimal() and path.name[0] != "0" and (may_be_empty or has_files(path))
    }
    return {version: found[version] for version in sorted(found, key=version_order)}


def _config(message: Message, backend: Backend, problems: list[str]) -> ModelConfig:
    keys: dict[str, Any] = {"runtime": backend.runtime}
    options: dict[str, Any] = dict(backend.options)
    if backend.runtime == "triton_python":
        options["config"] = to_json(message)
    largest = message.integer("max_batch_size")
    if largest < 0:
        raise message.wrong("max_batch_size", f"'max_batch_size' has to be at least 0, not {largest}")
    batched = largest > 0
    if backend.runtime == "graph":
        return _ensemble(message, problems, batched=batched)
    if batched:
        keys["max_batch_size"] = largest
    if batched or "max_batch_size" in message or "input" in message:
        keys["batched"] = batched  # else it is read from the model, as Triton does
    keys |= read_tensors(message, problems, batched=batched)
    keys |= read_scheduling(message, problems, is_python=backend.runtime == "triton_python")
    keys |= read_instances(message, problems)
    if backend.runtime == "triton_fil" and keys.pop("device", "cpu") not in ("cpu", "auto"):
        problems.append(_problem(message, "instance_group", "XGBoost and LightGBM models run on the CPU here"))
    keys |= read_warm_up(message, problems)
    if (groups := message.messages("instance_group")) and (resources := read_rate_limiter(groups, problems)):
        keys["resources"] = resources
    if (cache := message.message("response_cache")) and cache.boolean("enable"):
        keys["response_cache"] = RESPONSE_CACHE_BYTES
    policy = message.message("model_transaction_policy")
    if policy is not None and policy.boolean("decoupled") and backend.runtime != "triton_python":
        problems.append(
            _problem(message, "model_transaction_policy", "'decoupled' is for models of the Python backend")
        )
    more, own = read_parameters(message, backend, problems)
    keys |= more
    options |= own
    problems += [
        _problem(message, name, f"{name!r} has no equivalent here, and is not followed")
        for name in message
        if name not in _READ
    ]
    if options:
        keys["options"] = options
    try:
        return ModelConfig.model_validate(keys)
    except ValidationError as error:
        raise InvalidConfig(f"{message.shown_as}: {explain(error, ModelConfig, _place)}") from None


def _ensemble(message: Message, problems: list[str], *, batched: bool) -> ModelConfig:
    """An ensemble's configuration: its models have the queues, the batches and the devices."""
    keys = read_tensors(message, problems, batched=batched)
    config: dict[str, Any] = {"runtime": "graph", "options": {"graph": read_ensemble(message, keys, problems)}}
    if (cache := message.message("response_cache")) and cache.boolean("enable"):
        config["response_cache"] = RESPONSE_CACHE_BYTES
    for name in message:
        if name in _ITS_MODELS:
            problems.append(_problem(message, name, f"{name!r} isn't for ensembles, whose models have their own"))
        elif name not in _READ_OF_ENSEMBLES:
            problems.append(_problem(message, name, f"{name!r} has no equivalent here, and is not followed"))
    return ModelConfig.model_validate(config)


def _place(path: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in path)


def _problem(message: Message, name: str, text: str) -> str:
    return f"{message.shown_as}, line {message.line_of(name)}: {text}"
