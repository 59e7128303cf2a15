"""Graphs in a model store: checked against its models when they come, and guarded from changes of those."""

from __future__ import annotations

from pathlib import Path

import pytest
from asgi import call
from gates import until
from graph_repository import CHAIN, DIAMOND, STEPS, write_graph, write_model, write_onnx
from model_stores import management_app, open_store, push, push_ready, settled

from salver.core.registry import ModelVersion, VersionState
from salver.store.artifacts.describe import describe

pytestmark = pytest.mark.e2e

TEXT = "class Model:\n    def predict(self, text: str) -> str:\n        return text\n"


async def test_a_graph_is_checked_against_registered_models(tmp_path: Path) -> None:
    write_onnx(tmp_path, "double", 2.0)
    write_graph(tmp_path, "chain", CHAIN)
    async with open_store(tmp_path / "store", poll_seconds=0.02) as store:
        app = management_app(store)
        await push(app, "chain", tmp_path / "chain" / "1")
        early = await settled(app, "chain", "1")
        assert early["state"] == "FAILED"
        assert "model 'double' isn't registered, or not READY; push it first" in early["reason"]
        await push_ready(app, "double", tmp_path / "double" / "1")
        (tmp_path / "chain" / "1" / "graph.yaml").write_text(CHAIN + "# again\n")
        graph = await push_ready(app, "chain", tmp_path / "chain" / "1")
        assert (graph["version"], graph["runtime"]) == ("2", "graph")
        signature = store.registry.get("chain", "2").signature
        assert signature is not None
        assert [(each.name, each.datatype, each.shape) for each in signature.outputs] == [("y", "FP32", (-1, 2))]


async def test_a_version_or_an_alias_that_would_break_a_graph_is_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path, "double", 2.0)
    write_model(tmp_path, "other", TEXT)
    write_graph(tmp_path, "chain", CHAIN)
    write_graph(tmp_path, "named", CHAIN.replace("model: double", "model: double@best"))
    async with open_store(tmp_path / "store", poll_seconds=0.02, allow_code=True) as store:
        app = management_app(store)
        await push_ready(app, "double", tmp_path / "double" / "1")
        await push_ready(app, "chain", tmp_path / "chain" / "1")
        await push(app, "double", tmp_path / "other" / "1")
        refused = await settled(app, "double", "2")
        assert refused["state"] == "FAILED"
        assert "it would break graph 'chain' version 1, which asks 'double'" in refused["reason"]
        assert "step 'first'" in refused["reason"]
        # Nobody follows the newest version any more, but for an alias.
        await call(app, "DELETE", "/api/v1/models/chain/versions/1")
        assert (await call(app, "PUT", "/api/v1/models/double/aliases/best", {"version": "1"})).status == 200
        await push_ready(app, "named", tmp_path / "named" / "1")
        (tmp_path / "other" / "1" / "more.txt").write_text("other files")
        await push_ready(app, "double", tmp_path / "other" / "1")
        answer = await call(app, "PUT", "/api/v1/models/double/aliases/best", {"version": "3"})
        assert answer.status == 409
        assert "it would break graph 'named' version 1" in answer.json()["error"]
        assert store.registry.resolve("double", "@best").version == "1"


async def test_a_graph_s_functions_are_looked_at_in_processes_of_their_own(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", "import numpy as np\nclass Model:\n    def predict(self, x: np.ndarray) -> dict:\n"
                "        return {'y': x}\n")  # fmt: skip
    write_graph(tmp_path, "diamond", DIAMOND, steps=STEPS)
    write_graph(tmp_path, "ends", DIAMOND, steps="import os\nos._exit(3)\n")
    async with open_store(tmp_path / "store", poll_seconds=0.02, allow_code=True) as store:
        app = management_app(store)
        await push_ready(app, "slow", tmp_path / "slow" / "1")
        await push_ready(app, "diamond", tmp_path / "diamond" / "1")
        await push(app, "ends", tmp_path / "ends" / "1")
        assert (await settled(app, "ends", "1"))["state"] == "FAILED"
    async with open_store(tmp_path / "careful", poll_seconds=0.02) as store:
        app = management_app(store)
        await push(app, "diamond", tmp_path / "diamond" / "1")
        found = await settled(app, "diamond", "1")
        assert "--allow-code" in found["reason"]


