"""The server's side of a fork server; see :mod:`salver.runtimes.process.fork_server`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salver.core.errors import CodeNotAllowed, InvalidConfig, LoadError
from salver.runtimes.process.description import read_error
from salver.runtimes.process.output import OutputLog
from salver.runtimes.process.restart import describe_status

START_SECONDS = 300.0
"""How long a runtime may take to be imported."""

IDLE_SECONDS = 60.0
"""A fork server without children ends after so long; until then the next model finds it ready."""

_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
_MESSAGE_BYTES = 128 << 10
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True, slots=True)
class ForkServerKey:
    """What the children of a fork server have in common.

    Attributes:
        python: the Python's executable.
        runtime: the runtime's name.
        allow_code: whether models may bring code of their own.
        child: the module whose ``run`` is what they do.
    """

    python: str
    runtime: str
    allow_code: bool
    child: str = "salver.runtimes.process.child"


@dataclass(slots=True)
class _Child:
    forked: asyncio.Future[int]
    on_ended: Callable[[str], None]
    pid: int = 0


class ForkServer:
    """A running fork server."""

    def __init__(self, key: ForkServerKey, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.key = key
        self.pid = process.pid
        self._process = process
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._children: dict[int, _Child] = {}
        self._next = 0
        self._idle: asyncio.TimerHandle | None = None
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._readable)
        self._descriptor = os.pidfd_open(process.pid)
        self._loop.add_reader(self._descriptor, self._died)

    @classmethod
    async def start(cls, key: ForkServerKey, output: OutputLog) -> ForkServer:
        """Start one, and return when it can fork.

        Raises:
            InvalidConfig: there is no such Python, or it is too old.
            MissingDependency: it lacks a package that Salver or the runtime needs.
            LoadError: it ended, or took too long.
        """
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        writer = output.open(f"processes of the {key.runtime} runtime")
        try:
            process = _spawn(key, other, writer)
        except OSError as error:
            mine.close()
            raise InvalidConfig(f"{key.python} can't be started: {error.strerror}") from error
        finally:
            other.close()
            os.close(writer)
        server = cls(key, process, mine)
        try:
            async with asyncio.timeout(START_SECONDS):
                await server._ready
        except TimeoutError:
            await server.close()
            text = f"{key.python} took longer than {START_SECONDS:g} s to import the {key.runtime} runtime"
            raise LoadError(text) from None
        except BaseException:
            await server.close()
            raise
        return server

    @property
    def alive(self) -> bool:
        """It can still fork."""
        return self._control.fileno() >= 0 and not self._ended.done()

    async def fork(self, channel: socket.socket, output: int, on_ended: Callable[[str], None]) -> tuple[int, int]:
        """Fork a child; its number, which :meth:`kill` takes, and its process id.

        Args:
            channel: the child's end of its channel.
            output: where its stdout and stderr go.
            on_ended: called once when it has ended, with what became of it.

        Raises:
            LoadError: the system allows no more processes, or the fork server died.
        """
        if not self.alive:
            raise LoadError("the fork server has ended")
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._next += 1
        number = self._next
        child = self._children[number] = _Child(self._loop.create_future(), on_ended)
        order = json.dumps({"fork": number}).encode()
        try:
            socket.send_fds(self._control, [order], [channel.fileno(), output])
            return number, await child.forked
        except asyncio.CancelledError:
            self.kill(number)  # after the order to fork: they are obeyed in turn
            raise
        except OSError as error:
            self._children.pop(number, None)
            raise LoadError(f"the fork server can't be reached: {error}") from error

    def kill(self, number: int) -> None:
        """Kill a child, if it lives, and what it has started."""
        if number in self._children and self.alive:
            with suppress(OSError):
                self._control.send(json.dumps({"kill": number}).encode())

    async def close(self) -> None:
        """End it, and with it its children; return when it has ended."""
        if self._idle is not None:
            self._idle.cancel()
        self._hang_up()
        try:
            async with asyncio.timeout(5.0):
                await asyncio.shield(self._ended)
        except TimeoutError:
            self._process.kill()
            await self._ended

    def _readable(self) -> None:
        try:
            data = self._control.recv(_MESSAGE_BYTES)
        except (BlockingIOError, ConnectionResetError):
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            # It is about to end by itself, and how it does is worth knowing.
            self._loop.call_later(1.0, self._process.kill)
            return
        self._hear(json.loads(data))

    def _hear(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._start_idle()
            if not self._ready.done():
                self._ready.set_result(None)
        elif "failed" in message:
            if not self._ready.done():
                self._ready.set_exception(read_error(message["failed"], LoadError))
        elif "forked" in message:
            child = self._children[message["forked"]]
            child.pid = message["pid"]
            if not child.forked.done():
                child.forked.set_result(child.pid)
        elif "refused" in message:
            child = self._children.pop(message["refused"])
            if not child.forked.done():
                child.forked.set_exception(LoadError(f"no process can be started: {message['text']}"))
            self._start_idle()
        elif "ended" in message:
            child = self._children.pop(message["ended"])
            self._start_idle()
            child.on_ended(describe_status(message["status"]))

    def _start_idle(self) -> None:
        if not self._children and self._idle is None:
            self._idle = self._loop.call_later(IDLE_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        """Close the socket, upon which the fork server kills its children and ends."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()

    def _died(self) -> None:
        while self._control.fileno() >= 0:  # its last messages
            before = self._control
            try:
                data = before.recv(_MESSAGE_BYTES)
            except ConnectionResetError:
                continue
            except OSError:
                break
            if not data:
                break
            self._hear(json.loads(data))
        self._hang_up()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        code = self._process.wait()
        fate = describe_status(-code if code < 0 else code << 8)
        self._ended.set_result(fate)
        if not self._ready.done():
            text = f"{self.key.python} ended before it had imported the {self.key.runtime} runtime: it {fate}"
            self._ready.set_exception(LoadError(f"{text}; the log has what it printed"))
        for child in list(self._children.values()):
            if child.pid:
                with suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)  # the kernel kills the child; this is for what it has started
            if not child.forked.done():
                child.forked.set_exception(LoadError(f"the fork server {fate}"))
            child.on_ended(f"was ended with its fork server, which {fate}")
        self._children.clear()


