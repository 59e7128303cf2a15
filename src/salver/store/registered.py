"""From a registered version's artifact on disk to what a runtime is told to load."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidRequest
from salver.core.model import ModelSpec, check_version
from salver.core.registry import ModelVersion
from salver.store.files import artifact_files, has_files, subfolders
from salver.store.layouts import triton
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.readers import read_model
from salver.store.model_config import MODEL_YAML, ModelConfig, read_model_config
from salver.store.repository import ModelEntry, to_spec


def spec_of(
    version: ModelVersion, folder: Path, *, detect: Callable[[Path, str | None], tuple[str, Path]]
) -> ModelSpec:
    """What a runtime is told to load for a registered version.

    An artifact is what ``salver serve`` takes as one version: a version folder, a model folder with one version in it
    or with the files in it directly, with a ``model.yaml`` or as another system has it, or a file. Of its
    ``model.yaml``, the keys ``versions`` and ``labels`` mean nothing here.

    Args:
        version: as the registry has it. Once it was probed, its runtime is the probe's.
        folder: where the files of its artifact lie.
        detect: :func:`salver.runtimes.detect.detect`, which finds a runtime for a folder or file.

    Raises:
        InvalidArtifact: there is no version in the folder, or there are several; or no runtime reads its files.
        InvalidConfig: its model.yaml can't be understood.
    """
    entry, files = _read(version.name, folder)
    runtime, artifact = detect(files, entry.config.runtime or version.runtime or None)
    spec = to_spec(entry, version.version, runtime=runtime, artifact=artifact)
    return replace(spec, measured=version.probe)


def read_config(path: Path) -> ModelConfig:
    """The ``model.yaml`` at ``path``, as it counts for a registered version.

    Raises:
        InvalidConfig: it can't be understood.
    """
    return read_model_config(path, shown_as=MODEL_YAML)


def _read(name: str, folder: Path) -> tuple[ModelEntry, Path]:
    """The model in an artifact, and the folder or file of its one version."""
    if os.path.lexists(folder / MODEL_YAML):
        return ModelEntry(name, folder, read_config(folder / MODEL_YAML)), _only_version(folder)
    if os.path.lexists(folder / "model.yml"):
        raise InvalidConfig(f"model.yml is not read; rename it to {MODEL_YAML}")
    files = artifact_files(folder)
    foreign = triton.read_model(folder, any_name=True) or read_model(folder)
    if foreign is None and len(files) == 1 and not subfolders(folder):
        foreign = read_model(folder / files[0])
    if foreign is not None:
        return ModelEntry(name, foreign.folder, foreign.config), _only_foreign_version(foreign)
    return ModelEntry(name, folder), _only_version(folder)


def _only_version(folder: Path) -> Path:
    if artifact_files(folder):
        return folder
    found = {sub.name: sub for sub in subfolders(folder) if has_files(sub) and _is_version(sub.name)}
    return _only(found) if found else folder


def _only_foreign_version(model: ForeignModel) -> Path:
    return _only(dict(model.versions))


def _only(versions: dict[str, Path]) -> Path:
    if len(versions) != 1:
        raise InvalidArtifact(
            f"an artifact is one version of a model, and this one has {', '.join(sorted(versions)) or 'none'}; "
            "push the folder of one version"
        )
    (path,) = versions.values()
    return path


def _is_version(name: str) -> bool:
    try:
        check_version(name)
    except InvalidRequest:
        return False
    return True
