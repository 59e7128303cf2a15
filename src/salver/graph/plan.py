"""In which order a graph's steps run, and running them: each as soon as what it needs is there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from salver.core.errors import InvalidConfig, ModelFailed
from salver.graph.scope import Scope
from salver.graph.spec import OutputConfig
from salver.graph.steps.side_by_side import side_by_side
from salver.graph.steps.step import Step, gather
from salver.graph.transforms import CompiledSource
from salver.runtimes.base import Outputs


class Plan:
    """The steps of a graph, and what each waits for.

    Args:
        steps: the graph's own, not those inside them.
        outputs: the graph's outputs.
        sources: where they come from, by name.

    Raises:
        InvalidConfig: steps need each other.
    """

    def __init__(
        self, steps: Sequence[Step], outputs: Sequence[OutputConfig], sources: Mapping[str, CompiledSource]
    ) -> None:
        self.steps = tuple(steps)
        self._outputs = {output.name: sources[output.name] for output in outputs}
        self._optional = frozenset(output.name for output in outputs if output.optional)
        self._index = {step.key: index for index, step in enumerate(steps)}
        needs = [self._needs(step) for step in steps]
        self._waits = [len(each) for each in needs]
        self._dependents: list[list[int]] = [[] for _ in steps]
        for index, each in enumerate(needs):
            for need in each:
                self._dependents[need].append(index)
        self._order = _order(self.steps, needs, self._dependents)
        wanted = self.output_references()
        self._reads = [step.references() for step in steps]
        self._uses: dict[str, int] = {}
        for read in self._reads:
            for reference in read:
                self._uses[reference] = self._uses.get(reference, 0) + 1
        for reference in wanted:
            self._uses[reference] = self._uses.get(reference, 0) + 1
        stored: dict[str, dict[str, str]] = {step.key: {} for step in steps}
        for reference in self._uses:
            key, _, name = reference.partition(".")
            if key in stored:
                stored[key][name] = reference
        self._stored = [stored[step.key] for step in steps]
        self._chain = self._as_chain(needs, wanted)

    def used(self, step: Step) -> frozenset[str]:
        """Those of a step's outputs that anything uses."""
        return frozenset(self._stored[self._index[step.key]])

    def last(self) -> Step:
        """A step that nothing comes after."""
        return self.steps[self._order[-1]]

    def is_answered_by(self, step: Step) -> bool:
        """Whether the graph's outputs are all made of one step's, and of nothing else."""
        begin = f"{step.key}."
        sources = self._outputs.values()
        return all(
            source.references and all(reference.startswith(begin) for reference in source.references)
            for source in sources
        )

    def output_references(self) -> frozenset[str]:
        """The references that the graph's outputs are made of."""
        return frozenset().union(*(source.references for source in self._outputs.values()))

    async def run_before(self, last: Step, scope: Scope) -> None:
        """Run all steps but the last, one after the other.

        Raises:
            Answered, StepFailed: as :meth:`run`.
        """
        for index in self._order:
            if self.steps[index] is not last:
                self._store(index, await self.steps[index].run(scope), scope)

    async def run(self, scope: Scope) -> Outputs:
        """The outputs of the graph; optional ones may be missing.

        Raises:
            Answered: a step has answered for the graph.
            StepFailed: one has failed.
            ModelFailed: an output is missing.
        """
        await self.run_steps(scope)
        return await self.outputs(scope)

    async def run_steps(self, scope: Scope) -> None:
        """Run all steps; ``scope`` has their outputs then, as far as the graph's own need them."""
        if self._chain is None:
            async with side_by_side() as group:
                await _Run(self, scope, group).begin()
            return
        values = scope.values
        for index, done_with in self._chain:
            self._store(index, await self.steps[index].run(scope), scope)
            for reference in done_with:
                values.pop(reference, None)

    async def outputs(self, scope: Scope) -> Outputs:
        """The graph's outputs, once its steps have run.

        Raises:
            ModelFailed: one is missing.
        """
        result: Outputs = {}
        for name, array in (await gather(self._outputs, scope)).items():
            if array is not None:
                result[name] = array
            elif name not in self._optional:
                references = " and ".join(map(repr, sorted(self._outputs[name].references)))
                raise ModelFailed(f"there is no output {name!r}: {references} missing, since its step has not run")
        return result

    def _store(self, index: int, outputs: Outputs | None, scope: Scope) -> None:
        """Keep those of a step's outputs that something uses."""
        if outputs is not None:
            for name, reference in self._stored[index].items():
                if name in outputs:
                    scope.values[reference] = outputs[name]

    def _needs(self, step: Step) -> frozenset[int]:
        names = {reference.partition(".")[0] for reference in step.references()} | set(step.config.after)
        return frozenset(self._index[name] for name in names if name in self._index)

    def _as_chain(
        self, needs: Sequence[frozenset[int]], wanted: frozenset[str]
    ) -> list[tuple[int, tuple[str, ...]]] | None:
        """The steps one after the other, each with the tensors that nobody needs after it; None where some can run
        side by side."""
        for before, after in zip(self._order, self._order[1:], strict=False):
            if before not in needs[after]:
                return None
        last: dict[str, int] = {}
        for index in self._order:
            for reference in self._reads[index]:
                last[reference] = index
        return [
            (index, tuple(name for name, user in last.items() if user == index and name not in wanted))
            for index in self._order
        ]


class _Run:
    """One request's way through a plan whose steps may run side by side."""

    def __init__(self, plan: Plan, scope: Scope, group: asyncio.TaskGroup) -> None:
        self._plan = plan
        self._scope = scope
        self._group = group
        self._waits = list(plan._waits)
        self._left = dict(plan._uses)

    async def begin(self) -> None:
        """Run the steps that wait for nothing, and those after them."""
        await self._go_on([index for index, waits in enumerate(self._waits) if not waits])

    async def _go_on(self, ready: list[int]) -> None:
        """Run what is ready: the last of it here, the others in tasks of their own."""
        while ready:
            for index in ready[:-1]:
                self._group.create_task(self._go_on([index]))
            ready = await self._run_step(ready[-1])

    async def _run_step(self, index: int) -> list[int]:
        """Run a step; which are ready since it has ended."""
        plan, values = self._plan, self._scope.values
        plan._store(index, await plan.steps[index].run(self._scope), self._scope)
        for reference in plan._reads[index]:
            self._left[reference] -= 1
            if not self._left[reference]:
                values.pop(reference, None)
        ready: list[int] = []
        for dependent in plan._dependents[index]:
            self._waits[dependent] -= 1
            if not self._waits[dependent]:
                ready.append(dependent)
        return ready


def _order(steps: Sequence[Step], needs: Sequence[frozenset[int]], dependents: Sequence[Sequence[int]]) -> list[int]:
    """The steps so that each comes after what it needs."""
    waits = [len(each) for each in needs]
    order = [index for index, count in enumerate(waits) if not count]
    for index in order:  # it grows meanwhile
        for dependent in dependents[index]:
            waits[dependent] -= 1
            if not waits[dependent]:
                order.append(dependent)
    if len(order) < len(needs):
        raise InvalidConfig(
            "steps need each other: " + ", ".join(step.key for index, step in enumerate(steps) if index not in order)
        )
    return order
