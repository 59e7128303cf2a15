"""Graphs that are checked against the models beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.core.errors import InvalidConfig
from salver.core.model import ModelSpec
from salver.core.signature import Signature, TensorSpec
from salver.registration.probe.result import ProbeResult
from salver.registration.repository_graphs import RepositoryModels, check_repository_graph

KSERVE = """\
kind: InferenceGraph
spec:
  nodes:
    root:
      routerType: Sequence
      steps:
      - serviceName: double
      - {serviceName: double, data: $response, condition: outputs.0.data.0 > 1}
"""
X, Y = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1, 2))


async def no_function(spec: ModelSpec) -> ProbeResult:
    raise AssertionError(f"{spec.name} has no function")


async def test_a_graph_that_leaves_names_to_its_models(tmp_path: Path) -> None:
    file = tmp_path / "graph-of-kserve.yaml"
    file.write_text(KSERVE)
    spec = ModelSpec("both", "1", file, "graph")
    models = RepositoryModels()
    models.add("double", "1", Signature((X,), (Y,)), {})
    result = await check_repository_graph(spec, models=models, probe=no_function, allow_code=False)
    assert result.signature.inputs == (X,)
    assert [(each.name, each.datatype, each.shape) for each in result.signature.outputs] == [("y", "FP32", (-1, 2))]
    models.add("double", "2", Signature((X,), (TensorSpec("y", "BYTES", (-1, 2)),)), {})
    with pytest.raises(
        InvalidConfig, match=r"graph-of-kserve\.yaml:8: step 'double_2': input 'x': expected datatype FP32"
    ):
        await check_repository_graph(spec, models=models, probe=no_function, allow_code=False)
