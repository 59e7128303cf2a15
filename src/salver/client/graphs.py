"""A client of a server's graphs, ``/api/v1/graphs``."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from salver.client.exchange import JSON_LENGTH, read_json
from salver.client.model_store import ModelStoreClient, quoted
from salver.core.errors import MalformedBody
from salver.core.request import InferenceRequest
from salver.wire.v2_json import encode_request


class GraphClient:
    """Shows graphs that a server serves, and explains requests to them.

    Args:
        url: where the server listens.
        timeout: seconds that each call may take.

    Every method raises ServerUnreachable where there is no connection, and otherwise the error that the server's
    status stands for.
    """

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        self._client = ModelStoreClient(url, timeout=timeout)
        self.url = self._client.url

    def graphs(self) -> list[dict[str, Any]]:
        """Names, versions and descriptions of the graphs that are loaded."""
        found: list[dict[str, Any]] = self._client.call("GET", "/graphs")["graphs"]
        return found

    def show(self, name: str, version: str = "") -> dict[str, Any]:
        """A graph's inputs, outputs and steps, and what each step has done."""
        return self._client.call("GET", _path(name, version), model=name)

    def traces(self, name: str, version: str = "") -> list[dict[str, Any]]:
        """Time lines of some of the last requests, the newest at the end."""
        found: list[dict[str, Any]] = self._client.call("GET", _path(name, version, "/traces"), model=name)["traces"]
        return found

    def explain(self, request: InferenceRequest) -> dict[str, Any]:
        """Answer a request, and tell what each step got and gave, and how long it took. An error of a step is told."""
        body, length = encode_request(request)
        path = _path(request.model, request.version, "/explain")
        more = {JSON_LENGTH: str(length)}
        answer = self._client.send("POST", path, body, "application/octet-stream", headers=more)
        self._client.check(answer, request.model)
        found = read_json(answer.body)
        if not isinstance(found, dict):
            raise MalformedBody(f"{self.url} didn't answer as a Salver server does")
        return found

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _path(name: str, version: str, rest: str = "") -> str:
    return f"/graphs/{quoted(name)}{rest}" + (f"?version={quoted(version)}" if version else "")
