from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from salver.core.errors import InvalidConfig, MissingDependency
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.locations import open_backend
from salver.store.artifacts.retries import Backoff, masked


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("models", str(Path.cwd() / "models")),
        ("/srv/models", "/srv/models"),
        ("file:///srv/my%20models", "/srv/my models"),
        ("file://localhost/srv", "/srv"),
        ("https://host/models/", "https://host/models"),
        ("https://user:secret@host/models", "https://***@host/models"),
        ("https://host/model.onnx?X-Amz-Signature=secret", "https://host/model.onnx"),
        ("s3://bucket/models/", "s3://bucket/models"),
        ("memory://x", "memory://x"),
    ],
)
def test_urls_name_places(url: str, name: str) -> None:
    assert ArtifactStore(url).name == name


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "not the URL of a place"),
        ("  ", "not the URL of a place"),
        ("s3://", "names no place"),
        ("https:///", "names no place"),
        ("file:///", "names no folder"),
        ("file://server/share", "names the host 'server'"),
        ("s4://bucket/x", "unknown protocol; valid protocols are file, s3"),
        ("simplecache::s3://bucket/x", "not the URL of a place"),
        ("zip://models.zip", "zip:// can't be used here"),
        ("models\0", "not the URL of a place"),
    ],
)
def test_urls_that_name_nothing_are_refused(url: str, text: str) -> None:
    with pytest.raises(InvalidConfig, match=text):
        ArtifactStore(url)


@pytest.mark.parametrize(("url", "extra"), [("gs://bucket/x", "gcs"), ("az://container/x", "azure")])
def test_missing_packages_are_named(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"pip install 'salver\[{extra}\]'"):
        ArtifactStore(url)


def test_options_that_nobody_knows_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="unknown option 'haeders'"):
        ArtifactStore("https://host/x", options={"haeders": {}})
    store = ArtifactStore("memory://x", options={"client_kwargs": 3}, backoff=Backoff(attempts=1))
    assert not store.has_blob("0" * 64)  # fsspec's own file systems take what they don't know


def test_s3_options_that_cannot_be_used_are_told() -> None:
    store = ArtifactStore(
        "s3://bucket/x", options={"config_kwargs": {"no_such_option": 1}}, backoff=Backoff(attempts=1)
    )
    with pytest.raises(InvalidConfig, match="check the store's options"):
        store.has_blob("0" * 64)


def test_secrets_are_masked_in_messages() -> None:
    assert masked("at http://me:pass@host/x?key=1&sig=2 it failed") == "at http://***@host/x it failed"
    assert masked("http://host/a and 'https://host/b?token=x'") == "http://host/a and 'https://host/b'"


def test_a_folder_needs_no_fsspec() -> None:
    """Opening a store imports what its URL needs, and nothing else."""
    code = (
        "import sys; from salver.store.artifacts.disk_cache import ArtifactStore; ArtifactStore('/srv');"
        "assert not {'fsspec', 's3fs', 'httpx2', 'aiohttp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_of_place_does_what_the_others_do() -> None:
    for url in ("/srv", "https://host/x", "memory://x"):
        backend = open_backend(url, options={}, backoff=Backoff())
        assert backend.read_only == url.startswith("https")
        backend.close()
