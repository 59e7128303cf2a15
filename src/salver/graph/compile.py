"""From a checked graph to steps that can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from salver.core.errors import InvalidConfig
from salver.core.signature import TensorSpec
from salver.graph.host import Host
from salver.graph.plan import Plan
from salver.graph.spec import GraphConfig, InlineGraph, SourceConfig, StepConfig
from salver.graph.steps.block import Block
from salver.graph.steps.call import Call, FunctionCall, ModelCall
from salver.graph.steps.choice import Split, Switch
from salver.graph.steps.ensemble import Ensemble
from salver.graph.steps.map import ITEM_INDEX, Map
from salver.graph.steps.step import Step
from salver.graph.steps.values import Answer, Values
from salver.graph.transforms import CompiledSource, TransformError, compile_source


class Compiler:
    """Makes steps of what a graph says of them.

    Args:
        host: the node that answers their requests; None for steps that are only looked at.
        known_outputs: gives what is known of a step's outputs, by the step's configuration, once models are known.
    """

    def __init__(self, host: Host | None, known_outputs: Callable[[StepConfig], Sequence[TensorSpec]]) -> None:
        self._host = host
        self._known_outputs = known_outputs

    def graph(self, config: GraphConfig | InlineGraph, prefix: str = "") -> Plan:
        """The plan of a graph.

        Raises:
            InvalidConfig: it was not checked, and doesn't hold.
        """
        steps = [self._step(step, f"{prefix}{step.name}") for step in config.steps]
        sources = {output.name: _source(output, f"output {output.name!r}") for output in config.outputs}
        plan = Plan(steps, config.outputs, sources)
        for step in steps:
            _ask(step, plan.used(step))
        return plan

    def _step(self, config: StepConfig, name: str) -> Step:
        try:
            return self._compiled(config, name)
        except ValueError as error:  # a source or a condition
            raise InvalidConfig(f"step {name!r}: {error}") from None

    def _compiled(self, config: StepConfig, name: str) -> Step:
        fallback = self._fallback(config, name)
        if config.model is not None:
            return ModelCall(config, name, fallback, _sources(config.inputs), self._host)
        if config.function is not None:
            return FunctionCall(config, name, fallback, _sources(config.inputs))
        if config.graph is not None:
            plan = self.graph(config.graph, f"{name}/")
            return Block(config, name, fallback, sources=_sources(config.inputs), plan=plan)
        if config.switch is not None:
            return Switch(config, name, fallback, self._inner(config.switch, name))
        if config.split is not None:
            return Split(config, name, fallback, self._inner(config.split, name))
        if config.ensemble is not None:
            return Ensemble(config, name, fallback, self._inner(config.ensemble.members, name))
        if config.map is not None:
            step = config.map.step
            return Map(
                config,
                name,
                fallback,
                over=_sources(config.map.over),
                step=self._step(step, f"{name}/{step.name or step.kind}"),
                outputs=lambda: self._known_outputs(step),
            )
        if config.values is not None:
            return Values(config, name, fallback, _sources(config.values))
        assert config.answer is not None
        return Answer(config, name, fallback, _sources(config.answer))

    def _inner(self, steps: Sequence[StepConfig], name: str) -> list[Step]:
        return [
            self._step(step, f"{name}/{step.name or step.model or index}") for index, step in enumerate(steps, start=1)
        ]

    def _fallback(self, config: StepConfig, name: str) -> Step | None:
        fallback = config.fallback
        if fallback is None:
            return None
        if fallback.step is not None:
            return self._step(fallback.step, f"{name}/fallback")
        assert fallback.values is not None
        values = StepConfig(values=fallback.values)
        return Values(values, f"{name}/fallback", None, _sources(fallback.values))


def _sources(sources: Mapping[str, SourceConfig]) -> dict[str, CompiledSource]:
    return {name: compile_source(source) for name, source in sources.items()}


def _source(source: SourceConfig, whose: str) -> CompiledSource:
    try:
        return compile_source(source)
    except TransformError as error:
        raise InvalidConfig(f"{whose}: {error}") from None


def _ask(step: Step, used: frozenset[str]) -> None:
    """Tell a step, and those whose outputs become its own, what is used of them."""
    if isinstance(step, Call):
        step.ask_for(used)
    elif isinstance(step, Switch | Split):
        names = step.config.outputs
        own = used if names is None else frozenset(names[name] for name in used if name in names)
        for case in step.inner():
            _ask(case, own)
    elif isinstance(step, Map) and step.config.outputs is None:
        _ask(step.step, used - {ITEM_INDEX})
