"""What graphs are given of their node: its models, and functions of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress

from salver.cache.loaded_version import LoadedVersion
from salver.cache.model_cache import ModelCache
from salver.cache.offer import Offer
from salver.core.errors import SalverError
from salver.core.model import ModelSpec
from salver.core.request import InferenceRequest, InferenceResponse, Parameters
from salver.core.signature import Signature
from salver.graph.host import Callee
from salver.graph.spec import ModelReference
from salver.runtimes.base import Inputs, Outputs


class GraphHost:
    """A node as its graphs see it, see :class:`salver.graph.host.Host`. :meth:`connect` it before the first graph."""

    _models: ModelCache
    _predict: Callable[[InferenceRequest], Awaitable[InferenceResponse]]
    _stream: Callable[[InferenceRequest], AsyncGenerator[InferenceResponse, None]]
    _hint: Callable[[str, str], None]

    def connect(
        self,
        models: ModelCache,
        *,
        predict: Callable[[InferenceRequest], Awaitable[InferenceResponse]],
        stream: Callable[[InferenceRequest], AsyncGenerator[InferenceResponse, None]],
        hint: Callable[[str, str], None],
    ) -> None:
        """Say what the node is: its models, how a request is answered, and who is told of requests to come."""
        self._models = models
        self._predict = predict
        self._stream = stream
        self._hint = hint

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        """Answer a step's request; see :meth:`salver.graph.host.Host.predict`."""
        return await self._predict(request)

    def stream(self, request: InferenceRequest) -> AsyncGenerator[InferenceResponse, None]:
        """The same with one answer after another."""
        return self._stream(request)

    async def describe(self, model: ModelReference, asker: tuple[str, str]) -> Callee:
        """A model's signature; see :meth:`salver.graph.host.Host.describe`."""
        found = self._models.find(model.name, model.version)
        if isinstance(found, Offer) and found.signature is None:
            found = await self._models.load_for(asker, model.name, model.version)
        assert found.signature is not None
        if isinstance(found, Offer):
            streams = found.streams
        else:
            streams = found.model.kind in ("stream", "async_stream")
        return Callee(found.version, found.signature, streams)

    async def load_function(self, spec: ModelSpec) -> LoadedFunction:
        """Load a function of a graph's own; see :meth:`salver.graph.host.Host.load_function`."""
        return LoadedFunction(self._models, await self._models.load_private(spec))

    def hint(self, model: ModelReference) -> None:
        """A model is about to be asked."""
        with suppress(SalverError):  # who asks it is told
            self._hint(model.name, model.version)


class LoadedFunction:
    """A function that comes with a graph; see :class:`salver.graph.host.Function`."""

    def __init__(self, models: ModelCache, loaded: LoadedVersion) -> None:
        self._models = models
        self._loaded = loaded

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
        return self._loaded.signature

    async def predict(
        self,
        inputs: Inputs,
        asked: Sequence[str] | None,
        parameters: Parameters,
        *,
        priority: int,
        deadline: float | None,
    ) -> Outputs:
        """Call it; see :meth:`salver.graph.host.Function.predict`."""
        loaded = self._loaded
        rows = loaded.signature.batch_size(inputs)
        outputs, _ = await loaded.scheduler.predict(
            inputs, asked, parameters, rows=rows, priority=priority, deadline=deadline
        )
        return outputs

    async def close(self) -> None:
        """Close it once its calls have ended."""
        await self._models.retire_private(self._loaded)
