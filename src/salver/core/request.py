"""A request to a model and its answer, as the layers between the front ends and the runtimes see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from salver.core.tensor import Array

Parameter: TypeAlias = str | int | bool | float
Parameters: TypeAlias = dict[str, Parameter]


@dataclass(slots=True)
class InferenceRequest:
    """One call of a model.

    Attributes:
        model: the model's name.
        version: "" for the model's default version.
        inputs: tensors by name.
        outputs: names of the asked-for outputs, in the order wanted; None for all of the model's.
        parameters: as the client sent them, less those that the protocol itself uses.
        priority: 1 for the first level of the queue, 0 for the model's default one.
        deadline: when the answer is of no use any more, in seconds of ``time.monotonic``; None where it always is.
        id: the client's own id, echoed in the answer; "" for none.
        forwarded: another server has passed it on, and it is answered here.
        within: the graphs, by name and version, whose step it is, the outermost first.
    """

    model: str
    version: str
    inputs: dict[str, Array]
    outputs: tuple[str, ...] | None = None
    parameters: Parameters = field(default_factory=dict)
    id: str = ""
    priority: int = 0
    deadline: float | None = None
    forwarded: bool = False
    within: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class InferenceResponse:
    """The answer to an :class:`InferenceRequest`.

    Attributes:
        model: the model's name.
        version: the version that answered.
        outputs: tensors by name, in the order asked for.
        id: the request's id.
        parameters: what the model or the server adds.
    """

    model: str
    version: str
    outputs: dict[str, Array]
    id: str = ""
    parameters: Parameters = field(default_factory=dict)

    def nbytes(self) -> int:
        """Bytes that the outputs take (of BYTES tensors: their elements' references only)."""
        size = 0
        for array in self.outputs.values():
            size += array.nbytes
        return size
