"""The check of a graph against its models, before it serves: every problem with its step and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from salver.config.document import KeyPath
from salver.core.errors import InvalidConfig
from salver.core.request import Parameter
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import datatype_of
from salver.graph.casting import constant
from salver.graph.expressions import Expression
from salver.graph.known_tensors import Given, Tensors
from salver.graph.problems import MAX_PROBLEMS, Problems, TooManyProblems
from salver.graph.spec import GraphConfig, InlineGraph, ModelReference, OutputConfig, SourceConfig, StepConfig
from salver.graph.step_types import Callees, EarlyAnswer, StepTypes, assured, differs
from salver.graph.tensor_types import UNKNOWN, TensorType, merged
from salver.graph.transforms import TransformError, compile_source


def check_graph(
    graph: GraphConfig,
    *,
    signature_of: Callable[[ModelReference], Signature],
    function_signature: Callable[[str], Signature],
    place: Callable[[KeyPath], str],
) -> Signature:
    """The signature of a graph that holds.

    Takes time: some 0.2 ms a step.

    Args:
        graph: the graph.
        signature_of: of a model. Raises SalverError where there is none.
        function_signature: of a function, as FILE.py:NAME.
        place: where a value of the document stands, such as ``graph.yaml:7``.

    Raises:
        InvalidConfig: it doesn't hold; a line a problem, such as ``graph.yaml:7: step 'score': ...``.
    """
    check = _Check(Callees(signature_of, function_signature))
    inputs = {each.name: TensorType(each.datatype, each.shape, each.optional) for each in graph.inputs}
    and_more = False
    given = Given()
    try:
        check.take_parameters(graph.parameters)
        given = check.block(graph.steps, graph.outputs, inputs, (), "")
    except TooManyProblems:
        and_more = True
    if check.problems:
        raise InvalidConfig(check.problems.told(place, and_more=and_more))
    outputs = []
    for output in graph.outputs:
        known = given.outputs[output.name]
        outputs.append(TensorSpec(output.name, known.datatype, known.shape, optional=output.optional))
    return Signature(tuple(each.to_spec() for each in graph.inputs), tuple(outputs))


class _Check:
    """One graph's check.

    Attributes:
        problems: what is wrong, and where.
    """

    def __init__(self, callees: Callees) -> None:
        self.problems = Problems()
        self._callees = callees
        self._parameters: dict[str, TensorType] = {}

    def take_parameters(self, parameters: Mapping[str, Parameter]) -> None:
        """Look at the parameters that the graph declares."""
        for name, value in parameters.items():
            if isinstance(value, float):  # which 'datatype' may bring to FP64 where it is too large for FP32
                self._parameters[name] = TensorType("FP32", ())
                continue
            try:
                self._parameters[name] = TensorType(datatype_of(constant(value, None)), ())
            except TransformError as error:
                self.problems.note(("parameters", name), f"parameter {name!r}: {error}")
                self._parameters[name] = TensorType(None, ())

    def block(
        self,
        steps: Sequence[StepConfig],
        outputs: Sequence[OutputConfig],
        inputs: Mapping[str, TensorType],
        path: KeyPath,
        prefix: str,
    ) -> Given:
        """What a graph gives, be it the whole or one inside a step."""
        index = {step.name or "": number for number, step in enumerate(steps)}
        needs = {name: self._needs(steps[number], index, (*path, "steps", number)) for name, number in index.items()}
        order, cycles = _order(needs)
        for cycle in cycles:
            way = " -> ".join([*cycle, cycle[0]])
            self.problems.note((*path, "steps", index[cycle[0]]), f"step {prefix + cycle[0]!r} needs itself: {way}")
        types = StepTypes(
            self._callees,
            inline=self._inline,
            wanted={output.name: not output.optional for output in outputs},
            note=self.problems.note,
        )

        def look_at_all(present: Mapping[str, frozenset[str]]) -> Tensors:
            # Steps that weren't looked at yet are known by name: what is wrong with them is told at their own line.
            given = {name: Given(rest=UNKNOWN) for name in index}
            tensors = Tensors(inputs, given, self._parameters)
            for name in order:
                where = (*path, "steps", index[name])
                given[name] = types.look_at(steps[index[name]], tensors.knowing(present[name]), where, prefix + name)
            return tensors

        before, at_end = _assured_by_answers({name: steps[index[name]] for name in order}, needs)
        everywhere = dict.fromkeys(index, at_end)
        tensors = look_at_all(everywhere if self.problems.quiet else before)
        if at_end and not self.problems.quiet:
            # What a graph that comes to its end has known all along is known of its outputs, and not of its steps.
            self.problems.quiet = True
            tensors = look_at_all(everywhere)
            self.problems.quiet = False
        result = self._outputs(outputs, types, tensors.knowing(at_end), path)
        self._unreachable(steps, outputs, needs, {name for cycle in cycles for name in cycle}, path, prefix)
        return result

    def _inline(self, graph: InlineGraph, inputs: dict[str, TensorType], path: KeyPath, prefix: str) -> Given:
        return self.block(graph.steps, graph.outputs, inputs, path, prefix)

    def _outputs(self, outputs: Sequence[OutputConfig], types: StepTypes, tensors: Tensors, path: KeyPath) -> Given:
        result: dict[str, TensorType] = {}
        for number, output in enumerate(outputs):
            where = (*path, "outputs", number)
            known = types.source(output, tensors, where, f"output {output.name!r}")
            if known.optional and not output.optional:
                self.problems.note(
                    where,
                    f"output {output.name!r} may be missing, since a step may not run; set 'optional: true', or give "
                    "another one with 'first: [...]'",
                )
            result[output.name] = replace(self._answered(output.name, known, types.answers), optional=output.optional)
        return Given(result)

    def _answered(self, name: str, known: TensorType, answers: Sequence[EarlyAnswer]) -> TensorType:
        """What is known of an output that is also given by answers before the end."""
        for answer in answers:
            given = answer.outputs.get(name)
            if given is None:
                continue
            if problem := differs(given, known):
                self.problems.note((*answer.path, name), f"step {answer.step!r}: output {name!r}: {problem}")
            known = merged(known, given)
        return known

    def _needs(self, step: StepConfig, index: Mapping[str, int], path: KeyPath) -> frozenset[str]:
        """The steps that a step waits for."""
        for name in step.after:
            if name not in index:
                self.problems.note(
                    (*path, "after"), f"step {step.name!r}: 'after' names {name!r}, and there is no such step"
                )
        for where, inner in step.inner():
            self._check_inner(inner, (*path, *where), step.name or "")
        origins = {reference.partition(".")[0] for reference in _references(step)}
        return frozenset((origins | set(step.after)) & set(index))

    def _check_inner(self, step: StepConfig, path: KeyPath, outer: str) -> None:
        if step.after:
            self.problems.note(
                (*path, "after"), f"step {outer!r}: 'after' is for a graph's own steps; set it at {outer!r} itself"
            )
        for where, inner in step.inner():
            self._check_inner(inner, (*path, *where), outer)

    def _unreachable(
        self,
        steps: Sequence[StepConfig],
        outputs: Sequence[OutputConfig],
        needs: Mapping[str, frozenset[str]],
        told: set[str],
        path: KeyPath,
        prefix: str,
    ) -> None:
        reached: set[str] = set()
        waiting = [name for output in outputs for name in _origins([output]) if name in needs]
        waiting += [step.name or "" for step in steps if _has_answer(step)]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += needs[name]
        for number, step in enumerate(steps):
            if step.name not in reached and step.name not in told:
                self.problems.note(
                    (*path, "steps", number),
                    f"step '{prefix}{step.name}' is for nothing: no output needs it; leave it out",
                )


def _order(needs: Mapping[str, frozenset[str]]) -> tuple[list[str], list[list[str]]]:
    """The steps, each after what it needs; and cycles, each told from its first step on and broken at one place."""
    left = dict(needs)
    cycles: list[list[str]] = []
    while True:
        order = _ordered(left)
        if len(order) == len(left) or len(cycles) > MAX_PROBLEMS:
            return [*order, *(name for name in left if name not in order)], cycles
        done = set(order)
        way = [next(name for name in left if name not in done)]
        while True:
            after = min(need for need in left[way[-1]] if need not in done)
            if after in way:
                break
            way.append(after)
        cycle = way[way.index(after) :]
        start = cycle.index(next(name for name in left if name in cycle))
        cycles.append([*cycle[start:], *cycle[:start]])
        left[way[-1]] -= {after}


def _ordered(needs: Mapping[str, frozenset[str]]) -> list[str]:
    """The steps, each after what it needs, but for those that wait for a cycle."""
    dependents: dict[str, list[str]] = {name: [] for name in needs}
    waits = {name: len(each) for name, each in needs.items()}
    for name, each in needs.items():
        for need in each:
            dependents[need].append(name)
    order = [name for name, count in waits.items() if not count]
    for name in order:  # it grows meanwhile
        for dependent in dependents[name]:
            waits[dependent] -= 1
            if not waits[dependent]:
                order.append(dependent)
    return order


def _assured_by_answers(
    steps: Mapping[str, StepConfig], needs: Mapping[str, frozenset[str]]
) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """The tensors that are there since no step has answered for the graph: before each step runs, and at the end.

    Args:
        steps: in their order, by name.
        needs: what each waits for.
    """
    before: dict[str, frozenset[str]] = {}
    after: dict[str, frozenset[str]] = {}
    nothing = frozenset[str]()
    for name, step in steps.items():
        before[name] = nothing.union(*(after.get(need, nothing) for need in needs[name]))
        answers = step.answer is not None and not step.optional and step.fallback is None
        after[name] = before[name] | assured(step, False) if answers else before[name]
    return before, nothing.union(*after.values())


def _references(step: StepConfig) -> set[str]:
    """All references of a step and of those inside it, but for an inline graph's own."""
    found: set[str] = set()
    sources: list[SourceConfig] = [*step.inputs.values(), *(step.values or {}).values(), *(step.answer or {}).values()]
    if step.map is not None:
        sources += step.map.over.values()
    if step.fallback is not None and step.fallback.values is not None:
        sources += step.fallback.values.values()
    for source in sources:
        with suppress(TransformError):  # told where the source is looked at
            found |= compile_source(source).references
    if step.when is not None:
        with suppress(ValueError):  # likewise
            found |= Expression.parse(step.when).references
    for _, inner in step.inner():
        found |= _references(inner)
    return found


def _origins(sources: Iterable[SourceConfig]) -> set[str]:
    found: set[str] = set()
    for source in sources:
        with suppress(TransformError):
            found |= {reference.partition(".")[0] for reference in compile_source(source).references}
    return found


def _has_answer(step: StepConfig) -> bool:
    return step.answer is not None or any(_has_answer(inner) for _, inner in step.inner())
