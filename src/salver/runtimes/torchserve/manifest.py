"""What the manifest of an unpacked model archive says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from salver.core.errors import InvalidArtifact

MANIFEST = "MAR-INF/MANIFEST.json"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest, and the settings that the archive brings along.

    Attributes:
        content: the whole manifest; handlers read it.
        handler: the file of the handler, or the name of one of TorchServe's own.
        function: the name of the handler's function; "" for ``handle``, or the methods of a class.
        requirements: the file that lists packages; "" for none.
        settings: of model-config.yaml.
    """

    content: dict[str, Any]
    handler: str
    function: str
    requirements: str
    settings: dict[str, Any]


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an unpacked archive.

    Raises:
        InvalidArtifact: it isn't there, can't be understood, or is of a handler that isn't Python.
    """
    try:
        content = json.loads(_read(folder / MANIFEST))
    except ValueError as error:
        raise InvalidArtifact(f"{folder / MANIFEST} isn't JSON: {error}") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(handler := model.get("handler"), str) or not handler:
        raise InvalidArtifact(
            f"{folder / MANIFEST} has no model with a handler; expected what torch-model-archiver writes"
        )
    runtime = str(content.get("runtime", "python")).lower()
    if not runtime.startswith("python"):
        raise InvalidArtifact(f"{folder / MANIFEST}: the archive's handler is for the runtime {runtime!r}, not Python")
    for key in ("handler", "serializedFile", "modelFile", "requirementsFile", "configFile"):
        name = model.get(key)
        if name is not None and (not isinstance(name, str) or name.startswith("/") or ".." in Path(name).parts):
            raise InvalidArtifact(f"{folder / MANIFEST}: {key} is {str(name)[:80]!r}; expected a file in the archive")
    handler, _, function = handler.partition(":")
    requirements = str(model.get("requirementsFile") or "")
    return Manifest(content, handler, function, requirements, _settings(folder, model.get("configFile")))


def _settings(folder: Path, name: str | None) -> dict[str, Any]:
    if not name:
        return {}
    try:
        found = yaml.safe_load(_read(folder / name))
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidArtifact(f"{folder / name} isn't YAML: {str(error)[:300]}") from None
    if not isinstance(found, dict | None):
        raise InvalidArtifact(f"{folder / name} isn't a YAML mapping")
    return found or {}


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidArtifact(
            f"{file} can't be read: {error.strerror}; is this a model archive of TorchServe?"
        ) from None
    if len(content) > _MAX_BYTES:
        raise InvalidArtifact(f"{file} is larger than 1 MiB, which nothing of its kind should be")
    return content
