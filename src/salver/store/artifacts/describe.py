"""From files on disk to a manifest."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from salver.core.artifact import MAX_FILES, ArtifactFile, Manifest, check_artifact_path, manifest_of
from salver.core.errors import InvalidArtifact
from salver.store.artifacts.hashing import hash_file
from salver.store.files import MAX_DEPTH, entries, printable


def describe(path: Path, *, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """The manifest of a file, or of all files in a folder, which are read for it.

    Hidden and unfinished files are left out. Links are followed, none out of the folder.

    Args:
        path: the file or folder. A file's manifest has its name as the one path.
        progress: called with the bytes read, and all bytes.

    Raises:
        InvalidArtifact: it isn't there or can't be read, has no files, too many, or one that leads out of the folder,
            or one that changed while it was read.
    """
    try:
        found = list(_files(path)) if path.is_dir() else [(path.name, path, _regular(path))]
        total, done = sum(status.st_size for _, _, status in found), 0
        described: list[ArtifactFile] = []

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, max(total, done))

        for name, each, before in found:
            check_artifact_path(name)
            size, sha256 = hash_file(each, on_bytes=on_bytes)
            after = each.stat()
            if size != before.st_size or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                raise InvalidArtifact(f"{printable(each)} changed while it was read; wait until it is written")
            described.append(ArtifactFile(name, size, sha256))
    except OSError as error:
        place = printable(error.filename or path)
        raise InvalidArtifact(f"{place}: can't be read: {error.strerror or error}") from None
    if not described:
        raise InvalidArtifact(f"{printable(path)} has no files that could be a model's")
    return manifest_of(described)


def _files(folder: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Relative name, path and status of each file in a folder."""
    inside = folder.resolve()
    waiting: list[tuple[Path, str, int]] = [(folder, "", 0)]
    count = 0
    while waiting:
        current, prefix, depth = waiting.pop()
        for entry in entries(current):
            count += 1
            if depth > MAX_DEPTH or count > 2 * MAX_FILES:
                raise InvalidArtifact(
                    f"{printable(folder)}: more than {MAX_FILES} files or {MAX_DEPTH} levels of folders, or "
                    "a link that leads back to itself"
                )
            path = Path(entry.path)
            if entry.is_symlink() and not path.resolve().is_relative_to(inside):
                raise InvalidArtifact(f"{printable(path)} is a link that leads out of the folder; copy the file there")
            if entry.is_dir():
                waiting.append((path, f"{prefix}{entry.name}/", depth + 1))
            else:
                yield prefix + entry.name, path, _regular(path)


def _regular(path: Path) -> os.stat_result:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArtifact(f"{printable(path)} is neither a file nor a folder")
    return status
