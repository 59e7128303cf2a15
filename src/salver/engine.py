"""The engine: a request in, an answer out. It finds the model version, checks the request, runs it and counts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from time import monotonic, perf_counter_ns
from typing import Protocol

from salver.cache.loaded_version import LoadedVersion
from salver.cache.model_cache import ModelCache
from salver.cache.response_cache import key_bytes, key_of
from salver.core.errors import DeadlineExceeded, InvalidInput, Overloaded, SalverError, UnknownOutput
from salver.core.request import InferenceRequest, InferenceResponse
from salver.core.signature import Signature
from salver.core.tensor import Array
from salver.runtimes.instance import INLINE_NS

Outputs = dict[str, Array]

_OFF_LOOP = 1 << 20
"""Bytes of inputs from which making a cache key of them would hold up the event loop too long."""


_CLOCKS_APART = 0.05
"""Seconds by which a client's deadline may come before ours: ours begins when its call has arrived."""


class Source(Protocol):
    """Where a node's models come from: a repository, or a registry.

    Attributes:
        loaded: what it held at the start has been loaded, offered, or has failed to be.
    """

    loaded: bool

    async def start(self) -> None:
        """Load or offer what there is, and follow what changes.

        Raises:
            SalverError: there is nothing to serve, or it can't be reached.
        """

    async def load(self, name: str) -> None:
        """Load, or load again, a model; it is served from then on.

        Raises:
            UnknownModel: there is no such model.
            LoadError: it can't be loaded.
        """

    async def unload(self, name: str) -> None:
        """Take a model out of service, until :meth:`load`."""

    async def close(self) -> None:
        """Follow changes no more."""


class Elsewhere(Protocol):
    """Other servers, which have other models."""

    async def predict(self, request: InferenceRequest) -> InferenceResponse | None:
        """The answer of another server; None where the request is to be answered here.

        Raises:
            SalverError: what the other server said of the request.
        """

    def takes(self, model: str, version: str) -> bool:
        """Whether requests for a model go to another server now.

        Raises:
            UnknownModel, ModelUnavailable: there is no such model.
        """


