"""Artifacts on the server's own disk: fetched once, however many threads and processes want them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from salver.core.artifact import ArtifactFile, Manifest
from salver.core.errors import InvalidArtifact, LoadError, ModelUnavailable
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.cache_folder import READ_ONLY, CacheFolder, copy, link
from salver.store.artifacts.flights import Flights, Progress
from salver.store.artifacts.hashing import check_sha256, hash_file
from salver.store.artifacts.locks import KeyLocks
from salver.store.artifacts.parallel import Count, Part, in_parallel
from salver.store.artifacts.retries import disk_error
from salver.store.artifacts.room import CachedArtifact, Room
from salver.store.artifacts.transfer import CHUNK, Cancelled, WrongSize, chunk_log, fill

LOCK_SECONDS = 3600.0
"""How long another process may take for a download that this one waits for."""
_MAX_CHECKED = 100_000


class DiskCache:
    """A folder with the artifacts of a store that this machine uses, within a limit.

    Several processes may share the folder. Files are shared by the artifacts that have them, and with a store on the
    same file system. They are read-only. Methods block and may be called on any thread; not in a process that was
    forked while another thread called one.
    """

    def __init__(self, folder: Path, *, max_bytes: int, store: ArtifactStore) -> None:
        """Neither makes the folder nor connects to anything.

        Args:
            folder: made when it is needed first.
            max_bytes: what it may use; links to the files of a store on the same file system cost nothing.
            store: where artifacts come from.
        """
        self._folder = CacheFolder(folder.absolute())
        self._store = store
        self._max_bytes = max_bytes
        self._holds = KeyLocks(self._folder.locks / "holds")
        self._fetches = KeyLocks(self._folder.locks / "fetches")
        self._blobs = KeyLocks(self._folder.locks / "blobs")
        self._room = Room(
            self._folder, max_bytes=max_bytes, holds=self._holds, fetches=self._fetches, blobs=self._blobs
        )
        self._flights = Flights()
        self._tidied = False
        self._checked: dict[str, tuple[int, int, int, int]] = {}

    def fetch(
        self, digest: str, *, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Path:
        """The folder with an artifact's files, downloaded if need be. It may be evicted; see :meth:`hold`.

        Args:
            digest: the artifact's.
            progress: called with the bytes that are there, and all bytes; on any thread.
            cancelled: asked now and then whether to give up; what came so far is kept for the next time.

        Raises:
            InvalidArtifact: the store hasn't got it, or its bytes are wrong.
            LoadError: it is larger than the cache may be.
            Overloaded: what is in use leaves too little room.
            StoreUnavailable: the store can't be reached, or the disk is full or can't be written.
            ModelUnavailable: ``cancelled`` said so.
        """
        with self.holding(digest, progress=progress, cancelled=cancelled) as path:
            return path

    def hold(
        self, digest: str, *, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Path:
        """Like :meth:`fetch`, and the artifact stays until as many :meth:`release` as holds have come.

        When the process ends, however it does, its holds end.
        """
        check_sha256(digest)
        gives_up = cancelled or _never
        try:
            self._folder.make()
            if not self._holds.lock(digest, exclusive=False, seconds=LOCK_SECONDS, cancelled=gives_up):
                raise Cancelled
            try:
                return self._whole(digest) or self._flights.run(
                    digest, lambda tell: self._get(digest, tell, gives_up), progress=progress, cancelled=gives_up
                )
            except BaseException:
                self._holds.unlock(digest)
                raise
        except Cancelled:
            raise ModelUnavailable("the download was given up, since nobody waits for it any more") from None
        except OSError as error:
            raise disk_error(error, f"the disk cache {self._folder.root}") from None

    def hold_if_here(self, digest: str) -> Path | None:
        """Like :meth:`hold` where no download is needed; None, and no hold, where one is.

        Raises:
            StoreUnavailable: the disk can't be written.
        """
        check_sha256(digest)
        try:
            if not self._holds.lock(digest, exclusive=False, seconds=LOCK_SECONDS, cancelled=_never):
                return None
            path = None
            try:
                path = self._whole(digest)
                return path
            finally:
                if path is None:
                    self._holds.unlock(digest)
        except OSError as error:
            raise disk_error(error, f"the disk cache {self._folder.root}") from None

    def release(self, digest: str) -> None:
        """End a hold."""
        self._holds.unlock(digest)

    @contextlib.contextmanager
    def holding(
        self, digest: str, *, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[Path]:
        """Hold an artifact for a while."""
        path = self.hold(digest, progress=progress, cancelled=cancelled)
        try:
            yield path
        finally:
            self.release(digest)

    def remove(self, digest: str) -> bool:
        """Remove an artifact that isn't needed any more; False where it is in use, by whatever process.

        Raises:
            StoreUnavailable: the disk can't be written.
        """
        check_sha256(digest)
        try:
            self._folder.make()
            return self._room.evict(digest) is not None
        except OSError as error:
            raise disk_error(error, f"the disk cache {self._folder.root}") from None

    def close(self) -> None:
        """End all holds; the cache must not be used any more. The store is its owner's to close."""
        for locks in (self._holds, self._fetches, self._blobs):
            locks.close()
        self._room.close()

    def used_bytes(self) -> int:
        """Bytes on disk, unfinished downloads counted as a whole. Raises StoreUnavailable."""
        try:
            return self._room.used_bytes()
        except OSError as error:
            raise disk_error(error, f"the disk cache {self._folder.root}") from None

    def contents(self) -> list[CachedArtifact]:
        """What is in the cache, the least recently used first. Raises StoreUnavailable."""
        try:
            self._folder.make()
            return self._room.contents()
        except OSError as error:
            raise disk_error(error, f"the disk cache {self._folder.root}") from None

    def _whole(self, digest: str) -> Path | None:
        """The artifact's folder, if it is there and all its files are what they were."""
        entry = self._folder.entry(digest)
        if entry is None or not self._folder.is_whole(digest, entry):
            return None
        self._folder.touch(digest)
        return self._folder.artifacts / digest

    def _get(self, digest: str, tell: Progress, cancelled: Callable[[], bool]) -> Path:
        """Get an artifact, unless another process has done it in the meantime."""
        if not self._fetches.lock(digest, exclusive=True, seconds=LOCK_SECONDS, cancelled=cancelled):
            raise Cancelled
        try:
            if (path := self._whole(digest)) is not None:
                return path
            if not self._tidied:
                self._room.tidy()
                self._tidied = True
            self._folder.take_away(digest)  # what is left of it, or was spoiled
            manifest = self._store.manifest(digest)
            with self._folder.staged(digest) as staged:
                rest = self._link_from_store(manifest, staged)
                if rest:
                    self._download(rest, staged, manifest, tell, cancelled)
                return self._folder.place(staged, digest, manifest, linked=not rest)
        finally:
            self._fetches.unlock(digest)

    def _link_from_store(self, manifest: Manifest, staged: Path) -> list[ArtifactFile]:
        """Link what can be linked to the store's own files; the files for which it couldn't be done."""
        for index, file in enumerate(manifest.files):
            blob = self._store.local_blob(file.sha256)
            if blob is None or not link_or_missing(blob, staged / file.path, self._store.missing(file.sha256)):
                return list(manifest.files[index:])
            if not self._is_right(staged / file.path, file):
                raise InvalidArtifact(f"{blob} is corrupt; remove it, and push the model again")
        return []

    def _download(
        self,
        files: Sequence[ArtifactFile],
        staged: Path,
        manifest: Manifest,
        tell: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        blobs = {file.sha256: file for file in files}
        total = sum(file.size for file in blobs.values())
        if total > self._max_bytes:
            raise LoadError(
                f"the artifact has {total:,} bytes; the disk cache {self._folder.root} may have {self._max_bytes:,}"
            )
        self._room.take(list(blobs.values()))
        paths: dict[str, list[Path]] = {}
        for file in files:
            paths.setdefault(file.sha256, []).append(staged / file.path)
        done = Count(total, tell)

        def get(file: ArtifactFile) -> None:
            self._get_blob(file, paths[file.sha256], done, cancelled)

        small = [file for file in blobs.values() if file.size <= CHUNK]
        try:
            in_parallel(get, small)
            for file in blobs.values():
                if file.size > CHUNK:
                    get(file)
        except OSError:
            self._room.give_back(list(blobs.values()))
            raise

    def _get_blob(self, file: ArtifactFile, paths: Sequence[Path], done: Count, cancelled: Callable[[], bool]) -> None:
        """Bring a blob into the cache, and to all places in an artifact where it belongs."""
        if not self._blobs.lock(file.sha256, exclusive=True, seconds=LOCK_SECONDS, cancelled=cancelled):
            raise Cancelled
        try:
            blob = self._folder.blobs / file.sha256
            if self._is_right(blob, file):
                _remove_partial(self._folder.partial / file.sha256)
                done.add(file.size)
            else:
                self._download_blob(file, blob, done, cancelled)
            if not self._folder.can_link():
                for path in paths[:-1]:
                    copy(blob, path)
                paths[-1].parent.mkdir(parents=True, exist_ok=True)
                blob.rename(paths[-1])
                return
            for path in paths:
                if not link(blob, path):
                    copy(blob, path)  # the file has all the links that one can have
        finally:
            self._blobs.unlock(file.sha256)

    def _download_blob(self, file: ArtifactFile, blob: Path, done: Count, cancelled: Callable[[], bool]) -> None:
        partial = self._folder.partial / file.sha256
        source = self._store.source(file.sha256)
        for _ in range(2):
            came = Part(done)
            try:
                sha256 = fill(partial, source, file.size, on_bytes=came.add, cancelled=cancelled)
            except WrongSize:
                sha256 = ""
            except FileNotFoundError:
                raise self._store.missing(file.sha256) from None
            if sha256 == file.sha256:
                partial.chmod(READ_ONLY)
                partial.replace(blob)
                chunk_log(partial).unlink(missing_ok=True)
                self._note(blob, file)
                return
            # Wrong bytes came, or a crash had spoiled what was there: once more from the start.
            _remove_partial(partial)
            came.take_back()
        raise InvalidArtifact(
            f"{self._store.name}: blobs/{file.sha256} ({file.path!r}) is corrupt; remove it, and push the model again"
        )

    def _is_right(self, path: Path, file: ArtifactFile) -> bool:
        """Whether a file has the right bytes; read once as long as it doesn't change."""
        try:
            if self._checked.get(file.sha256) == _state(path):
                return True
            if hash_file(path) != (file.size, file.sha256):
                path.unlink()
                return False
        except FileNotFoundError:
            return False
        self._note(path, file)
        return True

    def _note(self, path: Path, file: ArtifactFile) -> None:
        if len(self._checked) >= _MAX_CHECKED:
            self._checked.clear()
        self._checked[file.sha256] = _state(path)


def _remove_partial(partial: Path) -> None:
    chunk_log(partial).unlink(missing_ok=True)
    partial.unlink(missing_ok=True)


def link_or_missing(blob: Path, target: Path, missing: InvalidArtifact) -> bool:
    """Make a hard link; False where the file system can't. Raises ``missing`` where there is no such file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        return link(blob, target)
    except FileNotFoundError:
        raise missing from None


def _state(path: Path) -> tuple[int, int, int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _never() -> bool:
    return False
