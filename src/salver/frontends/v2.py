"""The V2 protocol apart from how it travels: what the REST and gRPC front ends share.

Answers are dictionaries in the protocol's JSON form; the gRPC front end turns them into messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from importlib.metadata import version as package_version
from typing import Any

from salver.cache.offer import Offer
from salver.core.errors import ModelUnavailable, UnknownModel
from salver.core.model import ModelState
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.signature import Signature, TensorSpec
from salver.engine import Engine
from salver.frontends.v2_config import (
    dynamic_batching,
    instance_group,
    max_batch_size,
    scheduling_parameters,
    sequence_batching,
    warm_ups,
)
from salver.monitoring.statistics import Duration, ModelStatistics

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
    "generate",
)
"""The protocol extensions that the server speaks, as its metadata lists them."""

_ANY_SIZE = [-1]


class V2Api:
    """The V2 protocol's calls.

    Args:
        engine: what answers them.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.infer = engine.predict
        self.admit = engine.admit
        self._version = package_version("salver")  # reads a file
        self._draining = False

    def stream(self, request: InferenceRequest) -> AsyncGenerator[InferenceResponse, None]:
        """Answer with one response after another."""
        return self.engine.stream(request)

    def drain(self) -> None:
        """The server is about to stop: it isn't ready any more, and still answers."""
        self._draining = True

    def live(self) -> bool:
        """The process works."""
        return True

    def ready(self) -> bool:
        """The models of the repository have been loaded (those that can be), and the server isn't stopping."""
        return self.engine.repository.loaded and not self._draining

    def model_ready(self, name: str, version: str = "") -> bool:
        """The model answers requests, perhaps after it was loaded for them.

        Raises:
            UnknownModel: there is no such model or version.
        """
        try:
            found = self.engine.models.find(name, version)
            return isinstance(found, Offer) or found.failure is None
        except ModelUnavailable:
            return False

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and extensions of the server."""
        return {"name": "salver", "version": self._version, "extensions": list(EXTENSIONS)}

    def check(self, name: str, version: str = "") -> None:
        """Make sure that requests can have a version, perhaps after it was loaded for them.

        Raises:
            UnknownModel, ModelUnavailable: they can't.
        """
        self.engine.models.find(name, version)

    async def signature(self, name: str, version: str = "") -> Signature:
        """The signature of a version, which is loaded where it takes that to know it.

        Raises:
            UnknownModel, ModelUnavailable: there is none to ask.
        """
        return await self.engine.models.signature(name, version)

    async def streams(self, name: str, version: str = "") -> bool:
        """Whether a version answers a request with several responses.

        Raises:
            UnknownModel, ModelUnavailable: there is none to ask.
        """
        loaded = await self.engine.models.acquire(name, version)
        loaded.unpin()
        return loaded.model.kind in ("stream", "async_stream")

    async def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Name, versions, platform, inputs and outputs of a model.

        Raises:
            UnknownModel, ModelUnavailable: there is none to ask.
        """
        found = await self.engine.models.describe(name, version)
        signature = found.signature
        assert signature is not None
        return {
            "name": name,
            "versions": self.engine.models.versions(name.partition("@")[0]),
            "platform": found.platform if isinstance(found, Offer) else found.model.platform,
            "inputs": [_metadata(spec) for spec in signature.inputs],
            "outputs": [_metadata(spec) for spec in signature.outputs],
        }

    async def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's configuration in Triton's form: ``dims`` without the batch dimension, datatypes as TYPE_*.

        Raises:
            UnknownModel, ModelUnavailable: there is none to ask.
        """
        loaded = await self.engine.models.acquire(name, version)
        loaded.unpin()
        spec, signature = loaded.spec, loaded.signature
        batches = signature.batched and loaded.model.kind in ("sync", "async")
        config: dict[str, Any] = {
            "name": name,
            "platform": loaded.model.platform,
            "backend": spec.runtime,
            "version_policy": {"all": {}},
            "max_batch_size": max_batch_size(loaded),
            "input": [
                _config(tensor, signature.batched) | {"optional": tensor.optional, "allow_ragged_batch": False}
                for tensor in signature.inputs
            ],
            "output": [_config(tensor, signature.batched) for tensor in signature.outputs],
            "instance_group": [instance_group(loaded)],
            "default_model_filename": spec.path.name,
            "parameters": {name: {"string_value": value} for name, value in scheduling_parameters(loaded).items()},
            "model_transaction_policy": {"decoupled": loaded.model.kind in ("stream", "async_stream")},
            "model_warmup": warm_ups(loaded),
        }
        # That these are there at all means "on" to clients.
        if loaded.spec.scheduling.sequences is not None:
            config["sequence_batching"] = sequence_batching(loaded)
        elif batches and loaded.scheduler.max_batch_size > 1:
            config["dynamic_batching"] = dynamic_batching(loaded)
        if loaded.responses is not None:
            config["response_cache"] = {"enable": True}
        return config

    def model_statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Statistics of a version, of a model's versions ("" for the version), or of all models ("" for both).

        Raises:
            UnknownModel, ModelUnavailable: there is no such model or version.
        """
        models = self.engine.models
        if not name:
            return {"model_stats": [_statistics(each.name, each.version, each.statistics) for each in models.loaded()]}
        found = models.statistics(name, version)
        return {"model_stats": [_statistics(*each) for each in found]}

    def repository_index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """The repository's versions and their states."""
        return [
            {
                "name": status.name,
                "version": status.version,
                "state": status.state.value,
                "reason": status.reason,
            }
            for status in self.engine.models.statuses()
            if not ready_only or status.state == ModelState.READY
        ]

    async def load_model(self, name: str) -> None:
        """Load or reload a model's versions from the repository.

        Raises:
            UnknownModel: the repository has no such model.
            LoadError: a version can't be loaded.
        """
        await self.engine.repository.load(name)

    async def unload_model(self, name: str) -> None:
        """Unload a model's versions.

        Raises:
            UnknownModel: there is no such model.
        """
        if not self.engine.models.knows(name):
            raise UnknownModel(f"Request for unknown model: '{name}' is not found")
        await self.engine.repository.unload(name)


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    shape = _ANY_SIZE if spec.shape is None else list(spec.shape)
    return {"name": spec.name, "datatype": spec.datatype or "ANY", "shape": shape}


