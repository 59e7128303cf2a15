"""What a look at a repository finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from salver.core.errors import InvalidArtifact
from salver.core.model import ModelSpec
from salver.core.signature import TensorSpec
from salver.store import repository
from salver.store.repository import Layout, Listing, scan, to_spec


def make(root: Path, *names: str) -> Path:
    """Files (names that end in '/' are folders) below ``root``."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {".yaml": "description: x\n", ".pbtxt": 'backend: "onnxruntime"\n'}
            path.write_text(content.get(path.suffix, "content"))
    return root


def names(listing: Listing) -> dict[str, list[str]]:
    return {name: list(entry.versions) for name, entry in listing.models.items()}


@pytest.mark.parametrize(
    ("files", "layout", "expected"),
    [
        (["iris/1/m.onnx", "iris/2/m.onnx", "ocr/1/m.py"], Layout.REPOSITORY, {"iris": ["1", "2"], "ocr": ["1"]}),
        (["iris/1/m.onnx", "prepare.sh", "docker-compose.yml"], Layout.REPOSITORY, {"iris": ["1"]}),
        (["iris/model.yaml", "iris/m.onnx", "prepare.sh"], Layout.REPOSITORY, {"iris": ["1"]}),
        (["iris/m.onnx", "ocr/model.py"], Layout.REPOSITORY, {"iris": ["1"], "ocr": ["1"]}),
        (["7/1/m.onnx", "8/1/m.onnx"], Layout.REPOSITORY, {"7": ["1"], "8": ["1"]}),
        (["7/model.yaml", "7/m.onnx"], Layout.REPOSITORY, {"7": ["1"]}),
        (["iris/10/m", "iris/9/m", "iris/beta/m"], Layout.REPOSITORY, {"iris": ["beta", "9", "10"]}),
        (["iris/v1/m.onnx", "iris/v2/m.onnx"], Layout.REPOSITORY, {"iris": ["v1", "v2"]}),
        (["iris/config.pbtxt", "iris/labels.txt", "iris/1/m"], Layout.REPOSITORY, {"iris": ["1"]}),
        (["1/m.onnx", "3/m.onnx"], Layout.MODEL, {"here": ["1", "3"]}),
        (["1/m.onnx", "notes.txt"], Layout.MODEL, {"here": ["1"]}),
        (["model.yaml", "v1/m.onnx"], Layout.MODEL, {"here": ["v1"]}),
        (["model.yaml", "m.onnx"], Layout.MODEL, {"here": ["1"]}),
        (["saved_model.pb", "variables/variables.index"], Layout.MODEL, {"here": ["1"]}),
        (["model.onnx"], Layout.MODEL, {"here": ["1"]}),
    ],
)
def test_layouts(tmp_path: Path, files: list[str], layout: Layout, expected: dict[str, list[str]]) -> None:
    listing = scan(make(tmp_path / "here", *files))
    assert listing.layout is layout
    assert names(listing) == expected
    assert not any(entry.error for entry in listing.models.values())


