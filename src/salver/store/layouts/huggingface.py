"""Hugging Face folders, as ``save_pretrained`` and sentence-transformers write them: each is a model, its version "1".

A folder named with a number is a version of Salver's own form, and so is not taken here. What is in the files is read
when the model is loaded: :mod:`salver.runtimes.transformers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from salver.core.errors import InvalidArtifact, InvalidRequest
from salver.core.model import check_model_name
from salver.store.files import printable
from salver.store.layouts.foreign import ForeignModel
from salver.store.model_config import ModelConfig

SYSTEM = "Hugging Face"
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OLD_TRANSFORMER = "0_Transformer"
"""Where sentence-transformers before version 2 kept the model, below the folder with modules.json."""


def read_model(folder: Path) -> ForeignModel | None:
    """A Hugging Face folder; None where it is none, is named with a number, or is a Python model with such files.

    Raises:
        InvalidArtifact: the name can't be a model's.
    """
    if folder.name.isascii() and folder.name.isdecimal():
        return None
    old = (folder / "modules.json").is_file() and _holds_model(folder / _OLD_TRANSFORMER)
    if not (old or _holds_model(folder)) or (folder / "model.py").is_file():
        return None
    name = printable(folder.name)
    try:
        check_model_name(name)
    except InvalidRequest as error:
        raise InvalidArtifact(f"{name}: {error}; rename the folder") from None
    return ForeignModel(name, SYSTEM, folder, ModelConfig(runtime="transformers"), {"1": folder}, ("1",))


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """None: a folder of Hugging Face folders is a repository as any other."""
    return None


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in _WEIGHTS)
