"""TensorFlow Serving's list of models: ``models.config`` in a folder, as ``--model_config_file`` names it.

Described in https://www.tensorflow.org/tfx/serving/serving_config, defined in TensorFlow Serving's
``model_server_config.proto`` and ``file_system_storage_path_source.proto``. A single model (``--model_base_path``) is a
folder of numbered versions, which is Salver's own form already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidRequest, LoadError
from salver.core.model import check_model_name, version_order
from salver.core.registry import check_alias
from salver.store.files import entries, has_files, printable, subfolders
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.text_protobuf import Message, parse_file
from salver.store.layouts.version_policy import choose_versions
from salver.store.model_config import ModelConfig

SYSTEM = "TensorFlow Serving"
CONFIGS = ("models.config", "model.config")

_ROOT_FIELDS = frozenset({"model_config_list", "custom_model_config"})
_READ = frozenset({"name", "base_path", "model_platform", "model_type", "model_version_policy", "version_labels"})
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_VERSION = re.compile(r"[0-9]{1,19}")
_SERVER_FILES = re.compile(r".*(batching|monitoring|platform_config|ssl_config).*\.(config|conf|txt|pbtxt|proto)")
_PER_VERSION_FILES = {
    "batching_params.pbtxt": "is not followed; see max_batch_size and max_queue_delay in model.yaml",
    "assets.extra/tf_serving_warmup_requests": "its requests are not replayed; see warm_up in model.yaml",
}


def read_model(folder: Path) -> ForeignModel | None:
    """None: a folder of numbered versions is Salver's own form."""
    return None


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """The models that a ``models.config`` in the folder lists; None where there is none.

    Raises:
        InvalidConfig: it can't be understood, or lists two models of one name.
    """
    file = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if file is None:
        return None
    shown = printable(f"{folder.name}/{file.name}")
    message = parse_file(file, shown_as=shown)
    if not message:  # being written, perhaps: no reason to unload what it has listed
        raise InvalidConfig(f"{shown}: is empty; expected model_config_list {{ config {{ ... }} }}")
    if not _ROOT_FIELDS & message.keys():
        return None  # somebody else's
    if "custom_model_config" in message:
        raise message.wrong(
            "custom_model_config", "custom_model_config can't be read; list models in model_config_list"
        )
    about_server = _server_files(folder)
    models: dict[str, ForeignModel] = {}
    for listed in message.messages("model_config_list"):
        for config in listed.messages("config"):
            model = _model(folder, config, about_server)
            if model.name in models:
                raise config.wrong("name", f"a second model is named {model.name!r}; names must differ")
            models[model.name] = model
    return models


def _model(root: Path, config: Message, about_server: Sequence[str]) -> ForeignModel:
    """One entry of the list; what is wrong with it is its ``error``, and the others are served."""
    name = config.text("name")
    if not name:
        raise config.wrong("name", "a model has no 'name'")
    problems = [
        f"{config.shown_as}, line {config.line_of(field)}: {field!r} has no equivalent here, and is not followed"
        for field in config
        if field not in _READ
    ]
    folder = root
    versions: dict[str, Path] = {}
    try:
        check_model_name(name)
        _check_platform(config)
        folder = _base_path(root, config, name)
        versions = _versions(folder)
        if not versions:
            raise InvalidArtifact(f"{name} has no version: expected {printable(folder)}/1/ with a SavedModel in it")
        found = list(versions)
        policy, wanted = choose_versions(config, "model_version_policy", found, problems)
        aliases = _labels(config, found, wanted, problems)
    except (LoadError, InvalidRequest) as error:
        text = str(error) if isinstance(error, LoadError) else str(config.wrong("name", str(error)))
        return ForeignModel(name, SYSTEM, folder, ModelConfig(runtime="tensorflow"), versions, (), error=text)
    problems += about_server
    problems += _version_files({version: versions[version] for version in wanted})
    return ForeignModel(
        name=name,
        system=SYSTEM,
        folder=folder,
        config=ModelConfig.model_validate({"runtime": "tensorflow", "versions": policy}),
        versions=versions,
        wanted=wanted,
        aliases=aliases,
        stamp=printable(folder),  # not of the list: a model that is added to it is no reason to load the others anew
        problems=tuple(problems),
    )


def _check_platform(config: Message) -> None:
    platform = config.text("model_platform", "tensorflow")
    if platform != "tensorflow":
        raise config.wrong("model_platform", f"'model_platform' is {platform!r}; only 'tensorflow' can be served")
    kind = config.get("model_type", ["TENSORFLOW"])[-1]
    if kind not in ("TENSORFLOW", 1):
        raise config.wrong("model_type", f"'model_type' is {kind}; only TENSORFLOW can be served")


def _base_path(root: Path, config: Message, name: str) -> Path:
    """The model's folder: as it is written, or, for a container's path that isn't here, one beside the list."""
    written = config.text("base_path")
    if not written:
        raise config.wrong("base_path", f"model {name!r} has no 'base_path', the folder of its versions")
    if _URL.match(written):
        raise config.wrong(
            "base_path", f"'base_path' is {_without_secrets(written)}; only folders can be served. Copy the model here"
        )
    path = root / written  # an absolute one stays as it is
    beside = root / Path(written).name
    try:
        if path.is_dir():
            return path
        if Path(written).is_absolute() and Path(written).name and beside.is_dir():
            return beside
    except OSError as error:
        raise config.wrong("base_path", f"{printable(path)} can't be read: {error.strerror}") from None
    also = f", nor {printable(beside)}" if Path(written).is_absolute() else ""
    raise config.wrong("base_path", f"there is no folder {printable(path)}{also}")


def _without_secrets(url: str) -> str:
    return repr(re.sub(r"//[^/@]*@", "//***@", url))


def _versions(folder: Path) -> dict[str, Path]:
    """Version -> folder, oldest first. TensorFlow Serving reads 007 as 7."""
    found = {
        str(int(path.name)): path for path in subfolders(folder) if _VERSION.fullmatch(path.name) and has_files(path)
    }
    return {version: found[version] for version in sorted(found, key=version_order)}


def _labels(config: Message, found: Sequence[str], wanted: Sequence[str], problems: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for index, (label, value) in enumerate(config.entries("version_labels").items()):
        version = "a message" if isinstance(value, Message) else str(value)
        if (wrong := _wrong_alias(label)) is not None:
            there = wrong
        elif version not in found:
            there = f"there is no such version, but {', '.join(found)}"
        elif version not in wanted:
            there = f"'model_version_policy' leaves that version out; it serves {', '.join(wanted)}"
        else:
            labels[label] = version
            continue
        problems.append(
            str(config.wrong("version_labels", f"label {label!r} of version {version} is left out: {there}", index))
        )
    return labels


def _wrong_alias(label: str) -> str | None:
    try:
        check_alias(label)
    except InvalidRequest as error:
        return str(error)
    return None


def _server_files(folder: Path) -> list[str]:
    """What is said of files beside the list that TensorFlow Serving's flags would name."""
    return [
        f"{printable(f'{folder.name}/{entry.name}')}: parameters of the server are not followed; see model.yaml "
        "(max_batch_size, max_queue_delay) and the server's settings"
        for entry in entries(folder)
        if _SERVER_FILES.fullmatch(entry.name) and entry.is_file()
    ]


def _version_files(versions: Mapping[str, Path]) -> list[str]:
    return [
        f"{printable(f'{folder.parent.name}/{folder.name}/{name}')}: {what}"
        for folder in versions.values()
        for name, what in _PER_VERSION_FILES.items()
        if (folder / name).is_file()
    ]
