"""The commands about graphs, at a real server and on files: what they print, and how they fail."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from graph_repository import CHAIN, DIAMOND, OUTER, SLOW, STEPS, write_graph, write_model, write_onnx
from servers import SALVER, Server, running

pytestmark = pytest.mark.e2e

HOSTILE = """
description: "\\e[2Jgone"
inputs: [{name: "x\\e]0;title\\a<&\\"", datatype: FP32, shape: [-1, 2]}]
outputs: [{name: y, from: double.y}]
steps:
- {name: double, model: double, inputs: {x: "inputs.x\\e]0;title\\a<&\\""}}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    write_onnx(folder, "double", 2.0)
    write_model(folder, "slow", SLOW)
    write_graph(folder, "chain", CHAIN)
    write_graph(folder, "diamond", DIAMOND, steps=STEPS)
    write_graph(folder, "outer", OUTER)
    write_graph(folder, "hostile", HOSTILE)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with running(repository, "--allow-code") as server:
        yield server


def salver(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [SALVER, *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, cwd=cwd)


def output_of(*arguments: str | Path, cwd: Path | None = None) -> str:
    done = salver(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_show(server: Server, repository: Path) -> None:
    shown = output_of("graph", "show", "diamond", "--url", server.url)
    assert shown.startswith("diamond 1\n┌ inputs ")
    assert "│ total: any" in shown
    told = json.loads(output_of("graph", "show", "outer", "--json", "--url", server.url))
    assert (told["models"], told["steps"][0]["asks"]) == (["chain"], "chain")
    # A name is a file's where there is one, unless a server is named.
    from_file = output_of("graph", "show", "chain/1", cwd=repository)
    assert "twice twice" in from_file
    assert "chain 1  twice twice" in output_of("graph", "show", "chain", "--url", server.url, cwd=repository)


def test_a_picture_is_xml_and_texts_are_harmless(server: Server, tmp_path: Path) -> None:
    done = salver("graph", "show", "hostile", "--svg", tmp_path / "hostile.svg", "--url", server.url)
    assert (done.returncode, done.stderr) == (0, f"note: {tmp_path}/hostile.svg is written\n")
    root = ElementTree.fromstring((tmp_path / "hostile.svg").read_bytes())
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert 'x\\x1b]0;title\\x07<&": FP32 [-1, 2]' in texts
    shown = output_of("graph", "show", "hostile", "--url", server.url)
    explained = output_of("graph", "run", "hostile", "-i", "[[1, 2]]", "--explain", "--url", server.url)
    for text in (shown, explained):
        assert "\x1b" not in text
        assert "\\x1b" in text


def test_run_and_traces(server: Server) -> None:
    given = ("-i", "[[1, 2]]", "--url", server.url)
    assert json.loads(output_of("graph", "run", "chain", *given, "--json")) == {"y": [[4, 8]]}
    told = json.loads(output_of("graph", "run", "chain", *given, "--explain", "--json"))
    assert [step["step"] for step in told["steps"]] == ["first", "second"]
    assert told["outputs"][0]["data"] == [4, 8]
    explained = output_of("graph", "run", "chain", *given, "--explain")
    assert "-> y: FP32 [1, 2] 4, 8" in explained
    traces = json.loads(output_of("graph", "traces", "chain", "--json", "--last", "1", "--url", server.url))
    assert len(traces) == 1
    assert "second" in output_of("graph", "traces", "chain", "--url", server.url)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "nobody"], 1, "error: "),
        (["show", "double"], 1, "error: model 'double' is no graph"),
        (["show", "chain", "--version", "9"], 1, "version 9"),
        (["show", "chain", "--svg", "/nowhere/chain.svg"], 1, "/nowhere/chain.svg can't be written: No such file"),
        (["traces", "double"], 1, "is no graph"),
        (["traces", "chain", "--last", "0"], 2, "Invalid value"),
        (["run", "chain", "-i", "[[1, 2, 3]]", "--explain"], 1, "expected shape"),
        (["run", "double", "-i", "[[1, 2]]", "--explain"], 1, "is no graph"),
    ],
)
def test_errors(server: Server, arguments: list[str], code: int, message: str) -> None:
    done = salver("graph", *arguments, "--url", server.url)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    (tmp_path / "graph.yaml").write_text(CHAIN.replace("model: double", "modle: double"))
    done = salver("graph", "show", tmp_path)
    assert done.returncode == 1
    assert "unknown key 'modle' in steps[0]; did you mean 'model'?" in done.stderr


def test_check_holds_graphs_against_the_models_beside_them(repository: Path, tmp_path: Path) -> None:
    text = output_of("check", repository, "--allow-code")
    assert "outer version 1: fits its models\n" in text
    broken = tmp_path / "broken"
    write_onnx(broken, "double", 2.0)
    write_graph(broken, "chain", CHAIN.replace("double, inputs: {x: first.y}", "double/7, inputs: {x: first.y}"))
    write_graph(broken, "astray", CHAIN.replace("double", "nobody"))
    write_graph(broken, "outer", OUTER)
    write_graph(broken, "left", OUTER.replace("model: chain", "model: right"))
    write_graph(broken, "right", OUTER.replace("model: chain", "model: left"))
    write_graph(broken, "code", DIAMOND.replace("slow", "double"), steps=STEPS)
    done = salver("check", broken, "--json")
    assert done.returncode == 1
    reports = {report["name"]: report for report in json.loads(done.stdout)}
    assert [name for name, report in reports.items() if report["ready"]] == ["double"]
    assert "step 'second': model 'double' has no version '7', but 1" in reports["chain"]["error"]
    assert "there is no model 'nobody' here" in reports["astray"]["error"]
    assert "step 'chain': model 'chain' can't be served" in reports["outer"]["error"]
    assert "step 'chain'" in reports["left"]["error"]
    assert "--allow-code" in reports["code"]["error"]
