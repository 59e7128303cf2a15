"""What a framework's native code writes to stderr while it is imported, before anything can tell it not to."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr(chatter: re.Pattern[bytes]) -> Iterator[None]:
    """While it lasts, lines that ``chatter`` matches at their beginning don't get to the process's stderr.

    All other lines do, at once, whoever writes them. A process that is started meanwhile inherits the filter, which
    stays for as long as somebody may write to it. Does nothing where there is no stderr.
    """
    try:
        original = os.dup(2)
    except OSError:
        yield
        return
    reading, writing = os.pipe()
    sys.stderr.flush()
    os.dup2(writing, 2)
    os.close(writing)
    filtering = threading.Thread(
        target=_filter, args=(reading, os.dup(original), chatter), name="stderr-filter", daemon=True
    )
    filtering.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)  # closes the pipe's end: what is in it is still read
        os.close(original)
        filtering.join(1.0)


def _filter(reading: int, original: int, chatter: re.Pattern[bytes]) -> None:
    with os.fdopen(reading, "rb", buffering=0) as lines, os.fdopen(original, "wb", buffering=0) as out:
        rest = b""
        while data := lines.read(65536):
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                if not chatter.match(line):
                    out.write(line + b"\n")
        if rest and not chatter.match(rest):
            out.write(rest)
