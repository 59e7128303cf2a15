"""What each kind of step gives, and whether it gets what it needs: from the signatures of what it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from salver.config.document import KeyPath
from salver.core.errors import SalverError
from salver.core.signature import Signature, TensorSpec
from salver.graph.expressions import Expression
from salver.graph.group_types import called, ensemble_gives, items_of, map_gives
from salver.graph.known_tensors import Given, Tensors
from salver.graph.problems import nearest
from salver.graph.spec import InlineGraph, ModelReference, SourceConfig, StepConfig
from salver.graph.tensor_types import UNKNOWN, TensorType, fits, merged
from salver.graph.transforms import TransformError, compile_source


@dataclass(frozen=True, slots=True)
class Callees:
    """What a graph's steps call.

    Attributes:
        signature_of: of a model. Raises SalverError where there is none.
        function_signature: of a function, as FILE.py:NAME.
    """

    signature_of: Callable[[ModelReference], Signature]
    function_signature: Callable[[str], Signature]


@dataclass(frozen=True, slots=True)
class EarlyAnswer:
    """What an ``answer`` gives for its graph.

    Attributes:
        path: of its tensors in the document.
        step: its name.
    """

    path: KeyPath
    step: str
    outputs: Mapping[str, TensorType]


class StepTypes:
    """Looks at steps, and notes what is wrong.

    Args:
        callees: what they call.
        inline: looks at an inline graph: gives what it gives.
        wanted: the outputs that an ``answer`` has to give: those of the graph that it is in; True where required.
        note: is told what is wrong, and where.

    Attributes:
        answers: those that were met.
    """

    def __init__(
        self,
        callees: Callees,
        *,
        inline: Callable[[InlineGraph, dict[str, TensorType], KeyPath, str], Given],
        wanted: Mapping[str, bool],
        note: Callable[[KeyPath, str], None],
    ) -> None:
        self._callees = callees
        self._inline = inline
        self._wanted = wanted
        self._note = note
        self.answers: list[EarlyAnswer] = []

    def look_at(
        self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str, *, is_chosen: bool = False
    ) -> Given:
        """What a step gives; ``is_chosen``: its condition is known to be true."""
        condition = self._condition(step, tensors, path, name)
        if condition is not None:
            tensors = tensors.knowing(condition.assures(True))
        given = self._kind(step, tensors, path, name)
        if step.outputs is not None:
            given = self._renamed(step.outputs, given, path, name)
        if step.fallback is not None:
            given = self._with_fallback(step, given, tensors, path, name)
        if step.optional:
            return given.skippable()
        if is_chosen or is_certain(step):
            return given
        if given.may_skip or condition is None:
            return given.skippable()
        return replace(given, may_skip=True, unless=condition.assures(False))

    def source(self, source: SourceConfig, tensors: Tensors, path: KeyPath, whose: str) -> TensorType:
        """What a source gives; what is wrong with it is noted."""
        try:
            compiled = compile_source(source)
            unknown = [each for each in sorted(compiled.references) if tensors.get(each) is None]
            for reference in unknown:
                self._note(path, f"{whose}: {tensors.why_not(reference)}")
            if unknown:
                return UNKNOWN
            known = compiled.result_type(tensors.type_of)
            if known.optional and source.first is not None:
                ways = [compile_source(part).plain for part in source.first]
                known = replace(known, optional=not tensors.always_one([way for way in ways if way is not None]))
            return known
        except TransformError as error:
            self._note(path, f"{whose}: {path[-1] if isinstance(path[-1], str) else 'it'}: {error}")
            return UNKNOWN

    def _kind(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Given:
        if step.model is not None or step.function is not None:
            return self._call(step, tensors, path, name)
        if step.graph is not None:
            inputs = self._sources(step.inputs, tensors, (*path, "inputs"), name)
            return self._inline(step.graph, inputs, (*path, "graph"), f"{name}/")
        if step.switch is not None:
            return self._switch(step, tensors, path, name)
        if step.split is not None:
            return self._split(step.split, tensors, path, name)
        if step.ensemble is not None:
            return self._ensemble(step, tensors, path, name)
        if step.map is not None:
            return self._map(step, tensors, path, name)
        if step.values is not None:
            values = self._sources(step.values, tensors, (*path, "values"), name)
            return Given(values)
        assert step.answer is not None
        return self._answer(step.answer, tensors, path, name)

    def _condition(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Expression | None:
        """The step's condition; None where it has none, or none that holds."""
        if step.when is None:
            return None
        where = (*path, "when")
        try:
            expression = Expression.parse(step.when)
        except ValueError as error:
            self._note(where, f"step {name!r}: {error}")
            return None
        for reference in sorted(expression.references):
            if tensors.get(reference) is None:
                self._note(where, f"step {name!r}: {tensors.why_not(reference)}")
                return None
        if problem := expression.check(tensors.type_of):
            self._note(where, f"step {name!r}: condition {expression.text!r}: {problem}")
        return expression

    # Calls

    def _call(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Given:
        inputs = self._sources(step.inputs, tensors, (*path, "inputs"), name)
        try:
            if step.model is not None:
                signature = self._callees.signature_of(ModelReference.parse(step.model))
            else:
                assert step.function is not None
                signature = self._callees.function_signature(step.function)
        except SalverError as error:
            self._note((*path, step.kind), f"step {name!r}: {error}")
            return Given(rest=UNKNOWN)
        specs = {spec.name: spec for spec in signature.inputs}
        may_skip = False
        for key, known in inputs.items():
            spec = specs.get(key)
            where = (*path, "inputs", key)
            if spec is None:
                self._note(where, f"step {name!r}: there is no input {key!r}; {nearest(key, specs)}")
            elif problem := fits(known, spec):
                self._note(where, f"step {name!r}: input {key!r}: {problem}")
            may_skip |= known.optional and spec is not None and not spec.optional
        for spec in signature.inputs:
            if not spec.optional and spec.name not in step.inputs:
                self._note(path, f"step {name!r}: input {spec.name!r} is missing ({_told(spec)})")
        if signature.batched:
            self._check_batch(inputs, path, name)
        return called(signature, may_skip=may_skip)

    def _check_batch(self, inputs: Mapping[str, TensorType], path: KeyPath, name: str) -> None:
        rows = {key: known.shape[0] for key, known in inputs.items() if known.shape and known.shape[0] != -1}
        if len(set(rows.values())) > 1:
            told = ", ".join(f"{key!r} has {count}" for key, count in rows.items())
            self._note(
                (*path, "inputs"), f"step {name!r}: its inputs share the batch dimension, and differ in it: {told}"
            )

    def _sources(
        self, sources: Mapping[str, SourceConfig], tensors: Tensors, path: KeyPath, name: str
    ) -> dict[str, TensorType]:
        return {key: self.source(source, tensors, (*path, key), f"step {name!r}") for key, source in sources.items()}

    # Steps with steps inside

    def _switch(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Given:
        assert step.switch is not None
        looked = []
        for index, case in enumerate(step.switch):
            # The condition of a case chooses it: that alone doesn't make its outputs missing.
            where, inner = (*path, "switch", index), _name(name, case, index)
            looked.append(self.look_at(case, tensors, where, inner, is_chosen=True))
            if case.when is not None:  # the next one is asked where this one's condition is false
                tensors = tensors.knowing(assured(case, False))
        given = _one_of(looked)
        return given if step.must_match or is_certain(step.switch[-1]) else given.skippable()

    def _split(self, cases: Sequence[StepConfig], tensors: Tensors, path: KeyPath, name: str) -> Given:
        return _one_of(
            [
                self.look_at(case, tensors, (*path, "split", index), _name(name, case, index))
                for index, case in enumerate(cases)
            ]
        )

    def _ensemble(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Given:
        assert step.ensemble is not None
        members = step.ensemble.members
        looked = [
            self.look_at(member, tensors, (*path, "ensemble", "members", index), _name(name, member, index))
            for index, member in enumerate(members)
        ]
        return ensemble_gives(
            step.ensemble, looked, self._callees.function_signature, lambda problem: self._of(path, name, problem)
        )

    def _map(self, step: StepConfig, tensors: Tensors, path: KeyPath, name: str) -> Given:
        config = step.map
        assert config is not None

        def note(problem: str) -> None:
            self._of((*path, "map"), name, problem)

        lists = self._sources(config.over, tensors, (*path, "map", "over"), name)
        inner = tensors.within_map(items_of(config, lists, note))
        where = (*path, "map", "step")
        given = self.look_at(config.step, inner, where, f"{name}/{config.step.name or config.step.kind}")
        return map_gives(config, lists, given, note)

    def _answer(self, answer: Mapping[str, SourceConfig], tensors: Tensors, path: KeyPath, name: str) -> Given:
        if tensors.items is not None:
            self._of(path, name, "an 'answer' can't stand in a map, where each item would have one")
        given = self._sources(answer, tensors, (*path, "answer"), name)
        for key in given:
            if key not in self._wanted:
                problem = f"the graph has no output {key!r}; {nearest(key, self._wanted)}"
                self._of((*path, "answer", key), name, problem)
        for key, required in self._wanted.items():
            if required and (key not in given or given[key].optional):
                why = "may be missing" if key in given else "isn't given, and isn't optional"
                self._of(path, name, f"output {key!r} of the graph {why}")
        self.answers.append(EarlyAnswer((*path, "answer"), name, given))
        return Given(answers=True)

    # What changes what a step gives

    def _renamed(self, names: Mapping[str, str], given: Given, path: KeyPath, name: str) -> Given:
        if given.answers:
            self._of((*path, "outputs"), name, "it answers for the graph, and has no outputs of its own")
            return given
        result: dict[str, TensorType] = {}
        for key, own in names.items():
            known = given.get(own, has_run=True)
            if known is None:
                self._of((*path, "outputs", key), name, f"there is no output {own!r}; {nearest(own, given.outputs)}")
            result[key] = known or UNKNOWN
        return replace(given, outputs=result, rest=None)

    def _with_fallback(self, step: StepConfig, given: Given, tensors: Tensors, path: KeyPath, name: str) -> Given:
        fallback = step.fallback
        assert fallback is not None
        where = (*path, "fallback")
        if fallback.step is not None:
            instead = self.look_at(fallback.step, tensors, (*where, "step"), f"{name}/fallback")
        else:
            assert fallback.values is not None
            instead = Given(self._sources(fallback.values, tensors, (*where, "values"), name))
            for key, known in instead.outputs.items():
                own = None if given.answers else given.get(key)
                if own is not None and (problem := differs(known, own)):
                    self._of((*where, "values", key), name, f"its fallback for output {key!r}: {problem}")
        if instead.answers:
            return given
        return replace(instead.skippable(), answers=True) if given.answers else _one_of([given, instead])

    def _of(self, path: KeyPath, name: str, problem: str) -> None:
        self._note(path, f"step {name!r}: {problem}")


def is_certain(step: StepConfig) -> bool:
    """Whether it runs wherever what it needs is there: it has no condition, or one that is always true."""
    return step.when is None or step.when is True or (isinstance(step.when, str) and step.when.strip() == "true")


def assured(step: StepConfig, value: bool) -> frozenset[str]:
    """The tensors that are there where a step's condition is true, or false."""
    if step.when is None:
        return frozenset()
    try:
        return Expression.parse(step.when).assures(value)
    except ValueError:  # told where the condition is looked at
        return frozenset()


def differs(one: TensorType, other: TensorType) -> str:
    """Why a tensor can't stand in for another, whose datatype and rank those who use it were told; "" where it may."""
    if None not in (one.datatype, other.datatype) and one.datatype != other.datatype:
        return f"expected datatype {other.datatype}, as otherwise, got {one.datatype}"
    if one.shape is not None and other.shape is not None and len(one.shape) != len(other.shape):
        return f"expected as many dimensions as otherwise, {list(other.shape)}, got {list(one.shape)}"
    return ""


def _one_of(cases: Sequence[Given]) -> Given:
    """What steps give of which one runs: those that answer for the graph give nothing."""
    chosen = [each for each in cases if not each.answers]
    if not chosen:
        return Given(answers=True)
    outputs: dict[str, TensorType] = {}
    for key in dict.fromkeys(key for each in chosen for key in each.outputs):
        known = [found for each in chosen if (found := each.get(key, has_run=True)) is not None]
        result = known[0]
        for other in known[1:]:
            result = merged(result, other)
        outputs[key] = replace(result, optional=True) if len(known) < len(chosen) else result
    rest = None
    if any(each.rest is not None for each in chosen):
        rest = replace(UNKNOWN, optional=any(each.rest is None or each.rest.optional for each in chosen))
    return Given(outputs, rest, any(each.may_skip for each in chosen))


def _name(name: str, inner: StepConfig, index: int) -> str:
    return f"{name}/{inner.name or inner.model or index + 1}"


def _told(spec: TensorSpec) -> str:
    return f"{spec.datatype or 'any datatype'} {'any shape' if spec.shape is None else list(spec.shape)}"
