"""From an artifact's folder to what a runtime is told to load."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_files import write_constant

from salver.core.errors import InvalidArtifact, InvalidConfig
from salver.core.model import ModelSpec
from salver.core.registry import ModelVersion, Probe
from salver.runtimes.detect import detect
from salver.store.registered import spec_of


def spec(folder: Path, **more: object) -> ModelSpec:
    return spec_of(ModelVersion("iris", "7", "0" * 64, 1, **more), folder, detect=detect)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the disk cache names it."""
    return tmp_path / ("ab" * 32)


@pytest.mark.parametrize("inside", ["", "1", "v2"])
def test_the_files_lie_directly_in_it_or_in_one_version_folder(folder: Path, inside: str) -> None:
    write_constant(folder / inside, 1)
    found = spec(folder)
    assert (found.name, found.version, found.runtime) == ("iris", "7", "onnx")
    assert found.path == folder / inside / "model.onnx"


def test_a_model_yaml_counts_but_for_its_versions(folder: Path) -> None:
    write_constant(folder / "3", 1)
    (folder / "3" / "request.json").write_text("{}")
    (folder / "model.yaml").write_text("versions: [1]\nmax_batch_size: 4\nwarm_up: [{file: 3/request.json}]\n")
    found = spec(folder)
    assert found.path == folder / "3" / "model.onnx"
    assert found.scheduling.max_batch_size == 4
    assert found.scheduling.warm_up[0].file == folder / "3" / "request.json"


def test_what_the_probe_found_is_told(folder: Path) -> None:
    write_constant(folder, 1)
    (folder / "model.pt2").write_bytes(b"other")
    probe = Probe(1, 2, 3.0)
    found = spec(folder, runtime="onnx", probe=probe)
    assert (found.runtime, found.measured) == ("onnx", probe)
    with pytest.raises(InvalidArtifact, match="several models"):
        spec(folder)


def test_several_versions_are_refused(folder: Path) -> None:
    for version in ("1", "2"):
        write_constant(folder / version, 1)
    with pytest.raises(InvalidArtifact, match="this one has 1, 2; push the folder of one version"):
        spec(folder)


def test_folders_beside_the_files_are_no_versions(folder: Path) -> None:
    write_constant(folder, 1)
    (folder / "assets").mkdir()
    (folder / "assets" / "vocabulary.txt").write_text("a")
    assert spec(folder).path == folder / "model.onnx"


def test_triton_s_form_is_read(folder: Path) -> None:
    write_constant(folder / "1", 1)
    (folder / "config.pbtxt").write_text('name: "iris"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 8\n')
    found = spec(folder)
    assert (found.name, found.runtime, found.path) == ("iris", "onnx", folder / "1" / "model.onnx")
    assert found.scheduling.max_batch_size == 8


def test_what_cannot_be_served(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.bin").write_text("no model")
    with pytest.raises(InvalidArtifact):
        spec(folder)
    (folder / "model.yaml").write_text("runtime: [")
    with pytest.raises(InvalidConfig, match=r"model\.yaml:"):
        spec(folder)
    (folder / "model.yaml").rename(folder / "model.yml")
    with pytest.raises(InvalidConfig, match=r"rename it to model\.yaml"):
        spec(folder)
