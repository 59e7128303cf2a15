"""A graph as a loaded model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from time import monotonic, perf_counter_ns, time
from typing import TypeAlias

from salver.config.document import Document
from salver.core.errors import (
    InvalidRequest,
    ModelFailed,
    SalverError,
    UnsupportedRequest,
)
from salver.core.model import ModelSpec
from salver.core.request import InferenceRequest, Parameter, Parameters
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import DTYPES, Array, datatype_of
from salver.graph.adoption import adopt
from salver.graph.check import check_graph
from salver.graph.compile import Compiler
from salver.graph.functions import function_specs
from salver.graph.host import Callee, Function, Host
from salver.graph.plan import Plan
from salver.graph.scope import Answered, Scope, StepFailed, Trace
from salver.graph.spec import GraphConfig, ModelReference, StepConfig, all_steps
from salver.graph.steps.call import FunctionCall, ModelCall
from salver.graph.steps.ensemble import Ensemble
from salver.graph.steps.step import Step
from salver.monitoring.step_statistics import StepStatistics
from salver.runtimes.base import ComposedModel, Inputs, Kind, Outputs

SignatureOf: TypeAlias = Callable[[ModelReference], Signature]

MAX_DEPTH = 16
"""Graphs in graphs in graphs; more are taken for a mistake."""

_KEPT_TRACES = 20
_KINDS: dict[type[Parameter], str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_SAMPLE_NS = 100_000_000
"""A time line is kept of one request in so many nanoseconds at most: it costs a microsecond a step."""


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """The time line of a request.

    Attributes:
        id: the client's own, "" for none.
        time: when it came, in seconds since the epoch.
        started_ns, ended_ns: by ``perf_counter_ns``, as those of its steps.
        error: why it failed; "" where it was answered.
    """

    id: str
    time: float
    started_ns: int
    ended_ns: int
    trace: Trace
    error: str = ""


class GraphModel(ComposedModel):
    """A graph that is served as a model.

    Args:
        spec: what is loaded.
        config: the graph.
        document: where its lines are, for errors.
        host: answers its steps' requests.
        allow_code: whether it may bring functions.

    Attributes:
        config: the graph.
        plan: its steps; none before it is connected.
        traces: time lines of some of the last requests, the newest at the end.
    """

    kind: Kind = "async"
    sees_parameters = True

    def __init__(
        self, spec: ModelSpec, config: GraphConfig, document: Document, host: Host, *, allow_code: bool
    ) -> None:
        self.config = config
        self.signature = Signature((), ())
        self.traces: deque[RequestTrace] = deque(maxlen=_KEPT_TRACES)
        self._spec = spec
        self._document = document
        self._host = host
        self._allow_code = allow_code
        self._callees: dict[ModelReference, Callee | SalverError] = {}
        self._functions: dict[str, Function] = {}
        self.plan = Plan((), (), {})
        self._steps: list[Step] = []
        self._references: dict[str, str] = {}
        self._key = (spec.name, spec.version)
        self._last_sample_ns = 0
        self._streamed: ModelCall | None = None

    # Coming and going

    async def connect(self) -> None:
        """See :meth:`ComposedModel.connect`.

        Raises:
            InvalidConfig: the graph and its models don't fit together; a line a problem.
            CodeNotAllowed: it brings functions, and may not.
            LoadError: a function of it can't be loaded.
        """
        await self._load_functions()
        models = {ModelReference.parse(step.model) for step in all_steps(self.config) if step.model is not None}
        for model, found in zip(models, await asyncio.gather(*map(self._describe, models)), strict=True):
            self._callees[model] = found
        self.config = adopt(
            self.config,
            signature_of=self._signature_of,
            function_signature=lambda function: self._functions[function].signature,
        )
        self._references = {tensor.name: f"inputs.{tensor.name}" for tensor in self.config.inputs}
        self.signature = self.check(self._signature_of)
        self.plan = Compiler(self._host, self._known_outputs).graph(self.config)
        self._steps = [each for step in self.plan.steps for each in step.all()]
        for step in self._steps:
            if isinstance(step, ModelCall):
                callee = self._callees[step.model]
                assert isinstance(callee, Callee)
                step.told(callee)
            elif isinstance(step, FunctionCall):
                assert step.config.function is not None
                step.told(self._functions[step.config.function])
            elif isinstance(step, Ensemble) and (combine := _combining_function(step.config)) is not None:
                step.function = self._functions[combine]
        self._streamed = self._streaming_step()
        if self._streamed is not None:
            self.kind = "async_stream"

    async def disconnect(self) -> None:
        """See :meth:`ComposedModel.disconnect`."""
        functions = list(self._functions.values())
        self._functions.clear()
        await asyncio.gather(*(function.close() for function in functions))

    def models(self) -> frozenset[ModelReference]:
        """The models that its steps ask."""
        return frozenset(self._callees)

    def check_change(self, name: str, leads_here: Callable[[str], bool], signature: Signature) -> None:
        """See :meth:`ComposedModel.check_change`."""
        changed = {model for model in self._callees if model.name == name and leads_here(model.version)}
        if changed:
            self.check(lambda model: signature if model in changed else self._signature_of(model))

    def check(self, signature_of: SignatureOf) -> Signature:
        """The graph's signature.

        Raises:
            InvalidConfig: it doesn't hold.
        """
        return check_graph(
            self.config,
            signature_of=signature_of,
            function_signature=lambda function: self._functions[function].signature,
            place=self._document.place,
        )

    def memory_bytes(self) -> int:
        """Next to nothing: its models are counted themselves."""
        return 0

    # Requests

    async def answer(self, request: InferenceRequest, inputs: Inputs) -> Outputs:
        """See :meth:`ComposedModel.answer`."""
        if self._streamed is not None:
            raise UnsupportedRequest(
                f"graph '{self._spec.name}' streams its answers; ask it by ModelStreamInfer (gRPC) or /generate_stream"
            )
        scope = self._scope(request, inputs)
        started = perf_counter_ns()
        if started - self._last_sample_ns < _SAMPLE_NS:
            return await self._run(scope)
        self._last_sample_ns = started
        scope.trace = Trace()
        for model in self._callees:  # those that aren't loaded are, while the first steps run
            self._host.hint(model)
        return await self._traced(scope)

    async def explain(self, request: InferenceRequest, inputs: Inputs) -> tuple[Outputs | SalverError, RequestTrace]:
        """Answer a request, and tell what each step got and gave. Errors are returned, since the way there matters."""
        scope = self._scope(request, inputs)
        scope.trace = Trace(keeps_tensors=True)
        came, started = time(), perf_counter_ns()
        answer: Outputs | SalverError
        try:
            answer = await self._run(scope)
        except SalverError as error:
            answer = error
        told = str(answer) if isinstance(answer, SalverError) else ""
        return answer, RequestTrace(scope.id, came, started, perf_counter_ns(), scope.trace, told)

    async def answers(self, request: InferenceRequest, inputs: Inputs) -> AsyncGenerator[Outputs, None]:
        """See :meth:`ComposedModel.answers`: all steps run, and the last one's answers are the graph's."""
        last = self._streamed
        assert last is not None
        scope = self._scope(request, inputs)
        try:
            await self.plan.run_before(last, scope)
            if not last.is_wanted(scope):
                raise StepFailed(last, ModelFailed("its condition is false, and nothing else answers"))
            async with aclosing(last.stream(scope)) as parts:
                async for outputs in parts:
                    yield await self.plan.outputs(scope.with_values({f"{last.key}.{k}": v for k, v in outputs.items()}))
        except Answered as answer:
            yield answer.outputs
        except StepFailed as failure:
            raise failure.told() from failure
        except SalverError as error:
            failed = StepFailed(last, error)
            raise failed.told() from failed

    async def predict_async(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        """Answer made-up requests, when the graph is warmed up."""
        return await self.answer(InferenceRequest(*self._key, inputs, None, parameters), inputs)

    def steps(self) -> Iterator[Step]:
        """All its steps, those inside others too."""
        return iter(self._steps)

    def step_statistics(self) -> Sequence[tuple[str, StepStatistics]]:
        """See :meth:`ComposedModel.step_statistics`."""
        return [(step.name, step.statistics) for step in self._steps]

    def _scope(self, request: InferenceRequest, inputs: Inputs) -> Scope:
        within = request.within
        if self._key in within or len(within) >= MAX_DEPTH:
            way = " -> ".join(name for name, _ in (*within, self._key))
            why = "calls itself" if self._key in within else f"is the {MAX_DEPTH + 1}th graph in a graph"
            raise UnsupportedRequest(f"graph '{self._spec.name}' {why}: {way}")
        deadline = request.deadline
        if self.config.timeout is not None:
            until = monotonic() + self.config.timeout
            deadline = until if deadline is None else min(until, deadline)
        references = self._references
        return Scope(
            {references[name]: array for name, array in inputs.items()},
            self._parameters(request.parameters) if self.config.parameters else request.parameters,
            deadline,
            request.priority,
            request.id,
            (*within, self._key),
            max_step_bytes=self.config.max_step_bytes,
        )

    def _parameters(self, given: Parameters) -> Parameters:
        """The request's parameters with those that the graph declares, which are of the kind of their default."""
        parameters: Parameters = {**self.config.parameters, **given}
        for name, default in self.config.parameters.items():
            value = parameters[name]
            if isinstance(default, float) and type(value) is int:
                parameters[name] = float(value)
            elif type(value) is not type(default):
                raise InvalidRequest(f"parameter {name!r} must be {_KINDS[type(default)]}, got {value!r}")
        return parameters

    async def _run(self, scope: Scope) -> Outputs:
        try:
            return self._checked(await self.plan.run(scope))
        except Answered as answer:
            return self._checked(answer.outputs)
        except StepFailed as failure:
            raise failure.told() from failure

    async def _traced(self, scope: Scope) -> Outputs:
        came, started, error = time(), perf_counter_ns(), ""
        assert scope.trace is not None
        try:
            return await self._run(scope)
        except BaseException as failure:
            error = str(failure) or type(failure).__name__
            raise
        finally:
            self.traces.append(RequestTrace(scope.id, came, started, perf_counter_ns(), scope.trace, error))

    def _checked(self, outputs: Outputs) -> Outputs:
        """The outputs in the order of the signature, held against it."""
        result: Outputs = {}
        for spec in self.signature.outputs:
            array = outputs.get(spec.name)
            if array is None:
                if not spec.optional:
                    raise ModelFailed(f"graph '{self._spec.name}': its answer has no output {spec.name!r}")
                continue
            _check_output(self._spec.name, spec, array)
            result[spec.name] = array
        return result

    # What it asks

    async def _load_functions(self) -> None:
        specs = function_specs(self._spec, self.config, allow_code=self._allow_code)
        try:
            for function, spec in specs.items():
                self._functions[function] = await self._host.load_function(spec)
        except BaseException:
            with suppress(Exception):
                await self.disconnect()
            raise

    async def _describe(self, model: ModelReference) -> Callee | SalverError:
        try:
            return await self._host.describe(model, self._key)
        except SalverError as error:
            return error

    def _signature_of(self, model: ModelReference) -> Signature:
        callee = self._callees[model]
        if isinstance(callee, SalverError):
            raise callee
        return callee.signature

    def _known_outputs(self, step: StepConfig) -> Sequence[TensorSpec]:
        """What is known of a step's outputs, for a map over nothing."""
        specs: Sequence[TensorSpec] = ()
        if step.model is not None:
            specs = self._signature_of(ModelReference.parse(step.model)).outputs
        elif step.function is not None:
            specs = self._functions[step.function].signature.outputs
        elif step.switch or step.split:
            specs = self._known_outputs((step.switch or step.split or ())[0])
        if step.outputs is None:
            return specs
        by_name = {spec.name: spec for spec in specs}
        return [replace(by_name[own], name=name) for name, own in step.outputs.items() if own in by_name]

    def _streaming_step(self) -> ModelCall | None:
        """The last step, where it streams and all outputs are its own."""
        last = answering_call(self.plan)
        return last if last is not None and last.streams else None


def answering_call(plan: Plan) -> ModelCall | None:
    """The last step, where it asks a model whose answer is the graph's: where that streams, the graph does."""
    last = plan.last()
    if not isinstance(last, ModelCall) or last.config.fallback or last.config.retries:
        return None
    return last if plan.is_answered_by(last) else None


def _combining_function(config: StepConfig) -> str | None:
    combine = None if config.ensemble is None else config.ensemble.combine
    return None if combine is None or isinstance(combine, str) else combine.function


def _check_output(graph: str, spec: TensorSpec, array: Array) -> None:
    """Hold an output against what the signature promises."""
    if spec.datatype is not None and array.dtype != DTYPES[spec.datatype]:
        came = datatype_of(array)
        raise ModelFailed(f"graph '{graph}': output {spec.name!r} came as {came}, and {spec.datatype} is promised")
    if spec.shape is not None and len(spec.shape) != array.ndim:
        raise ModelFailed(
            f"graph '{graph}': output {spec.name!r} came with shape {list(array.shape)}, and {list(spec.shape)} is "
            "promised"
        )
