"""Loads graphs."""

from __future__ import annotations

from salver.config.document import Document
from salver.core.errors import InvalidArtifact, InvalidConfig, LoadError
from salver.core.model import ModelSpec
from salver.graph.document import read_graph, read_graph_document
from salver.graph.host import Host
from salver.graph.model import GraphModel
from salver.graph.spec import GRAPH_YAML, GraphConfig, ModelReference, all_steps
from salver.runtimes.base import LoadedModel, Runtime
from salver.store.layouts.kserve_graph import find_file


class GraphRuntime(Runtime):
    """Loads a folder with ``graph.yaml`` or with one of KServe's graphs, such a file, or the option ``graph`` (a map
    as in the file).

    Args:
        host: the node that answers the requests of graphs' steps.
        allow_code: whether graphs may bring functions.
    """

    name = "graph"

    def __init__(self, host: Host, *, allow_code: bool = False) -> None:
        super().__init__(allow_code=allow_code)
        self._host = host

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Read a graph; it asks for its models when it is connected. See :meth:`Runtime.load`."""
        for key in ("inputs", "outputs", "batched"):
            if getattr(spec, key) is not None:
                raise InvalidConfig(f"graph '{spec.name}': {key!r} in model.yaml isn't for graphs; {GRAPH_YAML} has it")
        if spec.isolation not in ("auto", "inline"):
            raise InvalidConfig(
                f"graph '{spec.name}': 'isolation: {spec.isolation}' isn't for graphs, which only ask models; a "
                "function's is set at its step"
            )
        if spec.scheduling.instances is not None:
            raise InvalidConfig(f"graph '{spec.name}': 'instances' isn't for graphs, which only ask models")
        unknown = ", ".join(sorted(set(spec.options) - {"graph"}))
        if unknown:
            raise InvalidConfig(f"graph '{spec.name}': unknown options {unknown}; graphs have none")
        config, document = read_spec(spec)
        return GraphModel(spec, config, document, self._host, allow_code=self.allow_code)


def asked_models(spec: ModelSpec) -> frozenset[str]:
    """The names of the models that a graph asks; none where it is no graph, or can't be read. Blocks on the disk."""
    if spec.runtime != GraphRuntime.name:
        return frozenset()
    try:
        config, _ = read_spec(spec)
    except LoadError:
        return frozenset()
    return frozenset(ModelReference.parse(step.model).name for step in all_steps(config) if step.model is not None)


def read_spec(spec: ModelSpec) -> tuple[GraphConfig, Document]:
    """The graph that a version is. Blocks on the disk.

    Raises:
        InvalidArtifact: there is no file with it.
        InvalidConfig: it can't be understood.
    """
    if "graph" in spec.options:
        return read_graph_document(spec.options["graph"], spec.name)
    file = spec.path / GRAPH_YAML if spec.path.is_dir() else spec.path
    if not file.is_file():
        found = find_file(spec.path) if spec.path.is_dir() else None
        if found is None:
            raise InvalidArtifact(f"graph '{spec.name}': there is no {file}")
        file = found
    return read_graph(file, shown_as="/".join(part for part in (spec.name, spec.version, file.name) if part))
