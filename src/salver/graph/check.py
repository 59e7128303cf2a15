"""The check of a graph against its models, before it serves: every problem with its step and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from salver.config.document import KeyPath
from salver.core.errors import InvalidConfig
from salver.core.request import Parameter
from salver.core.signature import Signature, TensorSpec
from salver.graph.expressions import Expression
from salver.graph.spec import GraphConfig, InlineGraph, ModelReference, OutputConfig, SourceConfig, StepConfig
from salver.graph.step_types import Given, StepTypes, Tensors
from salver.graph.tensor_types import UNKNOWN, TensorType, merged
from salver.graph.transforms import TransformError, compile_source

MAX_PROBLEMS = 20


def check_graph(
    graph: GraphConfig,
    *,
    signature_of: Callable[[ModelReference], Signature],
    function_signature: Callable[[str], Signature],
    place: Callable[[KeyPath], str],
) -> Signature:
    """The signature of a graph that holds.

    Args:
        graph: the graph.
        signature_of: of a model. Raises SalverError where there is none.
        function_signature: of a function, as FILE.py:NAME.
        place: where a value of the document stands, such as ``graph.yaml:7``.

    Raises:
        InvalidConfig: it doesn't hold; a line a problem, such as ``graph.yaml:7: step 'score': ...``.
    """
    check = _Check(signature_of, function_signature, graph.parameters)
    inputs = {each.name: TensorType(each.datatype, each.shape, each.optional) for each in graph.inputs}
    given = check.block(graph.steps, graph.outputs, inputs, (), "")
    if check.problems:
        told = [f"{place(path)}: {problem}" for path, problem in check.problems[:MAX_PROBLEMS]]
        if len(check.problems) > MAX_PROBLEMS:
            told.append(f"and {len(check.problems) - MAX_PROBLEMS} more")
        raise InvalidConfig("\n".join(told))
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

    def __init__(
        self,
        signature_of: Callable[[ModelReference], Signature],
        function_signature: Callable[[str], Signature],
        parameters: Mapping[str, Parameter],
    ) -> None:
        self.problems: list[tuple[KeyPath, str]] = []
        self._signature_of = signature_of
        self._function_signature = function_signature
        self._parameters = parameters

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
        order, cycle = _order(needs)
        if cycle:
            where = (*path, "steps", index[cycle[0]])
            self.note(where, f"step {prefix + cycle[0]!r} needs itself: {' -> '.join([*cycle, cycle[0]])}")
            return Given({output.name: UNKNOWN for output in outputs})
        types = StepTypes(
            signature_of=self._signature_of,
            function_signature=self._function_signature,
            inline=self._inline,
            wanted={output.name: not output.optional for output in outputs},
            note=self.note,
        )
        # Steps that weren't looked at yet are known by name: what is wrong with them is told at their own line.
        tensors = Tensors(inputs, {name: Given(is_open=True) for name in index}, self._parameters)
        answering = set()
        for name in order:
            number = index[name]
            given = types.look_at(steps[number], tensors, (*path, "steps", number), prefix + name)
            tensors.steps[name] = Given(is_open=True) if given.answers else given
            if given.answers:
                answering.add(name)
        result = self._outputs(outputs, types, tensors, path)
        self._unreachable(steps, outputs, needs, answering, path, prefix)
        return result

    def note(self, path: KeyPath, problem: str) -> None:
        """Remember what is wrong."""
        if (path, problem) not in self.problems:
            self.problems.append((path, problem))

    def _inline(self, graph: InlineGraph, inputs: dict[str, TensorType], path: KeyPath, prefix: str) -> Given:
        return self.block(graph.steps, graph.outputs, inputs, path, prefix)

    def _outputs(self, outputs: Sequence[OutputConfig], types: StepTypes, tensors: Tensors, path: KeyPath) -> Given:
        result: dict[str, TensorType] = {}
        for number, output in enumerate(outputs):
            where = (*path, "outputs", number)
            known = types.source(output, tensors, where, f"output {output.name!r}")
            if known.optional and not output.optional:
                self.note(
                    where,
                    f"output {output.name!r} may be missing, since a step may not run; set 'optional: true', or give "
                    "another one with 'first: [...]'",
                )
            for answer in types.answers:
                if output.name in answer:
                    known = merged(known, answer[output.name])
            result[output.name] = replace(known, optional=output.optional)
        return Given(result)

    def _needs(self, step: StepConfig, index: Mapping[str, int], path: KeyPath) -> frozenset[str]:
        """The steps that a step waits for."""
        for name in step.after:
            if name not in index:
                self.note((*path, "after"), f"step {step.name!r}: 'after' names {name!r}, and there is no such step")
        origins = {reference.partition(".")[0] for reference in _references(step)}
        return frozenset((origins | set(step.after)) & set(index))

    def _unreachable(
        self,
        steps: Sequence[StepConfig],
        outputs: Sequence[OutputConfig],
        needs: Mapping[str, frozenset[str]],
        answering: set[str],
        path: KeyPath,
        prefix: str,
    ) -> None:
        reached: set[str] = set()
        waiting = [name for output in outputs for name in _origins([output]) if name in needs]
        waiting += [step.name or "" for step in steps if step.name in answering or _has_answer(step)]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += needs[name]
        for number, step in enumerate(steps):
            if step.name not in reached:
                self.note(
                    (*path, "steps", number),
                    f"step '{prefix}{step.name}' is for nothing: no output needs it; leave it out",
                )


def _order(needs: Mapping[str, frozenset[str]]) -> tuple[list[str], list[str]]:
    """The steps, each after what it needs; and the steps of a cycle where there is one."""
    order: list[str] = []
    done: set[str] = set()
    dependents: dict[str, list[str]] = {name: [] for name in needs}
    waits = {name: len(each) for name, each in needs.items()}
    for name, each in needs.items():
        for need in each:
            dependents[need].append(name)
    ready = [name for name, count in waits.items() if not count]
    for name in ready:  # it grows meanwhile
        order.append(name)
        done.add(name)
        for dependent in dependents[name]:
            waits[dependent] -= 1
            if not waits[dependent]:
                ready.append(dependent)
    if len(order) == len(needs):
        return order, []
    way = [next(name for name in needs if name not in done)]
    while True:
        after = min(need for need in needs[way[-1]] if need not in done)
        if after in way:
            return order, way[way.index(after) :]
        way.append(after)


def _references(step: StepConfig) -> set[str]:
    """All references of a step and of those inside it, but for an inline graph's own."""
    found: set[str] = set()
    sources: list[SourceConfig] = [*step.inputs.values(), *(step.values or {}).values(), *(step.answer or {}).values()]
    if step.map is not None:
        sources += step.map.over.values()
    if step.fallback is not None and step.fallback.values is not None:
        sources += step.fallback.values.values()
    for source in sources:
        try:
            found |= compile_source(source).references
        except TransformError:
            continue  # told where the source is looked at
    if step.when is not None:
        with suppress(ValueError):  # likewise
            found |= Expression.parse(step.when).references
    for _, inner in step.inner():
        found |= _references(inner)
    return found


def _origins(sources: Iterable[SourceConfig]) -> set[str]:
    found: set[str] = set()
    for source in sources:
        try:
            found |= {reference.partition(".")[0] for reference in compile_source(source).references}
        except TransformError:
            continue
    return found


def _has_answer(step: StepConfig) -> bool:
    return step.answer is not None or any(_has_answer(inner) for _, inner in step.inner())
