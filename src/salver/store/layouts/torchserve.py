"""TorchServe's model archives, and its model store with ``config.properties``.

Described in https://pytorch.org/serve/configuration.html and
https://github.com/pytorch/serve/blob/master/model-archiver/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from salver.config.explain import explain
from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidRequest, LoadError
from salver.core.model import check_model_name, check_version, version_order
from salver.store.files import artifact_files, printable, subfolders
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.torchserve_archive import MANIFEST, Description, describe
from salver.store.layouts.torchserve_properties import Properties, find_properties
from salver.store.layouts.torchserve_settings import to_keys
from salver.store.model_config import ModelConfig

_STORES = ("model-store", "model_store")
_SUFFIX = ".mar"


@dataclass(frozen=True, slots=True)
class _Archive:
    """A model archive that is served.

    Attributes:
        name, version: of the model, in Salver's words.
        written_version: as the archive has it.
        path: the file or folder.
        keys: of model.yaml.
        problems: of this archive alone.
        is_default: its version is the one for requests that name none.
    """

    name: str
    version: str
    written_version: str
    path: Path
    keys: dict[str, Any]
    problems: tuple[str, ...]
    is_default: bool = False


def read_model(folder: Path) -> ForeignModel | None:
    """A ``.mar`` file, or a folder that is an archive's content; None where it is neither.

    Raises:
        InvalidArtifact: the archive is damaged.
        InvalidConfig: its settings can't be understood.
    """
    if folder.suffix == _SUFFIX and folder.is_file():
        return _model([_archive(folder, None, "")])
    if (folder / MANIFEST).is_file():
        return _model([_archive(folder, None, "")])
    return None


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """The models of a model store; None where the folder is none.

    It is one where it holds archives and nothing else of a model's, or ``config.properties``, with the store in it or
    in a folder beside it. A folder named by a number is a version of Salver's own form.

    Raises:
        LoadError: config.properties can't be understood, or lists models of which none is there.
    """
    if not folder.is_dir() or (folder.name.isascii() and folder.name.isdecimal()):
        return None
    properties = find_properties(folder)
    store = _store(folder, properties)
    if store is None:
        return None
    listed, problems = _listed(store, properties)
    archives: dict[tuple[str, str], _Archive] = {}
    for path, name in listed:
        archive = _archive_or_stub(path, properties, name)
        if (other := archives.get((archive.name, archive.version))) is not None:
            problems.append(f"{path.name} is left out: {other.path.name} is version {archive.version} already")
        else:
            archives[archive.name, archive.version] = archive
    if properties is not None:
        problems += properties.not_followed()
    models: dict[str, ForeignModel] = {}
    for name in sorted({archive.name for archive in archives.values()}):
        # What is true of all of them is told once.
        models[name] = _model([each for each in archives.values() if each.name == name], problems, properties)
        problems = []
    return models


def _store(folder: Path, properties: Properties | None) -> Path | None:
    """The folder of the archives; None where there is none."""
    if properties is not None:
        candidates = [folder / name for name in _STORES] + [folder]
        if written := properties.values.get("model_store"):
            # TorchServe's containers have it at a place that isn't here: then it is the folder of that name.
            candidates = [folder / written, folder / Path(written).name, *candidates]
        store = next((each for each in candidates if each.is_dir() and _archives(each)), None)
        if store is None and properties.lists_models:
            raise InvalidArtifact(
                f"{properties.shown_as} lists models, and there are no archives in {printable(folder)}"
            )
        return store
    if _archives(folder):
        others = [name for name in artifact_files(folder) if not name.endswith(_SUFFIX)]
        return None if others else folder
    return next((folder / name for name in _STORES if _archives(folder / name)), None)


def _archives(store: Path) -> list[Path]:
    """The archives in a store, as files or as folders."""
    if not store.is_dir():
        return []
    files = [store / name for name in artifact_files(store) if name.endswith(_SUFFIX)]
    return files + [sub for sub in subfolders(store) if (sub / MANIFEST).is_file()]


def _listed(store: Path, properties: Properties | None) -> tuple[list[tuple[Path, str]], list[str]]:
    """The archives to serve, with the name that the list gives them ("" for their own); and problems."""
    found = _archives(store)
    wanted = None if properties is None else properties.wanted()
    if wanted is None:
        return [(path, "") for path in found], []
    by_name = {path.name: path for path in found}
    listed: list[tuple[Path, str]] = []
    problems: list[str] = []
    assert properties is not None
    for file, name in wanted.items():
        if file in by_name:
            listed.append((by_name[file], name))
        else:
            problems.append(f"{properties.shown_as} lists {file!r}, which is not in the model store")
    if not listed:
        raise InvalidConfig(f"{'; '.join(problems)}; there are {', '.join(by_name)}")
    return listed, problems


def _archive_or_stub(path: Path, properties: Properties | None, name: str) -> _Archive:
    """An archive; where it can't be read, what is known of it without: loading it tells why it can't be."""
    try:
        return _archive(path, properties, name)
    except LoadError as error:
        shown = name or re.sub(r"[^A-Za-z0-9_.\-]", "_", path.stem).lstrip("-.")[:128] or "archive"
        return _Archive(shown, "1", "1", path, {"max_batch_size": 1}, (str(error),))


def _archive(path: Path, properties: Properties | None, name: str) -> _Archive:
    described = _described(path)
    name = name or described.name or path.stem
    try:
        check_model_name(name)
    except InvalidRequest as error:
        raise InvalidArtifact(f"{path.name}: {error}") from None
    version, problems = _version(path, described.version)
    settings: dict[str, Any] = {}
    if properties is not None:
        settings = dict(properties.settings_of(name, described.version, path.name))
    # An archive's own settings go before those of the server's configuration, as they do in TorchServe.
    is_default = settings.pop("defaultVersion", False) is True
    keys = to_keys(settings | dict(described.settings), path.name, problems)
    _config(path, keys)  # here, where what is wrong with it spoils no other archive
    return _Archive(name, version, described.version, path, keys, tuple(problems), is_default)


def _config(path: Path, keys: dict[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.model_validate({"runtime": "torchserve", **keys})
    except ValidationError as error:
        shown = explain(error, ModelConfig, lambda place: ".".join(map(str, place)))
        raise InvalidConfig(f"{path.name}: {shown}") from None


def _described(path: Path) -> Description:
    try:
        status = (path / MANIFEST if path.is_dir() else path).stat()
    except OSError as error:
        raise InvalidArtifact(f"{path.name} can't be read: {error.strerror}") from None
    return _cached(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=4096)
def _cached(path: Path, size: int, mtime: int, inode: int) -> Description:
    """What an archive says of itself. It doesn't change while the file doesn't, and is asked for again and again."""
    return describe(path)


def _version(path: Path, written: str) -> tuple[str, list[str]]:
    """A version in Salver's words: "1.0" is "1", and "1.2" is "1p2"."""
    if not written:
        return "1", []
    if whole := re.fullmatch(r"([0-9]{1,18})(\.0+)*", written):
        version = str(int(whole[1]))
    else:
        version = re.sub(r"[^A-Za-z0-9]", "", written.replace(".", "p"))[:64]
    try:
        check_version(version)
    except InvalidRequest:
        raise InvalidArtifact(f"{path.name}: modelVersion {written[:80]!r} has neither letters nor digits") from None
    if version == written:
        return version, []
    return version, [f"{path.name}: version {written[:80]!r} is called {version!r} here"]


