"""What is wrong with a graph is told when it is loaded, with the line and the step; what is right has its signature."""

from __future__ import annotations

import time

import pytest
from graph_checks import GOOD, HEAD, check, problems, tensor


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
            ["graph.yaml:8: step 's': its members have no output in common (1: boxes; 2: y)"],
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


def both(one: str, other: str, more: str = "") -> str:
    return f"- {{name: s, ensemble: {{members: [{{name: a, values: {one}}}, {{name: b, values: {other}}}]{more}}}}}"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("- {name: s, values: {y: parameters.level}}",
         "step 's': 'parameters.level' is no tensor; write {parameter: level}"),
        ("- {name: a, when: 'inputs.x[0, 0] > 1', answer: {y: inputs.x}}\n- {name: s, values: {y: a.y}}",
         "step 's': step 'a' answers for the graph, and gives other steps nothing"),
        ("- {name: a, when: 'inputs.x[0, 0] > 1', answer: {y: inputs.x}, fallback: {values: {y: nope.y}}}\n" + GOOD,
         "step 'a': there is no step 'nope'; valid names are a, s"),
        ("- {name: a, when: 'inputs.x[0, 0] > 1', answer: {y: inputs.x}, outputs: [y]}\n" + GOOD,
         "step 'a': it answers for the graph, and has no outputs of its own"),
        ("- {name: a, when: 'inputs.x[0, 0] > 1', answer: {y: 0}}\n" + GOOD,
         "step 'a': output 'y': expected datatype FP32, as otherwise, got INT64"),
        ("- {name: a, when: 'inputs.x[0, 0] > 1', answer: {y: 0.0}}\n" + GOOD,
         "step 'a': output 'y': expected as many dimensions as otherwise, [-1, 2], got []"),
        (GOOD[:-1] + ", fallback: {values: {y: [[0, 1]]}}}",
         "step 's': its fallback for output 'y': expected datatype FP32, as otherwise, got INT64"),
        (GOOD[:-1].replace("{x: inputs.x}", "{x: {from: inputs.x, select: ['0:1']}}") + ", after: [t]}\n"
         "- {name: t, model: scorer, inputs: {x: {value: [[1.0, 1.0, 1.0, 1.0]]}, bias: {value: [1.0, 1.0]}}}",
         "step 't': input 'bias': expected shape [1] (-1 is any size), got [2]"),
        ("- {name: s, model: pairs, inputs: {a: {value: [1.0]}, b: {value: [1.0, 2.0]}}}",
         "step 's': its inputs share the batch dimension, and differ in it: 'a' has 1, 'b' has 2"),
        (both("{y: [1.0, 2.0]}", "{y: [1.0]}"),
         "step 's': its members give output 'y' in different shapes, [2] and [1]"),
        (both("{y: {value: [a]}}", "{y: [1]}", ", combine: vote"),
         "step 's': its members give output 'y' as texts and as numbers (BYTES, INT64)"),
        (both("{y: {value: 1.0, datatype: FP16}}", "{y: {value: 1.0, datatype: BF16}}"),
         "step 's': its members give output 'y' in datatypes that no other holds: FP16, BF16"),
        (both("{y: 1.0, z: 1.0}", "{y: 1.0, z: 1.0}", ", combine: {function: 'steps.py:merge'}"),
         "step 's': steps.py:merge takes no 'z', which its members give; name what it takes in the 'outputs' of each"),
        (both("{z: 1.0}", "{z: 1.0}", ", combine: {function: 'steps.py:merge'}"),
         "step 's': steps.py:merge takes 'y', which its members don't give"),
        (both("{y: 1.0}", "{y: 2.0}", ", combine: collect").replace("name: b", "name: a"),
         "step 's': two of its members have one name, and 'combine: collect' tells their outputs by it"),
        ("- {name: s, map: {over: {a: {value: [1, 2]}, b: {value: [1, 2, 3]}}, step: {values: {y: item.a}}}}",
         "step 's': its lists differ in length: 'a' has 2, 'b' has 3"),
        ("- {name: s, map: {over: {a: {value: [1, 2]}}, max_items: 1, step: {values: {y: item.a}}}}",
         "step 's': it goes over 2 items, and its max_items is 1"),
        ("- {name: s, switch: [{when: 'inputs.x[0, 0] > 1', after: [s], values: {y: inputs.x}}]}",
         "step 's': 'after' is for a graph's own steps; set it at 's' itself"),
    ],
)  # fmt: skip
def test_what_would_go_wrong_in_a_request_is_told_before(steps: str, expected: str) -> None:
    assert f"graph.yaml:8: {expected}" in problems(steps) or f"graph.yaml:9: {expected}" in problems(steps)


