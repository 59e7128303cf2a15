"""What is known of a graph's tensors while it is checked: which there are, of which types, and what may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from salver.graph.problems import nearest
from salver.graph.tensor_types import TensorType


@dataclass(frozen=True, slots=True)
class Given:
    """What a step gives.

    Attributes:
        outputs: by name; optional are those that may be missing though the step has run.
        rest: what is known of any other; None where there are none. Models that don't tell may give any.
        may_skip: the step may not run; then all of its outputs are missing.
        unless: where the step may not run for its condition alone: tensors that are there where that is false.
        answers: it ends the graph: other steps get nothing of it, but for what a fallback gives.
    """

    outputs: Mapping[str, TensorType] = field(default_factory=dict)
    rest: TensorType | None = None
    may_skip: bool = False
    unless: frozenset[str] = frozenset()
    answers: bool = False

    def get(self, name: str, *, has_run: bool = False) -> TensorType | None:
        """What is known of an output; None where there is no such. ``has_run``: the step was not skipped."""
        known = self.outputs.get(name) or self.rest
        if known is None or has_run or not self.may_skip:
            return known
        return replace(known, optional=True)

    def skippable(self) -> Given:
        """The same of a step that may not run."""
        return self if self.may_skip and not self.unless else replace(self, may_skip=True, unless=frozenset())


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors that a step sees, as far as they are known.

    Attributes:
        inputs: the graph's.
        steps: what the graph's steps give, of those that were looked at.
        parameters: that the graph declares.
        items: of a map's step; None outside.
        present: tensors that are known to be there, by what was asked before.
    """

    inputs: Mapping[str, TensorType]
    steps: Mapping[str, Given]
    parameters: Mapping[str, TensorType]
    items: Mapping[str, TensorType] | None = None
    present: frozenset[str] = frozenset()

    def knowing(self, present: frozenset[str]) -> Tensors:
        """The same where these are known to be there."""
        return self if present <= self.present else replace(self, present=self.present | present)

    def within_map(self, items: Mapping[str, TensorType]) -> Tensors:
        """The same for a map's step; a map in a map sees the outer one's items, too."""
        return replace(self, items={**(self.items or {}), **items})

    def get(self, reference: str) -> TensorType | None:
        """What is known of a tensor; None where there is none."""
        origin, _, name = reference.partition(".")
        if origin == "inputs":
            known = self.inputs.get(name)
        elif origin == "item":
            known = None if self.items is None else self.items.get(name)
        else:
            given = self.steps.get(origin)
            # Of a step that was skipped all outputs are missing: where one is there, it has run.
            has_run = any(each.startswith(f"{origin}.") for each in self.present)
            known = None if given is None else given.get(name, has_run=has_run)
        if known is not None and known.optional and reference in self.present:
            return replace(known, optional=False)
        return known

    def always_one(self, references: Sequence[str]) -> bool:
        """Whether one of these is there whatever happens: each step that may not run has another one in its place."""
        for reference in references:
            origin, _, name = reference.partition(".")
            given = self.steps.get(origin)
            if given is None or not given.unless:
                continue
            known, instead = given.get(name, has_run=True), self.knowing(given.unless)
            others = [found for other in references if (found := instead.get(other)) is not None]
            if known is not None and not known.optional and any(not other.optional for other in others):
                return True
        return False

    def type_of(self, reference: str) -> TensorType | None:
        """As :meth:`get`, of declared parameters as well: ``parameters.NAME``."""
        origin, _, name = reference.partition(".")
        return self.parameters.get(name) if origin == "parameters" else self.get(reference)

    def why_not(self, reference: str) -> str:
        """Why there is no tensor of that reference."""
        origin, dot, name = reference.partition(".")
        if not dot:
            return f"{reference[:80]!r} is no tensor; write STEP.OUTPUT or inputs.NAME"
        if origin == "inputs":
            return f"there is no input {name!r}; {nearest(name, self.inputs)}"
        if origin == "item":
            if self.items is None:
                return f"{reference!r}: only a map's step has items"
            return f"there is no item {name!r}; {nearest(name, self.items)}"
        if origin == "parameters":
            return f"{reference!r} is no tensor; write {{parameter: {name}}}"
        given = self.steps.get(origin)
        if given is None:
            return f"there is no step {origin!r}; {nearest(origin, self.steps)}"
        if given.answers and not given.outputs:
            return f"step {origin!r} answers for the graph, and gives other steps nothing"
        return f"step {origin!r} has no output {name!r}; {nearest(name, given.outputs)}"
