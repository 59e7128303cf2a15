"""KServe's InferenceGraphs, read as graphs, checked and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_host import FakeHost

from salver.config.document import parse_document
from salver.core.errors import InvalidConfig, InvalidRequest, ModelFailed
from salver.core.model import ModelSpec
from salver.core.request import InferenceRequest
from salver.core.signature import Signature, TensorSpec
from salver.graph.description import describe_file
from salver.graph.document import read_graph, read_graph_document
from salver.graph.model import GraphModel
from salver.graph.spec import GraphConfig
from salver.runtimes.detect import detect
from salver.store.layouts.kserve_graph import InferenceGraph, read_model, translate
from salver.store.repository import scan

HEAD = """\
apiVersion: serving.kserve.io/v1alpha1
kind: InferenceGraph
metadata:
  name: pipeline
spec:
  nodes:
"""

DOGS = """\
    root:
      routerType: Sequence
      steps:
      - serviceName: cat-dog
        name: cat_dog
      - serviceName: breed
        data: $request
        condition: "[@this].#(predictions.0==\\"dog\\")"
"""

SWITCH = """\
    root:
      routerType: Switch
      steps:
      - serviceName: cat-dog
        condition: "[@this].#(inputs.0.data.0 > 3)"
      - nodeName: both
        condition: "[@this].#(parameters.kind == \\"all\\")"
      - serviceUrl: http://dog.default.svc/v2/models/breed/versions/2/infer
        condition: "[@this].#(inputs.0.data.0 > 1)"
    both:
      routerType: Ensemble
      steps:
      - {name: one, serviceName: cat-dog, dependency: Hard}
      - {serviceName: breed, dependency: Hard}
      - {serviceName: breed, dependency: Hard}
"""

SPLIT = """\
    root:
      routerType: Splitter
      steps:
      - {serviceName: cat-dog, weight: 0}
      - {serviceName: breed, weight: 100}
"""

PICTURE = TensorSpec("picture", "INT64", (-1,))


def texts(*values: str) -> np.ndarray[Any, Any]:
    return np.array([value.encode() for value in values], dtype=object)


@pytest.fixture
def host() -> FakeHost:
    """``cat-dog`` sees a dog in pictures that begin with 2 or more, ``breed`` fails where they begin with 9."""
    host = FakeHost()

    def breed(picture: Any) -> dict[str, Any]:
        if picture[0] == 9:
            raise RuntimeError("no such breed")
        return {"breed": texts(f"breed {picture[0]}"), "p": np.array([0.5], np.float32)}

    host.add(
        "cat-dog",
        lambda picture: {"label": texts("dog" if picture[0] >= 2 else "cat")},
        Signature((PICTURE,), (TensorSpec("label", "BYTES", (-1,)),)),
    )
    host.add(
        "breed",
        breed,
        Signature((PICTURE,), (TensorSpec("breed", "BYTES", (-1,)), TensorSpec("p", "FP32", (-1,)))),
    )
    host.add(
        "shout",
        lambda text: {"loud": texts(*(each.decode().upper() for each in text))},
        Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("loud", "BYTES", (-1,)),)),
    )
    return host


def parse(nodes: str) -> InferenceGraph:
    return translate(parse_document((HEAD + nodes).encode(), "g.yaml"))


async def load(host: FakeHost, nodes: str) -> GraphModel:
    document = parse(nodes).document
    config, _ = read_graph_document(document.data, "g.yaml")
    spec = ModelSpec("g", "1", Path("/nowhere"), "graph")
    model = GraphModel(spec, config, document, host, allow_code=False)
    await model.connect()
    return model


async def ask(model: GraphModel, first: int, **parameters: str) -> dict[str, list[Any]]:
    inputs = {"picture": np.array([first, 0])}
    answer = await model.answer(InferenceRequest("g", "", inputs, None, {**parameters}), inputs)
    return {name: [each.decode() if isinstance(each, bytes) else each for each in answer[name]] for name in answer}


async def test_a_sequence_ends_where_a_condition_does_not_hold(host: FakeHost) -> None:
    model = await load(host, DOGS)
    assert [(each.name, each.datatype, each.shape) for each in model.signature.inputs] == [("picture", "INT64", (-1,))]
    assert await ask(model, 1) == {"label": ["cat"]}
    assert await ask(model, 2) == {"breed": ["breed 2"], "p": [0.5]}
    assert [request.model for request in host.requests] == ["cat-dog", "cat-dog", "breed"]


async def test_a_sequence_hands_on_answers_or_the_request(host: FakeHost) -> None:
    nodes = """\
    root:
      routerType: Sequence
      steps:
      - {serviceName: cat-dog}
      - {serviceName: shout, data: $response}
      - {serviceName: shout, data: $response}
