"""The commands as a user runs them: processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from servers import SALVER, Server
from typed_models import write_typed_models

pytestmark = pytest.mark.e2e

COMMANDS = [
    "serve",
    "predict",
    "push",
    "list",
    "show",
    "alias",
    "delete",
    "download",
    "cache",
    "graph",
    "check",
    "version",
]
GRAPH_COMMANDS = ["show", "traces", "run"]


def salver(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([SALVER, *map(str, arguments)], input=stdin, capture_output=True, timeout=100, cwd=cwd)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def output_of(*arguments: str | Path, stdin: bytes = b"") -> str:
    done = salver(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_typed_models(tmp_path_factory.mktemp("typed"))


@pytest.mark.parametrize(
    "command", [[], *([command] for command in COMMANDS), *(["graph", command] for command in GRAPH_COMMANDS)]
)
def test_help_teaches_by_examples(command: list[str]) -> None:
    text = output_of(*command, "--help")
    assert "Examples:\n" in text
    assert text.count("    salver ") >= 2
    assert max(map(len, text.splitlines())) <= 80
    assert "...\n" not in text.partition("\n")[2]  # no description is cut short
    assert output_of(*command, "-h") == text


def test_help_names_every_command() -> None:
    text = output_of("--help")
    assert all(f"  {command} " in text for command in COMMANDS)
    assert salver().stderr.strip() == text.strip()  # without arguments, too
    text = output_of("graph", "--help")
    assert all(f"  {command} " in text for command in GRAPH_COMMANDS)
    assert salver("graph").stderr.strip() == text.strip()


def test_version() -> None:
    assert output_of("--version") == f"salver {version('salver')}\n"
    assert output_of("version").splitlines()[0].split() == ["salver", version("salver")]
    assert json.loads(output_of("version", "--json"))["numpy"] == np.__version__


@pytest.mark.parametrize("arguments", [["predict"], ["nothing"], ["serve", "--port", "many"], ["check"]])
def test_usage_errors(arguments: list[str]) -> None:
    done = salver(*arguments)
    assert done.returncode == 2
    assert "Usage: salver" in done.stderr
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "/nonexistent/models"], "/nonexistent/models does not exist"),
        (["serve", ".", "--port", "70000"], "port"),
        (["serve", ".", "--max-request-bytes", "a lot"], "a size in bytes"),
        (["serve"], "nothing to serve"),
        (["check", "/nonexistent/models"], "/nonexistent/models does not exist"),
        (["graph", "show", "nothing", "--url", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9"),
        (["graph", "show", "."], "there is no graph.yaml"),
        (["list", "--url", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9"),
        (["predict", "nothing", "--url", "http://127.0.0.1:9", "-i", "1"], "nothing answers at"),
    ],
)
def test_errors_are_a_line_and_exit_code_1(arguments: list[str], message: str) -> None:
    done = salver(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_predict_on_a_server(example_server: Server, tmp_path: Path) -> None:
    import samples

    (tmp_path / "line.png").write_bytes(samples.draw_line(samples.LINE))
    image, digit = samples.held_out_digit()
    np.save(tmp_path / "digit.npy", image)
    at = ["--url", example_server.url]
    assert samples.LINE in output_of("predict", "ocr", "-i", f"image=@{tmp_path}/line.png", *at)
    answer = json.loads(output_of("predict", "digits", "-i", f"@{tmp_path}/digit.npy", "-o", "digit", "--json", *at))
    assert answer == {"digit": [digit]}
    request = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": image.ravel().tolist()}]}
    answer = json.loads(output_of("predict", "digits", "-i", "-", "--json", *at, stdin=json.dumps(request).encode()))
    assert answer["digit"] == [digit]
    assert "en" in output_of("predict", "textstats", "--input", samples.TEXT, *at)


def test_predict_says_what_is_wrong(example_server: Server) -> None:
    at = ["--url", example_server.url]
    for arguments, message in [
        (["nothing", "-i", "1"], "Request for unknown model: 'nothing'"),
        (["digits"], "give --input; the model takes image FP32 [-1, 8, 8]"),
        (["digits", "-i", "1,2"], "expected shape [-1, 8, 8]"),
        (["digits", "-i", "@missing.npy"], "missing.npy can't be read"),
        (["digits", "-i", "1", "--version", "9"], "version 9"),
    ]:
        done = salver("predict", *arguments, *at)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.startswith("error: ")


def test_predict_from_a_file(example_repository: Path, typed: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", np.zeros((3, 8, 8)))  # FP64 becomes the model's FP32
    text = output_of("predict", example_repository / "digits", "-i", f"@{tmp_path}/digits.npy")
    assert text.splitlines()[0].split() == ["OUTPUT", "DATATYPE", "SHAPE", "VALUES"]
    assert "[3, 10]" in text
    done = salver("predict", typed / "echo-INT8", "-i", "1,2")
    assert done.returncode == 1
    assert "--allow-code" in done.stderr
    model = typed / "echo-INT8"
    assert json.loads(output_of("predict", model, "-i", "1,2", "--allow-code", "--json"))["y"] == [[1, 2]]
    done = salver("predict", model, "-i", "1,2", "--allow-code", "-p", "fail=true")
    assert (done.returncode, "as asked" in done.stderr) == (1, True)


def test_predict_prints_a_stream_as_it_comes(typed: Path) -> None:
    text = output_of("predict", typed / "count", "-i", "3", "--allow-code")
    assert [line.split()[-1] for line in text.splitlines()] == ["VALUES", "0", "1", "2"]


def test_datatypes_that_json_lacks(typed: Path) -> None:
    for datatype in ("FP16", "BF16"):
        text = output_of("predict", typed / f"echo-{datatype}", "-i", "0.5,1", "--allow-code", "--json")
        assert json.loads(text)["y"] == [[0.5, 1]]


def test_list(example_server: Server) -> None:
    at = ["--url", example_server.url]
    lines = output_of("list", *at).splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "STATE", "INPUTS", "OUTPUTS"]
    assert any(line.split()[:6] == ["digits", "1", "READY", "image", "FP32", "[-1,"] for line in lines)
    models = {model["name"]: model for model in json.loads(output_of("list", "--json", *at))}
    assert models["ocr"]["state"] == "READY"
    assert models["ocr"]["inputs"][0]["datatype"] == "BYTES"
    assert {model["name"] for model in json.loads(output_of("list", "--prefix", "o", "--json", *at))} == {"ocr"}


def test_check(example_repository: Path) -> None:
    (report,) = json.loads(output_of("check", example_repository / "digits", "--json"))
    assert report["ready"]
    assert report["runtime"] == "onnx"
    assert report["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}]
    assert report["disk_bytes"] == (example_repository / "digits" / "1" / "model.onnx").stat().st_size
    assert 0 < report["memory_bytes"] <= report["peak_bytes"] < 500 * 2**20
    assert 0 < report["load_seconds"] < 60
    assert {"1", "8"} <= set(report["latency_p50_seconds"])
    text = output_of("check", example_repository / "digits")
    assert text.startswith("digits version 1: loads\n")
    assert "image FP32 [-1, 8, 8]" in text


def test_check_measures_what_the_model_takes(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "print('a model that talks')\n"
        "import numpy as np\n"
        "class Model:\n"
        "    def load(self):\n"
        "        self.weights = np.ones(50 * 2**20 // 8)\n"
        "    def predict(self, x: float) -> float:\n"
        "        return x\n"
    )
    (report,) = json.loads(output_of("check", tmp_path / "model.py", "--json"))
    assert 50 * 2**20 <= report["memory_bytes"] < 60 * 2**20


def test_check_of_what_cannot_be_loaded(tmp_path: Path) -> None:
    for name, code in {
        "fine": "class Model:\n    def predict(self, x: float) -> float:\n        return x",
        "broken": "import nothing_that_exists",
        "dying": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
        "leaving": "import os\nos._exit(3)",
    }.items():
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "1" / "model.py").write_text(code)
    done = salver("check", tmp_path / "models", "--allow-code", "--json")
    assert done.returncode == 1
    reports = {report["name"]: report for report in json.loads(done.stdout)}
    assert reports["fine"]["ready"]
    assert "nothing_that_exists" in reports["broken"]["error"]
    assert "SIGSEGV" in reports["dying"]["error"]
    assert "exited with code 3" in reports["leaving"]["error"]
    assert "error: broken version 1: " in done.stderr
    assert "Traceback" not in done.stderr


def test_check_without_permission(typed: Path) -> None:
    done = salver("check", typed / "slow")
    assert done.returncode == 1
    assert "slow version 1: can't be loaded" in done.stdout
    assert "--allow-code" in done.stderr


def test_check_gives_up_on_a_model_that_hangs(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import threading\nthreading.Event().wait()")
    done = salver("check", tmp_path / "model.py", "--timeout", "2")
    assert done.returncode == 1
    assert "took longer than 2 s, and was ended while it loaded the model" in done.stderr


def test_a_broken_pipe_is_quiet(typed: Path) -> None:
    command = f"'{SALVER}' check '{typed / 'slow'}' --allow-code --json | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, timeout=100)
    assert done.stderr == b""
    assert done.returncode == 141


def test_ctrl_c_is_quiet_and_leaves_nothing_behind(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    (tmp_path / "model.py").write_text(
        "import os, threading, pathlib\n"
        f"pathlib.Path({str(marker)!r}).write_text(str(os.getpid()))\n"
        "threading.Event().wait()"
    )
    process = subprocess.Popen([SALVER, "check", str(tmp_path / "model.py")], stderr=subprocess.PIPE, text=True)
    for _ in range(1000):
        if marker.exists() and marker.read_text():
            break
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_a_terminal_gets_a_drawn_table(typed: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [SALVER, "predict", str(typed / "echo-INT8"), "-i", "1,2", "--allow-code"],
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait(20) == 0
    assert "──" in shown.decode()
    assert "[[1 2]]" in shown.decode()


def test_serve_takes_its_options(typed: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("log_format: json\nlog_level: debug\n")
    server = Server(
        typed,
        "--allow-code",
        "--config",
        str(tmp_path / "settings.yaml"),
        "--log-level",
        "info",
        "--log-requests",
        "--max-request-bytes",
        "1KiB",
    )
    try:
        server.wait_until_ready()
        with server.client() as client:
            assert client.predict("echo-INT8", [1, 2])["rows"].item() == 1
            with pytest.raises(Exception, match="1024"):
                client.predict("echo-INT8", np.zeros((600, 2), np.int8))
    finally:
        code = server.stop()
    assert code == 0
    for line in server.log.splitlines():
        assert json.loads(line)
    assert "/v2/models/echo-INT8/infer" in server.log
