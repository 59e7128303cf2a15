"""The fork server: has a runtime and its framework imported, and forks a child per instance.

It has a single thread, and does nothing but wait: for orders, for the end of a child, and for that of the server. When
the server dies, by whatever, it kills the children and ends.

    from the server: {"fork": N} with the child's socket and its stderr; {"kill": N}
    to the server:   {"ready": PID}, {"failed": ERROR}, {"forked": N, "pid": PID}, {"refused": N, "text": WHY},
                     {"ended": N, "status": WAIT STATUS}
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import numpy.random  # noqa: F401  children are to have it imported

from salver.core.errors import SalverError
from salver.runtimes import table
from salver.runtimes.process.description import describe_error

_ORDER_BYTES = 4096


def serve(control: socket.socket, config: dict[str, Any]) -> NoReturn:
    """Serve the other end of ``control``.

    Args:
        control: a SOCK_SEQPACKET socket.
        config: ``runtime`` and ``allow_code`` of the models; ``server``, the process that all is done for; and
            ``child``, the module whose ``run`` is what a child does.
    """
    gc.disable()  # children collect for themselves; here it would only unshare their memory
    warnings.filterwarnings("ignore", message=".*use of fork\\(\\)", category=DeprecationWarning)
    try:
        runtime = table.create(config["runtime"], allow_code=config["allow_code"])
        for module in runtime.imported_by_load:  # or every child would import it, which takes a second each
            with suppress(ImportError):
                import_module(module)
        run_child = import_module(config["child"]).run
    except SalverError as error:
        _send(control, {"failed": describe_error(error)})
        sys.exit(1)
    gc.collect()
    gc.freeze()
    _ForkServer(control, config, run_child).run()


class _ForkServer:
    def __init__(self, control: socket.socket, config: dict[str, Any], run_child: Callable[..., NoReturn]) -> None:
        self._control = control
        self._config = config
        self._run_child = run_child
        self._children: dict[int, int] = {}  # by number: process id
        self._pid = os.getpid()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._server = _process_descriptor(config["server"])

    def run(self) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poll = select.poll()
        watched = [self._control.fileno(), self._wake_read]
        if self._server is not None:
            watched.append(self._server)
        for each in watched:
            poll.register(each, select.POLLIN)
        _send(self._control, {"ready": self._pid})
        try:
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if self._server in ready:
                    break
                if self._wake_read in ready:
                    with suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                if self._control.fileno() in ready and not self._obey():
                    break
        except OSError:
            pass  # the server is gone
        finally:
            # Not in a child, whose way never leads here; _exit, for nothing of the frameworks is worth waiting for.
            for pid in self._children.values():
                _kill_group(pid)
            os._exit(0)

    def _obey(self) -> bool:
        """Carry out one order; False where there is no server any more."""
        data, fds, _, _ = socket.recv_fds(self._control, _ORDER_BYTES, 2)
        if not data:
            return False
        order = json.loads(data)
        if "fork" in order:
            self._fork(order["fork"], fds)
        elif (pid := self._children.get(order["kill"])) is not None:
            _kill_group(pid)
        return True

    def _fork(self, number: int, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            _send(self._control, {"refused": number, "text": str(error)})
            return
        finally:
            if os.getpid() == self._pid:
                for fd in fds:
                    os.close(fd)
        if pid == 0:
            self._become_child(*fds)
        with suppress(OSError):
            os.setpgid(pid, pid)  # the child does it, too; who is first doesn't matter
        self._children[number] = pid
        _send(self._control, {"forked": number, "pid": pid})

    def _become_child(self, channel: int, output: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for fd in (self._wake_read, self._wake_write, self._server):
                if fd is not None:
                    os.close(fd)
            self._run_child(channel, output, self._config, parent=self._pid)
        finally:
            os._exit(1)  # where run raised, which it doesn't

    def _reap(self) -> None:
        numbers = {pid: number for number, pid in self._children.items()}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            # What the child has started ends with it. Before it is reaped nobody else can have its number.
            _kill_group(found.si_pid)
            _, status = os.waitpid(found.si_pid, 0)
            number = numbers.get(found.si_pid)
            if number is not None:
                del self._children[number]
                _send(self._control, {"ended": number, "status": status})


def _process_descriptor(pid: int) -> int | None:
    """A descriptor that tells when the server has died, even where some process has inherited its end of the socket."""
    try:
        return os.pidfd_open(pid) if os.getppid() == pid else None
    except (AttributeError, OSError):
        return None


def _kill_group(pid: int) -> None:
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)  # it may not have its group yet


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())
