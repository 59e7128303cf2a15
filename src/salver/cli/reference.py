"""How commands name a version: ``NAME``, ``NAME:VERSION`` or ``NAME@ALIAS``."""

from __future__ import annotations

import typer


def split_reference(text: str) -> tuple[str, str]:
    """The model's name, and its version or ``@ALIAS``, "" where neither is named.

    Raises:
        typer.BadParameter: it is something else.
    """
    for mark in (":", "@"):
        name, found, rest = text.partition(mark)
        if found:
            if not name or not rest or ":" in rest or "@" in rest:
                raise typer.BadParameter(f"expected NAME, NAME:VERSION or NAME@ALIAS, got {text!r}")
            return name, (rest if mark == ":" else f"@{rest}")
    return text, ""
