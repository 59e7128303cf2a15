"""Reads a graph from a file, or from what a reader of another system's files has made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from salver.config.document import Document
from salver.config.explain import explain
from salver.config.yaml_file import read_document
from salver.core.errors import InvalidConfig
from salver.graph.spec import GraphConfig
from salver.store.layouts.kserve_graph import is_inference_graph, translate


def read_graph(path: Path, *, shown_as: str = "") -> tuple[GraphConfig, Document]:
    """The graph in a file, and where its lines are. Blocks on the disk.

    Args:
        path: the file: Salver's own, or one of KServe's.
        shown_as: what error messages call it; the names of its folder and itself by default.

    Raises:
        InvalidConfig: it can't be read, isn't YAML, or is no graph; a line a problem.
    """
    document = read_document(path, shown_as=shown_as or f"{path.parent.name}/{path.name}")
    if is_inference_graph(document):
        document = translate(document).document
    return _validated(document), document


def read_graph_document(data: Mapping[str, Any], source: str) -> tuple[GraphConfig, Document]:
    """The graph that a map is, as ``graph.yaml`` has it.

    Args:
        data: the map.
        source: what error messages call it.

    Raises:
        InvalidConfig: it is no graph; a line a problem.
    """
    document = Document(source, data, {})
    return _validated(document), document


def _validated(document: Document) -> GraphConfig:
    try:
        return GraphConfig.model_validate(document.data)
    except ValidationError as error:
        raise InvalidConfig(explain(error, GraphConfig, document.place, document.line)) from None
