"""Room in a disk cache: how much is used, and what goes when more is needed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from salver.core.artifact import ArtifactFile
from salver.core.errors import Overloaded
from salver.store.artifacts.cache_folder import TEMPORARY, CacheFolder
from salver.store.artifacts.locks import KeyLocks
from salver.store.artifacts.transfer import chunk_log, reserve

LOW_WATER = 0.9
"""The share of the limit down to which is evicted at a time, so that the next ones needn't."""
_ESTIMATE_SECONDS = 10.0
_ESTIMATED_BYTES = 64 << 20
_LOCK_SECONDS = 300.0
_TEMPORARY_SECONDS = 60.0
_KEY = "0" * 15


@dataclass(frozen=True, slots=True)
class CachedArtifact:
    """An artifact in the cache.

    Attributes:
        digest: its name.
        size: bytes of its files, some of which others may share.
        last_used: seconds since the epoch.
        held: whether a process uses it, so that it stays.
    """

    digest: str
    size: int
    last_used: float
    held: bool


class Room:
    """Keeps a cache's folder within its limit; several processes may do so at a time.

    What counts are blobs, and partial files with the size that they will have: a download takes its room before it
    begins.
    """

    def __init__(
        self, folder: CacheFolder, *, max_bytes: int, holds: KeyLocks, fetches: KeyLocks, blobs: KeyLocks
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._holds = holds
        self._fetches = fetches
        self._blobs = blobs
        self._lock = KeyLocks(folder.locks / "room")
        self._estimate = (0, -_ESTIMATE_SECONDS)

    def used_bytes(self) -> int:
        """Bytes on disk."""
        used = sum(status.st_size for _, status in _files(self._folder.blobs))
        used += sum(status.st_size for _, status in _files(self._folder.partial))
        if self._folder.partial.is_dir() and not self._folder.can_link():
            used += sum(
                os.stat(os.path.join(top, name)).st_size
                for top, _, names in os.walk(self._folder.artifacts)
                for name in names
            )
        return used

    def contents(self) -> list[CachedArtifact]:
        """What is in the cache, the least recently used first."""
        found = []
        for digest, used in self._least_recently_used():
            entry = self._folder.entry(digest)
            if entry is not None:
                free = self._holds.try_lock(digest, exclusive=True)
                if free:
                    self._holds.unlock(digest)
                size = sum(file.size for file in entry.files)
                found.append(CachedArtifact(digest, size, used, held=not free))
        return found

    def take(self, files: Sequence[ArtifactFile]) -> None:
        """Take the room for blobs that will be downloaded; evicts what was least recently used.

        Raises:
            Overloaded: what is in use leaves too little.
            OSError: the disk is full, or can't be written.
        """
        with self._lock.locked(_KEY, seconds=_LOCK_SECONDS):
            missing = [file for file in files if not (self._folder.blobs / file.sha256).exists()]
            need = sum(file.size - self._partial_bytes(file) for file in missing)
            used, scanned = self._estimate
            is_old = time.monotonic() - scanned > _ESTIMATE_SECONDS
            if is_old or need > _ESTIMATED_BYTES or used + need > self._max_bytes:
                used, scanned = self.used_bytes(), time.monotonic()
            if used + need > self._max_bytes:
                rest = int(LOW_WATER * self._max_bytes) - need
                used -= self._free(used - (rest if rest >= 0 else self._max_bytes - need), keep=files)
                if used + need > self._max_bytes:
                    raise Overloaded(
                        f"the disk cache {self._folder.root} is full: {used:,} of {self._max_bytes:,} bytes are in "
                        f"use, {need:,} more are needed; unload models, or allow it more"
                    )
            self._reserve(missing, need)
            self._estimate = (used + need, scanned)

    def tidy(self) -> None:
        """Remove what killed processes left and nobody can use any more; downloads can be gone on with."""
        partial = self._folder.partial
        for trash in partial.glob("*.trash"):
            shutil.rmtree(trash, ignore_errors=True)
        for staged in partial.glob("*.artifact"):
            if self._fetches.try_lock(staged.stem, exclusive=True):
                shutil.rmtree(staged, ignore_errors=True)
                self._fetches.unlock(staged.stem)
        for name, status in _files(partial):
            if name.endswith(TEMPORARY) and status.st_mtime < time.time() - _TEMPORARY_SECONDS:
                (partial / name).unlink(missing_ok=True)

    def evict(self, digest: str) -> int | None:
        """Remove an artifact and the blobs that only it has; bytes freed. None where it is in use."""
        if not self._holds.try_lock(digest, exclusive=True):
            return None
        try:
            entry = self._folder.entry(digest)
            self._folder.take_away(digest)
        finally:
            self._holds.unlock(digest)
        if entry is None or entry.linked:
            return 0
        if not self._folder.can_link():
            return sum(file.size for file in entry.files)
        return sum(self._drop_blob(sha256) for sha256 in {file.sha256 for file in entry.files})

    def close(self) -> None:
        """Close the lock."""
        self._lock.close()

    def give_back(self, files: Sequence[ArtifactFile]) -> None:
        """Remove the partial files of downloads that failed for lack of space."""
        for file in files:
            self._drop_partial(file.sha256)

    def _reserve(self, missing: Sequence[ArtifactFile], need: int) -> None:
        partial = self._folder.partial
        for attempt in range(2):
            try:
                for file in missing:
                    reserve(partial / file.sha256, file.size)
                return
            except OSError as error:
                # The disk is smaller than the limit: what isn't used goes first.
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or attempt or not self._free(need, keep=missing):
                    self.give_back(missing)
                    raise

    def _free(self, count: int, *, keep: Sequence[ArtifactFile]) -> int:
        """Free so many bytes, or as many as nobody uses; the number freed."""
        freed = self._clean({file.sha256 for file in keep})
        for digest, _ in self._least_recently_used():
            if freed >= count:
                break
            entry = self._folder.entry(digest)
            if entry is None or not entry.linked:
                freed += self.evict(digest) or 0
        return freed

    def _clean(self, keep: set[str]) -> int:
        """Remove what killed processes left: downloads that nobody goes on with, blobs of no artifact."""
        self.tidy()
        freed = 0
        for name, status in _files(self._folder.partial):
            sha256 = name.partition(".")[0]
            if sha256 in keep or len(sha256) != 64:
                continue
            if name == sha256:
                freed += status.st_size if self._drop_partial(sha256) else 0
            elif name.endswith(".chunks") and not (self._folder.partial / sha256).exists():
                self._drop_partial(sha256)
        if self._folder.can_link():
            for name, status in _files(self._folder.blobs):
                if status.st_nlink == 1 and name not in keep:
                    freed += self._drop_blob(name)
        return freed

    def _drop_blob(self, sha256: str) -> int:
        """Remove a blob that no artifact has; bytes freed."""
        if not self._blobs.try_lock(sha256, exclusive=True):
            return 0
        try:
            blob = self._folder.blobs / sha256
            status = blob.stat()
            if status.st_nlink > 1:
                return 0
            blob.unlink()
        except FileNotFoundError:
            return 0
        finally:
            self._blobs.unlock(sha256)
        return status.st_size

    def _drop_partial(self, sha256: str) -> bool:
        """Remove a partial file that nobody writes."""
        if not self._blobs.try_lock(sha256, exclusive=True):
            return False
        try:
            with contextlib.suppress(OSError):
                chunk_log(self._folder.partial / sha256).unlink(missing_ok=True)
                (self._folder.partial / sha256).unlink(missing_ok=True)
        finally:
            self._blobs.unlock(sha256)
        return True

    def _partial_bytes(self, file: ArtifactFile) -> int:
        try:
            return min(file.size, (self._folder.partial / file.sha256).stat().st_size)
        except OSError:
            return 0

    def _least_recently_used(self) -> list[tuple[str, float]]:
        """Digests and times of their last use, the oldest first."""
        found = [(status.st_mtime, name.removesuffix(".json")) for name, status in _files(self._folder.entries)]
        return [(digest, used) for used, digest in sorted(found)]


def _files(folder: os.PathLike[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Names and states of the files directly in a folder."""
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        # What scandir itself tells has no number of links on some file systems.
                        yield entry.name, os.stat(entry.path)
    except FileNotFoundError:
        return
