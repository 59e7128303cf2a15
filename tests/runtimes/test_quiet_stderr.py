"""Chatter on stderr is left out, and nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from importlib import import_module

import pytest

from salver.runtimes.quiet_stderr import quiet_stderr

CHATTER = re.compile(rb"I0000 |WARNING: chatter")


def test_lines_of_native_code(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_stderr(CHATTER):
        os.write(2, b"I0000 chatter\nE0000 matters\nWARNING: chat")
        os.write(2, b"ter\n")
        os.write(2, b"no line's end")
    os.write(2, b"\nI0000 afterwards\n")
    assert capfd.readouterr().err == "E0000 matters\nno line's end\nI0000 afterwards\n"


def test_an_error_on_the_way_leaves_stderr_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModuleNotFoundError), quiet_stderr(CHATTER):
        import_module("no_such_framework")
    os.write(2, b"I0000 afterwards\n")
    assert capfd.readouterr().err == "I0000 afterwards\n"


def test_a_process_started_meanwhile_is_still_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_stderr(CHATTER):
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read(); print('late', file=sys.stderr)"],
            stdin=subprocess.PIPE,
        )
    with child:
        child.communicate(b"", timeout=60)
    heard = ""
    while "late" not in heard:  # its filter is a thread; the test's own limit ends this
        heard += capfd.readouterr().err
        time.sleep(0.001)
    assert heard == "late\n"


def test_without_stderr() -> None:
    code = """
import os, re
from salver.runtimes.quiet_stderr import quiet_stderr
os.close(2)
with quiet_stderr(re.compile(b"x")):
    print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"done\n")
