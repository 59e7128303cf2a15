"""``salver.load``: a model in the caller's own process, with the signature checks and results of the server."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from salver.assembly import build_engine
from salver.cache.loaded_version import LoadedVersion
from salver.client.exchange import asked, results
from salver.client.values import Values, texts, to_tensors
from salver.config import ServerSettings
from salver.core.errors import InvalidArtifact, ModelUnavailable, UnknownModel
from salver.core.model import ModelSpec
from salver.core.request import InferenceRequest, InferenceResponse, Parameter
from salver.core.signature import Signature
from salver.core.tensor import Array
from salver.engine import Engine
from salver.runtimes.detect import detect
from salver.store.repository import ModelEntry, scan, to_spec
from salver.wire.v2_metadata import encode_tensor

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

_CLOSE_SECONDS = 30.0


def load(
    path: str | PathLike[str],
    *,
    name: str | None = None,
    version: str | int | None = None,
    device: str = "auto",
    allow_code: bool = False,
    threads: int | None = None,
    decode_text: bool = True,
) -> EmbeddedModel:
    """Load a model into this process; with a graph of a repository, the models that it asks.

    Args:
        path: a model file, a model folder, or a model repository.
        name: which model of a repository; not needed where there is one.
        version: which version; None for the newest.
        device: "cpu", "cuda", "cuda:N"; "auto" for what the model's model.yaml says, else the first GPU that the
            runtime can use, else the CPU.
        allow_code: load models that run code of their own (pickle and joblib files, a model.py in a folder). A Python
            file that ``path`` itself names needs no permission.
        threads: CPU threads that one call may use; None for what model.yaml says, else the runtime's choice.
        decode_text: as for :class:`salver.Client`.

    Raises:
        InvalidArtifact: there is no model at the path, or its files can't be read.
        UnknownModel: no model of this name or version there.
        CodeNotAllowed: loading would run code from the model.
        MissingDependency: a package that the model needs isn't installed.
        InvalidConfig: model.yaml or an argument can't be understood.
    """
    # Errors are raised; only where the caller has set up logging do they show up in a log as well.
    logging.getLogger("salver").addHandler(logging.NullHandler())
    spec = _find(Path(path).expanduser(), name, None if version is None else str(version))
    if device != "auto":
        spec = replace(spec, device=device)
    spec = replace(spec, one_at_a_time=True)
    if threads is not None:
        spec = replace(spec, threads=threads)
    # A graph's models are loaded when it asks for them, and nothing else is.
    settings = ServerSettings(repository=Path(path).expanduser(), allow_code=allow_code, load="on_demand")
    engine = build_engine(settings, embedded=True)
    loop = _LoopThread(spec.name)
    try:
        if spec.runtime == "graph":
            loop.run(engine.start())
        loaded = loop.run(engine.models.load(spec))
    except BaseException:
        loop.close_after(engine.close(_CLOSE_SECONDS))
        raise
    return EmbeddedModel(engine, loaded, loop, decode_text=decode_text)


class EmbeddedModel:
    """A model loaded by :func:`load`. It may be used from several threads, and with asyncio.

    A sync model runs on the thread that calls it. The others run on a thread of the model's own, with an event loop.

    Attributes:
        name, version: the model's.
        signature: its named inputs and outputs.
        device: where it lies: "cpu" or "cuda:N".
        memory_bytes: what it takes, as far as its runtime can tell.
    """

    def __init__(self, engine: Engine, loaded: LoadedVersion, loop: _LoopThread, *, decode_text: bool) -> None:
        self.name: str = loaded.name
        self.version: str = loaded.version
        self.signature: Signature = loaded.signature
        self.device: str = loaded.model.device
        self.memory_bytes: int = loaded.memory_bytes
        self._engine = engine
        self._loaded = loaded
        self._loop = loop
        self._decode_text = decode_text
        self._is_sync = loaded.model.kind == "sync" and loaded.instance is not None
        self._calls = _Calls(f"model {loaded.name!r} was closed")
        concurrency = loaded.model.max_concurrency
        self._slots: AbstractContextManager[object] = (
            nullcontext() if concurrency is None else threading.BoundedSemaphore(concurrency)
        )
        # Frees a model that nobody closed and nobody holds any more, without waiting for it.
        self._finalizer = weakref.finalize(self, _discard, engine, loop)
        self._finalizer.atexit = False

    @overload
    def predict(
        self,
        inputs: Values,
        *,
        outputs: Sequence[str] | None = ...,
        parameters: Mapping[str, Parameter] | None = ...,
    ) -> dict[str, Array]: ...

    @overload
    def predict(
        self,
        inputs: pd.DataFrame,
        *,
        outputs: Sequence[str] | None = ...,
        parameters: Mapping[str, Parameter] | None = ...,
    ) -> pd.DataFrame: ...

    def predict(
        self,
        inputs: Values | pd.DataFrame,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> dict[str, Array] | pd.DataFrame:
        """Run the model.

        Args and results are those of :meth:`salver.Client.predict`.

        Raises:
            InvalidRequest: the inputs or outputs don't fit the model.
            ModelFailed: the model's own code failed.
            ModelUnavailable: the model was closed.
        """
        request = self._request(inputs, outputs, parameters)
        if self._is_sync:
            with self._calls, self._slots:
                response = self._engine.predict_here(request)
        else:
            response = self._loop.run(self._engine.predict(request))
        return self._results(response, inputs)

    @overload
    async def predict_async(
        self,
        inputs: Values,
        *,
        outputs: Sequence[str] | None = ...,
        parameters: Mapping[str, Parameter] | None = ...,
    ) -> dict[str, Array]: ...

    @overload
    async def predict_async(
        self,
        inputs: pd.DataFrame,
        *,
        outputs: Sequence[str] | None = ...,
        parameters: Mapping[str, Parameter] | None = ...,
    ) -> pd.DataFrame: ...

    async def predict_async(
        self,
        inputs: Values | pd.DataFrame,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> dict[str, Array] | pd.DataFrame:
        """As :meth:`predict`, for asyncio: the caller's event loop goes on meanwhile."""
        if self._is_sync:
            return await asyncio.to_thread(self.predict, inputs, outputs=outputs, parameters=parameters)
        request = self._request(inputs, outputs, parameters)
        return self._results(await asyncio.wrap_future(self._loop.submit(self._engine.predict(request))), inputs)

    def stream(
        self,
        inputs: Values,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> Iterator[dict[str, Array]]:
        """Run the model and give one set of outputs after another, each when the model has it.

        A model that doesn't stream gives one. Raises what :meth:`predict` raises.
        """
        if self._is_sync:
            yield self.predict(inputs, outputs=outputs, parameters=parameters)
            return
        parts = self._engine.stream(self._request(inputs, outputs, parameters))
        try:
            while (response := self._loop.run(_next(parts))) is not None:
                yield self._outputs(response)
        finally:
            self._loop.run(_close(parts))

    async def stream_async(
        self,
        inputs: Values,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> AsyncIterator[dict[str, Array]]:
        """As :meth:`stream`, for asyncio."""
        if self._is_sync:
            yield await self.predict_async(inputs, outputs=outputs, parameters=parameters)
            return
        parts = self._engine.stream(self._request(inputs, outputs, parameters))
        try:
            while (response := await asyncio.wrap_future(self._loop.submit(_next(parts)))) is not None:
                yield self._outputs(response)
        finally:
            await asyncio.wrap_future(self._loop.submit(_close(parts)))

    def metadata(self) -> dict[str, Any]:
        """The V2 metadata: name, versions, platform, inputs, outputs."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": self._loaded.model.platform,
            "inputs": [encode_tensor(spec) for spec in self.signature.inputs],
            "outputs": [encode_tensor(spec) for spec in self.signature.outputs],
        }

    def close(self) -> None:
        """Unload the model; calls that run may finish first."""
        if self._finalizer.detach() is not None:
            self._calls.close(_CLOSE_SECONDS)
            self._loop.close_after(self._engine.close(_CLOSE_SECONDS)).join(_CLOSE_SECONDS + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EmbeddedModel {self.name} version {self.version} on {self.device}>"

    def _request(
        self,
        inputs: Values | pd.DataFrame,
        outputs: Sequence[str] | None,
        parameters: Mapping[str, Parameter] | None,
    ) -> InferenceRequest:
        tensors = to_tensors(inputs, self.signature)
        return InferenceRequest(self.name, self.version, tensors, asked(outputs), dict(parameters or {}))

    def _results(self, response: InferenceResponse, inputs: Values | pd.DataFrame) -> dict[str, Array] | pd.DataFrame:
        return results(response, inputs, decode_text=self._decode_text)

    def _outputs(self, response: InferenceResponse) -> dict[str, Array]:
        return texts(response.outputs) if self._decode_text else response.outputs


class _Calls:
    """The calls that run on their callers' threads: a context manager for each, which refuses when closed."""

    def __init__(self, refusal: str) -> None:
        self._refusal = refusal
        self._running = 0
        self._closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            if self._closed:
                raise ModelUnavailable(self._refusal)
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            if self._closed:
                self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Refuse new calls, and wait for those that run."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: self._running == 0, timeout)


class _LoopThread:
    """A thread that runs an event loop for one model."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a model that nobody closed must not keep a program from ending.
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"salver-loop-{name}", daemon=True)
        self._thread.start()

    def submit(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine there."""
        if self._loop.is_closed():
            call.close()
            raise ModelUnavailable("the model was closed")
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and wait for it. An exception in the waiting thread, such as Ctrl-C, cancels it."""
        future = self.submit(call)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close_after(self, call: Coroutine[Any, Any, None]) -> threading.Thread:
        """Run a last coroutine and end the thread; the thread to join, as nothing is waited for here."""

        def stop(_: object) -> None:
            self._loop.call_soon_threadsafe(self._loop.stop)

        self.submit(call).add_done_callback(stop)
        closing = threading.Thread(target=self._finish, name="salver-close", daemon=True)
        closing.start()
        return closing

    def _finish(self) -> None:
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def _find(path: Path, name: str | None, version: str | None) -> ModelSpec:
    """What to load of a path.

    Raises:
        InvalidArtifact: there is nothing to load.
        UnknownModel: there is no such model or version.
    """
    models = scan(path).models
    if name is None and len(models) > 1:
        raise UnknownModel(f"{path} holds several models; say which by name=...: {', '.join(models)}")
    entry = next(iter(models.values())) if name is None and models else models.get(name or "")
    if entry is None:
        raise UnknownModel(f"{path} holds no model {name!r}, but {', '.join(models) or 'nothing'}")
    if entry.error:
        raise InvalidArtifact(entry.error)
    return _spec(entry, version)


def _spec(entry: ModelEntry, version: str | None) -> ModelSpec:
    wanted = version if version is not None else list(entry.versions)[-1]
    found = entry.versions.get(wanted)
    if found is None:
        raise UnknownModel(f"model {entry.name!r} has no version {wanted}, but {', '.join(entry.versions)}")
    if found.error:
        raise InvalidArtifact(found.error)
    runtime, artifact = detect(found.path, entry.config.runtime)
    return to_spec(entry, wanted, runtime=runtime, artifact=artifact)


async def _next(parts: AsyncIterator[InferenceResponse]) -> InferenceResponse | None:
    return await anext(parts, None)


async def _close(parts: AsyncIterator[InferenceResponse]) -> None:
    close = getattr(parts, "aclose", None)
    if close is not None:
        await close()


def _discard(engine: Engine, loop: _LoopThread) -> None:
    loop.close_after(engine.close(_CLOSE_SECONDS))
