from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from salver.core.errors import InvalidArtifact
from salver.store.artifacts.describe import describe


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_a_file_has_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, "model.onnx") / "model.onnx"
    (file,) = describe(path).files
    assert (file.path, file.size, file.sha256) == ("model.onnx", 10, hashlib.sha256(b"model.onnx").hexdigest())


def test_hidden_and_unfinished_files_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, "model", "a/b/c", ".git/HEAD", "a/.hidden", "x.part", "model~", "__pycache__/m.pyc")
    assert [file.path for file in describe(folder).files] == ["a/b/c", "model"]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    describe(write(tmp_path, "a", "bb", "ccc"), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 6), (3, 6), (6, 6)]


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "blobs/1", "sub/x")
    (folder / "model").symlink_to("blobs/1")
    (folder / "other").symlink_to(folder / "sub", target_is_directory=True)
    assert [file.path for file in describe(folder).files] == ["blobs/1", "model", "other/x", "sub/x"]


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../"])
def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    write(tmp_path, "secret")
    folder = write(tmp_path / "m", "model")
    (folder / "link").symlink_to(target)
    with pytest.raises(InvalidArtifact, match=r"m/link is a link that leads out of the folder"):
        describe(folder)


def test_links_in_circles_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "model")
    (folder / "again").symlink_to(".")
    with pytest.raises(InvalidArtifact, match="leads back to itself"):
        describe(folder)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidArtifact, match="has no files"):
        describe(tmp_path / "empty")
    with pytest.raises(InvalidArtifact, match="nowhere: can't be read: No such file"):
        describe(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArtifact, match="neither a file nor a folder"):
        describe(tmp_path / "pipe")
    with pytest.raises(InvalidArtifact, match="neither a file nor a folder"):
        describe(tmp_path)
    broken = write(tmp_path / "broken", "model")
    (broken / "link").symlink_to("gone")
    with pytest.raises(InvalidArtifact, match="can't be read"):
        describe(broken)


def test_files_that_change_meanwhile_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"x" * 100)

    def grow(done: int, total: int) -> None:
        if total == 100:
            with path.open("ab") as file:
                file.write(b"more")

    with pytest.raises(InvalidArtifact, match="changed while it was read"):
        describe(path, progress=grow)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "m") + b"/bad\xff")).write_bytes(b"")
    with pytest.raises(InvalidArtifact, match="can't be a path in an artifact"):
        describe(tmp_path / "m")