"""
    assert await ask(await load(host, nodes), 2) == {"loud": ["DOG"]}  # one output goes to one input
    model = await load(host, nodes + "      - {serviceName: cat-dog}\n      - {serviceName: breed, data: $request}\n")
    assert await ask(model, 2) == {"breed": ["breed 2"], "p": [0.5]}
    # Nobody takes what the first ones gave, and they were asked all the same, in their order.
    assert [request.model for request in host.requests[3:]] == ["cat-dog", "shout", "shout", "cat-dog", "breed"]


@pytest.mark.parametrize("dependency", ["Soft", "Hard"])
async def test_a_step_whose_answer_nobody_takes_may_fail_unless_it_is_hard(host: FakeHost, dependency: str) -> None:
    model = await load(
        host,
        f"""\
    root:
      routerType: Sequence
      steps:
      - {{serviceName: breed, dependency: {dependency}}}
      - {{serviceName: cat-dog}}
""",
    )
    if dependency == "Soft":
        assert await ask(model, 9) == {"label": ["dog"]}
    else:
        with pytest.raises(ModelFailed, match=r"step 'breed': .*no such breed"):
            await ask(model, 9)


async def test_two_conditions_after_each_other(host: FakeHost) -> None:
    model = await load(
        host,
        """\
    root:
      routerType: Sequence
      steps:
      - serviceName: cat-dog
      - {serviceName: breed, condition: 'predictions.0 == "dog"'}
      - {serviceName: cat-dog, condition: 'outputs.#(name=="p").data.0 < 0.1'}
""",
    )
    assert await ask(model, 1) == {"label": ["cat"]}
    assert await ask(model, 2) == {"breed": ["breed 2"], "p": [0.5]}
    assert len(host.requests) == 3


async def test_a_switch_takes_the_first_that_holds_and_refuses_what_none_does(host: FakeHost) -> None:
    model = await load(host, SWITCH)
    assert await ask(model, 4) == {"label": ["dog"]}
    assert await ask(model, 2) == {"breed": ["breed 2"], "p": [0.5]}
    assert host.requests[-1].version == "2"
    assert await ask(model, 1, kind="all") == {
        "one.label": ["cat"],
        "breed.breed": ["breed 1"],
        "breed.p": [0.5],
        "breed_2.breed": ["breed 1"],
        "breed_2.p": [0.5],
    }
    with pytest.raises(InvalidRequest, match="step 'root': no case fits"):
        await ask(model, 1, kind="some")
    (problem,) = parse(SWITCH).problems
    assert problem == "g.yaml:14: model 'breed' is asked here, and not on another server"


async def test_an_ensemble_goes_on_without_steps_that_are_not_hard(host: FakeHost) -> None:
    model = await load(host, SWITCH.replace(", dependency: Hard}", "}"))
    assert await ask(model, 9) == {"label": ["dog"]}
    soft = SWITCH[SWITCH.index("    both") :].replace("both", "root")
    model = await load(host, soft.replace(", dependency: Hard}", "}"))
    assert await ask(model, 9) == {"one.label": ["dog"]}
    model = await load(host, soft.replace(", dependency: Hard}", "}", 1))
    with pytest.raises(ModelFailed, match="no such breed"):
        await ask(model, 9)
    model = await load(host, soft.replace("breed, dependency: Hard}", "breed}"))
    assert await ask(model, 9) == {"one.label": ["dog"]}
    only = "    root: {routerType: Ensemble, steps: [{serviceName: breed}]}\n"
    with pytest.raises(ModelFailed, match="no such breed"):
        await ask(await load(host, only), 9)


async def test_a_splitter_leaves_out_what_has_no_weight(host: FakeHost) -> None:
    model = await load(host, SPLIT)
    for _ in range(5):
        assert "breed" in await ask(model, 2)


async def test_a_condition_deep_inside_looks_at_the_tensor_that_it_says(host: FakeHost) -> None:
    # The models of the inner switch don't take the label, which is what its condition is on.
    host.add(
        "both",
        lambda picture: {"label": texts("dog" if picture[0] >= 2 else "cat"), "picture": picture},
        Signature((PICTURE,), (TensorSpec("label", "BYTES", (-1,)), PICTURE)),
    )
    model = await load(
        host,
        """\
    root:
      routerType: Sequence
      steps:
      - {serviceName: both}
      - {nodeName: split, data: $response}
    split:
      routerType: Splitter
      steps: [{nodeName: inner, weight: 100}]
    inner:
      routerType: Sequence
      steps: [{nodeName: choose}]
    choose:
      routerType: Switch
      steps:
      - {serviceName: breed, condition: 'outputs.0.data.0 == "dog"'}
      - {serviceName: cat-dog, condition: 'outputs.1.data.0 == 1'}
