"""Fills in what a graph leaves to its models: ``inputs_from`` and ``outputs_from`` become inputs and outputs by name.

Graphs of systems whose graphs pass on whole requests and answers (KServe's) are written so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from salver.core.errors import InvalidConfig, SalverError
from salver.core.signature import Signature, TensorSpec
from salver.graph.spec import (
    GraphConfig,
    InlineGraph,
    ModelReference,
    OutputConfig,
    SourceConfig,
    StepConfig,
    all_steps,
)
from salver.store.model_config import TensorConfig

_BY_NUMBER = re.compile(r"(?P<origin>[A-Za-z_][A-Za-z0-9_]*)\.#(?P<number>[0-9]*)")
"""A reference to a tensor by its number, or to the only one, which other systems have in place of names."""

Outputs = dict[str, bool]
"""Names of a step's outputs; True for those that may be missing."""


def adopt(
    config: GraphConfig,
    *,
    signature_of: Callable[[ModelReference], Signature],
    function_signature: Callable[[str], Signature],
) -> GraphConfig:
    """The graph with nothing left open; itself where nothing is.

    Raises:
        InvalidConfig: a model that has to tell isn't there, or doesn't tell.
    """
    open_steps = any(
        step.inputs_from is not None or (step.graph and step.graph.outputs_from) for step in all_steps(config)
    )
    if not open_steps and config.outputs_from is None:
        return config
    block = _Block(signature_of, function_signature, {each.name: each.to_spec() for each in config.inputs})
    steps = block.steps(config.steps)
    inputs = [*config.inputs, *(_tensor(spec) for name, spec in block.taken.items() if name not in block.declared)]
    outputs = block.outputs(config.outputs, config.outputs_from)
    return config.model_copy(update={"steps": steps, "inputs": tuple(inputs), "outputs": outputs, "outputs_from": None})


