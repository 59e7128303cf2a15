"""MLflow's model folders: a folder with an ``MLmodel`` file is a version of a model.

Three forms are read: such a folder itself; a folder whose only content is one called ``model`` or ``artifacts`` (what
runs and logged models leave in an artifact store); and a folder of numbered ones, its versions. What of a version is
loaded, and by which runtime, is found when it is loaded: :mod:`salver.runtimes.mlflow_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from salver.core.errors import InvalidArtifact, InvalidRequest
from salver.core.model import check_model_name, version_order
from salver.store.files import has_files, printable, subfolders
from salver.store.layouts.foreign import ForeignModel
from salver.store.model_config import ModelConfig

MLMODEL = "MLmodel"
_INNER = ("model", "artifacts")
"""What MLflow calls the folder of a model inside the folder of a run or of a logged model."""


def read_model(folder: Path) -> ForeignModel | None:
    """An MLflow model folder, or one around it; None where there is none.

    The model's name is the folder's. ``model`` and ``artifacts`` are no names where the folder around holds nothing
    else, and a number is a version where the folder around holds nothing but such: then the name is that folder's.

    Raises:
        InvalidArtifact: the name can't be a model's.
    """
    if not folder.is_dir():
        return None
    if (folder / MLMODEL).is_file():
        around = folder.parent
        if folder.name in _INNER and _inner(around) == folder:
            return _model(around, {"1": folder})
        if folder.name.isascii() and folder.name.isdecimal() and _numbered(around):
            return _model(around, {folder.name: folder})
        return _model(folder, {"1": folder})
    if (inner := _inner(folder)) is not None:
        return _model(folder, {"1": inner})
    versions = _numbered(folder)
    return _model(folder, versions) if versions else None


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """None: MLflow has no list of the models in a folder."""
    return None


def _model(folder: Path, versions: Mapping[str, Path]) -> ForeignModel:
    name = printable(folder.name)
    try:
        check_model_name(name)
    except InvalidRequest as error:
        raise InvalidArtifact(f"{name}: {error}; rename the folder") from None
    order = tuple(sorted(versions, key=version_order))
    return ForeignModel(name, "MLflow", folder, ModelConfig(), versions, order)


def _inner(folder: Path) -> Path | None:
    filled = [sub for sub in subfolders(folder) if has_files(sub)]
    if len(filled) == 1 and filled[0].name in _INNER and (filled[0] / MLMODEL).is_file():
        return filled[0]
    return None


def _numbered(folder: Path) -> dict[str, Path]:
    """The versions of a folder in which every folder with files is an MLflow model with a number; else none."""
    filled = [sub for sub in subfolders(folder) if has_files(sub)]
    numbered = all(sub.name.isascii() and sub.name.isdecimal() and (sub / MLMODEL).is_file() for sub in filled)
    return {sub.name: sub for sub in filled} if numbered else {}