def _spawn(key: ForkServerKey, control: socket.socket, output: int) -> subprocess.Popen[bytes]:
    """Start the Python. It takes about a millisecond until the new process runs."""
    environment = dict(os.environ)
    own = key.python == sys.executable
    if not own:  # or its own packages wouldn't be all that it finds
        for name in _FOREIGN:
            environment.pop(name, None)
    config = {
        "runtime": key.runtime,
        "allow_code": key.allow_code,
        "child": key.child,
        "server": os.getpid(),
        "sys_path": [entry for entry in sys.path if entry] if own else [],
    }
    return subprocess.Popen(  # noqa: S603 - the operator's Python
        [key.python, str(_BOOTSTRAP), str(control.fileno()), json.dumps(config)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(control.fileno(),),
        env=environment,
        start_new_session=True,
    )


def find_python(model: str, python: Path | None, *, allow_code: bool) -> str:
    """The executable that ``python:`` in model.yaml means: a Python, or the folder of a virtual environment.

    Raises:
        CodeNotAllowed: it names one, and who has written the model's files isn't to say what is run.
        InvalidConfig: there is none.
    """
    if python is None:
        return sys.executable
    if not allow_code:
        raise CodeNotAllowed(
            f"model {model!r}: 'python' in model.yaml names a program to run, which isn't allowed; if you trust it, "
            "set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
        )
    # Not resolved: in a virtual environment it is a link, and where the link lies tells Python which packages it has.
    path = python / "bin" / "python" if python.is_dir() else python
    if not os.access(path, os.X_OK):
        raise InvalidConfig(
            f"model {model!r}: python is {python}, and there is no {path} that can be run; "
            "expected a Python, or the folder of a virtual environment"
        )
    return str(path.absolute())