def _config(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    dims = _ANY_SIZE if spec.shape is None else list(spec.shape[1:] if batched else spec.shape)
    names = {"BYTES": "TYPE_STRING", None: "TYPE_INVALID"}
    return {
        "name": spec.name,
        "data_type": names.get(spec.datatype) or f"TYPE_{spec.datatype}",
        # Triton's configs have no empty shapes: a scalar in a batch is [1].
        "dims": dims or [1],
    }


def _statistics(name: str, version: str, statistics: ModelStatistics) -> dict[str, Any]:
    statistics.settle()
    count = statistics.successes
    return {
        "name": name,
        "version": version,
        "last_inference": statistics.last_inference_ms,
        "inference_count": statistics.inferences,
        "execution_count": statistics.executions,
        "inference_stats": {
            "success": _duration(Duration(count, statistics.ok.ns)),
            "fail": _duration(statistics.failures()),
            "queue": _duration(Duration(count, statistics.queue_ns)),
            "compute_input": _duration(Duration(count, statistics.compute_input_ns)),
            "compute_infer": _duration(Duration(count, statistics.compute_infer_ns)),
            "compute_output": _duration(Duration(count, statistics.compute_output_ns)),
            "cache_hit": _duration(statistics.cache_hits),
            "cache_miss": _duration(statistics.cache_misses),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(Duration(batch.count, 0)),
                "compute_infer": _duration(batch),
                "compute_output": _duration(Duration(batch.count, 0)),
            }
            for size, batch in sorted(statistics.batches.items())
        ],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
