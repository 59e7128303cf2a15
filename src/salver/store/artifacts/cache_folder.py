"""The folder of a disk cache: where what lies, how it gets there, and what is whole.

``artifacts/<digest>/`` has an artifact's files, as hard links to ``blobs/<sha256>`` or to the blobs of a store on the
same file system. ``entries/<digest>.json`` says what is in an artifact's folder; its time of change is the last use.
``partial/`` has what isn't whole yet.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from salver.core.artifact import ArtifactFile, Manifest
from salver.store.artifacts.hashing import hash_file

READ_ONLY = 0o444
TEMPORARY = (".json", ".probe", ".link")
"""How files in ``partial`` end that live for a moment only."""
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Entry:
    """An artifact in the cache.

    Attributes:
        files: what it has.
        times: when each file was changed, in nanoseconds, at the time it was checked.
        boot: the boot of the machine in which they were checked. Files are not synced to the disk, so that a crash of
            the machine may have spoiled them.
        linked: whether all files are links to the store's own, which cost no space.
    """

    files: tuple[ArtifactFile, ...]
    times: tuple[int, ...]
    boot: str
    linked: bool


class CacheFolder:
    """Paths and single steps; who does what when is the business of DiskCache and Room."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.artifacts = root / "artifacts"
        self.entries = root / "entries"
        self.partial = root / "partial"
        self.locks = root / "locks"
        self._links: bool | None = None

    def make(self) -> None:
        """Make the folders that aren't there. Raises OSError."""
        for folder in (self.blobs, self.artifacts, self.entries, self.partial, self.locks):
            folder.mkdir(parents=True, exist_ok=True)

    def can_link(self) -> bool:
        """Whether the folder's file system knows hard links. Raises OSError."""
        if self._links is None:
            probe = self.partial / f"{uuid.uuid4().hex}.probe"
            other = probe.with_suffix(".link")
            try:
                probe.touch()
                self._links = link(probe, other)
            finally:
                probe.unlink(missing_ok=True)
                other.unlink(missing_ok=True)
        return self._links

    def entry(self, digest: str) -> Entry | None:
        """What is known of an artifact; None where it isn't there as a whole."""
        try:
            said = json.loads((self.entries / f"{digest}.json").read_bytes())
            files = tuple(ArtifactFile(*file) for file in said["files"])
            entry = Entry(files, tuple(said["times"]), said["boot"], said["linked"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry if len(entry.times) == len(files) and (self.artifacts / digest).is_dir() else None

    def write_entry(self, digest: str, entry: Entry) -> None:
        """Say what is in an artifact's folder. Raises OSError."""
        said = {
            "files": [[file.path, file.size, file.sha256] for file in entry.files],
            "times": entry.times,
            "boot": entry.boot,
            "linked": entry.linked,
        }
        temporary = self.partial / f"{digest}.{uuid.uuid4().hex}.json"
        try:
            temporary.write_text(json.dumps(said))
            temporary.replace(self.entries / f"{digest}.json")
        finally:
            temporary.unlink(missing_ok=True)

    def touch(self, digest: str) -> None:
        """Note that an artifact is used."""
        with contextlib.suppress(OSError):
            os.utime(self.entries / f"{digest}.json")

    def is_whole(self, digest: str, entry: Entry) -> bool:
        """Whether an artifact's files are those that were checked; reads them where that isn't certain."""
        folder, times = self.artifacts / digest, []
        for file, time in zip(entry.files, entry.times, strict=True):
            try:
                status = (folder / file.path).stat()
                if status.st_size != file.size:
                    return False
                if (status.st_mtime_ns != time or entry.boot != boot()) and hash_file(folder / file.path)[
                    1
                ] != file.sha256:
                    return False
            except OSError:
                return False
            times.append(status.st_mtime_ns)
        if tuple(times) != entry.times or entry.boot != boot():
            with contextlib.suppress(OSError):
                self.write_entry(digest, Entry(entry.files, tuple(times), boot(), entry.linked))
        return True

    @contextlib.contextmanager
    def staged(self, digest: str) -> Iterator[Path]:
        """A new folder for an artifact's files, which is gone afterwards if it wasn't put in place. Raises OSError."""
        folder = self.partial / f"{digest}.artifact"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, staged: Path, digest: str, manifest: Manifest, *, linked: bool) -> Path:
        """Make a staged folder the artifact's, in one step. Raises OSError."""
        times = tuple((staged / file.path).stat().st_mtime_ns for file in manifest.files)
        self.write_entry(digest, Entry(manifest.files, times, boot(), linked))
        target = self.artifacts / digest
        staged.rename(target)
        return target

    def take_away(self, digest: str) -> None:
        """Remove an artifact; whoever has its files open keeps them. Raises OSError."""
        trash = self.partial / f"{digest}.{uuid.uuid4().hex}.trash"
        with contextlib.suppress(FileNotFoundError):
            (self.artifacts / digest).rename(trash)
        (self.entries / f"{digest}.json").unlink(missing_ok=True)
        shutil.rmtree(trash, ignore_errors=True)


def link(source: Path, target: Path) -> bool:
    """Make a hard link; False where the file system can't. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def copy(source: Path, target: Path) -> None:
    """Copy a file within the cache. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(READ_ONLY)


@cache
def boot() -> str:
    """Names the time since the machine was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
