"""Real places for artifacts: an S3 server, a web server, a network that can be cut."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from artifact_servers import Cable, WebServer, s3_options

from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.retries import Backoff

QUICK = Backoff(attempts=4, first=0.01, most=0.05)


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """A server that speaks S3 over HTTP."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3_bucket(s3_port: int) -> str:
    import boto3

    name = f"models-{uuid.uuid4().hex[:12]}"
    options = s3_options(s3_port)
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=options["endpoint_url"],
        aws_access_key_id=options["key"],
        aws_secret_access_key=options["secret"],
    )
    client.create_bucket(Bucket=name)
    client.close()
    return name


@pytest.fixture(params=["folder", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """A store of each kind."""
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "store"), backoff=QUICK)
    if request.param == "memory":
        return ArtifactStore(f"memory://{uuid.uuid4().hex}", backoff=QUICK)
    bucket = request.getfixturevalue("s3_bucket")
    port = request.getfixturevalue("s3_port")
    return ArtifactStore(f"s3://{bucket}/some/prefix", options=s3_options(port), backoff=QUICK)


@pytest.fixture
def folder_store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"), backoff=QUICK)


@pytest.fixture
def s3_store(s3_bucket: str, s3_port: int) -> ArtifactStore:
    return ArtifactStore(f"s3://{s3_bucket}/store", options=s3_options(s3_port), backoff=QUICK)


@pytest.fixture
def cable(s3_port: int) -> Iterator[Cable]:
    """The network between here and the S3 server."""
    cable = Cable(s3_port)
    yield cable
    cable.close()


@pytest.fixture
def distant_store(s3_bucket: str, cable: Cable) -> ArtifactStore:
    """A store at the other end of the cable."""
    return ArtifactStore(f"s3://{s3_bucket}/store", options=s3_options(cable.port), backoff=QUICK)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    """A web server over the folder ``web``."""
    root = tmp_path / "web"
    root.mkdir()
    server = WebServer(root)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())  # of tests that ran before: what they left isn't this one's
    yield
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("salver-")]
    assert not left
