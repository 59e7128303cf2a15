"""What a graph's steps share while they answer one request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING

from salver.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    ModelUnavailable,
    NotFound,
    SalverError,
    UnknownOutput,
)
from salver.core.request import Parameters
from salver.core.tensor import Array
from salver.runtimes.base import Inputs, Outputs

if TYPE_CHECKING:
    from salver.graph.steps.step import Step

Key = tuple[str, str]


@dataclass(slots=True)
class StepRecord:
    """One run of a step, for the time line.

    Attributes:
        step: its name; steps inside others are OUTER/INNER, and those of a map end with the item's number, as in [3].
        kind: "model", "map", ...
        started_ns, ended_ns: by ``perf_counter_ns``.
        status: "ok", "skipped", "answered", "fallback", "failed" (an optional step), or "error".
        detail: which model version answered, which case was taken, or what went wrong.
        attempts: how often it was tried.
        inputs, outputs: its tensors, where somebody has asked for them.
    """

    step: str
    kind: str
    started_ns: int
    ended_ns: int
    status: str = "ok"
    detail: str = ""
    attempts: int = 1
    inputs: Inputs | None = None
    outputs: Outputs | None = None


@dataclass(slots=True)
class Trace:
    """The runs of one request's steps, in the order in which they ended.

    Attributes:
        keeps_tensors: inputs and outputs are kept, too.
        most: no more runs than this are kept; a map may have thousands.
    """

    keeps_tensors: bool = False
    most: int = 1000
    records: list[StepRecord] = field(default_factory=list)

    def add(self, record: StepRecord) -> None:
        """Note a run."""
        if len(self.records) < self.most:
            self.records.append(record)


@dataclass(slots=True)
class Scope:
    """The tensors that a graph's steps see, and what else belongs to the request.

    Attributes:
        values: tensors that are there, by reference ("inputs.image", "ocr.text", "item.box").
        parameters: the request's, and the graph's defaults.
        deadline: by ``time.monotonic``; None for none.
        priority, id: the request's.
        within: the graphs that it is a part of, the outermost first.
        trace: notes what runs; None where nobody wants to know.
        max_step_bytes: what a step's outputs may take.
        item: in a map, which of its items this is, such as "[3]"; "" outside.
    """

    values: dict[str, Array]
    parameters: Parameters
    deadline: float | None = None
    priority: int = 0
    id: str = ""
    within: tuple[Key, ...] = ()
    trace: Trace | None = None
    max_step_bytes: int = 1 << 30
    item: str = ""

    @property
    def tensor(self) -> Callable[[str], Array | None]:
        """The tensor of a reference; None where it is missing."""
        return self.values.get

    def until(self, deadline: float) -> Scope:
        """The same tensors with a deadline that isn't later than this."""
        if self.deadline is not None:
            deadline = min(deadline, self.deadline)
        return self._with(self.values, deadline)

    def with_values(self, values: dict[str, Array]) -> Scope:
        """The same request with other tensors."""
        return self._with(values, self.deadline)

    def _with(self, values: dict[str, Array], deadline: float | None) -> Scope:
        return replace(self, values=values, deadline=deadline)

    def check_deadline(self, what: str) -> None:
        """Refuse to begin what comes too late.

        Raises:
            DeadlineExceeded: the deadline has passed.
        """
        if self.deadline is not None and self.deadline <= monotonic():
            raise DeadlineExceeded(f"the deadline passed before {what}")


class Answered(Exception):
    """A step has answered for its whole graph."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__("the graph has its answer")
        self.outputs = outputs


class StepFailed(Exception):
    """A step has failed, and nothing stood in for it.

    Attributes:
        step: which.
        error: why.
    """

    def __init__(self, step: Step, error: SalverError) -> None:
        super().__init__(f"step '{step.name}': {error}")
        self.step = step
        self.error = error

    def told(self) -> SalverError:
        """The error as the graph's caller gets it: of the same kind where that is true of the graph as well."""
        error = self.error
        kind: type[SalverError] = type(error)
        if isinstance(error, NotFound):
            kind = ModelUnavailable  # the graph is there; a model of it isn't
        elif isinstance(error, UnknownOutput):
            kind = ModelFailed  # the model hasn't given what its signature, or the graph, promises
        elif isinstance(error, InvalidRequest) and not self.step.takes_graph_inputs:
            kind = ModelFailed  # what doesn't fit was made by other steps: nothing that the caller can change
        told = kind.__new__(kind)
        told.__dict__.update(error.__dict__)
        told.args = (str(self),)
        return told
