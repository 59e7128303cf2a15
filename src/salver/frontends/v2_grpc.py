"""The V2 protocol over gRPC: a plain ASGI application, for a server that passes native gRPC through as HTTP/2."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import ceil
from time import monotonic
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message

from salver.core.errors import (
    InternalError,
    MalformedBody,
    ModelUnavailable,
    Overloaded,
    SalverError,
    UnknownRoute,
    UnsupportedRequest,
)
from salver.frontends.deadlines import before, check_deadline, set_deadline
from salver.frontends.grpc_call import (
    CONTENT_TYPE,
    OK,
    START,
    MessageWriter,
    echoed,
    parse_timeout,
)
from salver.frontends.grpc_errors import Status, status_of
from salver.frontends.grpc_infer_stream import InferStream
from salver.frontends.grpc_messages import ACCEPTED, MessageReader, frame, frame_compressed, read_message
from salver.frontends.grpc_standard import Health, reflect
from salver.frontends.http import ClientLeft, Headers, Receive, Scope, Send
from salver.frontends.v2 import V2Api
from salver.monitoring.metrics import FailedRequests
from salver.monitoring.request_id import begin_request, current_request_id
from salver.wire.compression import CODINGS
from salver.wire.v2_grpc import Buffer, decode_request, serialize_response
from salver.wire.v2_proto import inference_pb2 as pb
from salver.wire.v2_proto import pool
from salver.wire.v2_proto.health_pb2 import HealthCheckRequest, HealthListRequest
from salver.wire.v2_proto.inference_pb2 import ModelInferRequest

Unary: TypeAlias = Callable[[bytes, float | None], Awaitable[Sequence[Buffer]]]
"""Answers the bytes of a request message with those of a response message, in parts; the number is the call's deadline
in seconds of ``time.monotonic``."""

Streaming: TypeAlias = Callable[[MessageReader, MessageWriter, float | None], Awaitable[None]]
"""Answers a call's messages, and ends with it; the number is the call's deadline."""

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

SERVICE: Final = "/inference.GRPCInferenceService/"

_parse_infer_request = ModelInferRequest.FromString
_log = logging.getLogger("salver.grpc")


class GrpcApp:
    """Answers ``inference.GRPCInferenceService``, ``grpc.health.v1.Health`` and gRPC reflection.

    Args:
        api: the protocol's calls.
        max_request_bytes: larger request messages are refused, also where they grow that large when unpacked.
        failed: counts the calls that fail.
    """

    def __init__(
        self,
        api: V2Api,
        *,
        max_request_bytes: int,
        failed: FailedRequests | None = None,
    ) -> None:
        self._api = api
        self._limit = max_request_bytes
        self._failed = FailedRequests() if failed is None else failed
        self._health = Health(api)
        self._ending = asyncio.Event()
        self._streams: set[InferStream] = set()
        self._unary: dict[str, Unary] = self._unary_methods()
        self._streaming: dict[str, Streaming] = {
            SERVICE + "ModelStreamInfer": self._stream_infer,
            "/grpc.health.v1.Health/Watch": self._watch,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _reflect,
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _reflect,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        headers: Headers = dict(scope["headers"])
        begin_request(headers.get(b"x-request-id"))
        path: str = scope["path"]
        if headers.get(b"te") != b"trailers":
            # The answer's status travels in trailers; without them only errors can be told.
            error = UnsupportedRequest("gRPC needs HTTP/2 and the header 'te: trailers'")
            await self._answer_error(error, path, MessageWriter(send, echoed(headers)))
            return
        method = self._unary.get(path)
        if method is None:
            await self._stream(path, headers, receive, send)
            return
        try:
            timeout = headers.get(b"grpc-timeout")
            if timeout is None:
                message = await read_message(receive, limit=self._limit, encoding=headers.get(b"grpc-encoding"))
                parts = await method(message, None)
            else:
                parts = await self._before_deadline(parse_timeout(timeout), method, headers, receive)
            if b"grpc-encoding" in headers or b"x-request-id" in headers:
                start, body = await _encode_answer(parts, headers)
            else:
                start, body = START, frame(parts)
        except ClientLeft:
            _log.debug("%s: the client left", path)
            return
        except Exception as error:  # noqa: BLE001  the last line of defence: nothing else may reach the client
            await self._answer_error(error, path, MessageWriter(send, echoed(headers)))
            return
        try:
            await send(start)
            await send({"type": "http.response.body", "body": body})
            await send(OK)
        except OSError:
            _log.debug("%s: the client left before its answer", path)
            return

    def drain(self) -> None:
        """The server is about to stop: end the calls that would otherwise go on, once what they took is answered."""
        self._ending.set()
        for stream in self._streams:
            stream.drain()

    async def _before_deadline(
        self, seconds: float, method: Unary, headers: Headers, receive: Receive
    ) -> Sequence[Buffer]:
        deadline = monotonic() + seconds
        async with before(deadline, seconds):
            message = await read_message(receive, limit=self._limit, encoding=headers.get(b"grpc-encoding"))
            check_deadline(deadline)
            return await method(message, deadline)

    async def _stream(self, path: str, headers: Headers, receive: Receive, send: Send) -> None:
        """Answer a call whose request or response is a stream of messages."""
        writer = MessageWriter(send, echoed(headers))
        try:
            method = self._streaming.get(path)
            if method is None:
                raise UnknownRoute(f"no such method: {path}; reflection tells those that there are")
            timeout = headers.get(b"grpc-timeout")
            seconds = None if timeout is None else parse_timeout(timeout)
            reader = MessageReader(receive, limit=self._limit, encoding=headers.get(b"grpc-encoding"))
            if seconds is None:
                await writer.start()
                await method(reader, writer, None)
            else:
                deadline = monotonic() + seconds
                async with before(deadline, seconds):
                    await writer.start()
                    await method(reader, writer, deadline)
            await writer.finish()
        except ClientLeft:
            _log.debug("%s: the client left", path)
        except Exception as error:  # noqa: BLE001  the last line of defence: nothing else may reach the client
            await self._answer_error(error, path, writer)

    async def _answer_error(self, error: Exception, path: str, writer: MessageWriter) -> None:
        if not isinstance(error, SalverError):
            _log.error("%s failed", path, exc_info=error)
            error = InternalError(f"internal error; the server's log has it under request id {current_request_id()}")
        status = status_of(error)
        level = logging.WARNING if status == Status.INTERNAL else logging.DEBUG
        _log.log(level, "%s: %s %s", path, status.name, error)
        self._failed.add("grpc", error)
        extra: list[tuple[bytes, bytes]] = []
        if status == Status.UNIMPLEMENTED:
            extra.append((b"grpc-accept-encoding", ACCEPTED))
        if isinstance(error, Overloaded):
            extra.append((b"grpc-retry-pushback-ms", b"%d" % max(1, ceil(error.retry_after * 1000))))
        with suppress(ClientLeft):
            await writer.finish(status, str(error), extra)

    async def _infer(self, data: bytes, deadline: float | None) -> Sequence[Buffer]:
        try:
            message = _parse_infer_request(data)
        except DecodeError:
            raise _malformed(ModelInferRequest) from None
        del data
        self._api.admit(message.model_name, message.model_version, None if "priority" in message.parameters else 0)
        request = decode_request(message)
        del message  # the request has its own copy of the tensors: one is enough while the model runs
        if deadline is not None:
            set_deadline(request, deadline)
        return serialize_response(await self._api.infer(request))

    async def _stream_infer(self, reader: MessageReader, writer: MessageWriter, deadline: float | None) -> None:
        stream = InferStream(self._api, reader, writer, max_bytes=self._limit, deadline=deadline)
        self._streams.add(stream)
        if self._ending.is_set():
            stream.drain()
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
        if stream.drained:
            raise ModelUnavailable("the server is stopping; the requests that it had taken have been answered")

    async def _watch(self, reader: MessageReader, writer: MessageWriter, _: float | None) -> None:
        await self._health.watch(reader, writer, self._ending)

    def _unary_methods(self) -> dict[str, Unary]:
        api = self._api

        async def server_live(_: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
            return pb.ServerLiveResponse(live=api.live())

        async def server_ready(_: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
            return pb.ServerReadyResponse(ready=api.ready())

        async def model_ready(request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
            return pb.ModelReadyResponse(ready=api.model_ready(request.name, request.version))

        async def server_metadata(_: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
            return _message(api.server_metadata(), pb.ServerMetadataResponse())

        async def model_metadata(request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
            return _message(await api.model_metadata(request.name, request.version), pb.ModelMetadataResponse())

        async def model_config(request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
            config = await api.model_config(request.name, request.version)
            return _message({"config": config}, pb.ModelConfigResponse())

        async def model_statistics(request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
            return _message(api.model_statistics(request.name, request.version), pb.ModelStatisticsResponse())

        async def repository_index(request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
            models = api.repository_index(ready_only=request.ready)
            return _message({"models": models}, pb.RepositoryIndexResponse())

        async def load(request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
            if request.parameters:
                raise UnsupportedRequest(
                    "a model is loaded as its repository folder says; 'parameters' (config, files) aren't supported"
                )
            await api.load_model(request.model_name)
            return pb.RepositoryModelLoadResponse()

        async def unload(request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
            await api.unload_model(request.model_name)
            return pb.RepositoryModelUnloadResponse()

        async def health_list(_: HealthListRequest) -> Message:
            return await self._health.list()

        return {
            SERVICE + "ModelInfer": self._infer,
            SERVICE + "ServerLive": _unary(pb.ServerLiveRequest, server_live),
            SERVICE + "ServerReady": _unary(pb.ServerReadyRequest, server_ready),
            SERVICE + "ModelReady": _unary(pb.ModelReadyRequest, model_ready),
            SERVICE + "ServerMetadata": _unary(pb.ServerMetadataRequest, server_metadata),
            SERVICE + "ModelMetadata": _unary(pb.ModelMetadataRequest, model_metadata),
            SERVICE + "ModelConfig": _unary(pb.ModelConfigRequest, model_config),
            SERVICE + "ModelStatistics": _unary(pb.ModelStatisticsRequest, model_statistics),
            SERVICE + "RepositoryIndex": _unary(pb.RepositoryIndexRequest, repository_index),
            SERVICE + "RepositoryModelLoad": _unary(pb.RepositoryModelLoadRequest, load),
            SERVICE + "RepositoryModelUnload": _unary(pb.RepositoryModelUnloadRequest, unload),
            "/grpc.health.v1.Health/Check": _unary(HealthCheckRequest, self._health.check),
            "/grpc.health.v1.Health/List": _unary(HealthListRequest, health_list),
            **_UNSUPPORTED,
        }


def _unary(request: type[Request], function: Callable[[Request], Awaitable[Message]]) -> Unary:
    """A method in terms of bytes, from one in terms of messages."""

    async def method(data: bytes, _: float | None) -> Sequence[Buffer]:
        try:
            message = request.FromString(data)
        except DecodeError:
            raise _malformed(request) from None
        return [(await function(message)).SerializeToString()]

    return method


def _unsupported(text: str) -> Unary:
    async def method(_: bytes, __: float | None) -> Sequence[Buffer]:
        raise UnsupportedRequest(text)

    return method


async def _nothing(_: bytes, __: float | None) -> Sequence[Buffer]:
    return ()


async def _reflect(reader: MessageReader, writer: MessageWriter, _: float | None) -> None:
    await reflect(reader, writer)


_NO_SHARED_MEMORY = _unsupported("shared memory isn't supported; send tensors in raw_input_contents")
_UNSUPPORTED: Final[dict[str, Unary]] = {
    SERVICE + "SystemSharedMemoryStatus": _nothing,
    SERVICE + "CudaSharedMemoryStatus": _nothing,
    SERVICE + "SystemSharedMemoryRegister": _NO_SHARED_MEMORY,
    SERVICE + "CudaSharedMemoryRegister": _NO_SHARED_MEMORY,
    # Clients unregister everything before they begin, and nothing is what there is to unregister.
    SERVICE + "SystemSharedMemoryUnregister": _nothing,
    SERVICE + "CudaSharedMemoryUnregister": _nothing,
    SERVICE + "TraceSetting": _unsupported("trace settings can't be read or changed over the API"),
    SERVICE + "LogSettings": _unsupported("log settings can't be read or changed over the API"),
}
"""Methods that have nothing to do: their answers are empty messages, or say so."""


async def _encode_answer(parts: Sequence[Buffer], headers: Headers) -> tuple[dict[str, Any], bytes]:
    """The answer's start and body, with a request id where there was one, and compressed where the request was."""
    extra = echoed(headers)
    coding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
    accepted = headers.get(b"grpc-accept-encoding", b"").decode("latin-1")
    # Who compresses requests wants compressed answers; others are spared the work.
    if coding in CODINGS and coding in accepted:
        body = await frame_compressed(parts, coding)
        extra.append((b"grpc-encoding", coding.encode()))
    else:
        body = frame(parts)
    return START | {"headers": [CONTENT_TYPE, *extra]}, body


def _message(document: dict[str, Any], message: Response) -> Response:
    return ParseDict(document, message, ignore_unknown_fields=True, descriptor_pool=pool)


def _malformed(request: type[Message]) -> MalformedBody:
    return MalformedBody(f"the message isn't a valid {request.DESCRIPTOR.full_name}")
