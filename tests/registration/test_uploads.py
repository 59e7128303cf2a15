"""Uploads on the server's disk: what is there is the truth."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from salver.core.artifact import ArtifactFile, Manifest, manifest_of
from salver.core.errors import InvalidArtifact, InvalidRequest, Overloaded, StoreUnavailable, UnknownUpload
from salver.core.registry import VersionMetadata
from salver.registration.uploads import Upload, Uploads, WrongOffset

DATA = b"0123456789"
NOTHING = VersionMetadata()


def manifest(**files: bytes) -> Manifest:
    return manifest_of(ArtifactFile(name, len(data), sha256(data)) for name, data in files.items())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def send(uploads: Uploads, upload: Upload, data: bytes, *, offset: int = 0, of: bytes = DATA) -> int:
    with uploads.appending(upload, sha256(of), offset) as writer:
        writer.write(data)
    return uploads.received(upload, sha256(of))


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", max_bytes=1000)


def test_what_has_come_is_found_again_by_another_process(uploads: Uploads, tmp_path: Path) -> None:
    metadata = VersionMetadata(owner="ada", tags={"a": "b"}, properties={"c": [1, None]})
    upload = uploads.begin("m", "1", manifest(a=DATA), metadata)
    assert send(uploads, upload, DATA[:4]) == 4
    again = Uploads(tmp_path / "uploads", max_bytes=1000)
    assert again.get(upload.upload_id) == upload
    assert again.begin("m", "1", manifest(a=DATA), metadata) == upload
    assert send(again, upload, DATA[4:], offset=4) == 10
    whole = again.complete(upload, upload.manifest.files[0])
    assert whole is not None
    assert whole.read_bytes() == DATA


def test_models_versions_and_files_have_uploads_of_their_own(uploads: Uploads) -> None:
    ids = {
        uploads.begin(name, version, files, NOTHING).upload_id
        for name, version, files in [
            ("m", "", manifest(a=DATA)),
            ("m", "1", manifest(a=DATA)),
            ("m1", "", manifest(a=DATA)),
            ("m", "", manifest(b=DATA)),
        ]
    }
    assert len(ids) == uploads.open_count() == 4


def test_a_file_that_came_as_a_whole_and_was_not_checked_is_checked_later(uploads: Uploads, tmp_path: Path) -> None:
    good, bad = uploads.begin("m", "1", manifest(a=DATA), NOTHING), uploads.begin("m", "2", manifest(a=DATA), NOTHING)
    # As a server leaves it that was killed between the last byte and the check.
    (tmp_path / "uploads" / good.upload_id / "partial" / sha256(DATA)).write_bytes(DATA)
    (tmp_path / "uploads" / bad.upload_id / "partial" / sha256(DATA)).write_bytes(DATA[::-1])
    assert uploads.complete(good, good.manifest.files[0]) is not None
    with pytest.raises(InvalidArtifact, match="'a' came with other bytes than announced"):
        uploads.complete(bad, bad.manifest.files[0])
    assert uploads.received(bad, sha256(DATA)) == 0
    assert send(uploads, bad, DATA) == 10


def test_an_empty_file_needs_no_bytes(uploads: Uploads) -> None:
    upload = uploads.begin("m", "1", manifest(a=b""), NOTHING)
    whole = uploads.complete(upload, upload.manifest.files[0])
    assert whole is not None
    assert whole.read_bytes() == b""
    lie = manifest_of([ArtifactFile("a", 0, sha256(b"x"))])
    with pytest.raises(InvalidArtifact):
        uploads.complete(uploads.begin("m", "1", lie, NOTHING), lie.files[0])


def test_a_file_that_is_whole_takes_nothing_more(uploads: Uploads) -> None:
    upload = uploads.begin("m", "1", manifest(a=DATA), NOTHING)
    send(uploads, upload, DATA)
    assert send(uploads, upload, b"", offset=10) == 10
    with pytest.raises(WrongOffset) as wrong:
        send(uploads, upload, DATA)
    assert wrong.value.received == 10


def test_a_file_that_is_not_of_the_upload_is_refused(uploads: Uploads) -> None:
    upload = uploads.begin("m", "1", manifest(a=DATA), NOTHING)
    for name in (b"other", DATA[:5]):
        with pytest.raises(InvalidRequest, match="no file with the SHA-256"):
            send(uploads, upload, b"x", of=name)


@pytest.mark.parametrize("upload_id", ["", "x", "../" * 10 + "ab", "0" * 32, "A" * 32, "0" * 31 + "/"])
def test_ids_that_are_none(uploads: Uploads, upload_id: str) -> None:
    with pytest.raises(UnknownUpload):
        uploads.get(upload_id)


def test_what_nothing_was_sent_for_expires(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", max_bytes=1000, max_open=2, expire_seconds=60)
    old, used = (uploads.begin("m", version, manifest(a=DATA), NOTHING) for version in ("1", "2"))
    for upload in (old, used):
        os.utime(tmp_path / "uploads" / upload.upload_id / "upload.json", (0, 0))
    send(uploads, used, DATA[:4])
    with uploads.appending(used, sha256(DATA), 4):
        os.utime(tmp_path / "uploads" / used.upload_id / "upload.json", (0, 0))
        assert uploads.remove_expired() == 1  # what is written to just now lives
    with pytest.raises(UnknownUpload):
        uploads.get(old.upload_id)
    assert uploads.get(used.upload_id) == used


def test_a_new_upload_takes_the_place_of_an_expired_one(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", max_bytes=1000, max_open=1, expire_seconds=60)
    old = uploads.begin("m", "1", manifest(a=DATA), NOTHING)
    with pytest.raises(Overloaded):
        uploads.begin("m", "2", manifest(a=DATA), NOTHING)
    os.utime(tmp_path / "uploads" / old.upload_id / "upload.json", (0, 0))
    uploads.begin("m", "2", manifest(a=DATA), NOTHING)
    assert uploads.open_count() == 1


def test_what_a_killed_server_was_removing_is_removed(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", max_bytes=1000)
    upload = uploads.begin("m", "1", manifest(a=DATA), NOTHING)
    (tmp_path / "uploads" / upload.upload_id).rename(tmp_path / "uploads" / ".gone-x")
    assert uploads.open_count() == 0
    uploads.remove_expired()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_that_is_given_up_while_it_is_written_to_ends(uploads: Uploads) -> None:
    upload = uploads.begin("m", "1", manifest(a=DATA), NOTHING)
    appending = uploads.appending(upload, sha256(DATA), 0)
    writer = appending.__enter__()
    writer.write(DATA[:5])
    uploads.remove(upload.upload_id)
    writer.write(DATA[5:])
    with pytest.raises(UnknownUpload):
        appending.__exit__(None, None, None)
    with pytest.raises(UnknownUpload):
        send(uploads, upload, DATA)
    assert uploads.complete(upload, upload.manifest.files[0]) is None


def test_a_disk_without_room_is_told_before_anything_is_sent(uploads: Uploads) -> None:
    uploads.begin("m", "1", manifest(a=DATA), NOTHING)
    uploads.check_space(1000)
    with pytest.raises(StoreUnavailable, match="bytes free, and 1000000000000000000 are still to come"):
        uploads.check_space(10**18)


def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreUnavailable, match="can't write the upload to its disk: File exists"):
        Uploads(tmp_path / "file", max_bytes=1000).begin("m", "1", manifest(a=DATA), NOTHING)


def test_uploads_that_are_begun_and_left_keep_nobody_out_for_long(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", max_bytes=1000, max_open=3)
    left, begun, fresh = (uploads.begin(name, "", manifest(a=DATA), NOTHING) for name in ("left", "begun", "fresh"))
    send(uploads, begun, DATA[:1])
    for upload in (left, begun):
        description = tmp_path / "uploads" / upload.upload_id / "upload.json"
        os.utime(description, (description.stat().st_mtime - 700,) * 2)
    uploads.begin("other", "", manifest(a=DATA), NOTHING)
    with pytest.raises(UnknownUpload):
        uploads.get(left.upload_id)
    assert uploads.get(begun.upload_id) == begun  # something has come of it
    assert uploads.get(fresh.upload_id) == fresh
    with pytest.raises(Overloaded):
        uploads.begin("another", "", manifest(a=DATA), NOTHING)
