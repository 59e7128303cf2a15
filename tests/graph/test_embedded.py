"""`salver.load` of a graph: its models come with it, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from graph_repository import (
    CHAIN,
    DIAMOND,
    OUTER,
    SLOW,
    STEPS,
    STREAM,
    WORDS,
    write_graph,
    write_model,
    write_onnx,
)

import salver
from salver.core.errors import CodeNotAllowed, InvalidConfig, InvalidRequest, ModelUnavailable

pytestmark = pytest.mark.e2e

X = np.array([[1, 2]], np.float32)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_onnx(tmp_path, "double", 2.0)
    write_model(tmp_path, "slow", SLOW)
    write_model(tmp_path, "words", WORDS)
    write_model(tmp_path, "unused", "import pathlib\n\npathlib.Path(__file__).with_name('ran').touch()\n")
    write_graph(tmp_path, "chain", CHAIN)
    write_graph(tmp_path, "diamond", DIAMOND, steps=STEPS)
    write_graph(tmp_path, "outer", OUTER)
    write_graph(tmp_path, "stream", STREAM)
    return tmp_path


def test_a_graph_answers_in_the_callers_process(repository: Path) -> None:
    with salver.load(repository, name="outer") as model:
        assert model.predict({"x": X})["y"].tolist() == [[4, 8]]
        assert model.metadata()["platform"] == "salver_graph"
        with ThreadPoolExecutor(4) as pool:
            assert all(each["y"].tolist() == [[4, 8]] for each in pool.map(model.predict, [{"x": X}] * 20))
        with pytest.raises(InvalidRequest, match="expected shape"):
            model.predict({"x": np.zeros((1, 3), np.float32)})
    with pytest.raises(ModelUnavailable):
        model.predict({"x": X})


async def test_with_functions_streams_and_asyncio(repository: Path) -> None:
    with salver.load(repository, name="diamond", allow_code=True) as model:
        answer = await model.predict_async({"x": X[0]})
        assert answer["total"].tolist() == [2, 4]
    with salver.load(repository, name="stream", allow_code=True) as model:
        assert [part["word"].tolist() for part in model.stream({"text": ["to be"]})] == [["to"], ["be"]]
    assert not (repository / "unused" / "1" / "ran").exists()


def test_what_cannot_be_loaded(repository: Path) -> None:
    with pytest.raises(CodeNotAllowed, match=r"steps\.py:add"):
        salver.load(repository, name="diamond")
    write_graph(repository, "broken", CHAIN.replace("first.y", "frist.y"))
    with pytest.raises(InvalidConfig, match=r"graph\.yaml:\d+: step 'second': there is no step 'frist'"):
        salver.load(repository, name="broken")
    with pytest.raises(InvalidConfig, match="double"):
        salver.load(repository / "chain")
