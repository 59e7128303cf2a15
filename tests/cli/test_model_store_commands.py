"""The commands of a model store: push, list, show, alias, delete, download, at a real server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from artifact_servers import WebServer, s3_options
from gates import until
from onnx_files import write_constant
from servers import SALVER, Server, running

from salver.cli.reference import split_reference
from salver.store.artifacts.describe import describe

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(f"--store={tmp_path_factory.mktemp('store')}") as server:
        yield server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_constant(tmp_path / "model", 1)
    return tmp_path / "model"


def salver(server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [SALVER, *map(str, arguments), "--url", server.url]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)


def output_of(server: Server, *arguments: str | Path) -> str:
    done = salver(server, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_a_push_to_a_delete(store_server: Server, model: Path, tmp_path: Path) -> None:
    (tmp_path / "about.yaml").write_text("owner: ada\ntags: {stage: test}\nproperties: {auc: 0.9}\n")
    told = output_of(
        store_server, "push", model, "--name", "plus", "--alias", "production", "--tag", "team=vision",
        "--metadata", tmp_path / "about.yaml", "--metadata", "run_id=42", "--metadata", "seed=7", "--tenant", "acme",
    )  # fmt: skip
    assert told.startswith("plus:1 READY (")
    assert describe(model).digest[:12] in told
    version = json.loads(output_of(store_server, "show", "plus@production", "--json"))
    assert version["version"] == "1"
    metadata = version["metadata"]
    assert (metadata["owner"], metadata["run_id"], metadata["tenant"]) == ("ada", "42", "acme")
    assert metadata["tags"] == {"stage": "test", "team": "vision"}
    assert metadata["properties"] == {"auc": 0.9, "seed": "7"}
    shown = output_of(store_server, "show", "plus:1")
    assert shown.startswith("plus version 1: READY\n")
    assert "INPUT0 FP32 [-1, -1]" in shown
    assert "onnxruntime" in shown
    row = next(line.split() for line in output_of(store_server, "show", "plus").splitlines() if line.startswith("1 "))
    assert row[1:4] == ["production", "READY", "onnx"]
    lines = output_of(store_server, "list", "--tag", "team:vision").splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "ALIASES", "STATE", "SIZE", "OWNER", "INPUTS", "OUTPUTS"]
    assert lines[1].split()[:4] == ["plus", "1", "production", "READY"]
    assert output_of(store_server, "list", "--tag", "team:audio") == (
        f"The server at {store_server.url} has no such models.\n"
    )
    assert output_of(store_server, "push", model, "--name", "plus").startswith("plus:1 READY")
    (entry,) = json.loads(output_of(store_server, "list", "--prefix", "plus", "--json"))
    assert (entry["aliases"], entry["owner"], entry["size"]) == (["production"], "ada", version["size"])
    assert output_of(store_server, "alias", "plus@staging", "@production") == "plus@staging is version 1\n"
    assert output_of(store_server, "download", "plus", tmp_path / "got").startswith(
        f"{tmp_path}/got: plus version 1 (1 f"
    )
    assert describe(tmp_path / "got") == describe(model)
    refused = salver(store_server, "delete", "plus:1")
    assert (refused.returncode, "has the alias" in refused.stderr) == (1, True)
    assert output_of(store_server, "alias", "plus@staging", "--delete") == "plus@staging is gone\n"
    assert salver(store_server, "delete", "plus").returncode == 2  # nobody there to be asked
    assert output_of(store_server, "delete", "plus", "--yes") == "plus is deleted\n"
    actions = [entry["action"] for entry in json.loads(output_of(store_server, "show", "plus", "--history", "--json"))]
    assert actions[0] == "delete_model"
    assert actions[-1] == "register"
    assert "delete_model" in output_of(store_server, "show", "plus", "--history")
    gone = salver(store_server, "show", "plus")
    assert (gone.returncode, gone.stderr.startswith("error: ")) == (1, True)


@pytest.fixture
def web(model: Path) -> Iterator[WebServer]:
    server = WebServer(model)
    yield server
    server.close()


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files of commands go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_a_file_of_a_web_server_is_pushed(store_server: Server, web: WebServer, downloads: Path) -> None:
    told = output_of(store_server, "push", f"{web.url}/model.onnx?token=geheim", "--name", "from-web")
    assert told.startswith("from-web:1 READY (")
    assert describe(web.root).digest[:12] in told
    gone = salver(store_server, "push", f"{web.url}/nothing.onnx?token=geheim", "--name", "from-web")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert f"there is nothing at {web.url}/nothing.onnx" in gone.stderr
    assert "geheim" not in gone.stderr
    for arguments, message in [
        (["nowhere://x/y"], "unknown protocol"),
        ([f"{web.url}/model.onnx", "--source-option", "timeout"], "expected NAME=VALUE"),
        ([str(web.root), "--source-option", "timeout=1"], "it is for URLs"),
    ]:
        refused = salver(store_server, "push", *arguments, "--name", "from-web")
        assert refused.returncode != 0
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    assert list(downloads.iterdir()) == []


async def test_ctrl_c_leaves_nothing_of_a_download(store_server: Server, web: WebServer, downloads: Path) -> None:
    web.failures = 1000  # it is repeated
    command = ["push", f"{web.url}/model.onnx", "--name", "later", "--url", store_server.url]
    process = await asyncio.create_subprocess_exec(
        SALVER, *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        await until(lambda: bool(web.asked))
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert await asyncio.to_thread(os.listdir, downloads) == []


def test_a_folder_of_a_bucket_is_pushed(store_server: Server, model: Path, downloads: Path) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    (model / "model.yaml").write_text("description: from a bucket\n")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        options = s3_options(server.get_host_and_port()[1])
        client = boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=options["endpoint_url"],
            aws_access_key_id=options["key"],
            aws_secret_access_key=options["secret"],
        )
        client.create_bucket(Bucket="trained")
        for file in model.iterdir():
            client.upload_file(str(file), "trained", f"plus/7/{file.name}")
        client.close()
        given = [part for name, value in options.items() for part in ("--source-option", f"{name}={value}")]
        told = output_of(store_server, "push", "s3://trained/plus/7", "--name", "from-bucket", *given)
    finally:
        server.stop()
    assert told.startswith("from-bucket:1 READY (")
    assert describe(model).digest[:12] in told
    assert list(downloads.iterdir()) == []


def test_a_push_that_fails_its_probe_ends_with_the_reason(store_server: Server, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    done = salver(store_server, "push", tmp_path / "broken.onnx", "--name", "broken")
    assert done.returncode == 1
    assert done.stderr.startswith("error: 'broken' version 1 is stored, and its probe failed: ")
    assert "broken.onnx" in done.stderr
    assert "Traceback" not in done.stderr
    assert "FAILED: " in output_of(store_server, "show", "broken")
    waited = salver(store_server, "push", tmp_path / "broken.onnx", "--name", "broken", "--no-wait")
    assert (waited.returncode, waited.stdout.startswith("broken:1 PENDING")) == (0, True)


def test_what_is_asked_wrongly(store_server: Server, model: Path, tmp_path: Path) -> None:
    for arguments, code, message in [
        (["push", tmp_path / "nothing", "--name", "x"], 1, "nothing"),
        (["push", model, "--name", "-x"], 1, "can't be a model name"),
        (["push", model, "--name", "x", "--tag", "team"], 2, "expected NAME=VALUE"),
        (["push", model, "--name", "x", "--metadata", "nofile"], 2, "expected a file or NAME=VALUE"),
        (["push", model], 2, "--name"),
        (["show", "nobody"], 1, "nobody"),
        (["show", "a:b:c"], 2, "expected NAME, NAME:VERSION or NAME@ALIAS"),
        (["alias", "plus", "1"], 2, "expected NAME@ALIAS"),
        (["alias", "plus@prod"], 2, "give a VERSION, or --delete"),
        (["delete", "plus@prod"], 2, "salver alias plus@prod --delete"),
        (["download", "nobody:1", tmp_path / "got"], 1, "nobody"),
        (["download", "nobody:1", model], 1, "is there already"),
    ]:
        done = salver(store_server, *arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_a_server_without_a_store_says_so(example_server: Server, model: Path) -> None:
    for arguments in (["push", model, "--name", "x"], ["show", "iris"], ["list", "--tag", "a:b"]):
        done = salver(example_server, *arguments)
        assert done.returncode == 1
        assert "has no model store; 'salver serve --store FOLDER' starts one that has" in done.stderr


def test_a_terminal_gets_a_progress_bar(store_server: Server, model: Path) -> None:
    (model / "weights.bin").write_bytes(os.urandom(20 << 20))
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [SALVER, "push", str(model), "--name", "large", "--url", store_server.url],
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end was closed
            break
        shown += part
    os.close(leader)
    assert process.wait(60) == 0, shown
    assert "pushing large" in shown.decode()
    assert "20.0 MiB" in shown.decode()


@pytest.mark.parametrize(
    ("text", "name", "reference"), [("iris", "iris", ""), ("iris:3", "iris", "3"), ("iris@a.b", "iris", "@a.b")]
)
def test_references(text: str, name: str, reference: str) -> None:
    assert split_reference(text) == (name, reference)
