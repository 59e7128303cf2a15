"""Several servers over one registry: real processes, PostgreSQL, and a store that they share."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import httpx2
import numpy as np
import pytest
from postgresql import postgresql_server, postgresql_url  # noqa: F401
from pushing import push
from servers import Server
from small_models import write_onnx

from salver import Client
from salver.client.cache import CacheClient
from salver.core.errors import ModelUnavailable, UnknownModel

pytestmark = pytest.mark.e2e

MODELS = 8


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ask(client: Client, name: str) -> float:
    return float(client.predict(name, {"x": np.ones((1, 2), np.float32)})["y"][0, 0])


def loaded_by(server: Server) -> set[str]:
    with CacheClient(server.url) as client:
        return {each["name"] for each in client.show()["loaded"]}


def offered_by(server: Server) -> set[str]:
    answer = httpx2.post(f"{server.url}/v2/repository/index", json={})
    return {each["name"] for each in answer.raise_for_status().json()}


def told_loaded_by(server: Server) -> set[str]:
    """What a server has heard that it or another has loaded."""
    nodes = httpx2.get(f"{server.url}/api/v1/cluster").json()["nodes"]
    return {key.partition("/")[0] for node in nodes for key in node["loaded"]}


def wait_until(wanted: Callable[[], bool]) -> None:
    begun = monotonic()
    while not wanted():
        assert monotonic() - begun < 20
        sleep(0.02)


@pytest.fixture
def pair(
    serve: Callable[..., Server],
    tmp_path: Path,
    postgresql_url: str,  # noqa: F811
) -> tuple[Server, Server]:
    """Two servers over one store and one PostgreSQL registry."""
    servers = []
    for name in ("a", "b"):
        port = free_port()
        servers.append(
            serve(
                "--store",
                str(tmp_path / "store"),
                "--registry",
                postgresql_url,
                "--data-folder",
                str(tmp_path / name),
                "--port",
                str(port),
                "--advertise",
                f"http://127.0.0.1:{port}",
            )
        )
    return servers[0], servers[1]


def push_all(server: Server, folder: Path) -> None:
    for number in range(MODELS):
        path = write_onnx(folder, f"m{number}", factor=float(number))
        assert push(server.url, path, f"m{number}")["state"] == "READY"


def until_it_answers(client: Client, name: str, within: float) -> float:
    """Seconds until a server knows a model."""
    begun = monotonic()
    while True:
        try:
            ask(client, name)
            return monotonic() - begun
        except (UnknownModel, ModelUnavailable):
            if monotonic() - begun > within:
                raise
            sleep(0.01)


def test_models_are_spread_and_each_server_answers_for_all(pair: tuple[Server, Server], tmp_path: Path) -> None:
    first, second = pair
    push_all(first, tmp_path / "models")
    with first.client() as one, second.client() as other:
        # They agree within a second; a machine that is busy is given more. Asking for a model would load it.
        wait_until(lambda: f"m{MODELS - 1}" in offered_by(second))
        for number in range(MODELS):
            assert ask(one, f"m{number}") == number
        wait_until(lambda: len(told_loaded_by(second)) == MODELS)
        for number in range(MODELS):
            assert ask(other, f"m{number}") == number
    there = loaded_by(first), loaded_by(second)
    assert there[0] | there[1] == {f"m{number}" for number in range(MODELS)}
    assert not there[0] & there[1], "a model was copied"
    assert min(len(there[0]), len(there[1])) >= 2
    nodes = httpx2.get(f"{second.url}/api/v1/cluster").json()["nodes"]
    assert {node["url"] for node in nodes} == {first.url, second.url}


def test_the_others_go_on_when_one_is_killed(pair: tuple[Server, Server], tmp_path: Path) -> None:
    first, second = pair
    push_all(first, tmp_path / "models")
    with second.client() as client:
        until_it_answers(client, f"m{MODELS - 1}", within=10.0)
        for number in range(MODELS):
            assert ask(client, f"m{number}") == number
        assert loaded_by(first)
        first.kill()
        for number in range(MODELS):
            assert ask(client, f"m{number}") == number
    assert loaded_by(second) == {f"m{number}" for number in range(MODELS)}


def test_a_server_that_stops_leaves(pair: tuple[Server, Server], tmp_path: Path) -> None:
    first, second = pair
    first.stop()

    def nodes() -> list[str]:
        return [node["url"] for node in httpx2.get(f"{second.url}/api/v1/cluster").json()["nodes"]]

    wait_until(lambda: nodes() == [second.url])


def test_a_client_can_ask_which_server_has_a_model(pair: tuple[Server, Server], tmp_path: Path) -> None:
    first, second = pair
    push_all(first, tmp_path / "models")
    with second.client() as client:
        until_it_answers(client, f"m{MODELS - 1}", within=10.0)
        for number in range(MODELS):
            ask(client, f"m{number}")
    for server in pair:
        for name in loaded_by(server):
            told = httpx2.get(f"{server.url}/api/v1/cluster/route", params={"model": name}).json()
            assert told["url"] == server.url
    assert httpx2.get(f"{first.url}/api/v1/cluster/route", params={"model": "none"}).status_code == 404
    assert httpx2.get(f"{first.url}/api/v1/cluster/route").status_code == 400