def _model(
    archives: list[_Archive], problems: Iterable[str] = (), properties: Properties | None = None
) -> ForeignModel:
    """One model of its archives, a version each."""
    archives = sorted(archives, key=lambda each: version_order(each.version))
    newest = archives[-1]
    told = [problem for each in archives for problem in each.problems]
    differing = sorted(
        {key for each in archives for key in {*each.keys, *newest.keys} if each.keys.get(key) != newest.keys.get(key)}
    )
    if differing:
        told.append(
            f"the versions of {newest.name} differ in {', '.join(differing)}: all are served as the newest, "
            f"{newest.version}, says"
        )
    aliases = {}
    if default := next((each for each in archives if each.is_default), None):
        aliases["default"] = default.version
        if default is not newest:
            told.append(
                f"defaultVersion of {newest.name} is {default.version}: requests that name no version get the newest, "
                f"{newest.version}; ask for the version, or for @default"
            )
    return ForeignModel(
        name=newest.name,
        system="TorchServe",
        folder=newest.path.parent,
        config=_config(newest.path, newest.keys),
        versions={each.version: each.path for each in archives},
        wanted=tuple(each.version for each in archives),
        aliases=aliases,
        stamp="" if properties is None else properties.stamp,
        problems=(*told, *problems),
    )
