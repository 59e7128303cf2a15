"""KServe's ``InferenceGraph`` as a graph: a YAML file of that kind, read as it stands.

Described in https://kserve.github.io/website/docs/concepts/resources/inferencegraph; what its router does is in
https://github.com/kserve/kserve/blob/master/cmd/router/main.go. The file is looked for here, and read when the graph is
loaded: a version may have one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from salver.config.document import Document
from salver.config.yaml_file import read_document
from salver.core.errors import InvalidConfig, InvalidRequest
from salver.core.model import check_model_name, version_order
from salver.store.files import artifact_files, has_files, printable, subfolders
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.kserve_nodes import translate_nodes
from salver.store.model_config import ModelConfig

SYSTEM = "KServe"
KIND = "InferenceGraph"

GRAPH_YAML = "graph.yaml"

_SUFFIXES = (".yaml", ".yml")
_KIND = re.compile(rb"""^["']?kind["']?:[ \t]*["']?InferenceGraph\b""", re.MULTILINE)
_LOOKED_AT = 64 * 1024
_MAX_FILES = 50


@dataclass(frozen=True, slots=True)
class InferenceGraph:
    """One of KServe's graphs.

    Attributes:
        name: what it calls itself; "" where it doesn't.
        document: the graph as ``graph.yaml`` would have it, with the lines of its own file.
        problems: what of it isn't followed.
    """

    name: str
    document: Document
    problems: tuple[str, ...]


def read_model(folder: Path) -> ForeignModel | None:
    """A file with an InferenceGraph, or a folder with one in it or in each of its numbered subfolders, its versions.

    None where there is none. A folder named with a number is a version of Salver's own form, and so is not taken here.

    Raises:
        InvalidConfig: it can't be understood, or asks for what Salver can't do; or a folder has several.
    """
    if _is_number(folder):
        return None
    versions = _versions(folder)
    if not versions:
        return None
    graphs = [read_inference_graph(file) for file in versions.values()]
    name = printable(folder.name) if folder.is_dir() else graphs[-1].name or printable(folder.stem)
    try:
        check_model_name(name)
    except InvalidRequest as error:
        raise InvalidConfig(f"{printable(folder.name)}: {error}; rename it") from None
    return ForeignModel(
        name=name,
        system=SYSTEM,
        folder=folder,
        config=ModelConfig(runtime="graph"),
        versions=versions,
        wanted=tuple(versions),
        problems=tuple(problem for graph in graphs for problem in graph.problems),
    )


def read_root(folder: Path) -> Mapping[str, ForeignModel] | None:
    """None: KServe has no repositories of graphs."""
    return None


def read_inference_graph(file: Path) -> InferenceGraph:
    """The graph in a file.

    Raises:
        InvalidConfig: it can't be read or understood, or asks for what Salver can't do.
    """
    return translate(read_document(file, shown_as=printable(f"{file.parent.name}/{file.name}")))


def translate(document: Document) -> InferenceGraph:
    """The graph that a YAML document is.

    Raises:
        InvalidConfig: with the line of what can't be understood.
    """
    metadata = document.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    graph, lines, problems = translate_nodes(document)
    return InferenceGraph(
        name if isinstance(name, str) else "", Document(document.source, graph, lines), tuple(problems)
    )


def is_inference_graph(document: Document) -> bool:
    """Whether a YAML document is one of KServe's graphs."""
    return bool(document.data.get("kind") == KIND)


def find_file(folder: Path) -> Path | None:
    """The file with an InferenceGraph that lies directly in a folder; None where there is none.

    Raises:
        InvalidConfig: there are several.
    """
    names = [name for name in artifact_files(folder) if name.lower().endswith(_SUFFIXES)]
    if GRAPH_YAML in names and not _is_graph(folder / GRAPH_YAML):
        return None  # it is Salver's own
    files = [folder / name for name in names[:_MAX_FILES] if _is_graph(folder / name)]
    if len(files) > 1:
        raise InvalidConfig(
            f"{printable(folder.name)} holds several graphs ({', '.join(printable(file.name) for file in files)}); a "
            "folder has one"
        )
    return files[0] if files else None


def _versions(path: Path) -> dict[str, Path]:
    """The file of each version, oldest first; none where the path is something else."""
    if path.is_file():
        return {"1": path} if path.suffix.lower() in _SUFFIXES and _is_graph(path) else {}
    if not path.is_dir():
        return {}
    if (file := find_file(path)) is not None:
        return {"1": file}
    found = {sub.name: find_file(sub) for sub in subfolders(path) if _is_number(sub) and has_files(sub)}
    versions = {name: file for name, file in found.items() if file is not None}
    return {name: versions[name] for name in sorted(versions, key=version_order)} if len(versions) == len(found) else {}


def _is_number(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal()


def _is_graph(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return _KIND.search(opened.read(_LOOKED_AT)) is not None
    except OSError:
        return False