class _Block:
    """The steps of one graph.

    Attributes:
        declared: its inputs, as far as it names them.
        taken: the inputs that its steps take by ``inputs_from: inputs``, in the order in which they are met.
    """

    def __init__(
        self,
        signature_of: Callable[[ModelReference], Signature],
        function_signature: Callable[[str], Signature],
        declared: Mapping[str, TensorSpec],
    ) -> None:
        self.declared = dict(declared)
        self.taken: dict[str, TensorSpec] = {}
        self._signature_of = signature_of
        self._function_signature = function_signature
        self._configs: dict[str, StepConfig] = {}
        self._known: dict[str, Outputs] = {}
        self._done: dict[int, tuple[StepConfig, StepConfig]] = {}  # by identity; the first keeps it from being reused

    def steps(self, steps: Sequence[StepConfig]) -> tuple[StepConfig, ...]:
        """The steps, filled in."""
        self._configs = {step.name or "": step for step in steps}
        filled = [self._filled(step) for step in steps]
        # What the inputs are is known by now.
        return tuple(self._with_names(step) for step in filled)

    def outputs(self, outputs: Sequence[OutputConfig], outputs_from: str | None) -> tuple[OutputConfig, ...]:
        """The outputs, with those of a step."""
        result = list(outputs)
        named = {output.name for output in outputs}
        for name, optional in ({} if outputs_from is None else self._outputs_of(outputs_from)).items():
            if name not in named:
                output = {"name": name, "optional": optional, "from": f"{outputs_from}.{name}"}
                result.append(OutputConfig.model_validate(output))
        return tuple(result)

    def _filled(self, step: StepConfig) -> StepConfig:
        if id(step) not in self._done:
            self._done[id(step)] = (step, self._filled_anew(step))
        return self._done[id(step)][1]

    def _filled_anew(self, step: StepConfig) -> StepConfig:
        changes = _inside(step, self._filled)
        if step.graph is not None:
            changes |= self._inline(step, step.graph)
        elif step.values is not None and step.inputs_from is not None:
            passed = {name: _from(step.inputs_from, name) for name in self._outputs_of(step.inputs_from)}
            changes |= {"values": passed | step.values, "inputs_from": None}
        elif step.inputs_from is not None:
            changes |= {"inputs": self._taken_by(step, self._wanted(step)), "inputs_from": None}
        return step.model_copy(update=changes) if changes else step

    def _with_names(self, step: StepConfig) -> StepConfig:
        """The step, with names in its sources, and in those of the steps inside it, where numbers stood."""
        changes = _inside(step, self._with_names)
        for key in ("inputs", "values"):
            sources: dict[str, SourceConfig] | None = getattr(step, key)
            if sources and any(source.from_ and _BY_NUMBER.fullmatch(source.from_) for source in sources.values()):
                changes[key] = {name: self._by_name(step, source) for name, source in sources.items()}
        return step.model_copy(update=changes) if changes else step

    def _inline(self, step: StepConfig, graph: InlineGraph) -> dict[str, object]:
        inner = _Block(self._signature_of, self._function_signature, {})
        steps = inner.steps(graph.steps)
        outputs = inner.outputs(graph.outputs, graph.outputs_from)
        changes: dict[str, object] = {
            "graph": graph.model_copy(update={"steps": steps, "outputs": outputs, "outputs_from": None})
        }
        if step.inputs_from is not None:
            changes |= {"inputs": self._taken_by(step, inner.taken), "inputs_from": None}
        return changes

    def _taken_by(self, step: StepConfig, wanted: Mapping[str, TensorSpec]) -> dict[str, SourceConfig]:
        """The step's inputs, with those that it takes from where it says."""
        origin = step.inputs_from
        assert origin is not None
        result = dict(step.inputs)
        there = None if origin == "inputs" else self._outputs_of(origin)
        needed = [name for name, spec in wanted.items() if name not in result and not spec.optional]
        if there is not None and len(there) == len(needed) == 1 and needed[0] not in there:
            return {**result, needed[0]: _from(origin, *there)}  # there is no mistaking it, whatever their names
        for name, spec in wanted.items():
            if name in result:
                continue
            if there is None:
                self.taken[name] = _both(self.taken[name], spec) if name in self.taken else spec
            elif name not in there and spec.optional:
                continue
            result[name] = _from(origin, name)
        return result

    def _wanted(self, step: StepConfig) -> dict[str, TensorSpec]:
        signature = self._signature(step)
        return {spec.name: spec for spec in signature.inputs}

    def _signature(self, step: StepConfig) -> Signature:
        if step.function is not None:
            return self._function_signature(step.function)
        assert step.model is not None
        try:
            return self._signature_of(ModelReference.parse(step.model))
        except SalverError as error:
            raise InvalidConfig(f"step {step.name or step.model!r}: {error}") from error

    def _outputs_of(self, name: str) -> Outputs:
        """The outputs of a step, or the inputs of the graph."""
        if name == "inputs":
            return {key: spec.optional for key, spec in (self.declared | self.taken).items()}
        if name not in self._configs:
            raise InvalidConfig(f"there is no step {name!r} to take tensors from; there are {', '.join(self._configs)}")
        if name not in self._known:
            self._known[name] = {}  # of steps that wait for each other, which the check will tell of
            self._known[name] = self._given(self._configs[name])
        return self._known[name]

    def _given(self, step: StepConfig, *, is_chosen: bool = False) -> Outputs:
        if step.outputs is not None:
            outputs = dict.fromkeys(step.outputs, False)
        elif step.model is not None or step.function is not None:
            outputs = {spec.name: False for spec in self._signature(step).outputs}
            if not outputs:
                raise InvalidConfig(f"step {step.name!r}: its outputs aren't known before it has run; name them")
            if self._may_lack_an_input(step):
                outputs = dict.fromkeys(outputs, True)
        else:
            outputs = self._given_inside(step)
        if step.optional or (step.when is not None and not is_chosen):
            outputs = dict.fromkeys(outputs, True)
        return outputs

    def _may_lack_an_input(self, step: StepConfig) -> bool:
        """Whether what it takes from another step may be missing: then it is skipped."""
        if step.inputs_from in (None, "inputs"):
            return False
        assert step.inputs_from is not None
        there = self._outputs_of(step.inputs_from)
        wanted, inputs = self._wanted(step), self._filled(step).inputs
        return any(
            there.get((inputs[name].from_ or "").removeprefix(f"{step.inputs_from}."), False)
            for name, spec in wanted.items()
            if name in inputs and not spec.optional
        )

    def _given_inside(self, step: StepConfig) -> Outputs:
        if step.graph is not None:
            filled = self._filled(step)
            assert filled.graph is not None
            return {output.name: output.optional for output in filled.graph.outputs}
        if step.ensemble is not None and step.ensemble.combine == "collect":
            members = [(member.name, self._given(member)) for member in step.ensemble.members]
            some = step.ensemble.quorum is not None and step.ensemble.quorum < len(members)
            return {f"{name}.{key}": some or optional for name, outputs in members for key, optional in outputs.items()}
        cases = step.switch or step.split or (step.ensemble.members if step.ensemble is not None else ())
        given = [self._given(case, is_chosen=True) for case in cases if case.answer is None]
        if step.map is not None:
            given = [self._given(step.map.step)]
        if step.values is not None:
            passed = {} if step.inputs_from is None else self._outputs_of(step.inputs_from)
            given = [passed | dict.fromkeys(step.values, False)]
        may_skip = step.switch is not None and step.switch[-1].when is not None and not step.must_match
        names = dict.fromkeys(name for outputs in given for name in outputs)
        return {name: may_skip or any(outputs.get(name, True) for outputs in given) for name in names}

    def _by_name(self, step: StepConfig, source: SourceConfig) -> SourceConfig:
        """A source with a name where a number stood."""
        match = _BY_NUMBER.fullmatch(source.from_ or "")
        if match is None:
            return source
        origin, names = match["origin"], list(self._outputs_of(match["origin"]))
        told = (
            f"step {step.name!r}: {'the graph' if origin == 'inputs' else f'step {origin!r}'} has {len(names)} tensors"
        )
        if not match["number"] and len(names) != 1:
            raise InvalidConfig(f"{told} ({', '.join(names[:20])}), where one was expected; name it")
        number = int(match["number"] or 0)
        if number >= len(names):
            raise InvalidConfig(f"{told}; there is no number {number}")
        return source.model_copy(update={"from_": f"{origin}.{names[number]}"})


