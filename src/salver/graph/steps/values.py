"""Steps that need no code: tensors under new names and in new shapes, and the answer before the end."""

from __future__ import annotations

from collections.abc import Mapping

from salver.core.errors import ModelFailed
from salver.graph.scope import Answered, Scope
from salver.graph.spec import StepConfig
from salver.graph.steps.step import Step, gather, present
from salver.graph.transforms import CompiledSource
from salver.runtimes.base import Outputs


class Values(Step):
    """Gives tensors under new names, changed as their sources say; those whose origin is missing are missing."""

    def __init__(
        self, config: StepConfig, name: str, fallback: Step | None, sources: Mapping[str, CompiledSource]
    ) -> None:
        super().__init__(config, name, fallback)
        self._sources = dict(sources)
        self.takes_graph_inputs = all(
            reference.startswith("inputs.") for source in sources.values() for reference in source.references
        )

    def own_references(self) -> frozenset[str]:
        """The tensors that its own are made of."""
        return frozenset().union(*(source.references for source in self._sources.values()))

    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """See :meth:`Step.compute`."""
        return present(await gather(self._sources, scope), frozenset()) or None, ""


class Answer(Values):
    """Gives the graph's outputs, and ends it."""

    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """See :meth:`Step.compute`."""
        tensors = await gather(self._sources, scope)
        outputs = present(tensors, frozenset())
        if not outputs:
            missing = ", ".join(map(repr, tensors))
            raise ModelFailed(f"nothing is there to answer with: {missing} missing")
        raise Answered(outputs)
