"""What graphs cost: a step more, steps side by side, and the loan example under load.

1. *Steps*: a chain of 1, 5 and 20 steps that each ask a tiny ONNX model, against asking that model as often, straight,
   in the same process. No network: what is left is the graph's own cost.
2. *Side by side*: two steps of 20 ms that don't need each other, against one of them.
3. *Loan*: 64 clients ask ``examples/loan``, against 64 clients that ask its slowest step alone, with what that step was
   asked by the graph. In one process, over the engine.

Rounds of both kinds take turns, and medians are compared.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx
import uvloop
from command import Results, run
from graph_loan import measure_loan
from onnx import TensorProto, helper
from report import Figure, Wanted

from salver.assembly import build_engine
from salver.config import ServerSettings
from salver.core.request import InferenceRequest
from salver.engine import Engine

LENGTHS = (1, 5, 20)

SLOW = """
import asyncio
import numpy as np

class Model:
    async def predict(self, x: np.ndarray) -> dict:
        await asyncio.sleep(0.02)
        return {"y": x}
"""

DIAMOND = """
inputs: [{name: x}]
outputs: [{name: y, from: left.y}, {name: z, from: right.y}]
steps:
- {name: left, model: slow, inputs: {x: inputs.x}}
- {name: right, model: slow, inputs: {x: inputs.x}}
"""


def identity_model() -> bytes:
    """x (FP32, [-1, 16]) -> y, the same."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def chain(length: int) -> str:
    """A graph of so many steps, one after the other."""
    steps = [
        f"- {{name: s{number}, model: identity, inputs: {{x: {'inputs.x' if number == 1 else f's{number - 1}.y'}}}}}"
        for number in range(1, length + 1)
    ]
    head = (
        f"inputs: [{{name: x, datatype: FP32, shape: [-1, 16]}}]\noutputs: [{{name: y, from: s{length}.y}}]\nsteps:\n"
    )
    return head + "\n".join(steps)


def write_repository(folder: Path) -> None:
    """The models and graphs of the first two parts."""
    files = {
        "identity/1/model.onnx": identity_model(),
        "slow/1/model.py": SLOW.encode(),
        "diamond/1/graph.yaml": DIAMOND.encode(),
    }
    files |= {f"chain{length}/1/graph.yaml": chain(length).encode() for length in LENGTHS}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@asynccontextmanager
async def engine_over(folder: Path) -> AsyncIterator[Engine]:
    """An engine over a repository."""
    engine = build_engine(ServerSettings(repository=folder, allow_code=True))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def time_rounds(works: list[Callable[[], Awaitable[object]]], *, times: int, rounds: int) -> list[list[float]]:
    """Seconds of one call of each work: a list of rounds each, in which the works took turns."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds + 1):  # the first isn't counted
        for work, seconds in zip(works, taken, strict=True):
            begun = perf_counter()
            for _ in range(times):
                await work()
            seconds.append((perf_counter() - begun) / times)
    return [seconds[1:] for seconds in taken]


def ask(engine: Engine, model: str, x: np.ndarray) -> Callable[[], Awaitable[object]]:
    """Asks a model once."""
    return lambda: engine.predict(InferenceRequest(model, "", {"x": x}))


def measure_steps(quick: bool, results: Results) -> None:
    """The first part."""

    async def measure() -> dict[int, float]:
        x = np.zeros((1, 16), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            write_repository(Path(folder))
            async with engine_over(Path(folder)) as engine:

                def straight(length: int) -> Callable[[], Awaitable[object]]:
                    async def work() -> None:
                        for _ in range(length):
                            await engine.predict(InferenceRequest("identity", "", {"x": x}))

                    return work

                works = [work for length in LENGTHS for work in (straight(length), ask(engine, f"chain{length}", x))]
                taken = await time_rounds(works, times=100 if quick else 500, rounds=7 if quick else 21)
        costs = {0: median(taken[0])}
        for index, length in enumerate(LENGTHS):
            pairs = zip(taken[2 * index], taken[2 * index + 1], strict=True)
            costs[length] = median(graph - models for models, graph in pairs) / length
        return costs

    costs = uvloop.run(measure())
    figures = [Figure("graph/model", "asking the model, straight", costs.pop(0) * 1e6, "us")]
    figures += [
        Figure(f"graph/step/{length}", f"a graph of {length}: more than straight, a step", cost * 1e6, "us")
        for length, cost in costs.items()
    ]
    results.add_figures("What a step costs", figures)


def measure_side_by_side(quick: bool, results: Results) -> None:
    """The second part."""

    async def measure() -> tuple[float, float]:
        x = np.zeros((1, 16), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            write_repository(Path(folder))
            async with engine_over(Path(folder)) as engine:
                works = [ask(engine, "slow", x), ask(engine, "diamond", x)]
                alone, both = await time_rounds(works, times=5, rounds=5 if quick else 15)
        return median(alone), median(both)

    alone, both = uvloop.run(measure())
    results.add_figures(
        "Two steps of 20 ms that don't need each other",
        [
            Figure("graph/one", "one of them, alone", alone * 1e3, "ms"),
            Figure("graph/two", "a graph of both", both * 1e3, "ms"),
            Figure("graph/two_over_one", "both over one", both / alone, "times", Wanted(1.1, at_least=False)),
        ],
    )


if __name__ == "__main__":
    sys.exit(
        run(
            "graph",
            "What graphs cost: a step more, steps side by side, and the loan example under load.",
            {"steps": measure_steps, "side_by_side": measure_side_by_side, "loan": measure_loan},
        )
    )
