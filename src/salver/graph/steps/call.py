"""Steps that call something: a model, or a function that comes with the graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping

from salver.core.errors import ModelFailed
from salver.core.request import InferenceRequest, Parameters
from salver.core.signature import Signature
from salver.graph.host import Callee, Function, Host
from salver.graph.scope import Scope
from salver.graph.spec import ModelReference, StepConfig
from salver.graph.steps.step import Step, gather, present
from salver.graph.transforms import CompiledSource
from salver.runtimes.base import Inputs, Outputs


class Call(Step):
    """A step with inputs of its own: it is skipped where one of them is missing that its callee needs.

    Args:
        config, name, fallback: as for :class:`Step`.
        sources: where its inputs come from.
    """

    def __init__(
        self, config: StepConfig, name: str, fallback: Step | None, sources: Mapping[str, CompiledSource]
    ) -> None:
        super().__init__(config, name, fallback)
        self._sources = dict(sources)
        self._plain = {key: source.plain for key, source in sources.items() if source.plain is not None}
        self._is_plain = len(self._plain) == len(self._sources)
        self._required = frozenset(sources)
        self._asked: tuple[str, ...] | None = None
        self.takes_graph_inputs = all(
            reference.startswith("inputs.") for source in sources.values() for reference in source.references
        )

    def own_references(self) -> frozenset[str]:
        """The tensors that its inputs are made of."""
        return frozenset().union(*(source.references for source in self._sources.values()))

    def connect(self, signature: Signature) -> None:
        """Hear what the callee takes: inputs that it doesn't need may be missing."""
        optional = {spec.name for spec in signature.inputs if spec.optional}
        self._required = frozenset(self._sources) - optional

    def ask_for(self, used: frozenset[str]) -> None:
        """Hear which of its outputs are used: nobody has to compute the others."""
        names = self.config.outputs
        asked = tuple(sorted(used if names is None else {names[name] for name in used if name in names}))
        self._asked = asked or None

    async def _inputs(self, scope: Scope) -> Inputs | None:
        if not self._is_plain:
            return present(await gather(self._sources, scope), self._required)
        values = scope.values
        inputs: Inputs = {}
        for name, reference in self._plain.items():
            array = values.get(reference)
            if array is not None:
                inputs[name] = array
            elif name in self._required:
                return None
        return inputs

    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """Ask the callee; see :meth:`Step.compute`."""
        inputs = await self._inputs(scope)
        if inputs is None:
            return None, "an input is missing"
        outputs, detail = await self._call(inputs, scope)
        size = 0
        for array in outputs.values():
            size += array.nbytes if array.dtype != object else sum(map(len, array.flat))
        if size > scope.max_step_bytes:
            raise ModelFailed(f"its outputs take {size} bytes, and max_step_bytes is {scope.max_step_bytes}")
        return outputs, detail

    @abstractmethod
    async def _call(self, inputs: Inputs, scope: Scope) -> tuple[Outputs, str]:
        """The callee's outputs, and who it was."""


class ModelCall(Call):
    """Asks a model of the node, or another graph, as any client would."""

    def __init__(
        self,
        config: StepConfig,
        name: str,
        fallback: Step | None,
        sources: Mapping[str, CompiledSource],
        host: Host | None,
    ) -> None:
        super().__init__(config, name, fallback, sources)
        assert config.model is not None
        self.model = ModelReference.parse(config.model)
        self.streams = False
        self._host = host
        self._constant = {
            key: value for key, value in config.parameters.items() if not (isinstance(value, str) and value[:1] == "$")
        }
        self._passed = {
            key: value[1:] for key, value in config.parameters.items() if isinstance(value, str) and value[:1] == "$"
        }

    def told(self, callee: Callee) -> None:
        """Hear of the model."""
        self.connect(callee.signature)
        self.streams = callee.streams

    async def _call(self, inputs: Inputs, scope: Scope) -> tuple[Outputs, str]:
        assert self._host is not None
        response = await self._host.predict(self._request(inputs, scope))
        return response.outputs, response.version

    async def stream(self, scope: Scope) -> AsyncGenerator[Outputs, None]:
        """The model's answers one after another; none where an input is missing.

        Raises:
            SalverError: as :meth:`compute`.
        """
        inputs = await self._inputs(scope)
        if inputs is None:
            raise ModelFailed("it has no input: a step before it has not run")
        assert self._host is not None
        async for response in self._host.stream(self._request(inputs, scope)):
            yield self._renamed(response.outputs)

    def _request(self, inputs: Inputs, scope: Scope) -> InferenceRequest:
        parameters: Parameters = {}
        if self._constant or self._passed:
            parameters |= self._constant
            for key, name in self._passed.items():
                if name in scope.parameters:
                    parameters[key] = scope.parameters[name]
        return InferenceRequest(
            self.model.name,
            self.model.version,
            inputs,
            self._asked,
            parameters,
            scope.id,
            scope.priority,
            scope.deadline,
            within=scope.within,
        )


class FunctionCall(Call):
    """Calls a function that comes with the graph."""

    function: Function

    def told(self, function: Function) -> None:
        """Hear of the function, once it is loaded."""
        self.function = function
        self.connect(function.signature)

    async def _call(self, inputs: Inputs, scope: Scope) -> tuple[Outputs, str]:
        checked = self.function.signature.check_inputs(inputs)
        outputs = await self.function.predict(
            checked, self._asked, scope.parameters, priority=scope.priority, deadline=scope.deadline
        )
        return outputs, ""
