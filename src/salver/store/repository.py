"""Reads a model repository on disk: which models and versions it has, and a fingerprint of each.

PATH takes one of five forms. The first that fits, from the top, is taken:

1. **A model file**: PATH is a file. The model's name is the file's stem, its version "1".
2. **A model folder, by its model.yaml**: PATH is a folder that holds ``model.yaml``.
3. **A model folder, by its versions**: a subfolder is named with a number, holds files, and is not a model folder
   itself (it has neither a ``model.yaml`` nor a numbered subfolder with files).
4. **A folder with the model's files in it**: files lie directly in PATH, and no subfolder is recognised as a model
   folder by its ``model.yaml`` or a numbered subfolder. It is a model folder of one version, "1"; where the folder's
   own name is a number (``iris/2``), it is that version of the model that its parent folder is.
5. **A repository**: every subfolder is a model folder.

Model folders, files and repositories that were made for other systems (:mod:`salver.store.layouts`) are read as they
stand, where there is no ``model.yaml``: each form above can be one of those.

In a model folder, the versions are the subfolders that hold files and whose names can be versions (a number, or letters
and digits). Where files lie directly in the model folder, and no subfolder is named with a number or by ``versions`` in
model.yaml, the folder itself is version "1".

Not looked at: names with '.' first, ``__pycache__``, what editors and downloads leave while they write, and, as models
and versions, names with '_' first. ``model.yaml``, ``requirements.txt``, ``config.pbtxt``, a Makefile, Dockerfile,
README, license or changelog, ``*.md`` and names with '_' first are not "files" in rule 4 and where it says "directly".
Links are followed: operators link a version folder to where its files lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidRequest, LoadError
from salver.core.model import ModelSpec, check_model_name, check_version, version_order
from salver.store.files import artifact_files, fingerprint, has_files, printable, subfolders
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.readers import read_model, read_root
from salver.store.model_config import MODEL_YAML, ModelConfig, read_model_config

_EXPECTED = """\
Expected a model file (such as model.onnx), or a folder like this:
  PATH/
    iris/              a model
      1/               a version of it
        model.onnx     the model's files
      model.yaml       optional"""


class Layout(StrEnum):
    """The forms that PATH can take."""

    FILE = "a model file"
    MODEL = "a model folder"
    VERSION = "a version folder"
    REPOSITORY = "a repository"
    FOREIGN = "a repository of another system"


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """A version on disk.

    Attributes:
        version: its name.
        path: the folder of its files, or the file.
        fingerprint: changes when its files or its model's configuration do; "" where ``error`` is set.
        error: why its files can't be read, or "".
    """

    version: str
    path: Path
    fingerprint: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model on disk.

    Attributes:
        name: its name (as it can be shown, where it is no valid one and ``error`` says so).
        folder: the model's folder, or the file.
        config: what model.yaml says; the defaults where there is none, or a broken one.
        versions: those that the ``versions`` policy wants, oldest first; none where ``error`` is set.
        found: names of all versions on disk, wanted or not, oldest first; None where they can't be known.
        error: why the model can't be served, or "".
        problems: what an operator should know though the model can be served.
        config_stamp: size, time and inode of the model.yaml that ``config`` was read from; None without one.
        aliases: other names of versions, alias -> version.
    """

    name: str
    folder: Path
    config: ModelConfig = field(default_factory=ModelConfig)
    versions: Mapping[str, VersionEntry] = field(default_factory=dict)
    found: tuple[str, ...] | None = None
    error: str = ""
    problems: tuple[str, ...] = ()
    config_stamp: tuple[int, int, int] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a look at PATH found.

    Attributes:
        path: PATH.
        layout: its form.
        models: by name, in order of the names.
    """

    path: Path
    layout: Layout
    models: Mapping[str, ModelEntry]


def scan(path: Path, *, previous: Listing | None = None, may_be_empty: bool = False) -> Listing:
    """Look at PATH. Reads folders, file sizes and model.yaml files; loads nothing. Blocks on the disk.

    A model that can't be read becomes an entry with an ``error``; the others are not affected.

    Args:
        path: a repository, a model folder or a model file; the module's text says how they are told apart.
        previous: the last listing of the same path. Its layout is kept, so that a repository whose last model was
            removed is an empty repository, and a model.yaml that hasn't changed is not parsed again.
        may_be_empty: an empty folder is a repository whose models are yet to come.

    Raises:
        InvalidArtifact: PATH doesn't exist, can't be read, or (without ``previous``) has nothing like a model in it.
    """
    absolute = Path(os.path.abspath(path))  # links are kept: a linked model goes by the link's name
    layout = previous.layout if previous else _layout(absolute, shown=printable(path), may_be_empty=may_be_empty)
    known = previous.models if previous else {}
    if layout is Layout.FILE:
        models = [_file_entry(absolute)]
    elif layout is Layout.FOREIGN:
        models = [_foreign_entry(model) for model in (read_root(absolute) or {}).values()]
    elif layout is Layout.VERSION:
        models = [_model_entry(absolute.parent, known, only=absolute)]
    elif layout is Layout.MODEL:
        if not absolute.is_dir():
            raise InvalidArtifact(f"{printable(path)}: no longer a folder")
        models = [_model_entry(absolute, known)]
    else:
        models = [_model_entry(folder, known) for folder in subfolders(absolute)]
    return Listing(path, layout, MappingProxyType({entry.name: entry for entry in models}))


def to_spec(entry: ModelEntry, version: str, *, runtime: str, artifact: Path) -> ModelSpec:
    """What a runtime is told to load.

    Args:
        entry: the model.
        version: one of its ``versions``.
        runtime: the runtime's name: what model.yaml says, or what the caller found from the files.
        artifact: the file or folder in the version's path that this runtime loads.
    """
    config = entry.config
    options = dict(config.options)
    if config.requirements:
        options["requirements"] = list(config.requirements)
    return ModelSpec(
        name=entry.name,
        version=version,
        path=artifact,
        runtime=runtime,
        device=config.device,
        inputs=config.input_specs(),
        outputs=config.output_specs(),
        batched=config.batched,
        threads=config.threads,
        isolation=config.isolation,
        scheduling=config.scheduling(entry.folder),
        options=options,
    )


def _layout(path: Path, *, shown: str, may_be_empty: bool) -> Layout:
    if path.is_file():
        return Layout.FILE
    if not path.is_dir():
        missing = "is neither a file nor a folder" if os.path.lexists(path) else "does not exist"
        raise InvalidArtifact(f"{shown} {missing}. {_EXPECTED}")
    if _yaml_in(path) is not None:
        return Layout.MODEL
    if read_root(path) is not None:
        return Layout.FOREIGN
    if read_model(path) is not None:
        return Layout.MODEL
    folders = subfolders(path)
    models = [folder for folder in folders if _is_model_folder(folder)]
    if any(_is_number(folder) and folder not in models and has_files(folder) for folder in folders):
        return Layout.MODEL
    if not models and artifact_files(path):
        return Layout.VERSION if _is_number(path) and path.parent.name else Layout.MODEL
    if any(has_files(folder) for folder in folders):
        return Layout.REPOSITORY
    if may_be_empty and not any(path.iterdir()):
        return Layout.REPOSITORY
    raise InvalidArtifact(f"{shown} has no model in it. {_EXPECTED}")


def _is_model_folder(folder: Path) -> bool:
    """Whether a folder is recognised as a model's by model.yaml or a numbered version."""
    try:
        if _yaml_in(folder) is not None or any(_is_number(sub) and has_files(sub) for sub in subfolders(folder)):
            return True
    except InvalidArtifact:
        return False  # not readable: nothing to recognise it by
    try:
        return read_model(folder) is not None
    except LoadError:
        return True  # of another system, and broken: that is to be told, not to be overlooked


