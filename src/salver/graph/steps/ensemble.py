"""Several steps that answer the same question, and one answer of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from salver.core.errors import ModelFailed
from salver.core.tensor import Array
from salver.graph.host import Function
from salver.graph.scope import Scope, StepFailed
from salver.graph.spec import CombineConfig, StepConfig
from salver.graph.steps.combine import mean, stacked, vote
from salver.graph.steps.side_by_side import side_by_side
from salver.graph.steps.step import Step
from salver.runtimes.base import Outputs

_OFF_LOOP = 1 << 20


class Ensemble(Step):
    """Runs its members side by side and combines what they say.

    Attributes:
        function: combines, where the graph brings its own way; set before the first run.
    """

    function: Function | None = None

    def __init__(self, config: StepConfig, name: str, fallback: Step | None, members: Sequence[Step]) -> None:
        super().__init__(config, name, fallback)
        assert config.ensemble is not None
        self._members = tuple(members)
        self._how = config.ensemble.combine
        self._needed = frozenset(index for index in range(len(members)) if config.ensemble.needs(index))
        self._quorum = config.ensemble.quorum or 1
        self.takes_graph_inputs = all(member.takes_graph_inputs for member in members)

    def inner(self) -> Iterator[Step]:
        """The members."""
        return iter(self._members)

    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """See :meth:`Step.compute`."""
        answers: list[Outputs | None] = [None] * len(self._members)
        failures: list[StepFailed] = []

        async def ask(index: int, member: Step) -> None:
            try:
                answers[index] = await member.run(scope)
            except StepFailed as failure:
                failures.append(failure)
                if index in self._needed or len(self._members) - len(failures) < self._quorum:
                    raise

        async with side_by_side() as group:
            for index, member in enumerate(self._members):
                group.create_task(ask(index, member))
        there = [index for index, answer in enumerate(answers) if answer is not None]
        if not there:
            return None, "no member has run"
        if lacking := sorted(self._needed.difference(there)):
            names = ", ".join(self._members[index].name for index in lacking)
            raise ModelFailed(f"{names} didn't run, and is needed; let it be 'optional', or set a 'quorum'")
        if len(there) < self._quorum:
            raise ModelFailed(
                f"{len(there)} of its {len(self._members)} members have answered, and {self._quorum} must"
            )
        return await self._combine(answers, there, scope), f"{len(there)} of {len(self._members)} members"

    async def _combine(self, answers: Sequence[Outputs | None], there: Sequence[int], scope: Scope) -> Outputs:
        given = {index: answer for index in there if (answer := answers[index]) is not None}
        if self._how == "collect":
            return {
                f"{self._members[index].key}.{name}": array
                for index, answer in given.items()
                for name, array in answer.items()
            }
        names = [name for name in given[there[0]] if all(name in answer for answer in given.values())]
        if not names:
            raise ModelFailed("its members have no output in common")
        if self.function is not None:
            columns = {name: stacked(name, [answer[name] for answer in given.values()]) for name in names}
            return await self.function.predict(
                self.function.signature.check_inputs(columns),
                None,
                scope.parameters,
                priority=scope.priority,
                deadline=scope.deadline,
            )
        size = sum(array.nbytes for answer in given.values() for array in answer.values())
        if size > _OFF_LOOP:
            return await asyncio.to_thread(self._reduce, names, given)
        return self._reduce(names, given)

    def _reduce(self, names: Sequence[str], given: Mapping[int, Outputs]) -> Outputs:
        result: dict[str, Array] = {}
        for name in names:
            arrays = [answer[name] for answer in given.values()]
            if self._how == "vote":
                result[name] = vote(name, arrays)
            elif isinstance(self._how, CombineConfig):
                weights = self._how.weights or ()
                result[name] = mean(name, arrays, [weights[index] for index in given])
            else:
                result[name] = mean(name, arrays)
        return result
