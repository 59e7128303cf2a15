"""Models are loaded and evicted over and over: the server's memory goes back to the system each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from servers import Server

from salver import Client
from salver.client.cache import CacheClient
from salver.core.errors import Conflict

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")]

MIB = 1 << 20
SETTLED = 50
"""Loads after which what the server has once and for all is there."""

AT_REST_SECONDS = 4.0
"""Within this the server has given back what the last models have left."""

PLUS_ONE = """
import numpy as np

class Model:
    def load(self, path):
        self.ballast = np.ones(1 << 20)

    def predict(self, x: int) -> int:
        return x + 1
"""


@pytest.fixture(autouse=True)
def one_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    """One arena of glibc's for all threads: what several of them hold in fragments comes and goes by a tenth."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")


def write_layers(folder: Path, layers: int, factor: float, width: int = 512) -> None:
    """An ONNX model of ``layers`` MiB of weights that multiplies two numbers by a factor."""
    folder.mkdir(parents=True)
    weights = [np.eye(2, width), *[np.eye(width)] * layers, factor * np.eye(width, 2)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"h{n}" if n else "x", f"w{n}"], [f"h{n + 1}"]) for n in range(len(weights) - 1)]
        + [helper.make_node("MatMul", [f"h{len(weights) - 1}", f"w{len(weights) - 1}"], ["y"])],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(each.astype(np.float32), f"w{n}") for n, each in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")


def soak(server: Server, ask: Callable[[Client, int], None], models: int, loads: int) -> tuple[int, int]:
    """Resident bytes once some loads are through and all is evicted, and the same after ``loads`` loads.

    Memory goes back to the system once nothing is loaded or closed any more for a second or two.
    """
    process = psutil.Process(server.process.pid)
    with Client(server.url) as client, CacheClient(server.url) as cache:

        def settle(indices: Iterable[int]) -> int:
            for index in indices:
                ask(client, index)
                if index % 3 == 0:
                    evict_all(cache)
            evict_all(cache)
            seen = []
            until = monotonic() + AT_REST_SECONDS
            while monotonic() < until:
                seen.append(int(process.memory_info().rss))
                sleep(0.05)
            return min(seen)

        order = cycle(range(models))
        settled = settle(islice(order, SETTLED))
        while (begun := cache.show()["loads"]) < loads:
            after = settle(islice(order, loads - begun))
        shown = cache.show()
        assert shown["evictions"] == shown["loads"] == loads
        assert shown["memory"]["cpu"]["models_bytes"] == 0
    print(f"{loads} loads: {settled / MIB:.1f} MiB after {SETTLED}, {after / MIB:.1f} MiB at the end")
    return settled, after


def evict_all(cache: CacheClient) -> None:
    """Evict what is loaded."""
    while loaded := cache.show()["loaded"]:
        for each in loaded:
            try:
                cache.evict(each["name"], each["version"])
            except Conflict:  # its last request is just being answered
                continue


def budget_of(serve: Callable[..., Server], repository: Path, first: Callable[[Client, int], None], room: int) -> str:
    """A budget with some room for models besides what the server itself takes once a model was loaded."""
    server = serve(repository, "--load", "on_demand", "--allow-code")
    with Client(server.url) as client, CacheClient(server.url) as cache:
        first(client, 0)
        evict_all(cache)
        used: int = cache.show()["memory"]["cpu"]["used_bytes"]
    server.stop()
    return str(used + room)


def test_a_thousand_loads_of_onnx_models(tmp_path: Path, serve: Callable[..., Server]) -> None:
    for index in range(16):
        write_layers(tmp_path / f"m{index}" / "1", 1 + index % 4, float(index))

    def ask(client: Client, index: int) -> None:
        answer = client.predict(f"m{index}", {"x": np.ones((1, 2), np.float32)})["y"]
        assert answer.tolist() == [[index, index]]

    limit = budget_of(serve, tmp_path, ask, 64 * MIB)
    server = serve(tmp_path, "--load", "on_demand", "--memory-budget", limit)
    settled, after = soak(server, ask, 16, 1000)
    assert after < 1.05 * settled


def test_loads_in_processes_of_their_own(tmp_path: Path, serve: Callable[..., Server]) -> None:
    for index in range(3):
        folder = tmp_path / f"m{index}" / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(PLUS_ONE)
        (folder.parent / "model.yaml").write_text("isolation: process\n")

    def ask(client: Client, index: int) -> None:
        assert client.predict(f"m{index}", {"x": index})["output"].tolist() == [index + 1]

    limit = budget_of(serve, tmp_path, ask, 64 * MIB)
    server = serve(tmp_path, "--load", "on_demand", "--memory-budget", limit, "--allow-code")
    settled, after = soak(server, ask, 3, 100)
    assert after < 1.05 * settled
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) <= 1, [child.cmdline() for child in children]  # the fork server


def test_loads_of_torchscript_models(tmp_path: Path, serve: Callable[..., Server]) -> None:
    torch = pytest.importorskip("torch")
    for index in range(4):
        folder = tmp_path / f"m{index}" / "1"
        folder.mkdir(parents=True)
        model = torch.nn.Sequential(torch.nn.Linear(2, 512), *[torch.nn.Linear(512, 512)] * 2, torch.nn.Linear(512, 2))
        torch.jit.script(model.eval()).save(str(folder / "model.pt"))
        (folder.parent / "model.yaml").write_text(
            "inputs: [{name: input, datatype: FP32, shape: [-1, 2]}]\n"
            "outputs: [{name: y, datatype: FP32, shape: [-1, 2]}]\n"
        )

    def ask(client: Client, index: int) -> None:
        assert client.predict(f"m{index}", {"input": np.ones((1, 2), np.float32)})["y"].shape == (1, 2)

    limit = budget_of(serve, tmp_path, ask, 64 * MIB)
    server = serve(tmp_path, "--load", "on_demand", "--memory-budget", limit)
    settled, after = soak(server, ask, 4, 200)
    assert after < 1.05 * settled
