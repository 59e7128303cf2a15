"""KServe's InferenceGraphs, read as graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.config.document import parse_document
from salver.core.errors import InvalidConfig, UnknownModel
from salver.core.signature import Signature, TensorSpec
from salver.graph.adoption import adopt
from salver.graph.check import check_graph
from salver.graph.document import read_graph_document
from salver.graph.spec import GraphConfig, ModelReference
from salver.store.layouts.kserve_graph import read_model, to_graph
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
      - serviceName: cat-dog-classifier
        name: cat_dog_classifier
      - serviceName: dog-breed-classifier
        name: dog_breed_classifier
        data: $request
        condition: "[@this].#(predictions.0==\\"dog\\")"
"""

SWITCH = """\
    root:
      routerType: Switch
      steps:
      - serviceName: cat-dog-classifier
        condition: "[@this].#(inputs.0.data.0 > 3)"
      - nodeName: both
        condition: "[@this].#(parameters.kind == \\"all\\")"
      - serviceUrl: http://dog.default.svc/v2/models/dog-breed-classifier/versions/2/infer
    both:
      routerType: Ensemble
      steps:
      - {name: one, serviceName: cat-dog-classifier}
      - {name: two, serviceName: dog-breed-classifier}
"""

SPLIT = """\
    root:
      routerType: Splitter
      steps:
      - {serviceName: cat-dog-classifier, weight: 20}
      - {serviceName: cat-dog-classifier, weight: 80}
"""

PICTURE = TensorSpec("picture", "UINT8", (-1,))
MODELS = {
    "cat-dog-classifier": Signature((PICTURE,), (TensorSpec("label", "BYTES", (-1,)),)),
    "dog-breed-classifier": Signature(
        (PICTURE,), (TensorSpec("breed", "BYTES", (-1,)), TensorSpec("p", "FP32", (-1,)))
    ),
}


def whole(nodes: str) -> GraphConfig:
    """The graph, with nothing left open."""
    config, _ = read_graph_document(to_graph(parse_document((HEAD + nodes).encode(), "g.yaml")), "g.yaml")

    def signature_of(model: ModelReference) -> Signature:
        if model.name not in MODELS:
            raise UnknownModel(f"there is no model '{model.name}'")
        return MODELS[model.name]

    adopted = adopt(config, signature_of=signature_of, function_signature={}.__getitem__)
    check_graph(adopted, signature_of=signature_of, function_signature={}.__getitem__, place=lambda _: "g.yaml")
    return adopted


def test_a_sequence_with_a_condition() -> None:
    graph = whole(DOGS)
    assert [(each.name, each.datatype) for each in graph.inputs] == [("picture", "UINT8")]
    first, second, answer = graph.steps
    assert (first.model, second.model) == ("cat-dog-classifier", "dog-breed-classifier")
    assert second.when == '(cat_dog_classifier["label"][0] == "dog")'
    assert {key: source.from_ for key, source in second.inputs.items()} == {"picture": "inputs.picture"}
    assert answer.switch is not None
    assert answer.switch[0].when == 'not (cat_dog_classifier["label"][0] == "dog")'
    assert {(output.name, output.optional) for output in graph.outputs} == {
        ("label", True),
        ("breed", True),
        ("p", True),
    }


def test_a_switch_an_ensemble_and_a_url() -> None:
    graph = whole(SWITCH)
    (step,) = graph.steps
    assert step.switch is not None
    assert [case.when for case in step.switch] == ['inputs["picture"][0] > 3', 'parameters.kind == "all"', None]
    assert step.switch[2].model == "dog-breed-classifier/2"
    assert {output.name for output in graph.outputs} >= {"label", "breed", "one.label", "two.breed"}


def test_a_splitter() -> None:
    (step,) = whole(SPLIT).steps
    assert step.split is not None
    assert [branch.weight for branch in step.split] == [20, 80]


def test_files_and_folders(tmp_path: Path) -> None:
    file = tmp_path / "dogs.yaml"
    file.write_text(HEAD + DOGS)
    found = read_model(file)
    assert found is not None
    assert (found.name, found.config.runtime, found.wanted) == ("pipeline", "graph", ("1",))
    (tmp_path / "models" / "dogs").mkdir(parents=True)
    file.rename(tmp_path / "models" / "dogs" / "graph-of-dogs.yaml")
    (tmp_path / "models" / "dogs" / "model.txt").write_text("beside it")
    entry = scan(tmp_path / "models" / "dogs").models["dogs"]
    assert (entry.error, list(entry.versions)) == ("", ["1"])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (DOGS.replace("root:", "start:"), "g.yaml:6: there is no node 'root'"),
        (DOGS.replace("Sequence", "Loop"), "g.yaml:8: 'routerType' of node 'root' is 'Loop'; expected one of Sequence"),
        (DOGS.replace("condition:", "conditon:"), "g.yaml:15: 'conditon' isn't known here"),
        (DOGS.replace("#(predictions.0==", "%(predictions.0=="), "g.yaml:15: the condition .* can't be read"),
        (DOGS.replace("predictions.0", "predictions"), "g.yaml:15: 'predictions' is no element of a tensor"),
        (SWITCH.replace("nodeName: both", "nodeName: neither"), "g.yaml:12: there is no node 'neither'"),
        (SWITCH.replace("versions/2/infer", "x"), "g.yaml:14: .* names no model"),
        (SWITCH.replace("{name: one, serviceName: cat-dog-classifier}", "{nodeName: root}"), "leads back to itself"),
        (SPLIT.replace(", weight: 20", ""), "g.yaml:10: a step of a Splitter needs a 'weight'"),
        ("    root: {routerType: Sequence, steps: []}", "g.yaml:7: node 'root' has no 'steps'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(nodes: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        to_graph(parse_document((HEAD + nodes).encode(), "g.yaml"))
