"""Starts servers, makes sure that they answer right, and puts load on them with wrk (HTTP/1.1) and h2load (gRPC)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import httpx2
import numpy as np
from payloads import Payload

START_TIMEOUT = 90.0  # seconds; the peers import for long


class BenchmarkError(Exception):
    """A server doesn't start or doesn't answer right, or a tool is missing."""


@dataclass
class Running:
    """A server that has been started.

    Attributes:
        name: what the tables call it.
        port: where it speaks HTTP.
        grpc_port: where it speaks gRPC.
        process: the process that was started; it may have children.
        log: what it has printed so far; the file goes with the server.
    """

    name: str
    port: int
    grpc_port: int
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path = field(default=Path(os.devnull), repr=False)

    def memory(self) -> int:
        """Bytes of resident memory of the process and its children."""
        return sum(_resident(pid) for pid in _family(self.process.pid))

    def cpu_seconds(self) -> float:
        """CPU time that the process and its children have used so far."""
        return sum(_cpu_seconds(pid) for pid in _family(self.process.pid))


@dataclass(frozen=True)
class Target:
    """A server that was seen to answer a payload right; the answer's body has ``length`` bytes."""

    server: Running
    payload: Payload
    length: int


@dataclass(frozen=True)
class Load:
    """What one round of load saw.

    Attributes:
        requests_per_second: good answers only.
        p50, p99: latencies in milliseconds, as the client saw them.
        cpu: microseconds of CPU time that the server used for a request. Other work on the machine disturbs it least.
        errors: requests that failed, timed out or were answered with an error.
    """

    requests_per_second: float
    p50: float
    p99: float
    errors: int
    cpu: float = 0.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def busy_share(seconds: float = 1.0) -> float:
    """The share of the machine's CPU time that is used now, by whatever runs."""

    def times() -> tuple[int, int]:
        user, nice, system, idle, waiting, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
        return user + nice + system, idle + waiting

    used, free = times()
    time.sleep(seconds)
    used, free = times()[0] - used, times()[1] - free
    return used / max(used + free, 1)


def require_tools() -> None:
    """Raises BenchmarkError where a load generator isn't installed."""
    for tool, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if shutil.which(tool) is None:
            raise BenchmarkError(f"{tool} is missing; on Debian: apt-get install {package}")


