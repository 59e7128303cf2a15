"""A child of the fork server: loads one model, and runs it for the server."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np

from salver.core.errors import LoadError, SalverError
from salver.runtimes import table
from salver.runtimes.base import LoadedModel
from salver.runtimes.process.child_link import ChildLink
from salver.runtimes.process.description import describe_error, describe_model, read_spec
from salver.runtimes.process.messages import Kind
from salver.runtimes.process.serve_async import serve_async
from salver.runtimes.process.serve_sync import serve_sync

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def run(channel: int, output: int, config: dict[str, Any], *, parent: int) -> NoReturn:
    """What a child does from its first moment to its last.

    Args:
        channel: the socket to the server.
        output: where its stdout and stderr go.
        config: the fork server's.
        parent: the fork server, with which it dies.
    """
    set_up_process(output, parent)
    link = ChildLink(channel)
    code = 1
    try:
        code = _load_and_serve(link, config)
    except BaseException as error:  # the last who sees it
        link.end_if_out_of_memory(error)
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 1
        elif not isinstance(error, OSError):  # of the socket: the server is gone
            logger.critical("the model's process ends", exc_info=error)
    finally:
        end_process(code)


def set_up_process(output: int, parent: int) -> None:
    """Make a process that was just forked one of its own, which ends with its parent; see :func:`run`."""
    os.setpgid(0, 0)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nowhere)
    os.close(output)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable()
    gc.enable()
    np.random.seed()  # or all instances would draw the same numbers; random does this by itself
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()


def _load_and_serve(link: ChildLink, config: dict[str, Any]) -> int:
    message = link.receive()
    if message is None:
        return 0
    order = message.body
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=order["log_level"])
    if order["memory_limit"] is not None:
        link.memory_limit = order["memory_limit_text"]
        limit = data_bytes() + order["memory_limit"]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        model, described = _load(order, config)
    except SalverError as error:
        link.end_if_out_of_memory(error)
        link.send(Kind.FAILED, 0, describe_error(error))
        return 0
    described["private_bytes"] = _private_bytes()
    link.send_description(described)
    serve = serve_async if model.kind in ("async", "async_stream") else serve_sync
    if serve(link, model, name=order["name"], concurrency=order["concurrency"] or model.max_concurrency or 1):
        model.close()
    return 0


def _load(order: dict[str, Any], config: dict[str, Any]) -> tuple[LoadedModel, dict[str, Any]]:
    try:
        runtime = table.create(config["runtime"], allow_code=config["allow_code"])
        model = runtime.load(read_spec(order["spec"]))
        return model, describe_model(model)
    except (SalverError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        # SystemExit: a model's file may call sys.exit where it is imported.
        logger.exception("loading model %r failed", order["name"])
        raise LoadError(f"{type(error).__name__}: {str(error)[:1000]}") from error


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def _private_bytes() -> int | None:
    """Bytes that this process shares with no other; None where the kernel doesn't tell."""
    try:
        with open("/proc/self/smaps_rollup") as lines:
            return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    except OSError:
        return None


def end_process(code: int) -> NoReturn:
    """End without the interpreter's own shutdown: threads that hang and inherited exit handlers would hold it up."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)
