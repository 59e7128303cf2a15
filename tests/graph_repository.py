"""A repository with small models and graphs of them, for tests over real engines and servers."""

from __future__ import annotations

from pathlib import Path

from small_models import onnx_bytes

SLOW = """
import asyncio
import numpy as np

class Model:
    async def predict(self, x: np.ndarray) -> dict:
        await asyncio.sleep(0.05)
        return {"y": x}
"""

WORDS = """
class Model:
    def predict(self, text: str):
        for word in text.split():
            yield {"word": word}
"""

HOSTILE = """
import time
import numpy as np

class Model:
    def predict(self, x: np.ndarray, parameters: dict) -> dict:
        how = parameters.get("how", "")
        if how == "fail":
            raise RuntimeError("nothing works")
        if how == "hang":
            time.sleep(60)
        if how == "text":
            return {"y": np.array(["not", "a number"])}
        if how == "nothing":
            return {}
        if how == "huge":
            return {"y": np.zeros(64 * 1024**2 // 4, np.float32)}
        return {"y": x}
"""

CHAIN = """
description: twice twice
inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
outputs: [{name: y, from: second.y}]
steps:
- {name: first, model: double, inputs: {x: inputs.x}}
- {name: second, model: double, inputs: {x: first.y}}
"""

DIAMOND = """
inputs: [{name: x, datatype: FP32, shape: [2]}]
outputs: [{name: total, from: sum.total}]
steps:
- {name: left, model: slow, inputs: {x: inputs.x}}
- {name: right, model: slow, inputs: {x: inputs.x}}
- {name: sum, function: "steps.py:add", inputs: {a: left.y, b: right.y}}
"""

STEPS = """
import numpy as np

def add(a: np.ndarray, b: np.ndarray) -> dict:
    return {"total": a + b}

def bad(x: np.ndarray, parameters: dict) -> dict:
    raise ValueError("a function's own fault")
"""

OUTER = """
inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
outputs: [{name: y, from: chain.y}]
steps:
- {name: chain, model: chain, inputs: {x: inputs.x}}
"""

STREAM = """
inputs: [{name: text, datatype: BYTES, shape: [1]}]
outputs: [{name: word, from: words.word}]
steps:
- {name: words, model: words, inputs: {text: inputs.text}}
"""

GUARDED = """
max_step_bytes: 32MiB
inputs: [{name: x}]
outputs: [{name: y, from: s.y}]
steps:
- {name: s, model: hostile, inputs: {x: inputs.x}, parameters: {how: $how}, timeout: 5s}
- {name: unused, model: double, inputs: {x: {value: [[1.0, 2.0]]}}, after: [s], optional: true}
"""


def write_model(folder: Path, name: str, code: str, *, yaml: str = "", version: str = "1") -> None:
    """A Python model."""
    path = folder / name / version / "model.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    if yaml:
        (folder / name / "model.yaml").write_text(yaml)


def write_graph(folder: Path, name: str, text: str, *, steps: str = "", version: str = "1") -> None:
    """A graph, with functions of its own where ``steps`` has some."""
    path = folder / name / version / "graph.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if steps:
        path.with_name("steps.py").write_text(steps)


def write_onnx(folder: Path, name: str, factor: float, *, version: str = "1") -> None:
    """x (FP32, [-1, 2]) -> y = factor * x."""
    path = folder / name / version / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(onnx_bytes(factor))


def write_all(folder: Path) -> None:
    """double, slow, words, hostile; chain, diamond, outer, stream, guarded."""
    write_onnx(folder, "double", 2.0)
    write_model(folder, "slow", SLOW)
    write_model(folder, "words", WORDS)
    write_model(folder, "hostile", HOSTILE, yaml="isolation: process\ninstances: 2\n")
    write_graph(folder, "chain", CHAIN)
    write_graph(folder, "diamond", DIAMOND, steps=STEPS)
    write_graph(folder, "outer", OUTER)
    write_graph(folder, "stream", STREAM)
    write_graph(folder, "guarded", GUARDED.replace("- {name: unused", "# - {name: unused"))
