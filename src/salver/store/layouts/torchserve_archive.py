"""What a model archive says of itself: its name, version and settings. Nothing is unpacked."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from salver.core.errors import InvalidArtifact

MANIFEST = "MAR-INF/MANIFEST.json"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Description:
    """Of an archive.

    Attributes:
        name, version: of the model; "" where the manifest doesn't say.
        settings: of its model-config.yaml.
    """

    name: str
    version: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def describe(path: Path) -> Description:
    """Read the manifest of an archive, and the settings in it.

    Args:
        path: the ``.mar`` file, or the folder of an archive that isn't packed.

    Raises:
        InvalidArtifact: it is damaged, or none.
    """
    if path.is_dir():
        return _describe(path.name, lambda name: _read_file(path / name, path.name))
    try:
        with zipfile.ZipFile(path) as archive:
            return _describe(path.name, lambda name: _read_entry(archive, name, path.name))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InvalidArtifact(f"{path.name} isn't a whole model archive (a zip file): {error}") from None
    except OSError as error:
        raise InvalidArtifact(f"{path.name} can't be read: {error.strerror}") from None


def _describe(shown: str, read: Callable[[str], bytes]) -> Description:
    try:
        manifest = json.loads(read(MANIFEST))
    except (ValueError, RecursionError) as error:
        raise InvalidArtifact(f"{shown}: {MANIFEST} isn't JSON: {error}") from None
    model = manifest.get("model") if isinstance(manifest, dict) else None
    if not isinstance(model, dict):
        raise InvalidArtifact(f"{shown}: {MANIFEST} has no 'model'; expected what torch-model-archiver writes")
    settings: Any = {}
    if file := model.get("configFile"):
        if not isinstance(file, str) or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise InvalidArtifact(f"{shown}: configFile is {str(file)[:80]!r}; expected a file in the archive")
        try:
            settings = yaml.safe_load(read(file)) or {}
        except (yaml.YAMLError, RecursionError) as error:
            raise InvalidArtifact(f"{shown}: {file} isn't YAML: {str(error)[:300]}") from None
        if not isinstance(settings, dict):
            raise InvalidArtifact(f"{shown}: {file} isn't a YAML mapping")
    return Description(str(model.get("modelName") or ""), str(model.get("modelVersion") or ""), settings)


def _read_file(file: Path, shown: str) -> bytes:
    try:
        with file.open("rb") as opened:
            return _bounded(opened.read(_MAX_BYTES + 1), file.name, shown)
    except OSError as error:
        raise InvalidArtifact(f"{shown}: {file.name} can't be read: {error.strerror}") from None


def _read_entry(archive: zipfile.ZipFile, name: str, shown: str) -> bytes:
    try:
        with archive.open(name) as opened:
            return _bounded(opened.read(_MAX_BYTES + 1), name, shown)
    except KeyError:
        raise InvalidArtifact(f"{shown} has no {name}; expected what torch-model-archiver writes") from None


def _bounded(content: bytes, name: str, shown: str) -> bytes:
    if len(content) > _MAX_BYTES:
        raise InvalidArtifact(f"{shown}: {name} is larger than 1 MiB, which nothing of its kind should be")
    return content