def _is_number(folder: Path) -> bool:
    return folder.name.isascii() and folder.name.isdecimal()


def _yaml_in(folder: Path) -> Path | None:
    for name in (MODEL_YAML, "model.yml"):
        if os.path.lexists(folder / name):
            return folder / name
    return None


def _foreign_entry(model: ForeignModel) -> ModelEntry:
    """The entry of a model in another system's form."""
    if model.error:
        return ModelEntry(model.name, model.folder, model.config, error=model.error)
    salt = model.config.model_dump_json(exclude={"versions"}) + model.stamp
    return ModelEntry(
        model.name,
        model.folder,
        model.config,
        versions=MappingProxyType(
            {version: _version_entry(version, model.versions[version], salt) for version in model.wanted}
        ),
        found=_sorted(model.versions),
        problems=model.problems,
        aliases=model.aliases,
    )


def _file_entry(path: Path) -> ModelEntry:
    try:
        if (foreign := read_model(path)) is not None:
            return _foreign_entry(foreign)
    except LoadError as error:
        return ModelEntry(printable(path.stem), path, found=("1",), error=str(error))
    try:
        name = check_model_name(path.stem)
    except InvalidRequest as error:
        raise InvalidArtifact(f"{printable(path)}: {error}; rename the file") from None
    version = VersionEntry("1", path, fingerprint(path))
    return ModelEntry(name, path, versions={"1": version}, found=("1",))


