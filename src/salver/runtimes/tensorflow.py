"""The ``tensorflow`` runtime: SavedModels and Keras models in TensorFlow, on the CPU or a GPU."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidInput, ModelFailed, SalverError
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Array, Shape
from salver.runtimes.base import Inputs, LoadedModel, Outputs, Runtime
from salver.runtimes.keras_files import KERAS_SUFFIXES, exported
from salver.runtimes.quiet_stderr import quiet_stderr
from salver.runtimes.saved_model_files import PROTO_FILES, MetaGraph, read_meta_graph
from salver.runtimes.settings import check_options, cores, declare, gpu_index

# TensorFlow takes these from the environment only, when it is imported. What the user has set stays.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong comes as an exception; stderr is the server's log
# Else weights lie in a pool that never gives anything back: a closed model of 200 MB cost 200 MB for good.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

with quiet_stderr(re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} .*\b(?:port|cpu_feature_guard)\.cc:")):
    import tensorflow as tf  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import config_pb2  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)
# That a session's way of loading is deprecated is nothing that who serves a model could change.
logging.getLogger("tensorflow").addFilter(lambda record: "loader_impl" not in record.getMessage())

_DATATYPES = {
    tf.bool: "BOOL",
    tf.uint8: "UINT8",
    tf.uint16: "UINT16",
    tf.uint32: "UINT32",
    tf.uint64: "UINT64",
    tf.int8: "INT8",
    tf.int16: "INT16",
    tf.int32: "INT32",
    tf.int64: "INT64",
    tf.float16: "FP16",
    tf.bfloat16: "BF16",
    tf.float32: "FP32",
    tf.float64: "FP64",
    tf.string: "BYTES",
}
_CALLER_THREAD = -1
"""As inter_op_parallelism_threads: operators run one after another on the thread that calls."""


class TensorflowRuntime(Runtime):
    """Loads SavedModels (folders with ``saved_model.pb``) of TensorFlow 1 and 2, and ``.keras`` and ``.h5`` files.

    A SavedModel is run in a session, as TensorFlow Serving does: a call of a small net takes 13 us, where one of the
    Python functions that ``tf.saved_model.load`` gives takes 240. Keras models are exported to SavedModels first.

    Options: ``signature`` (the name of one; ``serving_default``, or the only one there is), ``tags`` (of the graph in
    a SavedModel; ["serve"]).

    ``threads`` works within an operator too, but there TensorFlow has one pool of threads for the process, whose size
    the first model decides.
    """

    name = "tensorflow"
    extra = "tensorflow"
    imported_by_load = ("keras",)

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load a SavedModel or a Keras model; see :meth:`Runtime.load`."""
        options = check_options(spec, ("signature", "tags"))
        device = _device(spec)
        threads = _pool_threads(spec)
        if spec.path.suffix.lower() in KERAS_SUFFIXES and spec.path.is_file():
            with exported(spec, allow_code=self.allow_code) as folder:
                return _SavedModel(spec, folder, read_meta_graph(spec, folder, None), options, device, threads)
        folder = spec.path.parent if spec.path.name in PROTO_FILES else spec.path
        graph = read_meta_graph(spec, folder, options.get("tags"))
        if not self.allow_code:
            graph.check_harmless(spec)
        return _SavedModel(spec, folder, graph, options, device, threads)


class _SavedModel(LoadedModel):
    platform = "tensorflow_savedmodel"
    may_run_inline = True

    def __init__(
        self,
        spec: ModelSpec,
        folder: Path,
        graph: MetaGraph,
        options: Mapping[str, Any],
        gpu: int | None,
        threads: int,
    ) -> None:
        definition = graph.signature(spec, options.get("signature"))
        self.signature = _signature(spec, definition)
        self.device = "cpu" if gpu is None else f"cuda:{gpu}"
        self.threads = threads if gpu is None else 1
        self._name = spec.name
        self._memory_bytes = _artifact_bytes(folder)
        self._feeds = {tensor.name: definition.inputs[tensor.name].name for tensor in self.signature.inputs}
        self._fetches = {tensor.name: definition.outputs[tensor.name].name for tensor in self.signature.outputs}
        self._session: Any = _open(spec, folder, graph, gpu, threads)
        try:
            # What session.run does for plain tensors, without looking everything up anew: 13 us a call instead of 74.
            options = config_pb2.CallableOptions(feed=self._feeds.values(), fetch=self._fetches.values())
            self._run_all = self._session._make_callable_from_options(options)
        except Exception as error:  # the signature may name what the graph doesn't have
            self._session.close()
            raise InvalidArtifact(f"model {spec.name!r}: {spec.path} is damaged: {_message(error)}") from error

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        feeds, fetches = self._feeds, self._fetches
        try:
            if not asked or len(asked) == len(fetches):
                values = self._run_all(*[inputs[name] for name in feeds])
                found = dict(zip(fetches, values, strict=True))
            else:  # some outputs only: the graph computes less
                wanted = {name: fetches[name] for name in asked}
                found = self._session.run(wanted, {feeds[name]: array for name, array in inputs.items()})
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            raise InvalidInput(f"model {self._name!r} refused its input: {_message(error)}") from error
        except (tf.errors.OpError, RuntimeError) as error:
            raise ModelFailed(f"model {self._name!r} failed in TensorFlow: {_message(error)}") from error
        return {name: value if isinstance(value, np.ndarray) else _scalar(value) for name, value in found.items()}

    def memory_bytes(self) -> int:
        return self._memory_bytes

    def close(self) -> None:
        self._run_all = None  # it holds the session
        self._session.close()
        self._session = None


