"""A node for graphs under test: its models are plain functions, and it notes what is asked of them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from salver.config.document import parse_document
from salver.core.errors import ModelFailed, SalverError, UnknownModel
from salver.core.model import ModelSpec
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import Array
from salver.graph.document import read_graph_document
from salver.graph.host import Callee, Function
from salver.graph.model import GraphModel
from salver.graph.spec import ModelReference
from salver.runtimes.base import Outputs

ANY = None


def signature(inputs: Iterable[str], outputs: Iterable[str], *, optional: Iterable[str] = ()) -> Signature:
    """Tensors of any datatype and shape."""
    optional = set(optional)
    return Signature(
        tuple(TensorSpec(name, None, None, optional=name in optional) for name in inputs),
        tuple(TensorSpec(name, None, None) for name in outputs),
    )


class FakeHost:
    """Models that are Python functions: from inputs by name to outputs by name, sync or async.

    Attributes:
        requests: what was asked, in order.
        running, most_running: requests that run now, and the most that ever did.
    """

    def __init__(self) -> None:
        self.requests: list[InferenceRequest] = []
        self.running = 0
        self.most_running = 0
        self._models: dict[str, tuple[Callable[..., Any], Signature, bool]] = {}

    def add(
        self,
        name: str,
        function: Callable[..., Any],
        given: Signature | None = None,
        *,
        outputs: Iterable[str] = (),
        streams: bool = False,
    ) -> None:
        """Serve a function; by default its parameters are its inputs, those with defaults optional."""
        if given is None:
            parameters = inspect.signature(function).parameters
            optional = [key for key, each in parameters.items() if each.default is not inspect.Parameter.empty]
            given = signature(parameters, outputs, optional=optional)
        self._models[name] = (function, given, streams)

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        self.requests.append(request)
        function, given, _ = self._find(request.model)
        inputs = given.check_inputs(request.inputs)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            result = function(**inputs)
            if inspect.isawaitable(result):
                result = await result
        except SalverError:
            raise
        except Exception as error:
            raise ModelFailed(f"model {request.model!r} failed: {error}") from error
        finally:
            self.running -= 1
        return InferenceResponse(request.model, request.version or "1", outputs_of(result))

    async def stream(self, request: InferenceRequest) -> AsyncGenerator[InferenceResponse, None]:
        self.requests.append(request)
        function, _, _ = self._find(request.model)
        for part in function(**request.inputs):
            await asyncio.sleep(0)
            yield InferenceResponse(request.model, "1", outputs_of(part))

    async def describe(self, model: ModelReference, asker: tuple[str, str]) -> Callee:
        _, given, streams = self._find(model.name)
        return Callee(model.version or "1", given, streams)

    async def load_function(self, spec: ModelSpec) -> Function:
        raise AssertionError(f"no function is expected, and {spec.name} was asked for")

    def hint(self, model: ModelReference) -> None:
        """Nothing is ever loaded here."""

    def _find(self, name: str) -> tuple[Callable[..., Any], Signature, bool]:
        found = self._models.get(name)
        if found is None:
            raise UnknownModel(f"there is no model '{name}'")
        return found


def outputs_of(result: Mapping[str, Any]) -> Outputs:
    return {name: np.asarray(value) for name, value in result.items()}


async def load(text: str, host: FakeHost, *, name: str = "g") -> GraphModel:
    """A graph of YAML text, connected."""
    document = parse_document(text.encode(), "graph.yaml")
    config, _ = read_graph_document(document.data, "graph.yaml")
    spec = ModelSpec(name=name, version="1", path=Path("/nowhere"), runtime="graph")
    model = GraphModel(spec, config, document, host, allow_code=False)
    await model.connect()
    return model


async def ask(model: GraphModel, **inputs: Any) -> dict[str, Array]:
    """The answer to a request with these inputs."""
    request = InferenceRequest("g", "", {name: np.asarray(value) for name, value in inputs.items()})
    return await model.answer(request, model.signature.check_inputs(request.inputs))
