"""Manifests: which paths an artifact may have."""

from __future__ import annotations

import tracemalloc

import pytest

from salver.core.artifact import MAX_FILES, ArtifactFile, check_artifact_path, manifest_of
from salver.core.errors import InvalidArtifact

SHA256 = "0" * 64


def file(path: str) -> ArtifactFile:
    return ArtifactFile(path, 1, SHA256)


@pytest.mark.parametrize("path", ["a", ".lock", "a b/c", "é/ü", "x" * 255, "/".join(["ab"] * 33)])
def test_paths_that_can_be(path: str) -> None:
    assert check_artifact_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a\\b", "a\0b", "a\nb", "a\u202eb", "a\ud800b"],
        *["x" * 256, "é" * 128, "a/" + "x" * 300 + "/b", "/".join(["ab"] * 34), "/".join(["x" * 200] * 6)],
    ],
)
def test_paths_that_no_disk_could_have_are_refused(path: str) -> None:
    with pytest.raises(InvalidArtifact, match="can't be a path in an artifact"):
        check_artifact_path(path)


@pytest.mark.parametrize("between", [[], ["a.b"], ["a b", "a-b", "a.b", "a0"]])
def test_a_file_is_no_folder(between: list[str]) -> None:
    with pytest.raises(InvalidArtifact, match="'x/a' as a file and as a folder"):
        manifest_of(file(f"x/{path}") for path in ["a", "a/b/c", *between])
    assert len(manifest_of(map(file, ["a", *between])).files) == 1 + len(between)


def test_a_path_is_there_once() -> None:
    with pytest.raises(InvalidArtifact, match="'a/b' twice"):
        manifest_of([file("a/b"), ArtifactFile("a/b", 2, "1" * 64)])


def test_many_deep_paths_take_no_more_memory_than_they_are_long() -> None:
    files = [file("/".join([f"{number:05}", *["x" * 30] * 32])) for number in range(MAX_FILES // 4)]
    tracemalloc.start()
    try:
        assert len(manifest_of(files).files) == len(files)
        assert tracemalloc.get_traced_memory()[1] < 4 * sum(len(each.path) for each in files)
    finally:
        tracemalloc.stop()
