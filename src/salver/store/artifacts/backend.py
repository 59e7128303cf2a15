"""What the artifact store asks of the place where its files lie: a folder, an object store, a web server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from salver.core.artifact import ArtifactFile


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file at the URL.

    Attributes:
        path: below the URL, with "/" between its parts; "" for the URL itself.
        size: in bytes; None where the place doesn't tell.
        modified: seconds since the epoch; None where the place doesn't tell.
        state: changes when the content does; "" where the place doesn't tell (an ETag, a commit, a time).
        ranges: whether parts of it can be read.
        sha256: of the content, where the place knows it; else "".
    """

    path: str
    size: int | None
    modified: float | None = None
    state: str = ""
    ranges: bool = True
    sha256: str = ""


class Backend(Protocol):
    """Files below one URL. Paths are relative, with "/" between their parts.

    Every method may raise StoreUnavailable. Methods are called on threads, several at a time.
    """

    @property
    def name(self) -> str:
        """The URL without its secrets, for messages."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        ...

    def info(self, path: str) -> StoredFile | None:
        """What is known of a file; None where there is none."""
        ...

    def read(self, path: str, start: int, end: int) -> bytes:
        """The bytes from ``start`` up to ``end``, fewer where the file ends. Raises FileNotFoundError."""
        ...

    def stream(self, path: str) -> Iterator[bytes]:
        """The whole content, in parts. Raises FileNotFoundError."""
        ...

    def list(self, folder: str) -> list[StoredFile]:
        """All files below a folder, at any depth; none where it doesn't exist."""
        ...

    def put_file(self, source: Path, file: ArtifactFile, path: str, *, consume: bool) -> None:
        """Store a file: durable, and visible at once or not at all.

        Args:
            source: where it lies now.
            file: what its size and SHA-256 have to be.
            path: where it goes.
            consume: whether ``source`` may be moved.

        Raises:
            InvalidArtifact: it isn't what ``file`` says.
        """
        ...

    def put_bytes(self, data: bytes, path: str) -> None:
        """Store a small file: durable, and visible at once or not at all."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens where there is none."""
        ...

    def close(self) -> None:
        """End its connections; it must not be used any more."""
        ...

    def local(self, path: str) -> Path | None:
        """The file itself, where the URL is a folder here."""
        ...