def _model_entry(folder: Path, known: Mapping[str, ModelEntry], *, only: Path | None = None) -> ModelEntry:
    """The entry of a model folder; with ``only``, of that one version in it."""
    name = printable(folder.name)
    config = ModelConfig()
    found: dict[str, Path] | None = None
    stamp = None
    try:
        if only is None and _yaml_in(folder) is None and (foreign := read_model(folder)) is not None:
            return _foreign_entry(foreign)
        check_model_name(name)
        stamp = _stamp(folder)
        before = known.get(name)
        if stamp is not None and before is not None and before.config_stamp == stamp and not before.error:
            config = before.config
        elif stamp is not None:
            config = _config(folder)
        found, problems = _versions_in(folder, config) if only is None else ({only.name: only}, [])
        wanted = _wanted(name, found, config, problems) if only is None else list(found)
    except (LoadError, InvalidRequest) as error:
        return ModelEntry(name, folder, config, found=None if found is None else _sorted(found), error=str(error))
    salt = config.model_dump_json(exclude={"versions"})
    versions = {version: _version_entry(version, found[version], salt) for version in wanted}
    return ModelEntry(
        name,
        folder,
        config,
        versions=MappingProxyType(versions),
        found=_sorted(found),
        problems=tuple(problems),
        config_stamp=stamp,
    )


def _sorted(versions: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(versions, key=version_order))


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    path = _yaml_in(folder)
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidConfig(f"{_shown(path)}: can't be read: {error.strerror}") from None
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def _config(folder: Path) -> ModelConfig:
    path = _yaml_in(folder)
    if path is None:
        return ModelConfig()
    if path.name != MODEL_YAML:
        raise InvalidConfig(f"{_shown(path)}: is not read; rename it to {MODEL_YAML}")
    return read_model_config(path, shown_as=_shown(path))


def _shown(path: Path) -> str:
    return printable(f"{path.parent.name}/{path.name}")


def _versions_in(folder: Path, config: ModelConfig) -> tuple[dict[str, Path], list[str]]:
    """The versions in a model folder by name, and what is strange about them."""
    found: dict[str, Path] = {}
    problems: list[str] = []
    for sub in subfolders(folder):
        try:
            if not has_files(sub):
                continue  # being made, or cleared
            found[check_version(printable(sub.name))] = sub
        except InvalidRequest as error:
            problems.append(f"{_shown(sub)} is left out: {error}")
    numbered = any(version.isdecimal() for version in found)
    listed = not isinstance(config.versions, str) and any(version in found for version in config.versions)
    if not numbered and not listed and artifact_files(folder):
        return {"1": folder}, []
    return found, problems


def _wanted(name: str, found: Mapping[str, Path], config: ModelConfig, problems: list[str]) -> list[str]:
    """The versions that the policy wants, oldest first.

    Raises:
        InvalidArtifact: there is no version.
        InvalidConfig: the policy lists versions, and none of them is there.
    """
    if not found:
        reason = f" ({'; '.join(problems)})" if problems else ""
        raise InvalidArtifact(f"{name} has no version{reason}: expected {name}/1/ with the model's files in it")
    versions = list(_sorted(found))
    if config.versions == "all":
        return versions
    if config.versions == "latest":
        return versions[-1:]
    missing = [version for version in config.versions if version not in found]
    there = f"{name}/{MODEL_YAML}: 'versions' lists {', '.join(missing)}, and there is {', '.join(versions)}"
    if len(missing) == len(config.versions):
        raise InvalidConfig(there)
    if missing:
        problems.append(there)
    return [version for version in versions if version in config.versions]


def _version_entry(version: str, path: Path, salt: str) -> VersionEntry:
    try:
        return VersionEntry(version, path, fingerprint(path, salt))
    except InvalidArtifact as error:
        return VersionEntry(version, path, "", error=str(error))
