"""What a graph needs of the node that it runs on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from salver.core.model import ModelSpec
from salver.core.request import InferenceRequest, InferenceResponse, Parameters
from salver.core.signature import Signature
from salver.graph.spec import ModelReference
from salver.runtimes.base import Inputs, Outputs


@dataclass(frozen=True, slots=True)
class Callee:
    """A model as a graph's step sees it.

    Attributes:
        version: the version that the reference leads to now.
        signature: its inputs and outputs.
        streams: it gives one answer after another.
    """

    version: str
    signature: Signature
    streams: bool = False


class Function(Protocol):
    """A function of the graph's own, loaded: it has a queue and instances as a model has."""

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs, as far as its annotations tell them."""

    async def predict(
        self,
        inputs: Inputs,
        asked: Sequence[str] | None,
        parameters: Parameters,
        *,
        priority: int,
        deadline: float | None,
    ) -> Outputs:
        """Call it.

        Raises:
            SalverError: it fails, or its deadline passes.
        """

    async def close(self) -> None:
        """Give back what it holds, once its calls have ended."""


class Host(Protocol):
    """The node: it answers the requests of a graph's steps."""

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        """Answer a step's request, through its model's own queue.

        Raises:
            SalverError: what is wrong with it, or with the model.
        """

    def stream(self, request: InferenceRequest) -> AsyncGenerator[InferenceResponse, None]:
        """The same with one answer after another."""

    async def describe(self, model: ModelReference, asker: tuple[str, str]) -> Callee:
        """A model's signature; the model is loaded where it takes that to know it.

        Args:
            model: which.
            asker: name and version of the graph that is being loaded, and wants to know.

        Raises:
            UnknownModel, ModelUnavailable: there is no such model, or it can't be had; or it is a graph that waits for
                the asker itself.
        """

    async def load_function(self, spec: ModelSpec) -> Function:
        """Load a function of a graph's own.

        Raises:
            LoadError: it can't be loaded.
        """

    def hint(self, model: ModelReference) -> None:
        """A model is about to be asked: it is loaded now where it isn't yet."""