async def test_a_model_that_a_graph_needs_isn_t_deleted(tmp_path: Path) -> None:
    write_onnx(tmp_path, "double", 2.0)
    write_onnx(tmp_path, "double", 3.0, version="2")
    write_graph(tmp_path, "chain", CHAIN)
    async with open_store(tmp_path / "store", poll_seconds=0.02) as store:
        app = management_app(store)
        for version in ("1", "2"):
            await push_ready(app, "double", tmp_path / "double" / version)
        await push_ready(app, "chain", tmp_path / "chain" / "1")
        # The graph asks the newest one, and version 1 would do.
        assert (await call(app, "DELETE", "/api/v1/models/double/versions/2")).status == 200
        for path in ("/api/v1/models/double/versions/1", "/api/v1/models/double"):
            refused = await call(app, "DELETE", path)
            assert refused.status == 409
            assert "graph 'chain' version 1 asks model 'double', and would break" in refused.json()["error"]
        forced = await call(app, "DELETE", "/api/v1/models/double", query="force=true")
        assert forced.status == 200
        assert (await call(app, "DELETE", "/api/v1/models/chain")).status == 200


async def test_a_graph_that_would_ask_itself_is_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path, "double", 2.0)
    write_graph(tmp_path, "chain", CHAIN)
    write_graph(tmp_path, "around", CHAIN.replace("model: double", "model: chain"))
    write_graph(tmp_path, "named", CHAIN.replace("model: double", "model: double@best"))
    async with open_store(tmp_path / "store", poll_seconds=0.02) as store:
        app = management_app(store)
        await push_ready(app, "double", tmp_path / "double" / "1")
        await push_ready(app, "chain", tmp_path / "chain" / "1")
        await push(app, "double", tmp_path / "around" / "1")
        refused = await settled(app, "double", "2")
        assert "the graph would ask itself: double -> chain -> double" in refused["reason"]
        # Neither does an alias lead a graph to itself.
        assert (await call(app, "PUT", "/api/v1/models/double/aliases/best", {"version": "1"})).status == 200
        await push_ready(app, "named", tmp_path / "named" / "1")
        (tmp_path / "around" / "1" / "graph.yaml").write_text(CHAIN.replace("model: double", "model: named"))
        await push(app, "double", tmp_path / "around" / "1", version="0")  # not the newest
        assert (await settled(app, "double", "0"))["state"] == "READY"
        answer = await call(app, "PUT", "/api/v1/models/double/aliases/best", {"version": "0"})
        assert answer.status == 409
        assert "would ask itself: double -> named -> double" in answer.json()["error"]


async def test_a_graph_waits_for_a_model_that_is_still_to_be_probed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where another server probes it; graphs that come at once and ask each other don't wait for each other."""
    write_onnx(tmp_path, "double", 2.0)
    write_graph(tmp_path, "chain", CHAIN)
    write_graph(tmp_path, "a", CHAIN.replace("model: double", "model: b"))
    write_graph(tmp_path, "b", CHAIN.replace("model: double", "model: a"))
    async with open_store(tmp_path / "store", poll_seconds=0.02, claim_seconds=0.5) as store:
        app = management_app(store)
        files = describe(tmp_path / "double" / "1")
        for file in files.files:
            store.artifacts.put_blob(tmp_path / "double" / "1" / file.path, file)
        store.artifacts.put_manifest(files)
        store.registry.register(ModelVersion("double", "1", files.digest, files.size), actor="test")
        assert store.registry.claim("double", "1", node="another", seconds=3600.0)
        await push(app, "chain", tmp_path / "chain" / "1")
        await until(lambda: "can't be probed now: model 'double'" in caplog.text)
        assert store.registry.get("chain", "1").state is VersionState.PENDING
        assert store.registry.claim("double", "1", node="another", seconds=0.0)  # it gives up
        assert (await settled(app, "chain", "1"))["state"] == "READY"
        for name in ("a", "b"):
            await push(app, name, tmp_path / name / "1")
        for name in ("a", "b"):
            assert (await settled(app, name, "1"))["state"] == "FAILED"