def _open(spec: ModelSpec, folder: Path, graph: MetaGraph, gpu: int | None, threads: int) -> Any:
    """A session with the graph and its weights."""
    v1 = tf.compat.v1
    config = v1.ConfigProto(
        intra_op_parallelism_threads=threads,
        inter_op_parallelism_threads=_CALLER_THREAD if threads == 1 else threads,
        use_per_session_threads=threads > 1,
        allow_soft_placement=True,
        device_count={"GPU": 0} if gpu is None else {},
        gpu_options=v1.GPUOptions(allow_growth=True),
    )
    tf_graph = tf.Graph()
    try:
        with tf_graph.as_default(), tf.device(f"/GPU:{gpu}") if gpu else nullcontext():
            session = v1.Session(graph=tf_graph, config=config)
            try:
                v1.saved_model.load(session, list(graph.tags), str(folder))
                tf_graph.finalize()
            except BaseException:
                session.close()
                raise
            return session
    except SalverError:
        raise
    except Exception as error:
        raise InvalidArtifact(f"model {spec.name!r}: TensorFlow can't load {spec.path}: {_message(error)}") from error


def _device(spec: ModelSpec) -> int | None:
    """The GPU's number; None for the CPU."""
    index = gpu_index(spec)
    if index is None:
        return None
    count = len(tf.config.list_physical_devices("GPU"))
    if index < count:
        return index
    if spec.device == "auto":
        return None
    there = f"{count} of them" if count else "none that this TensorFlow can use"
    raise InvalidConfig(f"model {spec.name!r}: device is {spec.device!r}, but of CUDA GPUs there are {there}")


_sizing = threading.Lock()
_pool: int | None = None  # threads within operators, of all sessions


def _pool_threads(spec: ModelSpec) -> int:
    """The threads that one execution will have: the first model decides for the process."""
    global _pool
    wanted = spec.threads or (cores() if spec.one_at_a_time else 1)
    with _sizing:
        if _pool is None:
            _pool = wanted
            try:
                tf.config.threading.set_intra_op_parallelism_threads(wanted)
            except RuntimeError:  # somebody else in this process has run TensorFlow already, and so decided
                _pool = tf.config.threading.get_intra_op_parallelism_threads() or cores()
        if _pool != wanted and spec.threads is not None:
            logger.warning(
                "model %r: threads is %d, but TensorFlow has one pool for all models of a process, and that has %d "
                "threads already; with isolation: process the model has its own",
                spec.name,
                wanted,
                _pool,
            )
        return _pool


def _signature(spec: ModelSpec, definition: Any) -> Signature:
    inputs = []
    for name, info in sorted(definition.inputs.items()):
        found = _tensor_spec(name, info)
        if found is None:
            raise InvalidArtifact(
                f"model {spec.name!r}: input {name!r} of {spec.path} is {_kind(info)}, which no request can carry"
            )
        inputs.append(found)
    outputs = []
    for name, info in sorted(definition.outputs.items()):
        found = _tensor_spec(name, info)
        if found is None:
            logger.warning("model %r: output %r is %s, and is left out", spec.name, name, _kind(info))
        else:
            outputs.append(found)
    if not outputs:
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} has no output that a response can carry")
    return declare(spec, tuple(inputs), tuple(outputs))


def _tensor_spec(name: str, info: Any) -> TensorSpec | None:
    datatype = _DATATYPES.get(tf.as_dtype(info.dtype)) if info.WhichOneof("encoding") == "name" else None
    return None if datatype is None else TensorSpec(name, datatype, _shape(info.tensor_shape))


def _kind(info: Any) -> str:
    encoding = info.WhichOneof("encoding")
    return f"of type {tf.as_dtype(info.dtype).name}" if encoding == "name" else f"a {encoding or 'nameless'} tensor"


def _shape(shape: Any) -> Shape | None:
    return None if shape.unknown_rank else tuple(int(dimension.size) for dimension in shape.dim)


def _scalar(value: Any) -> Array:
    """A session gives the bare element of a tensor without dimensions."""
    if isinstance(value, np.generic) and not isinstance(value, np.bytes_):
        return np.asarray(value)
    array: Array = np.empty((), dtype=np.object_)
    array[()] = bytes(value)
    return array


def _artifact_bytes(folder: Path) -> int:
    """Size of the graph, which holds constants, the weights, and the vocabularies."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


_NOISE = re.compile(r"^Graph execution error:\s+|\s*\[\[\{\{node .*?\}\}\]\]|\s*\(0\) [A-Z_]+: ")


def _message(error: Exception) -> str:
    """TensorFlow's own words, less where in its graph it said them."""
    text = getattr(error, "message", None) or str(error)
    text = re.split(r"\n\s*\n?(?:Original stack trace|Errors may have originated|Traceback)", text, maxsplit=1)[0]
    text = " ".join(_NOISE.sub("", text).split())
    return text[:1000] or type(error).__name__
