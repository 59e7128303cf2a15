"""In the probe's process: load a version, run it, and measure what that takes."""

from __future__ import annotations

import asyncio
import gc
import platform
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np

from salver.core.errors import InvalidConfig, LoadError, SalverError
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.scheduling import WarmUp
from salver.core.signature import Signature
from salver.registration.probe.latency import Latencies, measure_latencies
from salver.registration.probe.memory import MemoryGrowth, device_bytes
from salver.registration.probe.outputs import OutputCheck
from salver.runtimes import table
from salver.runtimes.base import Inputs, LoadedModel, Outputs
from salver.runtimes.instance import Instance
from salver.runtimes.process.child_link import is_out_of_memory
from salver.runtimes.process.description import describe_model
from salver.runtimes.settings import gpu_index
from salver.runtimes.warm_up import probing, synthetic_inputs

T = TypeVar("T")

_FREE_DIMENSIONS = (32, 1)
"""A text of one token says little of real ones; but not every model can have 32 of everything."""

_STREAM_PARTS = 100
_STREAM_SECONDS = 5.0

_FRAMEWORKS = {"onnx": "onnxruntime", "pytorch": "torch", "torchserve": "torch"}
"""Runtime -> module, where their names differ."""


class Link(Protocol):
    """To the server."""

    def doing(self, what: str) -> None:
        """Tell what is done now, as the end of a sentence that begins with "its process died while"."""

    def wait_for_turn(self) -> None:
        """Return when no other probe measures times."""


class OutOfMemory(LoadError):
    """An allocation failed."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Made-up inputs on which a model has run; more of their kind can be had.

    Attributes:
        kind: "zeros", "ones", or "random".
        free: what free dimensions are.
    """

    signature: Signature
    kind: str
    free: int

    def inputs(self, rows: int = 1, seed: int | None = None) -> Inputs | None:
        """Inputs of so many rows, which differ where there is a seed; None where none can be made up."""
        if seed is None and self.kind == "random":
            seed = 1
        # Where any shape will do, one element is the natural one.
        tensors = tuple(each if each.shape is not None else replace(each, shape=(1,)) for each in self.signature.inputs)
        signature = Signature(tensors, (), self.signature.batched)
        inputs = synthetic_inputs(signature, rows=rows, seed=seed, free=self.free)
        if inputs is not None and seed is None and self.kind == "ones":
            return {name: array if array.dtype.hasobject else np.ones_like(array) for name, array in inputs.items()}
        return inputs


def measure(
    spec: ModelSpec, warm_ups: Sequence[WarmUp], limits: dict[str, Any], link: Link, *, allow_code: bool
) -> dict[str, Any]:
    """Load and run a version; what :func:`salver.registration.probe.result.read_result` reads.

    Args:
        spec: the version.
        warm_ups: the requests in its model.yaml.
        limits: what :func:`salver.registration.probe.limits.describe_limits` gave.
        link: to the server.
        allow_code: whether the model may bring code of its own.

    Raises:
        LoadError: it can't be loaded, or fails in a way that says something of it.
    """
    runtime = table.create(spec.runtime, allow_code=allow_code)
    gc.collect()
    memory = MemoryGrowth(spec.path)
    gpu = None if spec.device == "cpu" else f"cuda:{gpu_index(spec)}"
    on_gpu = device_bytes(gpu) if gpu is not None else None
    link.doing("it loaded the model")
    started = perf_counter()
    model = runtime.load(spec)
    loaded = perf_counter()
    with asyncio.Runner() as runner:
        run = _Run(spec, model, runner)
        link.doing("it ran made-up inputs")
        trial = run.try_out(_trials(model.signature))
        for warm_up in warm_ups:
            link.doing(f"it ran {_where(warm_up)}")
            run.warm_up(warm_up)
        if limits["finite"]:
            run.check.check_finite()
        link.wait_for_turn()
        link.doing("its latency was measured")
        latencies = run.measure(trial, memory, limits)
    gc.collect()
    taken, peak = memory.after(latencies.max_batch_size)
    framework, version = _framework(spec.runtime)
    return {
        "model": describe_model(model) | {"private_bytes": None},
        "memory_bytes": taken,
        "peak_memory_bytes": peak,
        "device_memory_bytes": _device_growth(model, on_gpu),
        "load_seconds": (run.first_answer or loaded) - started,
        "latency_seconds": latencies.seconds,
        "max_batch_size": latencies.max_batch_size,
        "efficient_batch_size": latencies.efficient_batch_size,
        "batch_size_reason": latencies.reason,
        "framework": framework,
        "framework_version": version,
        "notes": run.notes,
    }


