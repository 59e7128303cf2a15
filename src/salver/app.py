"""The server: the front ends on their listeners, the engine behind them, and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from uuid import uuid4

import h2corn
import h2corn._lib
import uvloop

from salver.assembly import build_engine, open_store
from salver.cluster.forwarding import Forwarding
from salver.cluster.neighbours import Neighbours
from salver.config import ServerSettings
from salver.core.errors import SalverError
from salver.engine import Engine
from salver.frontends.cache_api import cache_app
from salver.frontends.cluster_api import cluster_app
from salver.frontends.graph_api import GraphApp
from salver.frontends.http import Receive, Scope, Send
from salver.frontends.json_api import JsonApi
from salver.frontends.management_api import ManagementApp
from salver.frontends.pages import PagesApp
from salver.frontends.request_log import Application, RequestLog
from salver.frontends.v2 import V2Api
from salver.frontends.v2_grpc import GrpcApp
from salver.frontends.v2_rest import RestApp
from salver.monitoring.logs import configure_logging
from salver.monitoring.metrics import FailedRequests, Metrics
from salver.registration.model_store import ModelStore
from salver.runtimes.settings import cores

_log = logging.getLogger("salver.server")
_BACKLOG = 1024  # connections that wait to be accepted


@dataclass(frozen=True, slots=True)
class Applications:
    """The front ends of one engine.

    Attributes:
        rest: the V2 protocol over HTTP.
        grpc: the V2 protocol over gRPC.
        management: the model store's API, and the model cache's.
        pages: metrics, documentation, and whatever else is asked for.
    """

    rest: RestApp
    grpc: GrpcApp
    management: ApiApp
    pages: PagesApp

    # Plain functions that give the application's own awaitable: a coroutine around it would cost every request.

    def http(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """REST and pages: the listener beside which gRPC has one of its own."""
        path = scope["path"]
        if path.startswith("/v2"):
            return self.rest(scope, receive, send)
        if path.startswith("/api/"):
            return self.management(scope, receive, send)
        return self.pages(scope, receive, send)

    def everything(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """REST, pages and gRPC on one listener."""
        path = scope["path"]
        if path.startswith("/v2"):
            return self.rest(scope, receive, send)
        if path.startswith("/inference.") or is_grpc(scope):
            return self.grpc(scope, receive, send)
        if path.startswith("/api/"):
            return self.management(scope, receive, send)
        return self.pages(scope, receive, send)


@dataclass(frozen=True, slots=True)
class ApiApp:
    """Passes calls of ``/api`` on: of graphs, the cache, and the model store and its servers where there is one."""

    cache: JsonApi
    graphs: Application
    cluster: JsonApi | None
    store: Application | None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI application."""
        if self.cluster is not None and scope["path"].startswith("/api/v1/cluster"):
            return self.cluster(scope, receive, send)
        if scope["path"].startswith("/api/v1/graphs"):
            return self.graphs(scope, receive, send)
        if self.store is None or scope["path"].startswith("/api/v1/cache"):
            return self.cache(scope, receive, send)
        return self.store(scope, receive, send)


def is_grpc(scope: Scope) -> bool:
    """The request is a gRPC call."""
    return any(name == b"content-type" and value.startswith(b"application/grpc") for name, value in scope["headers"])


def build_applications(
    engine: Engine,
    settings: ServerSettings,
    store: ModelStore | None = None,
    neighbours: Neighbours | None = None,
) -> tuple[V2Api, Applications]:
    """The front ends over an engine, and over a model store where there is one."""
    api = V2Api(engine)
    failed = FailedRequests()
    metrics = Metrics(engine.models.snapshot, failed, engine.models.cache_snapshot)
    return api, Applications(
        rest=RestApp(
            api,
            max_request_bytes=settings.max_request_bytes,
            failed=failed,
        ),
        grpc=GrpcApp(
            api,
            max_request_bytes=settings.max_request_bytes,
            failed=failed,
        ),
        management=ApiApp(
            cache=cache_app(engine.models, failed=failed, known=lambda: engine.repository.loaded),
            graphs=GraphApp(engine.models, max_request_bytes=settings.max_request_bytes, failed=failed),
            cluster=None
            if neighbours is None
            else cluster_app(neighbours.nodes, neighbours.place, node_id=neighbours.node_id, failed=failed),
            store=None
            if store is None
            else ManagementApp(store, max_request_bytes=settings.max_request_bytes, failed=failed),
        ),
        pages=PagesApp(metrics),
    )


