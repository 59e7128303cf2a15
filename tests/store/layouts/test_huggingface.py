"""Hugging Face folders as models: which folders are taken, and what they are then."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.core.errors import InvalidArtifact
from salver.runtimes.detect import detect
from salver.store.layouts.huggingface import read_model, read_root
from salver.store.repository import Layout, scan, to_spec

FILES = ("config.json", "tokenizer.json", "model.safetensors")


def write(folder: Path, *files: str) -> Path:
    for name in files or FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    "files",
    [
        FILES,
        ("config.json", "vocab.txt", "pytorch_model.bin"),
        ("config.json", "tokenizer.model", "model.safetensors.index.json", "model-00001-of-00001.safetensors"),
        ("config.json", "model.safetensors"),  # without a tokenizer: the runtime says so
        (*FILES, "model.onnx", "onnx/model.onnx", "1_Pooling/config.json", "modules.json", "README.md"),
        ("modules.json", "0_Transformer/config.json", "0_Transformer/pytorch_model.bin", "1_Pooling/config.json"),
    ],
)
def test_a_folder_is_a_model_of_one_version(tmp_path: Path, files: tuple[str, ...]) -> None:
    folder = write(tmp_path / "MiniLM-L6", *files)
    found = read_model(folder)
    assert found is not None
    assert (found.name, found.system, found.config.runtime) == ("MiniLM-L6", "Hugging Face", "transformers")
    assert (dict(found.versions), found.wanted, found.problems) == ({"1": folder}, ("1",), ())
    assert read_root(tmp_path) is None
    for path in (folder, tmp_path):
        listing = scan(path)
        assert listing.layout is (Layout.MODEL if path == folder else Layout.REPOSITORY)
        entry = listing.models["MiniLM-L6"]
        assert (entry.found, entry.error) == (("1",), "")
        runtime, artifact = detect(entry.versions["1"].path, entry.config.runtime)
        assert to_spec(entry, "1", runtime=runtime, artifact=artifact).path == folder


@pytest.mark.parametrize(
    "files",
    [
        ("config.json",),
        ("config.json", "model.onnx", "tokenizer.json"),
        ("tokenizer.json", "model.safetensors"),
        (*FILES, "model.py"),  # a Python model that brings such files along
        ("modules.json", "1_Pooling/config.json"),
    ],
)
def test_other_folders_are_left_to_others(tmp_path: Path, files: tuple[str, ...]) -> None:
    assert read_model(write(tmp_path / "net", *files)) is None


def test_numbered_folders_are_versions(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write(tmp_path / "net" / version)
        assert read_model(tmp_path / "net" / version) is None
    for path, versions in ((tmp_path, ["1", "2"]), (tmp_path / "net", ["1", "2"]), (tmp_path / "net" / "2", ["2"])):
        entry = scan(path).models["net"]
        assert list(entry.versions) == versions
        for version in versions:
            folder = entry.versions[version].path
            assert detect(folder, entry.config.runtime) == ("transformers", tmp_path / "net" / version)


def test_model_yaml_goes_first(tmp_path: Path) -> None:
    folder = write(tmp_path / "net")
    (folder / "model.yaml").write_text("options: {pooling: cls}\nmax_batch_size: 8\n")
    entry = scan(tmp_path).models["net"]
    assert (entry.error, list(entry.versions), dict(entry.config.options)) == ("", ["1"], {"pooling": "cls"})
    assert detect(entry.versions["1"].path, entry.config.runtime) == ("transformers", folder)


def test_names_that_no_model_can_have(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match=r"can't be a model name.*; rename the folder"):
        read_model(write(tmp_path / "my model"))
    write(tmp_path / "good")
    models = scan(tmp_path).models
    assert models["good"].error == ""
    assert "rename the folder" in models["my model"].error
