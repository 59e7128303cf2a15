"""Whether a TorchScript file reaches for files: its code is looked through before PyTorch gets it.

TorchScript is a small language, and safe but for a few of its operators: ``torch.save`` writes a file, and
``torch.from_file`` reads or writes one. Code may run while a file is loaded already (``__setstate__``). PyTorch lets
code give such functions other names (``f = torch.save``), so that the names themselves are looked for.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from typing import Final

from salver.core.errors import CodeNotAllowed, InvalidArtifact
from salver.core.model import ModelSpec

_MAX_BYTES: Final = 64 << 20
_TOKEN: Final = re.compile(
    r"""(?P<gap>\#[^\n]*|[\s\\]+)
    |(?P<text>\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<word>\w+)
    |(?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_ANYWHERE: Final = frozenset({"from_file", "rpc_sync", "rpc_async", "rpc_remote"})
_AFTER_DOT: Final = frozenset({"save"})  # other things may be called so
_FORBIDDEN: Final = _ANYWHERE | _AFTER_DOT
_LEGACY: Final = "model.json"


def check_harmless(spec: ModelSpec) -> None:
    """Hold the code in a TorchScript file against the operators that no model should need.

    Raises:
        CodeNotAllowed: it has one of them, or something that can't be looked through.
        InvalidArtifact: the archive is damaged.
    """
    left = _MAX_BYTES
    try:
        with zipfile.ZipFile(spec.path) as archive:
            for entry in archive.infolist():
                if entry.filename.rpartition("/")[2] == _LEGACY:
                    raise _refusal(spec, "is of a PyTorch before 1.2, whose code isn't looked through here")
                if not entry.filename.endswith(".py"):
                    continue
                with archive.open(entry) as opened:
                    code = opened.read(left + 1)
                left -= len(code)
                if left < 0:
                    raise _refusal(spec, f"has more than {_MAX_BYTES >> 20} MiB of code, which isn't looked through")
                if found := _reaches_out(code.decode(errors="replace")):
                    raise _refusal(spec, f"reaches for files or the network ({found})")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} is damaged: {error}") from None


def _reaches_out(code: str) -> str:
    """What in the code isn't harmless; "" where all is."""
    if not any(word in code for word in (*_FORBIDDEN, "getattr")):
        return ""
    tokens = [(match.lastgroup or "", match[0]) for match in _TOKEN.finditer(code) if match.lastgroup != "gap"]
    for at, (kind, text) in enumerate(tokens):
        if kind != "word":
            continue
        if text in _ANYWHERE or (text in _AFTER_DOT and at and tokens[at - 1][1] == "."):
            return text
        if text == "getattr" and not _is_harmless_getattr(tokens, at + 1):
            return "getattr"
    return ""


def _is_harmless_getattr(tokens: Sequence[tuple[str, str]], at: int) -> bool:
    """Whether ``getattr(..., "name")`` has one plain text as its name: texts side by side are put together."""
    depth = 0
    for index in range(at, len(tokens)):
        mark = tokens[index][1]
        if mark in ("(", "[", "{"):
            depth += 1
        elif mark in (")", "]", "}"):
            depth -= 1
        if depth == 0:
            kind, name = tokens[index - 1]
            plain = kind == "text" and "\\" not in name and name.strip("\"'") not in _FORBIDDEN
            return plain and tokens[index - 2][1] == ","
    return False


def _refusal(spec: ModelSpec, what: str) -> CodeNotAllowed:
    return CodeNotAllowed(
        f"model {spec.name!r}: the TorchScript code in {spec.path} {what}, which isn't allowed; if you trust the file, "
        "set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
    )
