"""Pushes of those who lie, and clients who take or send nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from asgi import Answer, call
from model_stores import management_app, open_store, push, push_ready
from onnx_files import write_constant

from salver.core.artifact import MAX_FILES
from salver.store.artifacts.describe import describe
from salver.wire.model_store_json import encode_manifest


def described(content: bytes, **lies: Any) -> dict[str, Any]:
    return {"path": "model.onnx", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()} | lies


async def begin(app: Any, *files: dict[str, Any], version: str = "") -> Answer:
    return await call(app, "POST", "/api/v1/models/m/versions", {"files": list(files), "version": version})


@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_a_wrong_size_of_what_is_stored_is_no_way_around_sending_it(tmp_path: Path, size: int) -> None:
    """A model.yaml that is said to be small is read as a whole."""
    async with open_store(tmp_path) as store:
        app = management_app(store)
        write_constant(tmp_path / "model", 1)
        pushed = await push_ready(app, "m", tmp_path / "model")
        (stored,) = (await store.files("m", pushed["version"]))[1].files
        lie = {"path": "model.yaml", "size": size, "sha256": stored.sha256}
        begun = (await begin(app, lie)).json()
        assert begun["missing"] == [{"sha256": stored.sha256, "size": size, "received": 0}]
        commit = await call(app, "POST", f"/api/v1/uploads/{begun['upload']}/commit")
        assert commit.status == 409
        assert "not all files have come" in commit.error


async def test_a_damaged_file_of_the_store_is_replaced_by_a_push(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        app = management_app(store)
        write_constant(tmp_path / "model", 1)
        pushed = await push_ready(app, "m", tmp_path / "model")
        (file,) = (await store.files("m", pushed["version"]))[1].files
        blob = store.artifacts.local_blob(file.sha256)
        assert blob is not None
        blob.unlink()
        blob.write_bytes(b"cut off")
        assert (await push(app, "m", tmp_path / "model")).status == 200
        assert store.artifacts.has_blob(file.sha256, size=file.size)


async def test_the_name_of_a_deleted_version_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        app = management_app(store)
        write_constant(tmp_path / "model", 1)
        await push_ready(app, "m", tmp_path / "model", "7")
        assert (await call(app, "DELETE", "/api/v1/models/m/versions/7", query="force=true")).status == 200
        for files in ([described(b"other bytes")], encode_manifest(describe(tmp_path / "model"))):
            refused = await begin(app, *files, version="7")
            assert refused.status == 409
            assert "was deleted, and its name stays taken" in refused.error
        assert (await begin(app, described(b"other bytes"))).status == 200


async def test_names_that_no_disk_could_have_are_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        refused = await begin(management_app(store), described(b"1", path="x" * 300))
        assert refused.status == 400
        assert "255 bytes a name" in refused.error


async def test_too_many_files_are_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        files = [{"path": "a"}] * (MAX_FILES + 1)  # nothing of them is looked at
        refused = await begin(management_app(store), *files)
        assert refused.status == 400
        assert f"{MAX_FILES} are allowed" in refused.error