def run(settings: ServerSettings) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code.

    Errors that keep the server from starting are logged, and give 1.
    """
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    prefer_throughput()
    try:
        uvloop.run(serve(settings))
    except SalverError as error:
        _log.error("%s", error)
        return 1
    return 0


def network_threads() -> int:
    """How many threads read and write sockets. On few cores a second one only takes time from the event loop."""
    return 1 if cores() <= 2 else 2


def prefer_throughput() -> None:
    """Let the event loop finish its round before the network thread that it has woken takes the processor.

    Without this, on a machine whose cores are all busy, each answer costs two changes of thread; with it, the answers
    of a round share them.
    """
    # Some sandboxes forbid it; then it stays as it is.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


async def serve(settings: ServerSettings) -> None:
    """Serve until the process gets SIGTERM or SIGINT, then finish what was accepted.

    Raises:
        SalverError: a port can't be listened on, or nothing could be loaded.
    """
    if settings.store is None:
        await _serve_engine(settings, build_engine(settings), None, None)
        return
    node_id = uuid4().hex
    store = await asyncio.to_thread(open_store, settings, node_id=node_id)
    try:
        engine = build_engine(settings, store=store)
        neighbours = Neighbours(store.registry, engine.models, node_id=node_id, url=(settings.advertise or ""))
        await _serve_engine(settings, engine, store, neighbours)
    finally:
        await asyncio.to_thread(store.registry.close)


async def _serve_engine(
    settings: ServerSettings, engine: Engine, store: ModelStore | None, neighbours: Neighbours | None
) -> None:
    api, applications = build_applications(engine, settings, store, neighbours)
    forwarding = Forwarding(neighbours) if neighbours is not None and neighbours.url else None
    engine.elsewhere = forwarding
    ports = [settings.port] if settings.grpc_port is None else [settings.port, settings.grpc_port]
    with ExitStack() as listeners:
        sockets = [listeners.enter_context(_listen(settings.host, port)) for port in ports]
        try:
            await _serve_on(sockets, settings, engine, api, applications, store, neighbours)
        finally:
            if forwarding is not None:
                await forwarding.close()


async def _serve_on(
    sockets: Sequence[socket.socket],
    settings: ServerSettings,
    engine: Engine,
    api: V2Api,
    applications: Applications,
    store: ModelStore | None,
    neighbours: Neighbours | None,
) -> None:
    servers = _servers(settings, applications, sockets)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_or_exit, stop)
    serving = [asyncio.create_task(server.serve()) for server in servers]
    loading = asyncio.create_task(_load(engine, servers, store, neighbours))
    try:
        await _until_stopped(stop, serving, loading)
    finally:
        if stop.is_set():
            _log.info("stopping: finishing what was accepted")
        stopped = loop.time()
        api.drain()
        applications.grpc.drain()
        loading.cancel()
        if neighbours is not None:
            await neighbours.drain()
        for server, listener in zip(servers, sockets, strict=True):
            server.shutdown()
            # Who connects now is refused at once, not left waiting for a server that only finishes.
            with suppress(OSError):  # where the system has no such thing for a listener
                listener.shutdown(socket.SHUT_RDWR)
        ended = await asyncio.gather(*serving, loading, return_exceptions=True)
        # One budget for both: what the listeners have waited for already isn't waited for again.
        if neighbours is not None:
            await neighbours.close()
        if store is not None:
            await store.close()
        await engine.close(max(1.0, settings.drain_timeout - (loop.time() - stopped)))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _until_stopped(
    stop: asyncio.Event, serving: Sequence[asyncio.Task[None]], loading: asyncio.Task[None]
) -> None:
    """Wait for a signal, for a listener's end, or for loading to fail."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*serving, stopping, loading], return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and not loading.cancelled() and loading.exception() is None:
            await asyncio.wait([*serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()


def _stop_or_exit(stop: asyncio.Event) -> None:
    if stop.is_set():
        _log.warning("a second signal: exiting without finishing what was accepted")
        os._exit(1)
    stop.set()


async def _load(
    engine: Engine, servers: Sequence[h2corn.Server], store: ModelStore | None, neighbours: Neighbours | None
) -> None:
    for server in servers:
        await server.wait_started()
    addresses = " and ".join(
        f"http://{address}" if index == 0 else f"{address} (gRPC)"
        for index, address in enumerate(address for server in servers for address in server.addresses)
    )
    _log.info("listening on %s", addresses)
    await engine.start()
    if store is not None:
        await store.start()
    if neighbours is not None:
        await neighbours.start()
    # What is there now stays: the garbage collector needn't look at it again. And what a round of requests makes is
    # gone when the round ends, so by the usual threshold of 700 it would look for cycles in vain after every few.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    loaded, known = len(engine.models.loaded()), engine.models.known_count()
    more = f"; {known} are known, and loaded when they are asked for" if known > loaded else ""
    _log.info("ready: %d model versions are loaded%s", loaded, more)


def _servers(
    settings: ServerSettings, applications: Applications, sockets: Sequence[socket.socket]
) -> list[h2corn.Server]:
    # h2corn's banner can't be switched off, and names flags that Salver doesn't have.
    h2corn._lib.emit_banner = lambda *_: None
    listening: list[Application]
    if settings.grpc_port is None:
        listening = [applications.everything]
    else:
        listening = [applications.http, applications.grpc]
    if settings.log_requests:
        listening = [RequestLog(application) for application in listening]
    return [
        # The last listener is the one for gRPC, be it the only one or one of its own.
        h2corn.Server(application, _config(settings, sockets[number], grpc=number == len(listening) - 1))
        for number, application in enumerate(listening)
    ]


def _config(settings: ServerSettings, listener: socket.socket, *, grpc: bool) -> h2corn.Config:
    return h2corn.Config(
        bind=(f"fd://{listener.fileno()}",),
        grpc=grpc,
        lifespan="off",
        access_log=False,
        log_format=settings.log_format,
        # The front ends hold bodies against the limit themselves, to answer in the protocol's own form.
        max_request_body_size=0,
        timeout_graceful_shutdown=settings.drain_timeout,
        max_concurrent_streams=1024,
        runtime_threads=network_threads(),
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SalverError(f"port {port} on {host} is in use; choose another, or stop its user") from error
        raise SalverError(f"can't listen on {host}, port {port}: {error.strerror or error}") from error
