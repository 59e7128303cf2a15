"""Unpacking a model archive (a zip file), which may be made by an enemy."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from salver.core.errors import InvalidArtifact

MAX_ENTRIES = 20_000
MAX_DEPTH = 32
LEAST_BYTES = 1 << 30
"""What any archive may unpack to; larger ones to 20 times their size: weights are hardly compressible."""
MAX_RATIO = 20
_CHUNK = 1 << 20


def unpack(archive: Path, target: Path, *, max_bytes: int | None = None) -> None:
    """Unpack an archive into an empty folder. Nothing is written where something in it is refused.

    Args:
        archive: the zip file.
        target: exists, and is empty.
        max_bytes: of all files together; by default the larger of 1 GiB and 20 times the archive's size.

    Raises:
        InvalidArtifact: it isn't a zip file, is damaged or encrypted, has too many or too large files for the limit or
            the disk, or names that lead out of the folder, links, or two files of one name.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            limit = max(LEAST_BYTES, MAX_RATIO * archive.stat().st_size) if max_bytes is None else max_bytes
            for entry, path in _checked(archive, opened, limit, target):
                _extract(opened, entry, target / path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InvalidArtifact(f"{archive} isn't a whole zip file: {error}") from None
    except OSError as error:
        raise InvalidArtifact(f"{archive} can't be unpacked to {target}: {error.strerror or error}") from None


def _checked(
    archive: Path, opened: zipfile.ZipFile, limit: int, target: Path
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    if len(entries) > MAX_ENTRIES:
        raise InvalidArtifact(f"{archive} has {len(entries)} files in it, more than the {MAX_ENTRIES} that it may have")
    total = sum(entry.file_size for entry in entries)
    if total > limit:
        raise InvalidArtifact(
            f"{archive} would unpack to {total} bytes, more than the {limit} that it may take; where it is to be "
            "trusted, set 'max_unpacked_bytes' in its options"
        )
    if total > (free := shutil.disk_usage(target).free):
        raise InvalidArtifact(f"{archive} unpacks to {total} bytes, and {target} has {free} left")
    found: dict[str, tuple[zipfile.ZipInfo, PurePosixPath]] = {}
    for entry in entries:
        path = PurePosixPath(entry.filename)
        mode = entry.external_attr >> 16
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or not path.parts:
            raise InvalidArtifact(f"{archive} has a file whose name leads out of it: {entry.filename[:200]!r}")
        if len(path.parts) > MAX_DEPTH or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
            what = "is too deep in folders" if len(path.parts) > MAX_DEPTH else "is a link or a device"
            raise InvalidArtifact(f"{archive} has a file that {what}: {entry.filename[:200]!r}")
        if str(path) in found:
            raise InvalidArtifact(f"{archive} has two files named {entry.filename[:200]!r}")
        found[str(path)] = (entry, path)
    return list(found.values())


def _extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as source, path.open("xb") as file:
        while chunk := source.read(_CHUNK):  # never more than the size that was counted
            file.write(chunk)
