"""What a SavedModel says of itself, read before it is loaded: its graphs, its signatures, and what it may do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidConfig
from salver.core.model import ModelSpec
from salver.runtimes.settings import nearest

PROTO_FILES = ("saved_model.pb", "saved_model.pbtxt")
DEFAULT_SIGNATURE = "serving_default"
DEFAULT_TAGS = ("serve",)

_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_REACHES_OUT = frozenset(
    {
        "ReadFile", "WriteFile", "MatchingFiles", "DeleteFile", "WholeFileReader", "WholeFileReaderV2", "PrintV2",
        "TextLineReader", "TextLineReaderV2", "TextLineDataset", "FixedLengthRecordReader", "FixedLengthRecordDataset",
        "TFRecordReader", "TFRecordReaderV2", "TFRecordDataset", "SaveDataset", "SaveDatasetV2", "LoadDataset",
        "SnapshotDataset", "SnapshotDatasetV2", "CacheDataset", "CacheDatasetV2", "CreateSummaryFileWriter",
        "DataServiceDataset", "DataServiceDatasetV2", "DataServiceDatasetV3", "DataServiceDatasetV4", "RpcServer",
        "RpcClient", "RpcCall", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount",
        "DebugNumericSummary", "SqlDataset", "LMDBReader", "LMDBDataset", "BigQueryReader",
    }
)  # fmt: skip
"""Operators that read or write files, or talk over the network, where the graph or a request says. Those that every
SavedModel has to restore its weights with are none of them: the loader alone runs these."""


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """One of the graphs in a SavedModel.

    Attributes:
        tags: by which it is chosen.
        definition: the ``MetaGraphDef``.
    """

    tags: tuple[str, ...]
    definition: Any

    def check_harmless(self, spec: ModelSpec) -> None:
        """Hold the graph's operators against those that no model should need.

        Raises:
            CodeNotAllowed: it has some that run Python, reach for files or the network.
        """
        there = set(self._operators())
        if found := sorted(there & _PYTHON):
            what = f"calls Python functions ({', '.join(found)})"
        elif found := sorted(there & _REACHES_OUT):
            what = f"reaches for files or the network ({', '.join(found)})"
        else:
            return
        raise CodeNotAllowed(
            f"model {spec.name!r}: the graph in {spec.path} {what}, which isn't allowed; if you trust the file, set "
            "allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
        )

    def signature(self, spec: ModelSpec, wanted: object) -> Any:
        """The ``SignatureDef`` that is served: the one named, else ``serving_default``, else the only one.

        Raises:
            InvalidConfig: there is none of that name.
            InvalidArtifact: it can't be told which, or there is none.
        """
        there = {n: s for n, s in self.definition.signature_def.items() if not n.startswith("__saved_model")}
        usable = [name for name, signature in there.items() if signature.outputs]
        if wanted is not None:
            if not isinstance(wanted, str) or wanted not in there:
                raise InvalidConfig(
                    f"model {spec.name!r}: {spec.path} has no signature {wanted!r}; "
                    f"{nearest(str(wanted), sorted(there))}"
                )
            return there[wanted]
        if DEFAULT_SIGNATURE in usable:
            return there[DEFAULT_SIGNATURE]
        if len(usable) == 1:
            return there[usable[0]]
        if not usable:
            raise InvalidArtifact(
                f"model {spec.name!r}: {spec.path} has no signature that could be served; save the model with "
                "tf.saved_model.save(model, path, signatures=...) or, in Keras, with model.export(path)"
            )
        raise InvalidArtifact(
            f"model {spec.name!r}: {spec.path} has no signature {DEFAULT_SIGNATURE!r}; name one of "
            f"{', '.join(map(repr, sorted(usable)))} by the option 'signature'"
        )

    def _operators(self) -> Iterator[str]:
        graph = self.definition.graph_def
        for node in graph.node:
            yield node.op
        for function in graph.library.function:
            for node in function.node_def:
                yield node.op


def read_meta_graph(spec: ModelSpec, folder: Path, tags: object) -> MetaGraph:
    """The graph in a SavedModel that has these tags; by default ``serve``, or the only one there is.

    Raises:
        InvalidArtifact: there is no SavedModel, it is damaged, or has several graphs to choose from.
        InvalidConfig: none has these tags.
    """
    if tags is not None and not (isinstance(tags, list) and tags and all(isinstance(tag, str) for tag in tags)):
        raise InvalidConfig(f"model {spec.name!r}: option 'tags' is a list of names, not {tags!r}")
    graphs = [MetaGraph(tuple(each.meta_info_def.tags), each) for each in _read(spec, folder).meta_graphs]
    for graph in graphs:
        if set(graph.tags) == set(tags or DEFAULT_TAGS):
            return graph
    if tags is None and len(graphs) == 1:
        return graphs[0]
    there = "; ".join(", ".join(graph.tags) or "none" for graph in graphs) or "no graph at all"
    if tags is None:
        raise InvalidArtifact(
            f"model {spec.name!r}: no graph in {spec.path} is tagged 'serve'; choose one by the option 'tags'. There "
            f"is: {there}"
        )
    raise InvalidConfig(f"model {spec.name!r}: no graph in {spec.path} has the tags {tags}; there is: {there}")


def _read(spec: ModelSpec, folder: Path) -> Any:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # type: ignore[import-untyped]

    found = SavedModel()
    binary, text = (folder / name for name in PROTO_FILES)
    try:
        if binary.is_file():
            found.ParseFromString(binary.read_bytes())
        elif text.is_file():
            text_format.Parse(text.read_text(), found)
        else:
            raise InvalidArtifact(
                f"model {spec.name!r}: {spec.path} is no SavedModel; expected a folder with saved_model.pb, or a "
                ".keras or .h5 file"
            )
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} is damaged: {error}") from None
    except OSError as error:
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} can't be read: {error.strerror}") from None
    return found
