"""The detector and the reader of texts: PP-OCRv6 (small) of the PaddleOCR project (Apache-2.0), as rapidocr carries it.

Both are changed at their ends, so that little goes from step to step: they take grey pixels as bytes, and the reader
gives the most likely character of each column instead of 18,710 scores.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper


def write_detector(version: Path) -> str:
    """Input ``image`` UINT8 [batch, height, width]; output ``text`` FP32 [batch, 1, height, width].

    ``text`` is how likely each pixel is part of a text, from 0 to 1. Height and width are multiples of 32.
    """
    model = _network("det")
    _take_grey(model.graph, ["batch", "height", "width"])
    output = model.graph.output[0]
    model.graph.node.append(helper.make_node("Identity", [output.name], ["text"]))
    output.CopyFrom(helper.make_tensor_value_info("text", TensorProto.FLOAT, ["batch", 1, "height", "width"]))
    _save(model, version)
    return "finds where text is on a page"


def write_reader(version: Path) -> str:
    """Input ``image`` UINT8 [batch, 48, width]; outputs ``characters`` INT32, ``scores`` FP32 [batch, columns].

    A column, of 8 pixels, is the code point of a character, or 0 for none.
    """
    model = _network("rec")
    names = next(entry.value for entry in model.metadata_props if entry.key == "character").split("\n")
    code_points = np.array([0, *map(ord, names), ord(" ")], dtype=np.int32)
    graph = model.graph
    _take_grey(graph, ["batch", 48, "width"])
    classes = graph.output[0].name
    graph.initializer.append(numpy_helper.from_array(code_points, "code_points"))
    graph.node.extend(
        [
            helper.make_node("ArgMax", [classes], ["best"], axis=2, keepdims=0),
            helper.make_node("Gather", ["code_points", "best"], ["characters"]),
            helper.make_node("ReduceMax", [classes], ["scores"], axes=[2], keepdims=0),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("characters", TensorProto.INT32, ["batch", "columns"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "columns"]),
        ]
    )
    del model.metadata_props[:]
    _save(model, version)
    return f"reads lines of {len(names):,} different characters"


def _take_grey(graph: GraphProto, shape: list[str | int]) -> None:
    """Put before the network what makes three channels from -1 to 1 of grey pixels."""
    pixels = graph.input[0].name
    constants = {"middle": np.float32(127.5), "one": np.float32(1)}
    graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    nodes = [
        helper.make_node("Cast", ["image"], ["as_floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["as_floats", "middle"], ["from_0_to_2"]),
        helper.make_node("Sub", ["from_0_to_2", "one"], ["centred"]),
        helper.make_node("Unsqueeze", ["centred"], ["channel"], axes=[1]),
        helper.make_node("Concat", ["channel"] * 3, [pixels], axis=1),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, shape))


def _network(kind: str) -> ModelProto:
    package = importlib.util.find_spec("rapidocr")
    assert package is not None
    assert package.origin is not None
    models = sorted((Path(package.origin).parent / "models").glob(f"*_{kind}_*.onnx"))
    if len(models) != 1:
        raise FileNotFoundError(f"expected one *_{kind}_*.onnx in the package rapidocr, found {len(models)}")
    return onnx.load(models[0])


def _save(model: ModelProto, version: Path) -> None:
    onnx.checker.check_model(model)
    onnx.save(model, version / "model.onnx")
