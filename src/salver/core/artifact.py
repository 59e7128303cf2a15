"""Artifacts as plain values: which files they have, and the digest that names one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from salver.core.errors import InvalidArtifact

MAX_FILES = 20_000
"""Files that an artifact may have."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_PATH = 1024
_MAX_NAME = 255  # bytes; what file systems take
_MAX_PARTS = 33


@dataclass(frozen=True, slots=True, order=True)
class ArtifactFile:
    """One file of an artifact.

    Attributes:
        path: relative, with "/" between its parts.
        size: in bytes.
        sha256: of its content, in lower-case hexadecimal digits.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of an artifact, by path.

    Attributes:
        files: in order of their paths. Make one with :func:`manifest_of`, which checks them.
    """

    files: tuple[ArtifactFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """The SHA-256 of the paths, sizes and contents of all files: the same files have the same digest."""
        lines = [[file.path, file.size, file.sha256] for file in self.files]
        return hashlib.sha256(json.dumps(lines, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def manifest_of(files: Iterable[ArtifactFile]) -> Manifest:
    """A manifest of files that may come from anywhere.

    Raises:
        InvalidArtifact: there are none or too many, a path is unsafe or there twice or is a folder of another one, a
            size or digest can't be one.
    """
    ordered = tuple(sorted(files))
    if not ordered:
        raise InvalidArtifact("the artifact has no files")
    if len(ordered) > MAX_FILES:
        raise InvalidArtifact(f"the artifact has {len(ordered)} files; {MAX_FILES} are allowed")
    for file in ordered:
        check_artifact_path(file.path)
        if type(file.size) is not int or file.size < 0:
            raise InvalidArtifact(f"{file.path!r}: a size is a number of bytes, got {file.size!r}")
        if _SHA256.fullmatch(file.sha256) is None:
            raise InvalidArtifact(f"{file.path!r}: a SHA-256 has 64 lower-case hexadecimal digits")
    # With the separator before all other characters, what is in a folder follows the folder's own path.
    for path, following in pairwise(sorted(file.path.replace("/", "\0") for file in ordered)):
        shown = path.replace("\0", "/")
        if path == following:
            raise InvalidArtifact(f"the artifact has {shown!r} twice")
        if following.startswith(path + "\0"):
            raise InvalidArtifact(f"the artifact has {shown!r} as a file and as a folder")
    return Manifest(ordered)


def check_artifact_path(path: str) -> str:
    """The path itself, if a file of an artifact may have it.

    Raises:
        InvalidArtifact: it is absolute, leads elsewhere, is too long, or has characters that no path should have.
    """
    parts = path.split("/")
    unsafe = any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable()
    shown = repr(path if len(path) <= 80 else path[:77] + "...")
    if unsafe:
        raise InvalidArtifact(f"{shown} can't be a path in an artifact: relative, '/' between names, no '.' or '..'")
    longest = max(len(part.encode()) for part in parts)
    if longest > _MAX_NAME or len(path.encode()) > _MAX_PATH or len(parts) > _MAX_PARTS:
        raise InvalidArtifact(
            f"{shown} can't be a path in an artifact: {_MAX_PATH} bytes and {_MAX_PARTS - 1} folders at most, and "
            f"{_MAX_NAME} bytes a name"
        )
    return path
