"""Starts `salver serve --store` on a free port, and stops it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 40.0

_LISTENING = re.compile(r"listening on (http://[^\s\"]+)")


@contextmanager
def own_server(store: Path, *options: str) -> Iterator[str]:
    """The URL of a server of a model store in a folder, which runs until the end of the block.

    Raises:
        RuntimeError: it doesn't start.
    """
    store.mkdir(parents=True, exist_ok=True)
    log = store.with_name(f"{store.name}.log")
    command = [str(Path(sys.executable).with_name("salver")), "serve", "--store", str(store), "--port", "0", *options]
    # Settings of a server that the reader runs elsewhere are not meant for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SALVER_")}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield _url(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while True:
        text = log.read_text(errors="replace")
        if found := _LISTENING.search(text):
            return found[1]
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server doesn't listen. The end of its log ({log}):\n{text[-2000:]}")
        time.sleep(0.05)