class Engine:
    """Runs requests on the models of a node.

    Args:
        models: the loaded versions.
        repository: what the models are loaded from.
        max_concurrent_requests: how many requests are worked on at a time, waiting ones among them.

    Attributes:
        models, repository: as above.
        in_flight: requests that run or wait.
        elsewhere: asked for models that aren't loaded here; None where this is the only server.
    """

    def __init__(self, *, models: ModelCache, repository: Source, max_concurrent_requests: int = 10_000) -> None:
        self.models = models
        self.repository = repository
        self.in_flight = 0
        self.elsewhere: Elsewhere | None = None
        self._limit = max_concurrent_requests
        self._routes = models.routes

    async def start(self) -> None:
        """Load the repository's models.

        Raises:
            LoadError: nothing at all could be loaded.
        """
        self.models.start()
        await self.repository.start()

    async def close(self, timeout: float = 30.0) -> None:
        """Stop watching and unload everything; requests that still run get ``timeout`` seconds."""
        await self.repository.close()
        await self.models.close(timeout)

    def admit(self, model: str, version: str, priority: int | None = None) -> None:
        """Refuse a request that can't be taken now, before anybody decodes it.

        Args:
            model, version: that it asks for.
            priority: the request's, 0 for none; None where it isn't known yet.

        Raises:
            UnknownModel, ModelUnavailable: there is no such version, or it can't be had.
            Overloaded: a bound is reached.
        """
        loaded = self._routes.get((model, version))
        if loaded is None:
            self.models.admit(model, version)
            if self.in_flight >= self._limit:
                raise self._busy()
            return
        try:
            if self.in_flight >= self._limit:
                raise self._busy()
            # An answer that the response cache has needs no place in the queue.
            if loaded.responses is None and (loaded.inline is None or not loaded.inline.runs_inline):
                loaded.scheduler.admit(priority)
        except SalverError as error:
            loaded.statistics.record_failure(error, 0)
            raise

    async def predict(self, request: InferenceRequest) -> InferenceResponse:
        """Answer a request.

        Raises:
            SalverError: what is wrong with it, or with the model.
        """
        started = perf_counter_ns()
        loaded = self._routes.get((request.model, request.version))
        if loaded is None:
            if self.elsewhere is not None and not request.forwarded:
                answer = await self._ask_elsewhere(self.elsewhere, request)
                if answer is not None:
                    return answer
            loaded = await self._load_for(request)
        else:
            loaded.pins += 1
        usage = loaded.usage
        usage.uses += 1
        usage.last_used_ns = started
        statistics = loaded.statistics
        statistics.in_flight += 1
        self.in_flight += 1
        try:
            if self.in_flight > self._limit and not _is_step(request):
                raise self._busy()
            signature = loaded.signature
            inputs = signature.check_inputs(request.inputs)
            asked = request.outputs
            if asked is not None:
                signature.check_outputs(asked)
            rows = signature.batch_size(inputs)
            if rows > loaded.max_rows:
                raise _too_many_rows(loaded, rows)
            checked = perf_counter_ns()
            outputs = None
            instance = loaded.inline
            if instance is not None and request.deadline is None:
                outputs = instance.predict_inline(inputs, asked, request.parameters)
            if outputs is None:
                outputs, queue_ns, alone = await self._run(loaded, request, inputs, rows)
                computed = perf_counter_ns()
            else:
                queue_ns, alone = 0, True
                computed = perf_counter_ns()
                if computed - checked > INLINE_NS and instance is not None:
                    instance.took(computed - checked)
            if asked is not None:
                outputs = _select(outputs, asked, signature)
            response = InferenceResponse(request.model, loaded.spec.version, outputs, request.id)
            statistics.record_success(rows, started, checked, computed, queue_ns, alone)
            return response
        except BaseException as error:
            statistics.record_failure(_told(error, request), perf_counter_ns() - started)
            raise
        finally:
            self.in_flight -= 1
            statistics.in_flight -= 1
            loaded.unpin()

    def hint(self, model: str, version: str) -> None:
        """A model is about to be asked: it is loaded where this server will be asked, and nothing has to go for it.

        Raises:
            UnknownModel, ModelUnavailable: there is no such model.
        """
        if (model, version) in self._routes or (self.elsewhere is not None and self.elsewhere.takes(model, version)):
            return
        self.models.hint(model, version)

    def predict_here(self, request: InferenceRequest) -> InferenceResponse:
        """Answer a request to a sync model on the calling thread, past queue and counters: for embedding.

        The caller sees to it that the model isn't unloaded meanwhile, and keeps to its ``max_concurrency``.

        Raises:
            SalverError: what is wrong with the request, or with the model.
        """
        loaded = self.models.lookup(request.model, request.version)
        inputs = loaded.signature.check_inputs(request.inputs)
        asked = request.outputs
        if asked is not None:
            loaded.signature.check_outputs(asked)
        if (rows := loaded.signature.batch_size(inputs)) > loaded.max_rows:
            raise _too_many_rows(loaded, rows)
        assert loaded.instance is not None
        outputs = loaded.instance.run(inputs, asked, request.parameters)
        selected = outputs if asked is None else _select(outputs, asked, loaded.signature)
        return InferenceResponse(request.model, loaded.spec.version, selected, request.id)

    async def stream(self, request: InferenceRequest) -> AsyncGenerator[InferenceResponse, None]:
        """Answer a request with one response after another; a model that doesn't stream gives one.

        Raises:
            SalverError: what is wrong with the request, or with the model.
        """
        started = perf_counter_ns()
        loaded = self._routes.get((request.model, request.version))
        if loaded is None:
            loaded = await self._load_for(request)
        else:
            loaded.pins += 1
        if loaded.model.kind in ("sync", "async"):
            try:
                response = await self.predict(request)
            finally:
                loaded.unpin()
            yield response
            return
        usage = loaded.usage
        usage.uses += 1
        usage.last_used_ns = started
        statistics = loaded.statistics
        statistics.in_flight += 1
        self.in_flight += 1
        try:
            if self.in_flight > self._limit and not _is_step(request):
                raise self._busy()
            inputs = loaded.signature.check_inputs(request.inputs)
            asked = request.outputs
            if asked is not None:
                loaded.signature.check_outputs(asked)
            checked = perf_counter_ns()
            if loaded.composed is not None:
                streaming = loaded.composed.answers(request, inputs)
            else:
                streaming = loaded.scheduler.stream(
                    inputs, asked, request.parameters, priority=request.priority, deadline=request.deadline
                )
            async with aclosing(streaming) as parts:
                async for outputs in parts:
                    selected = outputs if asked is None else _select(outputs, asked, loaded.signature)
                    yield InferenceResponse(request.model, loaded.spec.version, selected, request.id)
            batch_size = loaded.signature.batch_size(inputs)
            statistics.record_success(batch_size, started, checked, perf_counter_ns(), 0, True)
        except BaseException as error:
            statistics.record_failure(_told(error, request), perf_counter_ns() - started)
            raise
        finally:
            self.in_flight -= 1
            statistics.in_flight -= 1
            loaded.unpin()

    async def _ask_elsewhere(self, elsewhere: Elsewhere, request: InferenceRequest) -> InferenceResponse | None:
        if self.in_flight >= self._limit and not _is_step(request):
            raise self._busy()
        self.in_flight += 1
        try:
            return await elsewhere.predict(request)
        finally:
            self.in_flight -= 1

    async def _load_for(self, request: InferenceRequest) -> LoadedVersion:
        """The version of a request, pinned, which isn't loaded yet. Requests that wait for it count like others."""
        if self.in_flight >= self._limit and not _is_step(request):
            raise self._busy()
        self.in_flight += 1
        try:
            return await self.models.acquire(request.model, request.version, deadline=request.deadline)
        finally:
            self.in_flight -= 1

    async def _compose(self, loaded: LoadedVersion, request: InferenceRequest, inputs: dict[str, Array]) -> Outputs:
        """The answer of a model that asks others: those have the queues, and it has a bound."""
        assert loaded.composed is not None
        most = loaded.scheduler.max_queue
        if loaded.statistics.in_flight > most:
            raise Overloaded(
                f"model {loaded.name!r} works on {most} requests, as many as it may (max_queue); try again later"
            )
        return await loaded.composed.answer(request, inputs)

    async def _run(
        self, loaded: LoadedVersion, request: InferenceRequest, inputs: dict[str, Array], rows: int
    ) -> tuple[Outputs, int, bool]:
        """Outputs, the nanoseconds of waiting, and whether it was an execution that nobody has counted yet."""
        instance = loaded.inline
        if instance is not None and instance.runs_inline:
            if request.deadline is not None and request.deadline <= monotonic():
                raise DeadlineExceeded(f"the deadline had passed before model {loaded.name!r} was asked")
            outputs = instance.predict_inline(inputs, request.outputs, request.parameters)
            if outputs is not None:
                return outputs, 0, True
        if loaded.responses is not None and not request.parameters.get("sequence_id"):
            return await self._cached(loaded, request, inputs, rows), 0, False
        if loaded.composed is not None:
            return await self._compose(loaded, request, inputs), 0, True
        outputs, queue_ns = await loaded.scheduler.predict(
            inputs,
            request.outputs,
            request.parameters,
            rows=rows,
            priority=request.priority,
            deadline=request.deadline,
        )
        return outputs, queue_ns, False

    async def _cached(
        self, loaded: LoadedVersion, request: InferenceRequest, inputs: dict[str, Array], rows: int
    ) -> Outputs:
        """The answer that the response cache has, or will have."""
        assert loaded.responses is not None
        started = perf_counter_ns()
        seen = request.parameters if loaded.model.sees_parameters else {}
        make_key = partial(key_of, inputs, request.outputs, seen)
        key = await asyncio.to_thread(make_key) if key_bytes(inputs) > _OFF_LOOP else make_key()

        # Others may wait for the same answer: one caller's deadline isn't theirs.
        async def run() -> Outputs:
            if loaded.composed is not None:
                return await self._compose(loaded, replace(request, deadline=None), inputs)
            outputs, _ = await loaded.scheduler.predict(
                inputs, request.outputs, request.parameters, rows=rows, priority=request.priority
            )
            return outputs

        left = None if request.deadline is None else request.deadline - monotonic()
        try:
            async with asyncio.timeout(left) as timeout:
                outputs, hit = await loaded.responses.get_or_run(key, run)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(f"the deadline passed while the request waited at model {loaded.name!r}") from None
        loaded.statistics.record_cached(perf_counter_ns() - started, hit=hit)
        return outputs

    def _busy(self) -> Overloaded:
        return Overloaded(
            f"the server works on {self._limit} requests, as many as it may (max_concurrent_requests); try again later"
        )


