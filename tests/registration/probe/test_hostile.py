"""Probing models that are broken or hostile: each ends with a reason, and nothing of it is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from gates import until
from onnx import TensorProto, helper, save
from process_models import python_spec

from salver.core.errors import InvalidArtifact, LoadError
from salver.core.model import ModelSpec
from salver.registration.probe.limits import ProbeLimits
from salver.registration.probe.prober import Prober
from salver.registration.probe.result import ProbeResult

pytestmark = pytest.mark.e2e

Probe = Callable[..., Awaitable[ProbeResult]]

MIB = 1 << 20
SMALL = ProbeLimits(memory_bytes=100 * MIB)


def model(load: str = "pass", predict: str = "return x", header: str = "") -> str:
    return (
        f"import os, sys, time, ctypes, socket, subprocess\n{header}\n"
        f"class Model:\n    def load(self):\n        {load}\n"
        f"    def predict(self, x: float) -> float:\n        {predict}\n"
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (model("os._exit(3)"), r"its process exited with code 3 while it loaded the model"),
        (model(predict="os._exit(0)"), r"its process exited with code 0 while it ran made-up inputs"),
        (
            model("ctypes.string_at(0)"),
            r"died of a segmentation fault \(SIGSEGV\) while it loaded the model, in line 5 of model\.py \(load\)",
        ),
        (
            model(predict="ctypes.string_at(0)"),
            r"died of a segmentation fault \(SIGSEGV\) while it ran made-up inputs, in line 7 of model\.py \(predict\)",
        ),
        (model("os.kill(os.getpid(), 9)"), r"was killed by SIGKILL while it loaded the model \(the system may"),
        (model("sys.stderr.write('bad wheel'); os.abort()", header=""), r"aborted \(SIGABRT\)"),
        (
            model("print('giving up'); sys.stdout.flush(); os._exit(7)"),
            r"code 7 .*; the last that it printed: giving up",
        ),
        (model("sys.exit('no licence')"), r"no licence"),
        (model("raise RuntimeError('no weights')"), r"no weights"),
        (model("os.closerange(3, 100)"), r"while it loaded the model"),
    ],
)
async def test_the_reason_is_told(probe: Probe, code: str, reason: str) -> None:
    with pytest.raises(LoadError, match=reason) as caught:
        await probe(code, limits=ProbeLimits(seconds=60))
    assert str(caught.value).startswith("model 'm'")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "code", [model("while True: pass"), model("time.sleep(1000)"), model(predict="time.sleep(1000)")]
)
async def test_what_hangs_is_ended(probe: Probe, code: str) -> None:
    with pytest.raises(LoadError, match=r"it took longer than 0\.5 s, and was ended while it"):
        await probe(code, limits=ProbeLimits(seconds=0.5))


@pytest.mark.parametrize(
    "load",
    [
        "self.x = []\n        while True: self.x.append(os.urandom(1 << 20))",
        "self.x = b'1' * (1 << 40)",
        "import mmap; self.x = mmap.mmap(-1, 1 << 30)\n"
        "        for each in range(0, 1 << 30, 1 << 20): self.x[each:each + (1 << 20)] = bytes(1 << 20)",
        "import mmap; self.x = mmap.mmap(-1, 1 << 60)",
        "self.x = [subprocess.Popen([sys.executable, '-c', 'x = b\"1\" * (60 << 20); import time; time.sleep(99)'])"
        " for _ in range(3)]; time.sleep(99)",
    ],
    ids=["slowly", "at once", "shared", "refused", "processes"],
)
async def test_a_memory_bomb_is_ended(probe: Probe, load: str) -> None:
    started = time.monotonic()
    with pytest.raises(LoadError, match="it needs more than 100 MiB of memory"):
        await probe(model(load), limits=SMALL)
    assert time.monotonic() - started < 30


async def test_memory_limit_of_model_yaml_counts(probe: Probe) -> None:
    with pytest.raises(LoadError, match="it needs more than 50 MiB of memory"):
        await probe(model("self.x = b'1' * (80 << 20); time.sleep(99)"), limits=SMALL, memory_limit=50 * MIB)


async def test_shared_memory_of_forked_workers_counts_once(probe: Probe) -> None:
    load = (
        "self.x = b'1' * (60 << 20)\n"
        "        for _ in range(4):\n"
        "            if os.fork() == 0: time.sleep(99)\n"
        "        time.sleep(0.5)"
    )
    measured = (await probe(model(load), limits=SMALL)).probe
    assert measured.memory_bytes < 100 * MIB


async def test_a_fork_bomb_is_ended(probe: Probe) -> None:
    # Bounded in itself: a test that fails must not take the machine with it.
    load = "[os.fork() for _ in range(5)]; time.sleep(99)"
    with pytest.raises(LoadError, match="it started more than 8 processes while it loaded the model"):
        await probe(model(load), limits=ProbeLimits(processes=8))


@pytest.mark.parametrize(
    ("leave", "end"),
    [("os.setsid()", "time.sleep(99)"), ("os.setsid()", "pass"), ("pass", "os._exit(0)")],
    ids=["hangs", "works", "exits"],
)
async def test_what_a_model_started_ends_with_it(probe: Probe, tmp_path: Path, leave: str, end: str) -> None:
    # A process whose parent has ended. Where it left the process group too, it is found as long as the model's lives.
    marker = tmp_path / "pid"
    load = (
        "if os.fork() == 0:\n"
        f"            {leave}\n"
        "            if os.fork() == 0:\n"
        f"                open({str(marker)!r}, 'w').write(str(os.getpid()) + ' ')\n"
        "                time.sleep(99)\n"
        "            os._exit(0)\n"
        f"        while not (os.path.exists({str(marker)!r}) and open({str(marker)!r}).read().endswith(' ')):\n"
        "            time.sleep(0.01)\n"
        f"        {end}"
    )
    probing = asyncio.create_task(probe(model(load)))
    await until(lambda: marker.exists() and marker.read_text().endswith(" "))
    pid = int(marker.read_text())
    if end == "time.sleep(99)":
        probing.cancel()
    outcome = (await asyncio.gather(probing, return_exceptions=True))[0]
    assert isinstance(outcome, ProbeResult) == (end == "pass")
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


async def test_a_flood_of_output_holds_nobody_up(probe: Probe) -> None:
    code = model("for _ in range(50): os.write(1, b'x' * (1 << 20))")
    assert (await probe(code)).probe.load_seconds > 0
    with pytest.raises(LoadError, match=r"it took longer than 1 s") as caught:
        await probe(model("while True: os.write(1, b'x' * (1 << 20))"), limits=ProbeLimits(seconds=1))
    assert len(str(caught.value)) < 1000


SOCKETS = (
    "import glob\n"
    "def channel():\n"
    "    for each in glob.glob('/proc/self/fd/*'):\n"
    "        if os.path.exists(each) and os.readlink(each).startswith('socket:'):\n"
    "            return int(each.rpartition('/')[2])\n"
)


@pytest.mark.parametrize(
    "sent",
    [
        "os.urandom(1 << 16) + b'\\n'",
        "b'[1, 2]\\n'",
        "b'[' * 100000 + b'\\n'",
        "b'{\"result\": {}}\\n'",
        "b'{\"result\": 5}\\n'",
        "b'{\"failed\": 5}\\n'",
        'b\'{"doing": "nothing"}\\n\' * 2000',
        "b'x' * (8 << 20)",
    ],
    ids=["noise", "list", "nested", "empty", "number", "failure", "many", "endless"],
)
async def test_garbage_in_place_of_the_report(probe: Probe, sent: str) -> None:
    code = model(
        f"\n        s = socket.socket(fileno=os.dup(channel())); s.sendall({sent}); time.sleep(99)", header=SOCKETS
    )
    with pytest.raises(LoadError, match="its process sent something that is no report"):
        await probe(code, limits=ProbeLimits(seconds=60))


async def test_who_asks_for_a_turn_twice_gets_one(probe: Probe) -> None:
    code = model(
        "\n        s = socket.socket(fileno=os.dup(channel())); s.sendall(b'{\"turn\": true}\\n' * 3); time.sleep(99)",
        header=SOCKETS,
    )
    with pytest.raises(LoadError, match="took longer"):
        await probe(code, limits=ProbeLimits(seconds=0.5))


@pytest.mark.parametrize(
    ("predict", "reason"),
    [
        ("return float('nan')", r"its output 'output' isn't finite on any input that was tried: nan at \[0\]"),
        ("return x * float('inf') if x else -float('inf')", r"isn't finite on any input that was tried: -inf"),
    ],
)
async def test_outputs_have_to_be_finite(probe: Probe, predict: str, reason: str) -> None:
    with pytest.raises(InvalidArtifact, match=reason):
        await probe(model(predict=predict))
    assert (await probe(model(predict=predict), limits=ProbeLimits(finite=False))).probe.latency_seconds


async def test_outputs_that_are_finite_on_some_inputs_are_fine(probe: Probe) -> None:
    result = await probe(model(predict="import math; return math.log(x) if x > 0 else float('nan')"))
    assert result.notes == ()


async def test_outputs_have_to_be_what_the_signature_promises(prober: Prober, tmp_path: Path) -> None:
    # What shape it gives turns out when it runs.
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "liar",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, ["rank"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, tmp_path / "m.onnx")
    with pytest.raises(InvalidArtifact, match=r"its output 'y' has the shape \[4\], and its signature promises \[5\]"):
        await prober.probe(ModelSpec("liar", "1", tmp_path / "m.onnx", "onnx"), allow_code=False)


async def test_files_are_bounded(probe: Probe, tmp_path: Path) -> None:
    load = f"open({str(tmp_path / 'large')!r}, 'wb').write(bytes(2 << 20))"
    with pytest.raises(LoadError, match="File too large"):
        await probe(model(load), limits=ProbeLimits(file_bytes=1 << 20))
    assert (tmp_path / "large").stat().st_size <= 1 << 20
    with pytest.raises(LoadError, match="Too many open files"):
        await probe(model("[os.dup(0) for _ in range(200)]"), limits=ProbeLimits(open_files=100))


async def test_others_are_probed_while_one_hangs(prober: Prober, probe: Probe, tmp_path: Path) -> None:
    hanging = asyncio.create_task(probe(model("time.sleep(1000)")))
    result = await prober.probe(python_spec(tmp_path, "other", model()), allow_code=True)
    assert result.probe.latency_seconds
    assert not hanging.done()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