def test_members_of_several_datatypes_give_one_that_holds_them() -> None:
    outputs = check(both("{y: {value: [1.0], datatype: FP64}, n: [1]}", "{y: [2.0], n: [2]}"), "- {name: y, from: s.y}")
    assert outputs.outputs == (tensor("y", "FP64", (1,)),)
    assert check(both("{n: [1]}", "{n: [2]}"), "- {name: n, from: s.n}").outputs == (tensor("n", "FP64", (1,)),)
    function = both("{y: 1.0}", "{y: 1.0}", ", combine: {function: 'steps.py:merge'}")
    assert check(function, "- {name: y, from: s.merged}").outputs == (tensor("y", "FP32", (-1,)),)


def test_parameters_that_no_tensor_holds() -> None:
    head = "parameters: {level: 1180591620717411303424}\n" + HEAD
    assert problems("- {name: s, values: {y: {parameter: level}}}", head=head) == [
        "graph.yaml:1: parameter 'level': a constant has an integer that doesn't fit 64 bits"
    ]
    wide = "parameters: {level: 1.0e+300}\n" + HEAD
    steps = "- {name: s, values: {y: {parameter: level, datatype: FP64}}}"
    assert check(steps, head=wide).outputs == (tensor("y", "FP64", ()),)


def test_all_cycles_are_told_and_what_else_is_wrong() -> None:
    steps = """
    - {name: s, values: {y: t.y}}
    - {name: t, values: {y: s.y, z: v.y}}
    - {name: u, values: {y: v.y}}
    - {name: v, values: {y: u.y}}
    - {name: w, after: [s], model: nobody}
    """
    assert problems(steps, "- {name: y, from: s.y}\n- {name: z, from: w.z}") == [
        "graph.yaml:10: step 's' needs itself: s -> t -> s",
        "graph.yaml:12: step 'u' needs itself: u -> v -> u",
        "graph.yaml:14: step 'w': there is no model 'nobody'",
    ]


def test_a_graph_of_nothing_but_mistakes_is_soon_refused() -> None:
    steps = [
        f"- {{name: step_number_{i}, values: {{{', '.join(f'o{j}: stap_{i}_{j}.y' for j in range(15))}}}}}"
        for i in range(300)
    ]
    started = time.process_time()
    found = problems("\n".join(steps), "- {name: y, from: step_number_1.o1}")
    assert time.process_time() - started < 2  # it takes 0.1 s; with a word on each of them it took 4
    assert len(found) == 21
    assert found[-1] == "and more"
    assert max(map(len, found)) < 300


def test_a_large_graph_is_soon_checked() -> None:
    steps = [
        f"- {{name: s{i}, when: 'inputs.x[0, 0] > {i}', "
        f"values: {{y: {{first: [{f's{i - 1}.y' if i else 'inputs.x'}, inputs.x]}}}}}}"
        for i in range(1000)
    ]
    started = time.process_time()
    assert check("\n".join(steps), "- {name: y, from: s999.y, optional: true}").outputs[0].shape == (-1, 4)
    assert time.process_time() - started < 5
