"""TorchServe's ``config.properties``: which archives it loads, and how."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salver.core.errors import InvalidConfig
from salver.store.files import printable

PROPERTIES = "config.properties"
_MAX_BYTES = 1 << 20
_OWN = ("inference_address", "management_address", "model_store", "load_models", "models", "model_snapshot")
"""Keys by which a config.properties is TorchServe's: other programs have files of this name, too."""

_DEFAULTS = {
    "default_workers_per_model": "minWorkers",
    "default_response_timeout": "responseTimeout",
    "job_queue_size": "jobQueueSize",
}
"""Settings of the server that are a model's where it has none of its own."""

_READ = frozenset({"model_store", "load_models", "models", "model_snapshot", *_DEFAULTS})


@dataclass(frozen=True)
class Properties:
    """A ``config.properties``.

    Attributes:
        values: key -> text.
        shown_as: the file, as messages name it.
        stamp: changes when the file does.
        models: settings by the model's name and version.
    """

    values: Mapping[str, str]
    shown_as: str
    stamp: str
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def lists_models(self) -> bool:
        """Whether it says that there are models."""
        return bool(self.models or self.wanted())

    def wanted(self) -> dict[str, str] | None:
        """Archive -> the model's name ("" for its own), of those that are loaded at the start; None for all."""
        listed = self.values.get("load_models", "").strip()
        if listed and listed.lower() not in ("all", "none", "n/a"):
            found = {}
            for item in filter(None, (part.strip() for part in listed.split(","))):
                name, separator, file = item.rpartition("=")
                found[file.strip()] = name.strip() if separator else ""
            return found
        if listed:
            return None  # of a server that starts with no model, all can be loaded by its API
        if "model_snapshot" in self.values:
            return {
                str(settings["marName"]): name
                for name, versions in self.models.items()
                for settings in versions.values()
                if isinstance(settings, dict) and settings.get("marName")
            } or None
        return None

    def settings_of(self, name: str, version: str, file: str) -> dict[str, Any]:
        """Settings of a model's version, by its version or its archive; the server's where it has none."""
        common: dict[str, Any] = {}
        for key, named in _DEFAULTS.items():
            if text := self.values.get(key):
                if not re.fullmatch(r"[0-9]{1,12}", text):
                    raise InvalidConfig(f"{self.shown_as}: {key} is a whole number, not {text[:40]!r}")
                common[named] = int(text)
        versions = self.models.get(name, {})
        by_file = (each for each in versions.values() if isinstance(each, dict) and each.get("marName") == file)
        own = versions.get(version) or next(by_file, {})
        if not isinstance(own, dict):
            raise InvalidConfig(f"{self.shown_as}: the settings of {name} {version} are not a JSON object")
        return {**common, **own}

    def not_followed(self) -> list[str]:
        """Keys that nothing here follows, in one sentence."""
        others = [key for key in self.values if key not in _READ]
        return [f"{self.shown_as}: settings of the server are not followed: {', '.join(others)}"] if others else []


def find_properties(folder: Path) -> Properties | None:
    """The ``config.properties`` in a folder, or in ``config/`` of it; None where there is none of TorchServe's.

    Raises:
        InvalidConfig: it can't be read or understood.
    """
    for file in (folder / PROPERTIES, folder / "config" / PROPERTIES):
        if file.is_file() and (found := _read(file)) is not None:
            return found
    return None


def _read(file: Path) -> Properties | None:
    shown = printable(f"{file.parent.name}/{file.name}")
    try:
        status = file.stat()
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidConfig(f"{shown}: can't be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise InvalidConfig(f"{shown}: is larger than 1 MiB, which no configuration should be")
    values = parse_properties(content.decode("utf-8", "replace"))
    if not values.keys() & set(_OWN):
        return None
    models: dict[str, Any] = {}
    for key in ("model_snapshot", "models"):
        if key not in values:
            continue
        try:
            found = json.loads(values[key])
        except (ValueError, RecursionError) as error:
            raise InvalidConfig(f"{shown}: {key} isn't JSON: {error}") from None
        found = found.get("models") if key == "model_snapshot" and isinstance(found, dict) else found
        if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
            raise InvalidConfig(f'{shown}: {key} has to be of the form {{"name": {{"1.0": {{"marName": ...}}}}}}')
        models |= found
    return Properties(values, shown, f"{status.st_size} {status.st_mtime_ns} {status.st_ino}", models)


def parse_properties(text: str) -> dict[str, str]:
    r"""Key -> value of a Java properties file: ``key=value`` a line, ``#`` and ``!`` for comments, ``\`` to go on."""
    lines = re.sub(r"\\[ \t]*\r?\n[ \t]*", "", text).splitlines()
    found: dict[str, str] = {}
    for line in (line.strip() for line in lines):
        if line and line[0] not in "#!":
            key, _, value = re.sub(r"\s*[=:]\s*|\s+", "\0", line, count=1).partition("\0")
            found[key] = re.sub(r"\\([:=#!\\])", r"\1", value.strip())
    return found
