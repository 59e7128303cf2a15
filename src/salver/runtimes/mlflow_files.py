"""What an MLflow model folder says of itself, in its ``MLmodel`` file. MLflow isn't imported to read it.

The format: https://mlflow.org/docs/latest/ml/model/#storage-format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from salver.config.yaml_file import read_document
from salver.core.errors import InvalidArtifact
from salver.runtimes.python.requirements import read_requirements
from salver.runtimes.torch_files import torch_format

MLMODEL = "MLmodel"
_PICKLES = (".pkl", ".pickle", ".skops", ".joblib")


def read_flavors(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The forms in which the model can be loaded: "python_function", "sklearn" and so on, each with its settings.

    Raises:
        InvalidArtifact: there is no MLmodel file with flavors.
        InvalidConfig: it isn't YAML.
    """
    if not (folder / MLMODEL).is_file():
        raise InvalidArtifact(f"{folder} is no MLflow model: it has no file {MLMODEL}")
    flavors = read_document(folder / MLMODEL, shown_as=f"{folder.name}/{MLMODEL}").data.get("flavors")
    if not isinstance(flavors, dict) or not all(isinstance(each, dict) for each in flavors.values()) or not flavors:
        raise InvalidArtifact(f"{folder.name}/{MLMODEL}: expected 'flavors' with the forms of the model in it")
    return flavors


def native_flavor(folder: Path) -> tuple[str, Path] | None:
    """The runtime and the artifact with which Salver runs the model itself; None where only MLflow's pyfunc can.

    Raises:
        InvalidArtifact, InvalidConfig: see :func:`read_flavors`.
    """
    flavors = read_flavors(folder)
    for name, candidates in _CANDIDATES.items():
        if name not in flavors:
            continue
        for runtime, path in candidates(flavors[name], folder):
            # A pickle that leans on code beside it is for pyfunc, which puts that code in place.
            own_code = flavors[name].get("code") and path.suffix in (*_PICKLES, ".pth")
            if not own_code and path.exists() and path.resolve().is_relative_to(folder.resolve()):
                return runtime, path
    return None


def _onnx(flavor: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    yield "onnx", folder / str(flavor.get("data", "model.onnx"))


def _boosted(runtime: str) -> Any:
    def candidates(flavor: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
        path = folder / str(flavor.get("data", ""))
        if path.is_file():
            yield ("sklearn" if path.suffix in _PICKLES else runtime), path

    return candidates


def _catboost(flavor: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    if flavor.get("save_format", "cbm") == "cbm":
        yield "catboost", folder / str(flavor.get("data", "model.cb"))


def _keras(flavor: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    data = folder / str(flavor.get("data", "data"))
    yield "tensorflow", data / "model.keras"
    for path in (data / "model", folder / str(flavor.get("saved_model_dir", "tf2model"))):
        if (path / "saved_model.pb").is_file():
            yield "tensorflow", path


def _pytorch(flavor: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    data = folder / str(flavor.get("model_data", "data"))
    yield "pytorch", data / "model.pt2"
    path = data / "model.pth"
    if path.is_file() and torch_format(path) not in (None, "checkpoint"):
        yield "pytorch", path


def _sklearn(flavor: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    path = folder / str(flavor.get("pickled_model", "model.pkl"))
    if path.is_file():
        yield "sklearn", path


_CANDIDATES = {
    "onnx": _onnx,
    "xgboost": _boosted("xgboost"),
    "lightgbm": _boosted("lightgbm"),
    "catboost": _catboost,
    "tensorflow": _keras,
    "keras": _keras,
    "pytorch": _pytorch,
    "sklearn": _sklearn,
}
"""By flavor, the first that is there: what needs no permission to run code before what does."""


def differences(folder: Path) -> tuple[str, ...]:
    """How what is installed differs from the model's requirements.txt, in which MLflow pins what it was saved with."""
    found = []
    for text in read_requirements(folder):
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            found.append(f"{text[:80]!r} is no requirement")
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        installed = _installed(requirement.name)
        if installed is None:
            found.append(f"{requirement.name} isn't installed")
        elif not requirement.specifier.contains(installed, prereleases=True):
            found.append(f"{requirement.name}{requirement.specifier} is wanted and {installed} is installed")
    return tuple(found)


def _installed(name: str) -> str | None:
    """The version of a package, or of another one that brings the same module: mlflow-skinny for mlflow."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        others = metadata.packages_distributions().get(name.replace("-", "_"), ())
        return metadata.version(others[0]) if others else None
