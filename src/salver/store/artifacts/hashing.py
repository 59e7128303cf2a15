"""SHA-256 of files: read alone, or while they are copied."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from salver.core.artifact import ArtifactFile
from salver.core.errors import InvalidArtifact

BLOCK = 1 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_sha256(text: str) -> str:
    """The text itself, if it is a SHA-256 in lower-case hexadecimal digits. Raises InvalidArtifact."""
    if _SHA256.fullmatch(text) is None:
        raise InvalidArtifact(f"{text[:80]!r} is not a SHA-256: 64 lower-case hexadecimal digits")
    return text


def hash_file(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return _hash(file, None, on_bytes)


def copy_hashed(source: Path, target: BinaryIO) -> tuple[int, str]:
    """Copy a file; size in bytes and SHA-256 of what was copied. Raises OSError."""
    with source.open("rb", buffering=0) as file:
        return _hash(file, target, None)


def check(found: tuple[int, str], file: ArtifactFile) -> None:
    """Hold size and SHA-256 against what they have to be. Raises InvalidArtifact."""
    size, sha256 = found
    if size != file.size:
        raise InvalidArtifact(f"{file.path!r} has {size} bytes; {file.size} were announced")
    if sha256 != file.sha256:
        raise InvalidArtifact(f"{file.path!r} has the SHA-256 {sha256[:12]}...; {file.sha256[:12]}... was announced")


def _hash(source: FileIO, target: BinaryIO | None, on_bytes: Callable[[int], None] | None) -> tuple[int, str]:
    digest, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(BLOCK))
    while count := source.readinto(buffer):
        part = buffer[:count]
        digest.update(part)
        if target is not None:
            target.write(part)
        size += count
        if on_bytes is not None:
            on_bytes(count)
    return size, digest.hexdigest()