class _Run:
    """Runs a loaded model, and looks at what it answers.

    Attributes:
        check: of all answers.
        first_answer: when it came, by perf_counter; None before.
        notes: what couldn't be done, and why.
    """

    def __init__(self, spec: ModelSpec, model: LoadedModel, runner: asyncio.Runner) -> None:
        self.check = OutputCheck(model.signature)
        self.first_answer: float | None = None
        self.notes: list[str] = []
        self._spec = spec
        self._model = model
        self._instance = Instance(model, name=spec.name, isolation=spec.isolation)
        self._runner = runner

    def try_out(self, trials: Iterator[Trial]) -> Trial | None:
        """The first made-up inputs on which the model runs; others follow while its outputs aren't finite.

        None where it takes none of them: they may make no sense to it.
        """
        found: Trial | None = None
        refusal: SalverError | None = None
        for trial in trials:
            inputs = trial.inputs()
            if inputs is None:
                self.notes.append(
                    "its outputs weren't checked and its latency wasn't measured on made-up inputs: its signature "
                    "leaves a datatype or shape open, or is very large; 'warm_up' in model.yaml may name requests"
                )
                return None
            token = probing.set(True)
            try:
                answers = self._finish(self._answers(inputs, None, {}))
            except SalverError as error:
                self._end_if_out_of_memory(error)
                refusal = refusal or error
                continue
            finally:
                probing.reset(token)
            self.first_answer = self.first_answer or perf_counter()
            self._look_at(answers, None)
            found = found or trial
            if self.check.is_finite:
                break
        if found is None and refusal is not None:
            self.notes.append(f"its latency wasn't measured: it refuses made-up inputs: {refusal}")
        return found

    def warm_up(self, warm_up: WarmUp) -> None:
        """Run a request of model.yaml.

        Raises:
            InvalidConfig: it fails.
        """
        try:
            # Imported late: it reads requests with packages that a foreign Python may lack.
            from salver.runtimes.warm_up_requests import warm_up_inputs
        except ImportError as error:
            self.notes.append(f"{_where(warm_up)} wasn't run: {error}")
            return
        inputs, parameters, asked = warm_up_inputs(self._model.signature, warm_up, model=self._spec.name)
        for _ in range(warm_up.count):
            try:
                answers = self._finish(self._answers(inputs, asked, parameters))
            except SalverError as error:
                self._end_if_out_of_memory(error)
                raise InvalidConfig(f"model {self._spec.name!r}: {_where(warm_up)} failed: {error}") from error
            self.first_answer = self.first_answer or perf_counter()
            self._look_at(answers, asked)

    def measure(self, trial: Trial | None, memory: MemoryGrowth, limits: dict[str, Any]) -> Latencies:
        """What executions on made-up inputs take.

        Args:
            trial: inputs on which the model runs; None where there are none.
            memory: told what executions take of it.
            limits: of the probe.
        """
        inputs = None if trial is None else trial.inputs()
        if trial is None or inputs is None:
            wanted = self._spec.scheduling.max_batch_size
            if wanted is not None:
                return Latencies({}, wanted, "model.yaml says so", None)
            return Latencies({}, 1, "no inputs can be made up to measure larger ones; set max_batch_size", None)
        token = probing.set(True)
        try:
            self._runner.run(self._instance.warm_up(inputs))  # on a thread
            return self._finish(
                measure_latencies(self._spec, self._model, self._instance, trial.inputs, memory, limits)
            )
        finally:
            probing.reset(token)

    def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end: of a sync model without an event loop, which such a model may start itself."""
        if self._model.kind != "sync":
            return self._runner.run(work)
        try:
            work.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError("running a sync model awaits nothing")

    async def _answers(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> list[Outputs]:
        """What it answers: one set of outputs, or, of a model that streams, the first ones."""
        if self._model.kind == "sync":
            return [self._instance.run(inputs, asked, parameters)]
        if self._model.kind == "async":
            return [await self._instance.start(inputs, asked, parameters)]
        answers: list[Outputs] = []
        ends = perf_counter() + _STREAM_SECONDS
        async with aclosing(self._instance.stream(inputs, asked, parameters)) as parts:
            async for outputs in parts:
                answers.append(outputs)
                if len(answers) >= _STREAM_PARTS or perf_counter() > ends:
                    break
        return answers

    def _look_at(self, answers: Sequence[Outputs], asked: Sequence[str] | None) -> None:
        expected = asked
        if expected is None:
            # Parts of a stream need not have everything.
            streams = self._model.kind in ("stream", "async_stream")
            expected = () if streams else [spec.name for spec in self._model.signature.outputs]
        for outputs in answers:
            self.check.look_at(outputs, expected)

    def _end_if_out_of_memory(self, error: SalverError) -> None:
        if is_out_of_memory(error):
            raise OutOfMemory(str(error)) from error


def _trials(signature: Signature) -> Iterator[Trial]:
    for kind in ("zeros", "ones", "random"):
        for free in _FREE_DIMENSIONS:
            yield Trial(signature, kind, free)


def _where(warm_up: WarmUp) -> str:
    if warm_up.file is not None:
        return f"its warm-up request {warm_up.file.name}"
    return "a warm-up request drawn from its signature"


def _device_growth(model: LoadedModel, before: int | None) -> int:
    if model.device == "cpu":
        return 0
    after = device_bytes(model.device)
    return model.memory_bytes() if after is None or before is None else max(0, after - before)


def _framework(runtime: str) -> tuple[str, str]:
    """Name and version of what loaded the model."""
    if runtime == "python":
        return "python", platform.python_version()
    name = _FRAMEWORKS.get(runtime, runtime)
    return name, str(getattr(sys.modules.get(name), "__version__", ""))
