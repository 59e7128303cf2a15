"""Graphs in a model store that two servers share: asked at either of them, with their models on the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import socket

import httpx2
import numpy as np
import pytest
from graph_repository import CHAIN, OUTER, STREAM, WORDS, write_graph, write_model, write_onnx
from postgresql import postgresql_server, postgresql_url  # noqa: F401
from pushing import push
from served_models import until
from servers import Server

from salver import Client
from salver.client.cache import CacheClient
from salver.core.errors import SalverError

pytestmark = pytest.mark.e2e

X = np.ones((1, 2), np.float32)


def free_port() -> int:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def loaded_by(server: Server) -> set[str]:
    with CacheClient(server.url) as client:
        return {each["name"] for each in client.show()["loaded"]}


@pytest.fixture
def pair(
    serve: Callable[..., Server],
    tmp_path: Path,
    postgresql_url: str,  # noqa: F811
) -> tuple[Server, Server]:
    """Two servers over one store and one PostgreSQL registry."""
    servers = []
    for name in ("a", "b"):
        port = str(free_port())
        places = ["--store", str(tmp_path / "store"), "--data-folder", str(tmp_path / name)]
        address = ["--port", port, "--advertise", f"http://127.0.0.1:{port}"]
        servers.append(serve(*places, "--registry", postgresql_url, *address, "--allow-code"))
    return servers[0], servers[1]


def ask(client: Client, name: str) -> float:
    return float(client.predict(name, {"x": X})["y"][0, 0])


def place_on(server: Server, *names: str) -> None:
    """Have models loaded by a server, and the others know of it."""
    with CacheClient(server.url) as client:
        assert not client.prefetch(names)["refused"]
    until(lambda: set(names) <= loaded_by(server), "loaded")


def known_to_be_at(asked: Server, name: str, owner: Server) -> None:
    def route() -> str:
        url: str = httpx2.get(f"{asked.url}/api/v1/cluster/route", params={"model": name}).json()["url"]
        return url

    until(lambda: route() == owner.url, f"where {name} is")


def push_ready(server: Server, path: Path, name: str) -> None:
    found = push(server.url, path, name)
    assert found["state"] == "READY", found["reason"]


def test_a_graph_s_models_stay_where_they_are(pair: tuple[Server, Server], tmp_path: Path) -> None:
    first, second = pair
    write_onnx(tmp_path, "double", 2.0)
    write_graph(tmp_path, "chain", CHAIN)
    push_ready(first, tmp_path / "double" / "1", "double")
    push_ready(first, tmp_path / "chain" / "1", "chain")
    until(lambda: httpx2.get(f"{second.url}/v2/models/chain").status_code == 200, "chain is known")
    place_on(second, "double")
    place_on(first, "chain")
    known_to_be_at(first, "double", second)
    known_to_be_at(second, "chain", first)
    with first.client() as here, second.client() as there:
        for _ in range(3):
            assert (ask(here, "chain"), ask(there, "chain")) == (4.0, 4.0)
        big = np.ones((300_000, 2), np.float32)
        assert here.predict("chain", {"x": big})["y"].tolist() == (big * 4).tolist()
    assert (loaded_by(first), loaded_by(second)) == ({"chain"}, {"double"})


def test_a_graph_over_a_model_that_streams_streams(pair: tuple[Server, Server], tmp_path: Path) -> None:
    first, _ = pair
    write_model(tmp_path, "words", WORDS)
    write_graph(tmp_path, "stream", STREAM)
    write_graph(tmp_path, "twice", STREAM.replace("model: words", "model: stream"))
    for name in ("words", "stream", "twice"):
        push_ready(first, tmp_path / name / "1", name)
    for name in ("stream", "twice"):
        answer = httpx2.post(f"{first.url}/v2/models/{name}/generate_stream", json={"text": "a b c"})
        parts = [json.loads(line[6:])["word"] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert parts == ["a", "b", "c"], answer.text


def test_a_request_that_goes_round_two_servers_ends(pair: tuple[Server, Server], tmp_path: Path) -> None:
    """The header tells on the other server which graphs a request is a step of already."""
    first, second = pair
    write_onnx(tmp_path, "double", 2.0)
    write_graph(tmp_path, "chain", CHAIN)
    write_graph(tmp_path, "outer", OUTER)
    for name in ("double", "chain", "outer"):
        push_ready(first, tmp_path / name / "1", name)
    until(lambda: httpx2.get(f"{second.url}/v2/models/outer").status_code == 200, "outer is known")
    # Each graph and model elsewhere than the one that asks it.
    place_on(second, "chain")
    place_on(first, "outer", "double")
    known_to_be_at(first, "chain", second)
    known_to_be_at(second, "double", first)
    with first.client() as client:
        assert ask(client, "outer") == 4.0
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    within = {"x-salver-forwarded": "another", "x-salver-within": "outer/1,chain/1"}
    refused = httpx2.post(f"{second.url}/v2/models/chain/infer", json=body, headers=within)
    assert refused.status_code == 501
    assert "graph 'chain' calls itself: outer -> chain -> chain" in refused.json()["error"]
    # A client of its own accord is no other server.
    alone = {"x-salver-within": "chain/1"}
    assert httpx2.post(f"{second.url}/v2/models/chain/infer", json=body, headers=alone).status_code == 200


def test_the_other_server_is_killed_amid_requests(pair: tuple[Server, Server], tmp_path: Path) -> None:
    first, second = pair
    write_onnx(tmp_path, "double", 2.0)
    write_graph(tmp_path, "chain", CHAIN)
    push_ready(first, tmp_path / "double" / "1", "double")
    push_ready(first, tmp_path / "chain" / "1", "chain")
    until(lambda: httpx2.get(f"{second.url}/v2/models/chain").status_code == 200, "chain is known")
    place_on(second, "double")
    place_on(first, "chain")
    known_to_be_at(first, "double", second)
    failures: list[str] = []
    answers: list[float] = []

    def keep_asking(_: int) -> None:
        with first.client() as client:
            for number in range(60):
                if number == 10:
                    second.process.kill()
                try:
                    answers.append(ask(client, "chain"))
                except SalverError as error:
                    failures.append(str(error))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep_asking, range(4)))
    second.kill()  # it is dead: this takes note of it
    assert set(answers) == {4.0}
    assert len(failures) <= 8  # those on the way: whether the other has answered them nobody knows
    assert all("step '" in failure and "broke off" in failure for failure in failures), failures
    assert "double" in loaded_by(first)