def _inside(step: StepConfig, change: Callable[[StepConfig], StepConfig]) -> dict[str, object]:
    """What becomes of a step where each step inside it is changed."""
    changes: dict[str, object] = {}
    for key in ("switch", "split"):
        if (inner := getattr(step, key)) is not None:
            changes[key] = tuple(map(change, inner))
    if step.ensemble is not None:
        changes["ensemble"] = step.ensemble.model_copy(update={"members": tuple(map(change, step.ensemble.members))})
    if step.map is not None:
        changes["map"] = step.map.model_copy(update={"step": change(step.map.step)})
    if step.fallback is not None and step.fallback.step is not None:
        changes["fallback"] = step.fallback.model_copy(update={"step": change(step.fallback.step)})
    return changes


def _from(origin: str, name: str) -> SourceConfig:
    return SourceConfig.model_validate({"from": f"{origin}.{name}"})


def _both(one: TensorSpec, other: TensorSpec) -> TensorSpec:
    """What is known of an input that two models take."""
    same = one.shape is not None and other.shape is not None and len(one.shape) == len(other.shape)
    shape = (
        tuple(a if a == b else -1 for a, b in zip(one.shape or (), other.shape or (), strict=True)) if same else None
    )
    datatype = one.datatype if one.datatype == other.datatype else None
    return TensorSpec(one.name, datatype, shape, optional=one.optional and other.optional)


def _tensor(spec: TensorSpec) -> TensorConfig:
    return TensorConfig(name=spec.name, datatype=spec.datatype, shape=spec.shape, optional=spec.optional)
