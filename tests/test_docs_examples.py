"""The examples in the documents run and print what they say: `print(...)  # what it prints`, and `$ salver ...`."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from servers import SALVER, Server

pytestmark = pytest.mark.e2e

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["clients.md", "embedding.md"]
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
    "graph show",
    "graph run",
    "graph traces",
    "check",
    "version",
]
URL = "http://127.0.0.1:8000"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_python_examples(
    page: str, example_server: Server, example_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").symlink_to(example_repository)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page, "python"))
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    assert len(expected) == len(re.findall(r"^ *print\(", code, flags=re.MULTILINE)) > 3
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace(URL, example_server.url), page, "exec"), {"__name__": page})
    assert printed.getvalue().splitlines() == expected


def test_commands_in_the_documents(example_server: Server, example_repository: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(example_repository)
    sessions = [
        part.partition("\n") for block in blocks("cli.md", "console") for part in block.split("$ ") if part.strip()
    ]
    assert len(sessions) == 2
    for command, _, expected in sessions:
        name, *arguments = shlex.split(command)
        assert name == "salver"
        if not any(argument.startswith("models/") for argument in arguments):
            arguments += ["--url", example_server.url]
        done = subprocess.run([SALVER, *arguments], capture_output=True, text=True, timeout=100, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        whole = not expected.endswith("...\n")
        assert done.stdout == expected if whole else done.stdout.startswith(expected.removesuffix("...\n"))


def test_every_command_is_documented() -> None:
    def commands(*group: str) -> list[str]:
        told = subprocess.run([SALVER, *group, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
        listed = told.partition("Commands:\n")[2].partition("\n\n")[0]
        return [" ".join([*group, name]) for name in re.findall(r"^  (\w+)", listed, flags=re.MULTILINE)]

    found = {command for command in commands() if command != "graph"} | set(commands("graph"))
    assert found == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command: str) -> None:
    text = (DOCS / "cli.md").read_text()
    section = text.partition(f"## salver {command}\n")[2].partition("\n## ")[0]
    help_text = subprocess.run(
        [SALVER, *command.split(), "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", help_text, flags=re.MULTILINE)) - {"--help"}
    documented = set(re.findall(r"--\w[\w-]*", section))
    assert options
    assert not options - documented
    rows = set(re.findall(r"^\| (?:`-\w`, )?`(--[\w-]+)", section, flags=re.MULTILINE))
    assert not rows - options