""",
    )
    assert await ask(model, 2) == {"breed": ["breed 2"], "p": [0.5]}
    assert await ask(model, 1) == {"label": ["cat"]}
    with pytest.raises(ModelFailed, match="no case fits"):  # which the caller can't help: another step has made it so
        await ask(model, 0)


async def test_what_does_not_fit_is_told_with_the_line_of_its_step(host: FakeHost) -> None:
    with pytest.raises(InvalidConfig, match=r"g\.yaml:12: step 'breed': .*'picture'"):
        await load(host, DOGS.replace("$request", "$response").replace("breed", "shout").replace("shout", "breed"))
    with pytest.raises(
        InvalidConfig, match=r"step 'read_cat_dog': step 'cat_dog' has 2 tensors \(breed, p\), where one"
    ):
        await load(host, DOGS.replace("cat-dog", "breed"))


def write(folder: Path, name: str, nodes: str = DOGS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(HEAD + nodes)
    return folder / name


def graph_of(path: Path, version: str) -> tuple[str, GraphConfig]:
    """A model of a listing, read as a server would."""
    entry = scan(path).models["dogs"]
    assert not entry.error
    runtime, artifact = detect(entry.versions[version].path, entry.config.runtime)
    return runtime, read_graph(artifact)[0]


def test_a_file_is_named_as_it_says(tmp_path: Path) -> None:
    (entry,) = scan(write(tmp_path, "dogs.yml")).models.values()
    assert (entry.name, entry.config.runtime, entry.found) == ("pipeline", "graph", ("1",))


def test_a_folder_and_its_versions(tmp_path: Path) -> None:
    write(tmp_path / "one" / "dogs", "any-name.yaml")
    (tmp_path / "one" / "dogs" / "values.yaml").write_text("size: 3")
    assert graph_of(tmp_path / "one", "1")[0] == "graph"
    write(tmp_path / "two" / "dogs" / "2", "graph.yaml")
    write(tmp_path / "two" / "dogs" / "10", "dogs.yaml", SPLIT)
    assert scan(tmp_path / "two").models["dogs"].found == ("2", "10")
    assert graph_of(tmp_path / "two", "2")[1].steps[0].model == "cat-dog"
    assert graph_of(tmp_path / "two", "10")[1].steps[0].split is not None
    assert describe_file(tmp_path / "two" / "dogs")["models"] == ["breed"]
    assert describe_file(tmp_path / "two" / "dogs" / "2")["models"] == ["breed", "cat-dog"]


def test_a_changed_file_is_another_version(tmp_path: Path) -> None:
    file = write(tmp_path / "dogs", "dogs.yaml")
    before = scan(tmp_path).models["dogs"].versions["1"].fingerprint
    file.write_text(HEAD + SWITCH)
    assert scan(tmp_path).models["dogs"].versions["1"].fingerprint != before


def test_other_files_are_nobody_s_graph(tmp_path: Path) -> None:
    (tmp_path / "kind.yaml").write_text("kind: InferenceService\n# kind: InferenceGraph\n")
    assert read_model(tmp_path) is None
    write(tmp_path, "of-kserve.yaml")
    (tmp_path / "graph.yaml").write_text("inputs: []\n")
    assert read_model(tmp_path) is None  # Salver's own goes first
    (tmp_path / "graph.yaml").unlink()
    write(tmp_path, "another.yaml")
    with pytest.raises(InvalidConfig, match=r"holds several graphs \(another.yaml, of-kserve.yaml\)"):
        read_model(tmp_path)


async def test_it_may_have_a_model_yaml(host: FakeHost, tmp_path: Path) -> None:
    write(tmp_path / "dogs" / "1", "of-kserve.yaml")
    (tmp_path / "dogs" / "model.yaml").write_text("runtime: graph\nlabels: {best: '1'}\n")
    entry = scan(tmp_path).models["dogs"]
    assert entry.config.labels
    assert describe_file(entry.versions["1"].path)["models"] == ["breed", "cat-dog"]


def test_what_is_for_kubernetes_is_named() -> None:
    nodes = DOGS + "    unused: {routerType: Sequence, steps: [{serviceName: x}]}\n  timeout: 5\n  minReplicas: 2\n"
    graph = parse(nodes.replace("name: cat_dog", "weight: 3"))
    assert graph.problems == (
        "g.yaml:17: 'minReplicas' is for Kubernetes, and is not followed",
        "g.yaml:11: 'weight' means nothing in a node of type Sequence, and isn't looked at",
        "g.yaml:15: node 'unused' is not used: no step leads to it",
    )
    assert graph.document.data["timeout"] == 5


def doubling(depth: int) -> str:
    """Nodes that each lead to the next one twice."""
    nodes = "".join(
        f"    n{number}: {{routerType: Ensemble, steps: [{{nodeName: n{number + 1}}}, {{nodeName: n{number + 1}}}]}}\n"
        for number in range(depth)
    )
    return nodes.replace("n0:", "root:") + f"    n{depth}: {{routerType: Sequence, steps: [{{serviceName: a}}]}}\n"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (DOGS.replace("root:", "start:"), "g.yaml:6: there is no node 'root'"),
        ("    root: 5\n", "g.yaml:7: node 'root' is no map"),
        ("    root: {routerType: Sequence, steps: [x]}\n", "g.yaml:7: a step of node 'root' is a map"),
        (DOGS.replace("Sequence", "Loop"), "g.yaml:8: 'routerType' of node 'root' is 'Loop'; expected one of Sequence"),
        (DOGS.replace("condition:", "conditon:"), "g.yaml:14: a step of node 'root' has no 'conditon'; did you mean"),
        (DOGS.replace("#(predictions.0==", "%(predictions.0=="), "g.yaml:14: the condition .* can't be translated"),
        (DOGS.replace("$request", "$response.predictions"), "g.yaml:13: 'data' is '.response.predictions'; expected"),
        (DOGS.replace("name: cat_dog", "condition: predictions.0"), "g.yaml:11: the first step of a Sequence can't"),
        (DOGS.replace("serviceName: breed", "serviceName: ../breed"), "g.yaml:12: .*'../breed'"),
        (DOGS.replace("name: cat_dog", "nodeName: root"), "g.yaml:10: a step has one of .*; here is serviceName and"),
        (DOGS.replace("name: cat_dog", "dependency: Firm"), "g.yaml:11: 'dependency' is 'Firm'; expected one of Soft"),
        (SWITCH.replace("nodeName: both", "nodeName: bot"), "g.yaml:12: there is no node 'bot'; did you mean 'both'"),
        (SWITCH.replace("versions/2/infer", "x"), "g.yaml:14: the path of a 'serviceUrl' has to be /v2/models/NAME"),
        (SWITCH.replace("serviceName: breed", "nodeName: root"), "node 'root' leads back to itself: root -> both ->"),
        (SPLIT.replace(", weight: 0", ""), "g.yaml:10: a step of a Splitter needs a 'weight'"),
        (SPLIT.replace(", weight: 0", ", weight: true"), "g.yaml:10: a step of a Splitter needs a 'weight'"),
        (SPLIT.replace("weight: 100", "weight: 0"), "g.yaml:7: all steps of a Splitter have the weight 0"),
        ("    root: {routerType: Sequence, steps: []}", "g.yaml:7: node 'root' has no 'steps'"),
        (SPLIT + "  timeout: soon\n", "g.yaml:12: 'timeout' is a number of seconds above 0, not 'soon'"),
        (doubling(12), "comes to more than 1000 steps"),
        (doubling(40), "nodes lead to nodes more than 16 deep"),
        ("    {}\n", "g.yaml:6: 'nodes' is missing"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(nodes: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        parse(nodes)