def _is_step(request: InferenceRequest) -> bool:
    """Whether it is a step of a graph on this server, which has a place already. Anybody can write a header."""
    return bool(request.within) and not request.forwarded


def _told(error: BaseException, request: InferenceRequest) -> BaseException:
    """An error as statistics know it: gRPC clients cancel a call when its deadline passes, and may be the first to."""
    is_late = request.deadline is not None and monotonic() > request.deadline - _CLOCKS_APART
    if is_late and isinstance(error, asyncio.CancelledError):
        return DeadlineExceeded("the deadline has passed")
    return error


def _too_many_rows(loaded: LoadedVersion, rows: int) -> InvalidInput:
    return InvalidInput(
        f"the request has {rows} rows, and model {loaded.name!r} takes {loaded.max_rows} at most (its "
        "max_batch_size); send them in several requests"
    )


def _select(outputs: Outputs, asked: Sequence[str], signature: Signature) -> Outputs:
    try:
        return {name: outputs[name] for name in asked}
    except KeyError as error:
        optional = {spec.name for spec in signature.outputs if spec.optional}
        if all(name in outputs or name in optional for name in asked):
            return {name: outputs[name] for name in asked if name in outputs}
        raise UnknownOutput(f"unknown output {error}; the model gave {', '.join(map(repr, outputs))}") from None
