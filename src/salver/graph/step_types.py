"""What each kind of step gives, and whether it gets what it needs: from the signatures of what it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from salver.config.document import KeyPath
from salver.config.explain import suggestion
from salver.core.errors import SalverError
from salver.core.request import Parameter
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import datatype_of
from salver.graph.expressions import Expression
from salver.graph.spec import CombineConfig, InlineGraph, ModelReference, SourceConfig, StepConfig
from salver.graph.steps.map import ITEM_INDEX
from salver.graph.tensor_types import UNKNOWN, TensorType, fits, merged, of_spec
from salver.graph.transforms import TransformError, compile_source

SignatureOf = Callable[[ModelReference], Signature]


@dataclass(slots=True)
class Given:
    """What a step gives.

    Attributes:
        outputs: by name.
        is_open: it may give others, too: its model doesn't tell.
        answers: it ends the graph instead.
    """

    outputs: dict[str, TensorType] = field(default_factory=dict)
    is_open: bool = False
    answers: bool = False

    def get(self, name: str) -> TensorType | None:
        """What is known of an output; None where there is no such."""
        return self.outputs.get(name) or (replace(UNKNOWN, optional=False) if self.is_open else None)

    def all_optional(self) -> Given:
        """The same, where the step may not run."""
        return Given({name: replace(each, optional=True) for name, each in self.outputs.items()}, self.is_open)


@dataclass(slots=True)
class Tensors:
    """The tensors that steps of one graph see, as far as they are known.

    Attributes:
        inputs: the graph's.
        steps: what its steps give, of those that were looked at.
        items: of a map's step.
        parameters: that the graph declares.
        in_map: inside a map, where nothing can answer for the graph.
    """

    inputs: Mapping[str, TensorType]
    steps: dict[str, Given]
    parameters: Mapping[str, Parameter]
    items: Mapping[str, TensorType] | None = None
    in_map: bool = False

    def type_of(self, reference: str) -> TensorType | None:
        """What is known of a tensor; None where there is none."""
        origin, _, name = reference.partition(".")
        if origin == "inputs":
            return self.inputs.get(name)
        if origin == "item":
            return None if self.items is None else self.items.get(name)
        if origin == "parameters":
            value = self.parameters.get(name)
            return None if value is None else TensorType(_natural(value), ())
        given = self.steps.get(origin)
        return None if given is None else given.get(name)

    def why_not(self, reference: str) -> str:
        """Why there is no tensor of that reference."""
        origin, dot, name = reference.partition(".")
        if not dot:
            return f"{reference!r} is no tensor; write STEP.OUTPUT or inputs.NAME"
        if origin == "inputs":
            return f"there is no input {name!r}; {_nearest(name, self.inputs)}"
        if origin == "item":
            if self.items is None:
                return f"{reference!r}: only a map's step has items"
            return f"there is no item {name!r}; {_nearest(name, self.items)}"
        if origin not in self.steps:
            return f"there is no step {origin!r}; {_nearest(origin, self.steps)}"
        return f"step {origin!r} has no output {name!r}; {_nearest(name, self.steps[origin].outputs)}"


class StepTypes:
    """Looks at steps, and notes what is wrong.

    Args:
        signature_of: of a model. Raises SalverError where there is none.
        function_signature: of FILE.py:NAME.
        inline: looks at an inline graph: gives what it gives.
        wanted: the outputs that an ``answer`` has to give: those of the graph that it is in; True where required.
        note: is told what is wrong, and where.
    """

    def __init__(
        self,
        *,
        signature_of: SignatureOf,
        function_signature: Callable[[str], Signature],
        inline: Callable[[InlineGraph, dict[str, TensorType], KeyPath, str], Given],
        wanted: Mapping[str, bool],
        note: Callable[[KeyPath, str], None],
    ) -> None:
        self._signature_of = signature_of
        self._function_signature = function_signature
        self._inline = inline
        self._wanted = wanted
        self._note = note
        self.answers: list[dict[str, TensorType]] = []

    def look_at(
        self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str, *, is_chosen: bool = False
    ) -> Given:
        """What a step gives; ``is_chosen``: its condition is known to be true."""
        given = self._kind(step, tensors, path, name)
        if given.answers:
            self._condition(step, tensors, path, name)
            return given
        if step.outputs is not None:
            given = self._renamed(step.outputs, given, path, name)
        if step.fallback is not None:
            given = self._with_fallback(step, given, tensors, path, name)
        is_conditional = self._condition(step, tensors, path, name)
        if (is_conditional and not is_chosen) or step.optional:
            given = given.all_optional()
        return given

    def _kind(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Given:
        if step.model is not None:
            try:
                signature = self._signature_of(ModelReference.parse(step.model))
            except SalverError as error:
                self._note((*path, "model"), f"step {name!r}: {error}")
                self._sources(step.inputs, tensors, (*path, "inputs"), name)
                return Given(is_open=True)
            return self._call(step, signature, tensors, path, name)
        if step.function is not None:
            return self._call(step, self._function_signature(step.function), tensors, path, name)
        if step.graph is not None:
            inputs = self._sources(step.inputs, tensors, (*path, "inputs"), name)
            return self._inline(step.graph, inputs, (*path, "graph"), f"{name}/")
        if step.switch is not None:
            return self._choice(step.switch, tensors, (*path, "switch"), name, must_match=step.must_match)
        if step.split is not None:
            return self._choice(step.split, tensors, (*path, "split"), name)
        if step.ensemble is not None:
            return self._ensemble(step, tensors, path, name)
        if step.map is not None:
            return self._map(step, tensors, path, name)
        if step.values is not None:
            return Given(self._sources(step.values, tensors, (*path, "values"), name))
        assert step.answer is not None
        return self._answer(step.answer, tensors, path, name)

    # Calls

    def _call(self, step: StepConfig, signature: Signature, tensors: Tensors, path: KeyPath, name: str) -> Given:
        given = self._sources(step.inputs, tensors, (*path, "inputs"), name)
        specs = {spec.name: spec for spec in signature.inputs}
        may_skip = False
        for key, known in given.items():
            spec = specs.get(key)
            where = (*path, "inputs", key)
            if spec is None:
                self._note(where, f"step {name!r}: there is no input {key!r}; {_nearest(key, specs)}")
            elif problem := fits(known, spec):
                self._note(where, f"step {name!r}: input {key!r}: {problem}")
            may_skip |= known.optional and spec is not None and not spec.optional
        for spec in signature.inputs:
            if not spec.optional and spec.name not in step.inputs:
                self._note(path, f"step {name!r}: input {spec.name!r} is missing ({_told(spec)})")
        outputs = {spec.name: of_spec(spec) for spec in signature.outputs}
        result = Given(outputs, is_open=not signature.outputs)
        return result.all_optional() if may_skip else result

    def _sources(
        self, sources: Mapping[str, SourceConfig], tensors: Tensors, path: KeyPath, name: str
    ) -> dict[str, TensorType]:
        return {key: self.source(source, tensors, (*path, key), f"step {name!r}") for key, source in sources.items()}

    def source(self, source: SourceConfig, tensors: Tensors, path: KeyPath, whose: str) -> TensorType:
        """What a source gives; what is wrong with it is noted."""
        try:
            compiled = compile_source(source)
            unknown = [each for each in sorted(compiled.references) if tensors.type_of(each) is None]
            for reference in unknown:
                self._note(path, f"{whose}: {tensors.why_not(reference)}")
            return UNKNOWN if unknown else compiled.result_type(tensors.type_of)
        except TransformError as error:
            self._note(path, f"{whose}: {path[-1] if isinstance(path[-1], str) else 'it'}: {error}")
            return UNKNOWN

    def _condition(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> bool:
        """Whether the step has a condition."""
        if step.when is None:
            return False
        try:
            expression = Expression.parse(step.when)
        except ValueError as error:
            self._note((*path, "when"), f"step {name!r}: {error}")
            return True
        for reference in sorted(expression.references):
            if tensors.type_of(reference) is None:
                self._note((*path, "when"), f"step {name!r}: {tensors.why_not(reference)}")
                return True
        if problem := expression.check(tensors.type_of):
            self._note((*path, "when"), f"step {name!r}: condition {expression.text!r}: {problem}")
        return True

    # Steps with steps inside

    def _choice(
        self, cases: Sequence[StepConfig], tensors: Tensors, path: KeyPath, name: str, *, must_match: bool = False
    ) -> Given:
        is_switch = path[-1] == "switch"
        looked = []
        for index, case in enumerate(cases):
            inner = f"{name}/{case.name or case.model or index + 1}"
            # The condition of a case chooses it: that alone doesn't make its outputs missing.
            given = self.look_at(case, tensors, (*path, index), inner, is_chosen=is_switch)
            looked.append(given)
        chosen = [each for each in looked if not each.answers]
        if not chosen:
            return Given(answers=True)
        result = Given(is_open=any(each.is_open for each in chosen))
        may_skip = is_switch and cases[-1].when is not None and not must_match
        for key in dict.fromkeys(key for each in chosen for key in each.outputs):
            known = [found for each in chosen if (found := each.get(key)) is not None]
            merge = known[0]
            for other in known[1:]:
                merge = merged(merge, other)
            missing = may_skip or len(known) < len(chosen)
            result.outputs[key] = replace(merge, optional=merge.optional or missing)
        return result

    def _ensemble(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Given:
        ensemble = step.ensemble
        assert ensemble is not None
        looked = []
        for index, member in enumerate(ensemble.members):
            where = (*path, "ensemble", "members", index)
            looked.append(self.look_at(member, tensors, where, f"{name}/{member.name or member.model or index + 1}"))
        if any(each.answers for each in looked):
            self._note(path, f"step {name!r}: a member of an ensemble can't be an 'answer'")
        if ensemble.combine == "collect":
            partial = ensemble.quorum is not None and ensemble.quorum < len(looked)
            return Given(
                {
                    f"{member.name}.{key}": replace(known, optional=known.optional or partial)
                    for member, each in zip(ensemble.members, looked, strict=True)
                    for key, known in each.outputs.items()
                },
                is_open=any(each.is_open for each in looked),
            )
        is_open = all(each.is_open for each in looked)
        names = [
            key
            for key in dict.fromkeys(k for each in looked for k in each.outputs)
            if all(each.get(key) for each in looked)
        ]
        if not names and not is_open:
            told = "; ".join(f"{name}: {', '.join(each.outputs) or 'none'}" for each in looked)
            self._note(path, f"step {name!r}: its members have no output in common ({told})")
        common: dict[str, TensorType] = {}
        for key in names:
            known = looked[0].get(key) or UNKNOWN
            for each in looked[1:]:
                known = merged(known, each.get(key) or UNKNOWN)
            common[key] = known
        return self._combined(step, common, is_open, path, name)

    def _combined(
        self, step: StepConfig, common: dict[str, TensorType], is_open: bool, path: KeyPath, name: str
    ) -> Given:
        assert step.ensemble is not None
        how = step.ensemble.combine
        if isinstance(how, CombineConfig) and how.function is not None:
            signature = self._function_signature(how.function)
            specs = {spec.name: spec for spec in signature.inputs}
            for key, spec in specs.items():
                if key not in common and not spec.optional and not is_open:
                    self._note(path, f"step {name!r}: {how.function} takes {key!r}, which its members don't give")
            return Given({spec.name: of_spec(spec) for spec in signature.outputs}, is_open=not signature.outputs)
        if how == "vote":
            return Given(common, is_open)
        result = {}
        for key, known in common.items():
            if known.datatype == "BYTES":
                self._note(path, f"step {name!r}: output {key!r} is text, which has no mean; use 'combine: vote'")
            floats = known.datatype in (None, "FP16", "BF16", "FP32", "FP64")
            result[key] = known if floats else replace(known, datatype="FP64")
        return Given(result, is_open)

    def _map(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Given:
        config = step.map
        assert config is not None
        over = self._sources(config.over, tensors, (*path, "map", "over"), name)
        items: dict[str, TensorType] = {}
        for key, known in over.items():
            if known.shape == ():
                self._note((*path, "map", "over", key), f"step {name!r}: {key!r} is a scalar, and no list of items")
            rest = None if known.shape is None else known.shape[1:]
            shape = rest if config.rows is None or rest is None else (-1, *rest)
            items[key] = TensorType(known.datatype, shape)
        inner = Tensors(
            tensors.inputs, tensors.steps, tensors.parameters, {**(tensors.items or {}), **items}, in_map=True
        )
        given = self.look_at(
            config.step, inner, (*path, "map", "step"), f"{name}/{config.step.name or config.step.kind}"
        )
        joins = (config.regroup or ("concat" if config.rows else "stack")) == "concat"
        outputs: dict[str, TensorType] = {}
        for key, known in given.outputs.items():
            if joins and known.shape == ():
                self._note(
                    path, f"step {name!r}: output {key!r} is a scalar: 'regroup: concat' has nothing to join along"
                )
            rest = None if known.shape is None else known.shape[1:] if joins else known.shape
            # An item whose step didn't run has no part in it.
            outputs[key] = TensorType(known.datatype, None if rest is None else (-1, *rest), known.optional)
        if config.on_error == "skip" or (joins and config.rows is None):
            outputs[ITEM_INDEX] = TensorType("INT64", (-1,))
        result = Given(outputs, given.is_open)
        return result.all_optional() if any(known.optional for known in over.values()) else result

    def _answer(self, answer: Mapping[str, SourceConfig], tensors: Tensors, path: KeyPath, name: str) -> Given:
        if tensors.in_map:
            self._note(path, f"step {name!r}: an 'answer' can't stand in a map, where each item would have one")
        given = self._sources(answer, tensors, (*path, "answer"), name)
        for key in given:
            if key not in self._wanted:
                self._note(
                    (*path, "answer", key),
                    f"step {name!r}: the graph has no output {key!r}; {_nearest(key, self._wanted)}",
                )
        for key, required in self._wanted.items():
            if required and (key not in given or given[key].optional):
                why = "may be missing" if key in given else "isn't given, and isn't optional"
                self._note(path, f"step {name!r}: output {key!r} of the graph {why}")
        self.answers.append(given)
        return Given(answers=True)

    # What changes what a step gives

    def _renamed(self, names: Mapping[str, str], given: Given, path: KeyPath, name: str) -> Given:
        result: dict[str, TensorType] = {}
        for key, own in names.items():
            known = given.get(own)
            if known is None:
                self._note(
                    (*path, "outputs", key),
                    f"step {name!r}: there is no output {own!r}; {_nearest(own, given.outputs)}",
                )
            result[key] = known or UNKNOWN
        return Given(result)

    def _with_fallback(self, step: StepConfig, given: Given, tensors: Tensors, path: KeyPath, name: str) -> Given:
        fallback = step.fallback
        assert fallback is not None
        where = (*path, "fallback")
        if fallback.step is not None:
            instead = self.look_at(fallback.step, tensors, (*where, "step"), f"{name}/fallback")
            if instead.answers:
                return given
        else:
            assert fallback.values is not None
            instead = Given(self._sources(fallback.values, tensors, (*where, "values"), name))
        result: dict[str, TensorType] = {}
        for key in dict.fromkeys([*given.outputs, *instead.outputs]):
            one, other = given.get(key), instead.get(key)
            if one is None or other is None:
                result[key] = replace(one or other or UNKNOWN, optional=True)
            else:
                result[key] = merged(one, other)
        return Given(result, given.is_open and instead.is_open)


def _natural(value: Parameter) -> str:
    if isinstance(value, float):
        return "FP32"
    return datatype_of(np.asarray(value))


def _nearest(name: str, names: Mapping[str, object]) -> str:
    return suggestion(name, names, what="name") if names else "there are none"


def _told(spec: TensorSpec) -> str:
    return f"{spec.datatype or 'any datatype'} {'any shape' if spec.shape is None else list(spec.shape)}"
