"""MLflow's model folders, found and read as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.core.errors import InvalidArtifact
from salver.store.layouts.mlflow import read_model, read_root
from salver.store.repository import Layout, scan


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("flavors: {python_function: {}}\n" if path.name == "MLmodel" else "content")
    return root


@pytest.mark.parametrize(
    ("files", "path", "expected"),
    [
        (["iris/MLmodel", "iris/model.pkl"], "iris", {"iris": {"1": "iris"}}),
        (["iris/1/MLmodel", "iris/12/MLmodel"], "iris", {"iris": {"1": "iris/1", "12": "iris/12"}}),
        (["iris/1/MLmodel", "iris/2/MLmodel"], "iris/2", {"iris": {"2": "iris/2"}}),
        (["m-81f/artifacts/MLmodel"], "m-81f", {"m-81f": {"1": "m-81f/artifacts"}}),
        (["run/artifacts/MLmodel"], "run/artifacts", {"run": {"1": "run/artifacts"}}),
        (["run/model/MLmodel", "run/meta.yaml"], "run/model", {"run": {"1": "run/model"}}),
        (["all/model/MLmodel", "all/other/MLmodel"], "all/model", {"model": {"1": "all/model"}}),
        (["all/model/MLmodel", "all/other/MLmodel"], "all", None),
        (["iris/1/MLmodel", "iris/2/model.onnx"], "iris", None),
        (["iris/model.onnx"], "iris", None),
        (["iris/model.onnx"], "iris/model.onnx", None),
        (["iris/model.onnx"], "gone", None),
    ],
)
def test_folders(tmp_path: Path, files: list[str], path: str, expected: dict[str, dict[str, str]] | None) -> None:
    make(tmp_path, *files)
    found = read_model(tmp_path / path)
    if expected is None:
        assert found is None
        return
    assert found is not None
    shown = {version: str(place.relative_to(tmp_path)) for version, place in found.versions.items()}
    assert ({found.name: shown}, found.system) == (expected, "MLflow")
    assert found.wanted == tuple(expected[found.name])
    assert read_root(tmp_path) is None


def test_repositories(tmp_path: Path) -> None:
    make(
        tmp_path / "r",
        "wine/MLmodel",
        "wine/model.skops",
        "iris/1/MLmodel",
        "iris/2/MLmodel",
        "m-81f/artifacts/MLmodel",
        "m-81f/meta.yaml",
        "plain/1/model.onnx",
        "own/model.yaml",
        "own/MLmodel",
    )
    (tmp_path / "r" / "own" / "model.yaml").write_text("runtime: mlflow\n")
    listing = scan(tmp_path / "r")
    assert listing.layout is Layout.REPOSITORY
    assert {name: list(entry.versions) for name, entry in listing.models.items()} == {
        "wine": ["1"],
        "iris": ["1", "2"],
        "m-81f": ["1"],
        "plain": ["1"],
        "own": ["1"],
    }
    assert not any(entry.error for entry in listing.models.values())
    assert listing.models["own"].config.runtime == "mlflow"
    assert scan(tmp_path / "r" / "iris").layout is Layout.MODEL
    before = listing.models["wine"].versions["1"].fingerprint
    make(tmp_path / "r", "wine/model.skops.new")
    assert scan(tmp_path / "r", previous=listing).models["wine"].versions["1"].fingerprint != before


def test_names_that_no_model_can_have(tmp_path: Path) -> None:
    make(tmp_path, "my model/MLmodel", "other/MLmodel")
    with pytest.raises(InvalidArtifact, match=r"my model: .*rename the folder"):
        read_model(tmp_path / "my model")
    assert "rename the folder" in scan(tmp_path).models["my model"].error