@contextlib.contextmanager
def started(
    name: str, command: Callable[[int, int], Sequence[str | Path]], *, own_grpc_port: bool = False
) -> Iterator[Running]:
    """Run a server until the end of the block.

    Args:
        command: makes the command line from an HTTP and a gRPC port.
        own_grpc_port: the server has a second listener for gRPC.
    """
    port = free_port()
    grpc_port = free_port() if own_grpc_port else port
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        process = subprocess.Popen(
            [str(part) for part in command(port, grpc_port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.endswith("_PROXY")},
        )
        try:
            server = Running(name, port, grpc_port, process, Path(folder) / "log")
            if not all(_listens(each, process) for each in {port, grpc_port}):
                raise BenchmarkError(f"{name} doesn't listen")
            yield server
        except BenchmarkError as error:
            if process.poll() is not None:
                log.seek(0)
                text = f"{name} ended with code {process.returncode}:\n{log.read().decode(errors='replace')[-2000:]}"
                raise BenchmarkError(f"{error}\n{text}") from error
            raise
        finally:
            _stop(process)


def verify(server: Running, payload: Payload, *, patience: float = 30.0) -> Target:
    """Send one request and check the answer; a server may need a moment before it gives the first one.

    Raises:
        BenchmarkError: there is no right answer within ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            body, headers = _call(server, payload)
            payload.check(body, headers)
            return Target(server, payload, len(body))
        except Exception as error:
            if time.monotonic() > deadline or server.process.poll() is not None:
                text = f"{server.name} doesn't answer {payload.protocol} right: {error}"
                raise BenchmarkError(text) from error
            time.sleep(0.2)


def put_load(target: Target, *, connections: int, seconds: int) -> Load:
    """One round: ``connections`` clients that each send a request as soon as they have the answer to the last."""
    generate = _h2load if target.payload.protocol == "grpc" else _wrk
    with tempfile.TemporaryDirectory() as folder:
        before = target.server.cpu_seconds()
        load = generate(target, connections, seconds, Path(folder))
        used = target.server.cpu_seconds() - before
    answered = load.requests_per_second * seconds
    return replace(load, cpu=used / answered * 1e6 if answered else float("inf"))


def compare(targets: Sequence[Target], *, connections: int, seconds: int, rounds: int) -> list[list[Load]]:
    """Rounds of load on each target in turn (A B A B ...), so that what disturbs the machine disturbs all of them."""
    loads: list[list[Load]] = [[] for _ in targets]
    for _ in range(rounds):
        for target, seen in zip(targets, loads, strict=True):
            seen.append(put_load(target, connections=connections, seconds=seconds))
    return loads


def _call(server: Running, payload: Payload) -> tuple[bytes, dict[str, str]]:
    if payload.protocol == "grpc":
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
            call = channel.unary_unary(payload.path)
            answer: bytes = call(payload.body[5:], timeout=10)
            return answer, {}
    response = httpx2.post(
        f"http://127.0.0.1:{server.port}{payload.path}", content=payload.body, headers=payload.headers, timeout=10
    )
    if response.status_code != 200:
        raise BenchmarkError(f"{response.status_code} {response.text[:300]}")
    return response.content, dict(response.headers)


def _wrk(target: Target, connections: int, seconds: int, folder: Path) -> Load:
    server, payload = target.server, target.payload
    (folder / "body").write_bytes(payload.body)
    script = ['wrk.method = "POST"', f'wrk.body = io.open("{folder}/body", "rb"):read("*a")']
    script += [f'wrk.headers["{name}"] = "{value}"' for name, value in payload.headers.items()]
    # wrk's own report rounds; this one doesn't.
    script += [
        "function done(summary, latency, requests)",
        "  local e = summary.errors",
        '  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,',
        "    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))",
        "end",
    ]
    (folder / "post.lua").write_text("\n".join(script))
    url = f"http://127.0.0.1:{server.port}{payload.path}"
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    output = _run("wrk", *options, "-s", str(folder / "post.lua"), url)
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if match is None:
        raise BenchmarkError(f"wrk against {server.name}: {output[-500:]}")
    requests, microseconds, p50, p99, errors = map(int, match.groups())
    return Load((requests - errors) / microseconds * 1e6, p50 / 1e3, p99 / 1e3, errors)


def _h2load(target: Target, connections: int, seconds: int, folder: Path) -> Load:
    server, payload = target.server, target.payload
    (folder / "body").write_bytes(payload.body)
    headers = [part for name, value in payload.headers.items() for part in ("-H", f"{name}: {value}")]
    log = folder / "log"
    command = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", f"--log-file={log}", "-d", f"{folder}/body"]
    match = None
    # Now and then h2load ends a timed run without having sent anything.
    for _ in range(3):
        output = _run(*command, *headers, f"http://127.0.0.1:{server.grpc_port}{payload.path}")
        match = re.search(r"(\d+) done, (\d+) succeeded,", output)
        if match is not None and match[1] != "0":
            break
    else:
        raise BenchmarkError(f"h2load against {server.name}: {output[-500:]}")
    done, succeeded = int(match[1]), int(match[2])
    # gRPC reports errors in trailers, under HTTP's status 200 and with no body: only the bytes of bodies show them.
    data = re.search(r"headers \(space savings .*?\((\d+)\) data", output)
    good = min(succeeded, int(data[1]) // (target.length + 5)) if data is not None else 0
    # One line a request: when it was sent, its status, microseconds until its answer had come.
    latencies = np.loadtxt(log, usecols=2, ndmin=1) / 1e3
    p50, p99 = np.percentile(latencies, [50, 99])
    return Load(good / seconds, float(p50), float(p99), done - good)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process, then whatever of its session is left."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are still there; none where it isn't itself."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _family(pid: int) -> Iterator[int]:
    yield pid
    for child in children(pid):
        yield from _family(child)


def _resident(pid: int) -> int:
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def _cpu_seconds(pid: int) -> float:
    # The name, in parentheses, may hold spaces; after it the fields are numbered from 3. 14 is user, 15 system time.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
