"""What is wrong with a graph is told when it is loaded, with the line and the step; what is right has its signature."""

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


def test_the_signature_comes_of_the_models() -> None:
    signature = check(GOOD)
    assert [spec.name for spec in signature.inputs] == ["image", "x", "extra"]
    assert signature.outputs == (tensor("y", "FP32", (-1, 2)),)


@pytest.mark.parametrize(
    ("source", "datatype", "shape"),
    [
        ("{from: s.y, select: [0]}", "FP32", (2,)),
        ("{from: s.y, select: [':', 1]}", "FP32", (-1,)),
        ("{from: s.y, select: [[0, 0, 0], '0:1']}", "FP32", (3, 1)),
        ("{from: s.y, transpose: [1, 0]}", "FP32", (2, -1)),
        ("{from: s.y, reshape: [-1, 1]}", "FP32", (-1, 1)),
        ("{from: s.y, cast: INT32}", "INT32", (-1, 2)),
        ("{concat: [s.y, s.y], axis: 1}", "FP32", (-1, 4)),
        ("{stack: [s.y, s.y]}", "FP32", (2, -1, 2)),
        ("{concat: [s.y, {value: [[1.0, 2.0]]}]}", "FP32", (-1, 2)),
        ("{first: [s.y, inputs.x]}", "FP32", (-1, -1)),
    ],
)
def test_what_sources_give_is_known(source: str, datatype: str, shape: tuple[int, ...]) -> None:
    outputs = f"- {{name: y, {source[1:]}"
    assert check(GOOD, outputs).outputs == (tensor("y", datatype, shape),)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            "- {name: s, model: scorer, inputs: {x: t.y}}\n- {name: t, model: scorer, inputs: {x: s.y}}",
            ["graph.yaml:8: step 's' needs itself: s -> t -> s"],
        ),
        ("- {name: s, model: scorer, inputs: {x: s.y}}", ["graph.yaml:8: step 's' needs itself: s -> s"]),
        (
            "- {name: s, model: scorer, inputs: {x: inputs.y}}",
            ["graph.yaml:8: step 's': there is no input 'y'; valid names are image, x, extra"],
        ),
        (
            "- {name: s, model: scorer, inputs: {x: tt.y}}",
            ["graph.yaml:8: step 's': there is no step 'tt'; valid names are s"],
        ),
        ("- {name: s, model: nobody, inputs: {x: inputs.x}}", ["graph.yaml:8: step 's': there is no model 'nobody'"]),
        (
            "- {name: s, model: scorer}",
            ["graph.yaml:8: step 's': input 'x' is missing (FP32 [-1, 4])"],
        ),
        (
            "- {name: s, model: scorer, inputs: {x: inputs.x, bais: {value: [1.0]}}}",
            ["graph.yaml:8: step 's': there is no input 'bais'; did you mean 'bias'?"],
        ),
        (
            "- {name: s, model: integers, inputs: {x: inputs.x}}",
            ["graph.yaml:8: step 's': input 'x': expected datatype INT64, got FP32; 'cast: INT64' changes it"],
        ),
        (
            "- {name: s, model: scorer, inputs: {x: {from: inputs.x, select: [0]}}}",
            ["graph.yaml:8: step 's': input 'x': expected shape [-1, 4] (-1 is any size), got [4]"],
        ),
        (
            "- {name: s, model: scorer, inputs: {x: {from: inputs.x, reshape: [-1, 5], cast: BYTES}}}",
            [
                "graph.yaml:8: step 's': x: FP32 can't be cast to BYTES; a function can tell what a text stands for",
            ],
        ),
        (
            "- {name: s, model: scorer, inputs: {x: inputs.x}}\n- {name: t, model: scorer, inputs: {x: inputs.x}}",
            ["graph.yaml:9: step 't' is for nothing: no output needs it; leave it out"],
        ),
        (
            "- {name: s, model: scorer, inputs: {x: inputs.x}, when: 'inputs.x > '}",
            ["graph.yaml:8: step 's': 'inputs.x > ' is no condition: invalid syntax at character 1"],
        ),
        (
            "- {name: s, model: scorer, inputs: {x: inputs.x}, after: [later]}",
            ["graph.yaml:8: step 's': 'after' names 'later', and there is no such step"],
        ),
        (
            "- {name: s, values: {y: item.z}}",
            ["graph.yaml:8: step 's': 'item.z': only a map's step has items"],
        ),
        (
            "- {name: s, model: scorer, inputs: {x: inputs.x}, outputs: {y: yy}}",
            ["graph.yaml:8: step 's': there is no output 'yy'; did you mean 'y'?"],
        ),
        (
            "- {name: s, ensemble: {members: [{model: detector, inputs: {image: inputs.image}}, "
            "{model: scorer, inputs: {x: inputs.x}}]}}",
            ["graph.yaml:8: step 's': its members have no output in common (s: boxes; s: y)"],
        ),
        (
            "- {name: s, map: {over: {x: {from: extra_, select: [0]}}, step: {values: {y: item.x}}}}",
            ["graph.yaml:8: step 's': 'extra_' is no tensor; write STEP.OUTPUT or inputs.NAME"],
        ),
        (
            "- {name: a, answer: {z: inputs.x}, when: 'inputs.x[0, 0] > 1'}\n" + GOOD,
            [
                "graph.yaml:8: step 'a': the graph has no output 'z'; valid names are y",
                "graph.yaml:8: step 'a': output 'y' of the graph isn't given, and isn't optional",
            ],
        ),
        (
            "- {name: s, map: {over: {x: inputs.x}, step: {answer: {y: item.x}}}}",
            ["graph.yaml:8: step 's/answer': an 'answer' can't stand in a map, where each item would have one"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(steps: str, expected: list[str]) -> None:
    found = problems(steps)
    for line in expected:
        assert line in found, found


MISSING = (
    "output 'y' may be missing, since a step may not run; set 'optional: true', or give another one with 'first: [...]'"
)


@pytest.mark.parametrize(
    "steps",
    [
        "- {name: s, model: scorer, inputs: {x: inputs.x}, when: 'inputs.x[0, 0] > 1'}",
        "- {name: s, model: scorer, inputs: {x: inputs.x}, optional: true}",
        "- {name: t, model: scorer, inputs: {x: inputs.x}, optional: true}\n- {name: s, values: {y: t.y}}",
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', model: scorer, inputs: {x: inputs.x}}]}",
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', values: {y: inputs.x}}, {values: {z: inputs.x}}]}",
        "- {name: s, values: {y: {parameter: level}}}",
        "- {name: s, model: scorer, inputs: {x: inputs.x}, fallback: {values: {z: 1.0}}}",
    ],
)
def test_outputs_that_some_way_leaves_missing(steps: str) -> None:
    assert [line.partition(": ")[2] for line in problems(steps)] == [MISSING]
    assert check(steps, "- {name: y, from: s.y, optional: true}").outputs[0].optional


@pytest.mark.parametrize(
    "steps",
    [
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', model: scorer, inputs: {x: inputs.x}}, "
        "{values: {y: inputs.x}}]}",
        "- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', answer: {y: inputs.x}}, {values: {y: inputs.x}}]}",
        "- {name: s, model: scorer, inputs: {x: inputs.x, bias: inputs.extra}}",
        "- {name: s, model: scorer, inputs: {x: inputs.x}, fallback: {values: {y: [[1.0, 2.0]]}}}",
        "- {name: t, model: scorer, inputs: {x: inputs.x}, when: 'has(inputs.extra) and inputs.extra > 0'}\n"
        "- {name: s, values: {y: {first: [t.y, inputs.x]}}}",
        "- {name: s, model: silent, inputs: {x: inputs.x}}",
    ],
)
def test_ways_that_always_give_an_output(steps: str) -> None:
    assert not check(steps).outputs[0].optional


def test_a_condition_on_what_may_be_missing_has_to_ask_first() -> None:
    (line,) = problems(GOOD.replace("}}", "}, when: 'inputs.extra > 0'}"), "- {name: y, from: s.y, optional: true}")
    assert line == (
        "graph.yaml:8: step 's': condition 'inputs.extra > 0': 'inputs.extra' may be missing; ask "
        "'has(inputs.extra) and ...' first"
    )


def test_items_of_maps_are_typed() -> None:
    steps = """
    - {name: found, model: detector, inputs: {image: inputs.image}}
    - {name: s, map: {over: {box: found.boxes}, step: {model: reader, inputs: {box: item.box}}}}
    """
    outputs = "- {name: text, from: s.text}\n- {name: score, from: s.score}"
    assert check(steps, outputs).outputs == (tensor("text", "BYTES", (-1, 1)), tensor("score", "FP32", (-1, 1)))
    chunks = steps.replace("over:", "rows: 8, over:").replace("reader, inputs: {box", "scorer, inputs: {x")
    assert check(chunks, "- {name: y, from: s.y}").outputs == (tensor("y", "FP32", (-1, 2)),)
    wrong = steps.replace("over:", "rows: 8, over:")
    assert (
        "step 's/model': input 'box': expected shape [4] (-1 is any size), got [-1, 4]" in problems(wrong, outputs)[0]
    )


def test_lines_of_steps_inside_others() -> None:
    steps = """
    - name: s
      switch:
      - when: inputs.x[0, 0] > 1
        model: scorer
        inputs:
          x: inputs.image
      - graph:
          outputs:
          - {name: y, from: t.y}
          steps:
          - name: t
            model: integers
            inputs: {x: inputs.it}
        inputs: {it: inputs.x}
    """
    assert problems(steps) == [
        "graph.yaml:14: step 's/scorer': input 'x': expected datatype FP32, got UINT8; 'cast: FP32' changes it",
        "graph.yaml:21: step 's/2/t': input 'x': expected datatype INT64, got FP32; 'cast: INT64' changes it",
    ]


def test_ensembles() -> None:
    members = "members: [{model: scorer, inputs: {x: inputs.x}}, {model: scorer, inputs: {x: inputs.x}}]"
    assert check(f"- {{name: s, ensemble: {{{members}}}}}").outputs == (tensor("y", "FP32", (-1, 2)),)
    function = f"- {{name: s, ensemble: {{{members}, combine: {{function: 'steps.py:merge'}}}}}}"
    assert check(function, "- {name: y, from: s.merged}").outputs == (tensor("y", "FP32", (-1,)),)
    texts = members.replace("model: scorer, inputs: {x: inputs.x}", "values: {y: {value: a}}")
    (line,) = problems(f"- {{name: s, ensemble: {{{texts}}}}}")
    assert line.endswith("output 'y' is text, which has no mean; use 'combine: vote'")


def test_declared_parameters_are_always_there() -> None:
    steps = "- {name: s, values: {y: {parameter: level}}}"
    assert check(steps, head="parameters: {level: 3}\n" + HEAD).outputs == (tensor("y", "INT64", ()),)
