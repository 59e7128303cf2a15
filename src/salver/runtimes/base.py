"""What a runtime is: ``load`` a :class:`ModelSpec`, get a :class:`LoadedModel`.

To add a runtime, subclass both, and name the runtime in the entry-point group ``salver.runtimes``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import ClassVar, Literal, TypeAlias

from salver.core.model import ModelSpec
from salver.core.request import InferenceRequest, Parameters
from salver.core.signature import Signature
from salver.core.tensor import Array
from salver.monitoring.step_statistics import StepStatistics

Inputs: TypeAlias = dict[str, Array]
Outputs: TypeAlias = dict[str, Array]
Kind: TypeAlias = Literal["sync", "async", "stream", "async_stream"]


class LoadedModel(ABC):
    """One version, loaded by a runtime, on one device.

    A runtime overrides the one method that its ``kind`` names; :mod:`salver.runtimes.instance` adapts it to the
    event loop. Inputs have been checked against the signature. ``asked`` names the outputs that the caller wants,
    None for all: a hint that lets a model compute less; outputs that were not asked for are dropped afterwards.

    Attributes:
        signature: the version's named inputs and outputs.
        platform: what the V2 metadata calls the format, such as "onnxruntime_onnx".
        device: where the model really lies: "cpu" or "cuda:N".
        kind: which of the four methods below runs it.
        max_concurrency: how many calls may run at the same time; None where the model is thread-safe.
        threads: CPU threads that one execution keeps busy.
        sees_parameters: what it answers may depend on a request's parameters.
        may_run_inline: its compute time is predictable enough to run on the event loop when measured to be tiny.
    """

    signature: Signature
    platform: str
    device: str = "cpu"
    kind: Kind = "sync"
    max_concurrency: int | None = None
    threads: int = 1
    sees_parameters: bool = False
    may_run_inline: bool = False

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        """Run the model (kind "sync")."""
        raise NotImplementedError

    async def predict_async(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        """Run the model (kind "async")."""
        raise NotImplementedError

    def stream(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Iterator[Outputs]:
        """Run the model, giving one set of outputs after another (kind "stream")."""
        raise NotImplementedError

    def stream_async(
        self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters
    ) -> AsyncIterator[Outputs]:
        """Run the model, giving one set of outputs after another (kind "async_stream")."""
        raise NotImplementedError

    @abstractmethod
    def memory_bytes(self) -> int:
        """Bytes that the model takes: its weights, as far as the runtime can tell."""

    def close(self) -> None:  # noqa: B027  most models have nothing to do here
        """Give back what the model holds. It is not called while a request uses the model, and nothing is after it."""


class ComposedModel(LoadedModel):
    """A model that asks other models of its node for what it answers.

    It is handed whole requests, on the event loop, and past a queue: those that it asks have queues of their own.
    """

    platform = "salver_graph"

    @abstractmethod
    async def connect(self) -> None:
        """Find the models that it asks; its signature is known then. Called once, before the first request.

        Raises:
            LoadError: one isn't there, or doesn't fit.
        """

    @abstractmethod
    async def disconnect(self) -> None:
        """Give back what :meth:`connect` has loaded. Called once, after the last request."""

    @abstractmethod
    def step_statistics(self) -> Sequence[tuple[str, StepStatistics]]:
        """The counters of its steps, by their names."""

    @abstractmethod
    def check_change(self, name: str, leads_here: Callable[[str], bool], signature: Signature) -> None:
        """Whether it still works where a model that it asks gets another signature.

        Args:
            name: the model's.
            leads_here: tells of a version, label or alias of it ("" for none) whether it leads to what has changed.
            signature: the new one.

        Raises:
            InvalidConfig: it doesn't, and why.
        """

    @abstractmethod
    async def answer(self, request: InferenceRequest, inputs: Inputs) -> Outputs:
        """Answer a request.

        Args:
            request: what the client sent.
            inputs: its inputs, which have been checked against the signature.

        Raises:
            SalverError: what is wrong with it, or with a model that was asked.
        """

    @abstractmethod
    def answers(self, request: InferenceRequest, inputs: Inputs) -> AsyncGenerator[Outputs, None]:
        """The same with one answer after another (kind "async_stream")."""


class Runtime(ABC):
    """Loads artifacts of one format.

    Attributes:
        name: what ``runtime:`` in model.yaml calls it.
        extra: the extra that installs its framework, "" where the core has it.
        imported_by_load: modules that only loading a model imports.
        carries_code: its artifacts bring code of their own by nature: its models run in processes of their own, unless
            the operator says otherwise.
    """

    name: ClassVar[str]
    extra: ClassVar[str] = ""
    imported_by_load: ClassVar[tuple[str, ...]] = ()
    carries_code: ClassVar[bool] = False

    def __init__(self, *, allow_code: bool = False) -> None:
        self.allow_code = allow_code

    @abstractmethod
    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load one version. Blocks; it is called on a thread.

        Raises:
            InvalidArtifact: the files are missing, corrupt or not of this format.
            CodeNotAllowed: loading would run code from the model and ``allow_code`` is off.
            MissingDependency: a package that the model needs isn't installed.
            InvalidConfig: model.yaml asks for something that the artifact or this runtime can't do.
        """
