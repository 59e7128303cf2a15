"""A step with steps of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from salver.graph.plan import Plan
from salver.graph.scope import Answered, Scope
from salver.graph.spec import StepConfig
from salver.graph.steps.step import Step, gather
from salver.graph.transforms import CompiledSource
from salver.runtimes.base import Outputs


class Block(Step):
    """Runs an inline graph, whose steps see only the inputs that this step gives them."""

    def __init__(
        self,
        config: StepConfig,
        name: str,
        fallback: Step | None,
        *,
        sources: Mapping[str, CompiledSource],
        plan: Plan,
    ) -> None:
        super().__init__(config, name, fallback)
        self._sources = dict(sources)
        self._plan = plan
        self._names = {key: f"inputs.{key}" for key in sources}
        self.takes_graph_inputs = all(reference.startswith("inputs.") for reference in self.own_references())
        if not self.takes_graph_inputs:  # what its steps call the graph's inputs is of other steps' making
            for step in plan.steps:
                for each in step.all():
                    each.takes_graph_inputs = False

    def own_references(self) -> frozenset[str]:
        """The tensors that its inputs are made of."""
        return frozenset().union(*(source.references for source in self._sources.values()))

    @property
    def plan(self) -> Plan:
        """Its steps."""
        return self._plan

    def all(self) -> Iterator[Step]:
        """It and the steps inside it."""
        yield from super().all()
        for step in self._plan.steps:
            yield from step.all()

    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """See :meth:`Step.compute`."""
        values = {
            self._names[name]: array
            for name, array in (await gather(self._sources, scope)).items()
            if array is not None
        }
        try:
            return await self._plan.run(scope.with_values(values)) or None, ""
        except Answered as answer:
            return answer.outputs, "answered early"
