"""ModelStreamInfer: any number of requests over one call, each answered by one response or more."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import Final

from google.protobuf.message import DecodeError

from salver.core.errors import MalformedBody, SalverError
from salver.core.request import InferenceRequest, InferenceResponse
from salver.frontends.deadlines import check_deadline, set_deadline
from salver.frontends.grpc_call import MessageWriter
from salver.frontends.grpc_messages import MessageReader
from salver.frontends.http import ClientLeft, error_text
from salver.frontends.v2 import V2Api
from salver.monitoring.request_id import current_request_id
from salver.wire.v2_grpc import EMPTY_FINAL_RESPONSE, FINAL_RESPONSE, decode_request, serialize_stream_response
from salver.wire.v2_proto.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

MAX_IN_FLIGHT: Final = 32
"""Requests of one call that are worked on at the same time; more are read when one of them is done."""

_log = logging.getLogger("salver.grpc")


class InferStream:
    """One call of ModelStreamInfer.

    Requests run side by side. The first answers come in the order of the requests; further answers of a model that
    streams come as it gives them. A request that fails is answered with an error message, and the call goes on.

    Args:
        api: answers the requests.
        reader: gives them.
        writer: takes the answers.
        max_bytes: bytes of requests to hold at the same time, beyond which reading waits.
        deadline: of the call, and so of each of its requests; in seconds of ``time.monotonic``.
    """

    def __init__(
        self,
        api: V2Api,
        reader: MessageReader,
        writer: MessageWriter,
        *,
        max_bytes: int,
        deadline: float | None = None,
    ) -> None:
        self._api = api
        self._reader = reader
        self._writer = writer
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None
        self.drained = False

    async def run(self) -> None:
        """Answer requests until the client sends no more; what still runs when this is cancelled is cancelled too.

        Raises:
            SalverError: the requests can't be read any further; those before have been answered.
            ClientLeft: the client has gone.
        """
        fault: SalverError | None = None
        turn = asyncio.Event()
        turn.set()
        try:
            while True:
                while len(self._tasks) >= MAX_IN_FLIGHT or self._bytes >= self._max_bytes:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                if self.drained:
                    break
                try:
                    data = await self._read()
                except SalverError as error:
                    fault = error
                    break
                if data is None:
                    break
                done = asyncio.Event()
                self._bytes += len(data)
                self._tasks.add(asyncio.create_task(self._handle(data, turn, done)))
                turn = done
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        if fault is not None:
            raise fault

    def drain(self) -> None:
        """Read no more requests; :meth:`run` ends when those that were read have been answered."""
        self.drained = True
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> bytes | None:
        """The next request; None where there is none, or where draining begins meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        self._reading = task
        try:
            return await self._reader.read()
        except asyncio.CancelledError:
            if self.drained and task.uncancel() == 0:
                return None
            raise
        finally:
            self._reading = None

    async def _handle(self, data: bytes, turn: asyncio.Event, done: asyncio.Event) -> None:
        """Answer one request; its first answer waits for ``turn``, and ``done`` is the next one's turn."""
        task = asyncio.current_task()
        assert task is not None
        size = len(data)
        about = ModelInferResponse()
        try:
            try:
                message = ModelInferRequest.FromString(data)
            except DecodeError:
                raise MalformedBody("the message isn't a valid inference.ModelInferRequest") from None
            del data
            about = ModelInferResponse(
                model_name=message.model_name, model_version=message.model_version, id=message.id
            )
            asked = message.parameters.get(EMPTY_FINAL_RESPONSE)
            tells_end = asked is not None and asked.bool_param
            if self._deadline is not None:
                check_deadline(self._deadline)
            self._api.admit(message.model_name, message.model_version)
            request = decode_request(message)
            if self._deadline is not None:
                set_deadline(request, self._deadline)
            del message, asked  # the request has its own copy of the tensors: one is enough while the model runs
            await self._answer(request, turn, done, tells_end=tells_end)
        except ClientLeft:
            pass  # the reader sees it too, and ends the call
        except Exception as error:  # noqa: BLE001  one request's failure, whatever it is, is that request's alone
            await turn.wait()
            with suppress(ClientLeft):
                await self._fail(about, error)
        finally:
            done.set()
            self._bytes -= size
            self._tasks.discard(task)

    async def _answer(
        self, request: InferenceRequest, turn: asyncio.Event, done: asyncio.Event, *, tells_end: bool
    ) -> None:
        version = request.version
        streams = await self._api.streams(request.model, version)
        async with aclosing(self._api.stream(request)) as responses:
            async for response in responses:
                await turn.wait()
                response.parameters[FINAL_RESPONSE] = not streams
                version = response.version
                await self._writer.write(serialize_stream_response(response))
                done.set()
        await turn.wait()
        if streams and tells_end:
            final = InferenceResponse(request.model, version, {}, request.id, {FINAL_RESPONSE: True})
            await self._writer.write(serialize_stream_response(final))

    async def _fail(self, about: ModelInferResponse, error: Exception) -> None:
        if isinstance(error, SalverError):
            text = error_text(error)
        else:
            _log.error("a request of ModelStreamInfer failed", exc_info=error)
            text = f"internal error; the server's log has it under request id {current_request_id()}"
        answer = ModelStreamInferResponse(error_message=text, infer_response=about)
        await self._writer.write([answer.SerializeToString()])
