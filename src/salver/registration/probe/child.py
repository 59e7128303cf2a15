"""The probe's process, a child of a fork server: it loads one model, tells what that took, and waits for its end.

    from the server: one order; then {"go": true} where it asked for its turn
    to the server:   {"doing": TEXT}, {"turn": true}, and in the end {"result": ...} or {"failed": ERROR}

Each is a line of JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import resource
import signal
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from salver.core.errors import LoadError, SalverError
from salver.core.scheduling import Scheduling, WarmUp
from salver.registration.probe.limits import show_size
from salver.registration.probe.measurement import measure
from salver.runtimes.process.child import data_bytes, end_process, set_up_process
from salver.runtimes.process.child_link import is_out_of_memory
from salver.runtimes.process.description import describe_error, read_spec
from salver.runtimes.settings import cores

logger = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_NICE = 5
_NO_MEMORY = os.strerror(errno.ENOMEM)
_SPARE_BYTES = 1 << 30
"""More than the limit of memory may be asked of the system: threads reserve stacks that they don't use."""


def run(channel: int, output: int, config: dict[str, Any], *, parent: int) -> NoReturn:
    """What the process does from its first moment to its last.

    Args:
        channel: the socket to the server.
        output: where its stdout and stderr go.
        config: the fork server's.
        parent: the fork server, with which it dies.
    """
    set_up_process(output, parent)
    code = 1
    try:
        link = _ServerLink(channel)
        order = link.receive()
        limits = order["limits"]
        _limit(limits)
        link.send(_probe(order, config, link))
        link.wait_for_end()
        code = 0
    except _ServerGone:
        pass
    finally:
        end_process(code)


def describe_order(spec: dict[str, Any], scheduling: Scheduling, limits: dict[str, Any]) -> dict[str, Any]:
    """What the process is told to do.

    Args:
        spec: the version, as :func:`salver.runtimes.process.description.describe_spec` gives it.
        scheduling: the version's; only what the probe needs of it goes with the order.
        limits: as :func:`salver.registration.probe.limits.describe_limits` gives them.
    """
    warm_ups = [
        {"file": None if each.file is None else str(each.file.absolute()), "rows": each.batch_size, "count": each.count}
        for each in scheduling.warm_up
    ]
    return {"spec": spec, "warm_ups": warm_ups, "max_batch_size": scheduling.max_batch_size, "limits": limits}


class _ServerGone(Exception):
    """Nobody waits for the probe any more."""


class _ServerLink:
    """The process's end of its socket. Its methods raise _ServerGone."""

    def __init__(self, channel: int) -> None:
        self._socket = socket.socket(fileno=channel)
        self._socket.setblocking(True)
        self._lines = self._socket.makefile("rb")

    def receive(self) -> dict[str, Any]:
        """The next message."""
        try:
            line = self._lines.readline()
        except OSError as error:
            raise _ServerGone from error
        if not line:
            raise _ServerGone
        message: dict[str, Any] = json.loads(line)
        return message

    def send(self, message: dict[str, Any]) -> None:
        """Tell the server something."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise _ServerGone from error

    def doing(self, what: str) -> None:
        """Tell what is done now."""
        self.send({"doing": what})

    def wait_for_turn(self) -> None:
        """Return when no other probe measures times."""
        self.send({"turn": True})
        self.receive()

    def wait_for_end(self) -> None:
        """Return when the server has hung up; most often it has killed this process before."""
        try:
            self._lines.read()
        except OSError as error:
            raise _ServerGone from error


def _limit(limits: dict[str, Any]) -> None:
    """Bounds that the kernel keeps, for this process and what it starts."""
    memory = data_bytes() + limits["memory_bytes"] + max(_SPARE_BYTES, limits["memory_bytes"] // 4)
    for kind, wanted in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_CPU, int(limits["seconds"] * cores()) + 10),
    ):
        _, most = resource.getrlimit(kind)
        wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        with suppress(OSError, ValueError, OverflowError):
            resource.setrlimit(kind, (wanted, wanted))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # too large a file is an OSError
    # Whatever it starts stays below it, where the server finds it.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with suppress(OSError):
        os.nice(_NICE)
    with suppress(OSError):  # where memory runs out all the same, the kernel is to end this process, and not the server
        Path("/proc/self/oom_score_adj").write_text("1000")


def _probe(order: dict[str, Any], config: dict[str, Any], link: _ServerLink) -> dict[str, Any]:
    """The last message to the server."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    limits = order["limits"]
    spec = read_spec(order["spec"])
    spec = replace(spec, scheduling=Scheduling(max_batch_size=order["max_batch_size"]))
    warm_ups = [
        WarmUp(None if each["file"] is None else Path(each["file"]), each["rows"], each["count"])
        for each in order["warm_ups"]
    ]
    try:
        return {"result": measure(spec, warm_ups, limits, link, allow_code=config["allow_code"])}
    except _ServerGone:
        raise
    except BaseException as error:  # noqa: BLE001 - the server is told; SystemExit, since a model may call sys.exit
        failure = error
    if is_out_of_memory(failure) or _NO_MEMORY in str(failure):
        text = f"it needs more than {show_size(limits['memory_bytes'])} of memory: an allocation failed"
        return {"failed": describe_error(LoadError(text))}
    if isinstance(failure, SalverError):
        return {"failed": describe_error(failure)}
    logger.error("loading or running model %r failed", spec.name, exc_info=failure)
    text = f"{type(failure).__name__}: {str(failure)[:1000]}".removesuffix(": ")
    return {"failed": describe_error(LoadError(text))}
