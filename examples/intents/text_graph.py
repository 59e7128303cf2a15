"""Writes a classifier as an ONNX model that takes texts and gives labels: no code is needed where it is served.

    text -> lower case -> words -> numbers -> embeddings -> mean -> layers -> softmax -> label, confidence

All is standard ONNX but ``Tokenizer``, which ONNX Runtime brings along.
"""

from __future__ import annotations

import numpy as np
from chatbots import WORD
from classifier import Classifier
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

_ML, _RUNTIME = "ai.onnx.ml", "com.microsoft"


def to_onnx(classifier: Classifier) -> bytes:
    """Input ``text`` STRING [batch]; outputs ``intent`` STRING [batch] and ``confidence`` FP32 [batch]."""
    weights = {
        "embeddings": classifier.embeddings,
        "zero": np.array(0),
        "one": np.ones(1, np.float32),
        "axis": np.array([1]),
    }
    for index, (weight, bias) in enumerate(classifier.layers):
        weights |= {f"weight_{index}": weight, f"bias_{index}": bias}
    graph = helper.make_graph(
        [*_words(classifier), *_mean(), *_layers(len(classifier.layers)), *_answer(classifier)],
        "intents",
        inputs=[helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        outputs=[
            helper.make_tensor_value_info("intent", TensorProto.STRING, ["batch"]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["batch"]),
        ],
        initializer=[numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_ML, 4), helper.make_opsetid(_RUNTIME, 1)]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _words(classifier: Classifier) -> list[NodeProto]:
    """Numbers of the words [batch, words]; 0 where a text is shorter than others, and for unknown words."""
    numbers = range(1, len(classifier.vocabulary) + 1)
    return [
        helper.make_node("StringNormalizer", ["text"], ["lower"], case_change_action="LOWER", locale="C"),
        helper.make_node(
            "Tokenizer", ["lower"], ["words"], domain=_RUNTIME, mark=0, mincharnum=1, pad_value="", tokenexp=WORD
        ),
        helper.make_node(
            "LabelEncoder",
            ["words"],
            ["numbers"],
            domain=_ML,
            keys_strings=classifier.vocabulary,
            values_int64s=list(numbers),
            default_int64=0,
        ),
    ]


def _mean() -> list[NodeProto]:
    """The mean embedding of the known words [batch, width]; zero where there is none."""
    return [
        helper.make_node("Gather", ["embeddings", "numbers"], ["embedded"]),
        helper.make_node("ReduceSum", ["embedded", "axis"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["numbers", "zero"], ["is_known"]),
        helper.make_node("Cast", ["is_known"], ["known"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["known", "axis"], ["known_count"], keepdims=1),
        helper.make_node("Max", ["known_count", "one"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], ["layer_0"]),
    ]


def _layers(count: int) -> list[NodeProto]:
    nodes = []
    for index in range(count):
        inputs = [f"layer_{index}", f"weight_{index}", f"bias_{index}"]
        nodes.append(helper.make_node("Gemm", inputs, [f"sum_{index}"], transB=1))
        last = index == count - 1
        activation = ("Softmax", "probabilities") if last else ("Relu", f"layer_{index + 1}")
        nodes.append(helper.make_node(activation[0], [f"sum_{index}"], [activation[1]]))
    return nodes


def _answer(classifier: Classifier) -> list[NodeProto]:
    return [
        helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder",
            ["index"],
            ["intent"],
            domain=_ML,
            keys_int64s=list(range(len(classifier.labels))),
            values_strings=classifier.labels,
        ),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
    ]