def test_paths_of_versions(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m.onnx", "flat/m.onnx")
    models = scan(tmp_path).models
    assert models["iris"].versions["1"].path == tmp_path / "iris/1"
    assert models["flat"].versions["1"].path == tmp_path / "flat"


def test_one_file(tmp_path: Path) -> None:
    make(tmp_path, "iris.onnx")
    listing = scan(tmp_path / "iris.onnx")
    assert listing.layout is Layout.FILE
    assert listing.models["iris"].versions["1"].path == tmp_path / "iris.onnx"


def test_one_version_folder(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m.onnx", "iris/2/m.onnx", "iris/model.yaml")
    listing = scan(tmp_path / "iris/2")
    assert listing.layout is Layout.VERSION
    assert names(listing) == {"iris": ["2"]}
    assert listing.models["iris"].config.description == "x"


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "iris/1/m.onnx")
    monkeypatch.chdir(tmp_path / "iris")
    assert names(scan(Path())) == {"iris": ["1"]}


def test_what_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m", "iris/_assets/a", "iris/.git/x", "iris/__pycache__/x", "iris/2/.hidden", "iris/3/m.part")
    make(tmp_path, "_old/1/m", ".cache/1/m", "iris/4/", "iris/5/deep/")
    assert names(scan(tmp_path)) == {"iris": ["1"]}
    before = scan(tmp_path).models["iris"].versions["1"].fingerprint
    make(tmp_path, "iris/1/.m.swp", "iris/1/m~", "iris/1/__pycache__/m.pyc")
    assert scan(tmp_path).models["iris"].versions["1"].fingerprint == before


@pytest.mark.parametrize(
    ("versions", "expected"), [("all", ["1", "2", "10"]), ("latest", ["10"]), ("[1, 10]", ["1", "10"])]
)
def test_versions_policy(tmp_path: Path, versions: str, expected: list[str]) -> None:
    make(tmp_path, "iris/1/m", "iris/2/m", "iris/10/m")
    (tmp_path / "iris/model.yaml").write_text(f"versions: {versions}\n")
    entry = scan(tmp_path).models["iris"]
    assert list(entry.versions) == expected
    assert entry.found == ("1", "2", "10")


def test_versions_that_are_not_there(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m")
    (tmp_path / "iris/model.yaml").write_text("versions: [1, 7]\n")
    entry = scan(tmp_path).models["iris"]
    assert list(entry.versions) == ["1"]
    assert entry.problems == ("iris/model.yaml: 'versions' lists 7, and there is 1",)
    (tmp_path / "iris/model.yaml").write_text("versions: [7]\n")
    assert scan(tmp_path).models["iris"].error == "iris/model.yaml: 'versions' lists 7, and there is 1"


def test_a_broken_model_does_not_break_the_others(tmp_path: Path) -> None:
    make(tmp_path, "good/1/m", "empty/1/", "my model/1/m", "named/1/m", "broken/1/m")
    (tmp_path / "broken/model.yaml").write_text("\ndevise: cpu\n")
    (tmp_path / "named/model.yml").write_text("device: cpu\n")
    models = scan(tmp_path).models
    assert list(models["good"].versions) == ["1"]
    assert models["broken"].error == "broken/model.yaml:2: unknown key 'devise'; did you mean 'device'?"
    assert models["broken"].found is None
    assert models["empty"].error == "empty has no version: expected empty/1/ with the model's files in it"
    assert models["my model"].error.startswith("'my model' can't be a model name")
    assert models["named"].error == "named/model.yml: is not read; rename it to model.yaml"
    assert not any(models[name].versions for name in models if name != "good")


def test_names_that_are_no_versions_are_told(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m", "iris/v1.0/m")
    entry = scan(tmp_path).models["iris"]
    assert list(entry.versions) == ["1"]
    assert entry.problems[0].startswith("iris/v1.0 is left out: 'v1.0' can't be a version")


def test_names_that_are_not_utf8_can_be_shown(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/bad\xff/1")
    make(tmp_path, "iris/1/m")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff/1")) / "m").write_text("x")
    models = scan(tmp_path).models
    for name, entry in models.items():
        assert (name + entry.error).encode()
    assert "can't be a model name" in models["bad\N{REPLACEMENT CHARACTER}"].error


@pytest.mark.parametrize(
    ("path", "files", "message"),
    [
        ("none", ["iris/1/m"], "none does not exist. Expected a model file"),
        ("", [], "has no model in it. Expected a model file"),
        ("", ["README.md", "requirements.txt", ".hidden"], "has no model in it"),
        ("", ["iris/", "ocr/1/"], "has no model in it"),
        ("my model.onnx", ["my model.onnx"], "can't be a model name"),
    ],
)
def test_paths_that_are_no_repository(tmp_path: Path, path: str, files: list[str], message: str) -> None:
    make(tmp_path, *files)
    with pytest.raises(InvalidArtifact, match=message):
        scan(tmp_path / path)


def test_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path, "files/m.onnx", "repository/iris/2/m.onnx")
    (tmp_path / "repository/iris/1").symlink_to(tmp_path / "files")
    (tmp_path / "repository/linked").symlink_to(tmp_path / "repository/iris")
    (tmp_path / "repository/dangling").symlink_to(tmp_path / "nowhere")
    listing = scan(tmp_path / "repository")
    assert names(listing) == {"iris": ["1", "2"], "linked": ["1", "2"]}


def test_a_link_to_itself_ends(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m", "ocr/1/m")
    (tmp_path / "iris/1/again").symlink_to(tmp_path / "iris/1")
    models = scan(tmp_path).models
    assert "a link that leads back to itself" in models["iris"].versions["1"].error
    assert not models["ocr"].versions["1"].error


def test_fingerprints_change_with_files_and_configuration(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m", "iris/2/m", "iris/model.yaml")

    def look() -> tuple[str, str]:
        versions = scan(tmp_path).models["iris"].versions
        return versions["1"].fingerprint, versions["2"].fingerprint

    first = look()
    assert look() == first
    (tmp_path / "iris/1/m").write_text("more content")
    second = look()
    assert second[0] != first[0]
    assert second[1] == first[1]
    os.utime(tmp_path / "iris/1/m", (1, 1))
    assert look()[0] != second[0]
    make(tmp_path, "iris/2/deep/er/file")
    assert look()[1] != second[1]
    third = look()
    (tmp_path / "iris/model.yaml").write_text("# a comment\ndescription: x\nversions: [1, 2]\n")
    assert look() == third, "neither a comment nor the versions policy changes a version"
    (tmp_path / "iris/model.yaml").write_text("threads: 2\n")
    assert look()[0] != third[0]
    assert look()[1] != third[1]


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.store.files.MAX_FILES", 5)
    make(tmp_path, *(f"iris/1/{n}" for n in range(6)))
    assert "more than 5 files" in scan(tmp_path).models["iris"].versions["1"].error


def test_a_known_repository_may_become_empty(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m")
    first = scan(tmp_path)
    (tmp_path / "iris/1/m").unlink()
    (tmp_path / "iris/1").rmdir()
    second = scan(tmp_path, previous=first)
    assert second.models["iris"].found == ()
    (tmp_path / "iris").rmdir()
    assert scan(tmp_path, previous=second).models == {}
    tmp_path.rmdir()
    with pytest.raises(InvalidArtifact, match="can't be read"):
        scan(tmp_path, previous=second)


def test_an_unchanged_model_yaml_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "iris/1/m", "iris/model.yaml")
    read: list[Path] = []
    original = repository.read_model_config
    monkeypatch.setattr(
        repository, "read_model_config", lambda path, **kw: (read.append(path), original(path, **kw))[1]
    )
    first = scan(tmp_path)
    second = scan(tmp_path, previous=first)
    assert len(read) == 1
    assert second.models["iris"] == first.models["iris"]
    (tmp_path / "iris/model.yaml").write_text("threads: 2\n")
    assert scan(tmp_path, previous=second).models["iris"].config.threads == 2


def test_to_spec(tmp_path: Path) -> None:
    make(tmp_path, "iris/1/m.onnx")
    (tmp_path / "iris/model.yaml").write_text(
        "inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]\ndevice: cpu\nbatched: true\nthreads: 2\n"
        "isolation: thread\noptions: {a: 1}\nrequirements: [numpy>=1]\n"
    )
    entry = scan(tmp_path).models["iris"]
    assert to_spec(entry, "1", runtime="onnx", artifact=tmp_path / "iris/1/m.onnx") == ModelSpec(
        name="iris",
        version="1",
        path=tmp_path / "iris/1/m.onnx",
        runtime="onnx",
        device="cpu",
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        batched=True,
        threads=2,
        isolation="thread",
        options={"a": 1, "requirements": ["numpy>=1"]},
    )
