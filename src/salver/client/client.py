"""``salver.Client`` and ``salver.AsyncClient``: V2 over REST, with binary tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

import httpx2

from salver.client.exchange import Answer, Call, Exchange, Exchanges, T
from salver.client.values import Values
from salver.core.errors import DeadlineExceeded, SalverError, ServerUnreachable
from salver.core.request import Parameter
from salver.core.tensor import Array

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_URL = "http://127.0.0.1:8000"

# Tensors hardly shrink, and compressing them takes longer than sending them.
_HEADERS = {"accept-encoding": "identity"}


class Client:
    """A client of a V2 server: Salver, Triton, KServe and others.

    It is safe to share between threads. Failed calls are not repeated. All methods raise :class:`ServerUnreachable`
    where there is no connection (``server_live`` and ``server_ready`` say False), :class:`DeadlineExceeded` after
    ``timeout``, and otherwise the error that the server's status stands for, with the server's text.

    Args:
        url: where the server listens, such as "http://127.0.0.1:8000".
        timeout: seconds that each call may take to connect and, again, to answer.
        headers: sent with every call, such as ``{"authorization": "Bearer ..."}``.
        decode_text: give BYTES outputs as ``str`` where all their elements are UTF-8; else, and always if False, as
            ``bytes``.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
        decode_text: bool = True,
    ) -> None:
        self.url = with_scheme(url)
        self._exchanges = Exchanges(decode_text=decode_text)
        self._http = httpx2.Client(timeout=timeout, headers={**_HEADERS, **(headers or {})})

    @overload
    def predict(
        self,
        model: str,
        inputs: Values,
        *,
        version: str = ...,
        outputs: Sequence[str] | None = ...,
        parameters: Mapping[str, Parameter] | None = ...,
        id: str = ...,
    ) -> dict[str, Array]: ...

    @overload
    def predict(
        self,
        model: str,
        inputs: pd.DataFrame,
        *,
        version: str = ...,
        outputs: Sequence[str] | None = ...,
        parameters: Mapping[str, Parameter] | None = ...,
        id: str = ...,
    ) -> pd.DataFrame: ...

    def predict(
        self,
        model: str,
        inputs: Values | pd.DataFrame,
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        id: str = "",
    ) -> dict[str, Array] | pd.DataFrame:
        """Run a model.

        Args:
            model: its name.
            inputs: a mapping from input name to value; the value alone, where the model has one input; or a pandas
                DataFrame, whose columns are the inputs of the same name, or whose rows are those of the one input of
                shape [-1, n]. NumPy arrays are sent as they are. Numbers, texts and lists are converted to the datatype
                that the model's metadata (read once) asks for, and one row becomes a batch of one.
            version: "" for the model's default version.
            outputs: names of the outputs wanted; None for all.
            parameters: for the model or the server.
            id: an id for the request, which logs show.

        Returns:
            Arrays by output name, or a DataFrame where one was given: 1-D outputs are columns, a 2-D output NAME
            becomes the columns NAME_0, NAME_1 and so on. BYTES outputs are object arrays of ``str``, or of ``bytes``
            where an element isn't UTF-8.

        Raises:
            InvalidRequest: the inputs or outputs don't fit the model.
            UnknownModel: there is no such model or version.
            ModelUnavailable: the model isn't ready.
            ModelFailed: the model's own code failed.
            Overloaded: too many requests wait; try again after its ``retry_after`` seconds.
        """
        return self._run(self._exchanges.predict(model, inputs, version, outputs, parameters, id))

    def server_live(self) -> bool:
        """Whether the server answers."""
        try:
            return self._run(self._exchanges.healthy("live"))
        except ServerUnreachable:
            return False

    def server_ready(self) -> bool:
        """Whether the server answers and is ready for requests."""
        try:
            return self._run(self._exchanges.healthy("ready"))
        except ServerUnreachable:
            return False

    def model_ready(self, model: str, version: str = "") -> bool:
        """Whether a model is loaded and ready. UnknownModel is raised where the server doesn't know it."""
        return self._run(self._exchanges.model_ready(model, version))

    def metadata(self, model: str | None = None, version: str = "") -> dict[str, Any]:
        """The V2 metadata of a model (name, versions, platform, inputs, outputs), or of the server."""
        return self._run(self._exchanges.metadata(model, version))

    def statistics(self, model: str | None = None, version: str = "") -> dict[str, Any]:
        """The V2 statistics of a model, or of all: ``{"model_stats": [...]}``."""
        return self._run(self._exchanges.statistics(model, version))

    def models(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """What is in the server's repository: a list of ``{"name", "version", "state", "reason"}``."""
        return self._run(self._exchanges.models(ready_only))

    def load(self, model: str) -> None:
        """Load a model from the server's repository, or load it anew. LoadError says why it can't be."""
        self._run(self._exchanges.load(model))

    def unload(self, model: str) -> None:
        """Unload a model."""
        self._run(self._exchanges.unload(model))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T]) -> T:
        try:
            call = next(exchange)
            while True:
                call = exchange.send(self._send(call))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _send(self, call: Call) -> Answer:
        try:
            response = self._http.request(call.method, self.url + call.path, content=call.body, headers=call.headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise failure(error, self.url, self._http.timeout) from error
        return Answer(response.status_code, response.headers, response.content)


class AsyncClient:
    """:class:`Client` for asyncio: the same methods, to be awaited."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
        decode_text: bool = True,
    ) -> None:
        self.url = with_scheme(url)
        self._exchanges = Exchanges(decode_text=decode_text)
        self._http = httpx2.AsyncClient(timeout=timeout, headers={**_HEADERS, **(headers or {})})

    @overload
    async def predict(
        self,
        model: str,
        inputs: Values,
        *,
        version: str = ...,
        outputs: Sequence[str] | None = ...,
        parameters: Mapping[str, Parameter] | None = ...,
        id: str = ...,
    ) -> dict[str, Array]: ...

    @overload
    async def predict(
        self,
        model: str,
        inputs: pd.DataFrame,
        *,
        version: str = ...,
        outputs: Sequence[str] | None = ...,
        parameters: Mapping[str, Parameter] | None = ...,
        id: str = ...,
    ) -> pd.DataFrame: ...

    async def predict(
        self,
        model: str,
        inputs: Values | pd.DataFrame,
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        id: str = "",
    ) -> dict[str, Array] | pd.DataFrame:
        """As :meth:`Client.predict`."""
        return await self._run(self._exchanges.predict(model, inputs, version, outputs, parameters, id))

    async def server_live(self) -> bool:
        """As :meth:`Client.server_live`."""
        try:
            return await self._run(self._exchanges.healthy("live"))
        except ServerUnreachable:
            return False

    async def server_ready(self) -> bool:
        """As :meth:`Client.server_ready`."""
        try:
            return await self._run(self._exchanges.healthy("ready"))
        except ServerUnreachable:
            return False

    async def model_ready(self, model: str, version: str = "") -> bool:
        """As :meth:`Client.model_ready`."""
        return await self._run(self._exchanges.model_ready(model, version))

    async def metadata(self, model: str | None = None, version: str = "") -> dict[str, Any]:
        """As :meth:`Client.metadata`."""
        return await self._run(self._exchanges.metadata(model, version))

    async def statistics(self, model: str | None = None, version: str = "") -> dict[str, Any]:
        """As :meth:`Client.statistics`."""
        return await self._run(self._exchanges.statistics(model, version))

    async def models(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """As :meth:`Client.models`."""
        return await self._run(self._exchanges.models(ready_only))

    async def load(self, model: str) -> None:
        """As :meth:`Client.load`."""
        await self._run(self._exchanges.load(model))

    async def unload(self, model: str) -> None:
        """As :meth:`Client.unload`."""
        await self._run(self._exchanges.unload(model))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[T]) -> T:
        try:
            call = next(exchange)
            while True:
                call = exchange.send(await self._send(call))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _send(self, call: Call) -> Answer:
        try:
            response = await self._http.request(
                call.method, self.url + call.path, content=call.body, headers=call.headers
            )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise failure(error, self.url, self._http.timeout) from error
        return Answer(response.status_code, response.headers, response.content)


def with_scheme(url: str) -> str:
    """A server's URL, which may have been given without http://."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def failure(error: Exception, url: str, timeout: httpx2.Timeout) -> SalverError:
    """What the failure of a request means to a user."""
    if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
        return DeadlineExceeded(f"{url} gave no answer within {timeout.read} s; give the client a longer timeout")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return ServerUnreachable(
            f"nothing answers at {url} ({error}); start a server with 'salver serve PATH', or give its URL"
        )
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol):
        return ServerUnreachable(f"{url!r} can't be a server's URL ({error}); it looks like {DEFAULT_URL}")
    return ServerUnreachable(f"the connection to {url} broke off ({error or type(error).__name__}); is it still up?")
