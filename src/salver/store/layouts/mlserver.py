"""MLServer's models: folders with a ``model-settings.json``.

Described in https://docs.seldon.ai/mlserver/reference/model-settings; what its runtimes make of a folder, in
https://github.com/SeldonIO/MLServer/tree/master/runtimes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from salver.core.errors import InvalidArtifact, InvalidRequest, LoadError
from salver.core.model import version_order
from salver.core.registry import check_alias
from salver.store.files import MAX_DEPTH, MAX_FILES, printable, subfolders
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.mlserver_settings import SETTINGS, Settings, peek, read_settings
from salver.store.model_config import ModelConfig

_SERVER_SETTINGS = "settings.json"


def read_model(folder: Path) -> ForeignModel | None:
    """A folder with a ``model-settings.json``, or with one in each of its versions' folders; None where it is neither.

    Raises:
        LoadError: a model-settings.json can't be understood, or asks for what Salver can't do.
    """
    if (folder / SETTINGS).is_file():
        return _model(folder, [read_settings(folder)])
    if not folder.is_dir():
        return None
    within = [sub for sub in subfolders(folder) if (sub / SETTINGS).is_file()]
    if not within:
        return None
    if not _of_one_model(folder, within):
        return None
    return _model(folder, [read_settings(sub) for sub in within])


def _of_one_model(folder: Path, within: Sequence[Path]) -> bool:
    """Whether these are a model's versions: they go by the folder's name, or their folders by their versions.

    Else each is a model. What can't be read says nothing.
    """
    known = [(sub, named) for sub in within if (named := peek(sub)) is not None]
    if not known or len({name for _, (name, _) in known}) > 1:
        return False
    return all(folder.name == name or sub.name == version for sub, (name, version) in known)


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """The models at any depth of a folder with MLServer's ``settings.json``; None where there is none of either.

    A model whose settings can't be understood is there with its ``error``.

    Raises:
        InvalidArtifact: there are more folders in it than any repository should have.
    """
    if not (folder / _SERVER_SETTINGS).is_file() or (folder / SETTINGS).is_file():
        return None
    found: dict[str, list[Settings]] = {}
    broken: dict[str, ForeignModel] = {}
    for place in _places(folder):
        try:
            settings = read_settings(place)
        except LoadError as error:
            name = printable(place.name)
            broken[name] = ForeignModel(name, "MLServer", place, ModelConfig(), {}, (), error=str(error))
        else:
            found.setdefault(settings.name, []).append(settings)
    models = dict(broken)
    for name, versions in found.items():
        try:
            models[name] = _model(versions[0].folder if len(versions) == 1 else folder, versions)
        except LoadError as error:
            models[name] = ForeignModel(name, "MLServer", folder, ModelConfig(), {}, (), error=str(error))
    return models or None


def _places(root: Path) -> Iterator[Path]:
    """The folders with a model-settings.json below ``root``; a model's own folders aren't looked into."""
    waiting = [(root, 0)]
    seen = 0
    while waiting:
        folder, depth = waiting.pop(0)
        seen += 1
        if depth > MAX_DEPTH or seen > MAX_FILES:
            raise InvalidArtifact(f"{printable(root)}: too many folders in it, or a link that leads back to itself")
        if (folder / SETTINGS).is_file():
            yield folder
        else:
            waiting += [(sub, depth + 1) for sub in subfolders(folder)]


def _model(folder: Path, found: Sequence[Settings]) -> ForeignModel:
    by_version: dict[str, Settings] = {}
    aliases: dict[str, str] = {}
    problems: list[str] = []
    for each in found:
        version = each.version
        if (other := by_version.get(version)) is not None:
            raise InvalidArtifact(
                f"{each.shown} and {other.shown} are both version {version} of {each.name!r}; "
                "give them different ones in parameters.version"
            )
        by_version[version] = each
        if version != each.written_version:
            aliases.update(_alias(each, version, problems))
        problems += [problem for problem in each.problems if problem not in problems]
    order = tuple(sorted(by_version, key=version_order))
    newest = by_version[order[-1]]
    for version in order[:-1]:
        if by_version[version].config != newest.config:
            problems.append(
                f"{by_version[version].shown} differs from {newest.shown} in more than its files; "
                "the settings of the newest version hold for all"
            )
    return ForeignModel(
        name=newest.name,
        system="MLServer",
        folder=folder,
        config=newest.config,
        versions={version: by_version[version].artifact for version in order},
        wanted=order,
        aliases=aliases,
        stamp=" ".join(by_version[version].stamp for version in order),
        problems=tuple(problems),
    )


def _alias(settings: Settings, version: str, problems: list[str]) -> dict[str, str]:
    """The version as it was written, where that can be an alias: requests for it find it then."""
    written = settings.written_version
    try:
        check_alias(written)
    except InvalidRequest:
        problems.append(f"{settings.shown}: version {written!r} is {version!r} here: letters and digits alone")
        return {}
    problems.append(f"{settings.shown}: version {written!r} is {version!r} here, and {written!r} is an alias of it")
    return {written: version}
