"""Models, functions and the check of graphs over them."""

from __future__ import annotations

import textwrap

import pytest

from salver.config.document import parse_document
from salver.core.errors import InvalidConfig, UnknownModel
from salver.core.signature import Signature, TensorSpec
from salver.graph.check import check_graph
from salver.graph.spec import GraphConfig, ModelReference


def tensor(name: str, datatype: str | None, shape: tuple[int, ...] | None, *, optional: bool = False) -> TensorSpec:
    return TensorSpec(name, datatype, shape, optional)


MODELS = {
    "detector": Signature((tensor("image", "UINT8", (-1, -1, 3)),), (tensor("boxes", "FP32", (-1, 4)),)),
    "reader": Signature((tensor("box", "FP32", (4,)),), (tensor("text", "BYTES", (1,)), tensor("score", "FP32", (1,)))),
    "scorer": Signature((tensor("x", "FP32", (-1, 4)), tensor("bias", "FP32", (1,), optional=True)),
                        (tensor("y", "FP32", (-1, 2)),), batched=True),
    "integers": Signature((tensor("x", "INT64", (-1, 4)),), (tensor("y", "INT64", (-1, 2)),)),
    "pairs": Signature((tensor("a", "FP32", (-1,)), tensor("b", "FP32", (-1,))), (tensor("y", "FP32", (-1,)),),
                       batched=True),
    "silent": Signature((tensor("x", None, None),), ()),
}  # fmt: skip
FUNCTIONS = {
    "steps.py:merge": Signature((tensor("y", None, None),), (tensor("merged", "FP32", (-1,)),)),
}

HEAD = """\
inputs:
- {name: image, datatype: UINT8, shape: [-1, -1, 3]}
- {name: x, datatype: FP32, shape: [-1, 4]}
- {name: extra, datatype: FP32, shape: [1], optional: true}
"""


def check(steps: str, outputs: str = "- {name: y, from: s.y}", *, head: str = HEAD) -> Signature:
    text = f"{head}outputs:\n{textwrap.dedent(outputs)}\nsteps:\n{textwrap.dedent(steps)}"
    document = parse_document(text.encode(), "graph.yaml")

    def signature_of(model: ModelReference) -> Signature:
        if model.name not in MODELS:
            raise UnknownModel(f"there is no model '{model.name}'")
        return MODELS[model.name]

    return check_graph(
        GraphConfig.model_validate(document.data),
        signature_of=signature_of,
        function_signature=FUNCTIONS.__getitem__,
        place=document.place,
    )


def problems(steps: str, outputs: str = "- {name: y, from: s.y}", *, head: str = HEAD) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        check(steps, outputs, head=head)
    return str(caught.value).splitlines()


GOOD = "- {name: s, model: scorer, inputs: {x: inputs.x}}"
