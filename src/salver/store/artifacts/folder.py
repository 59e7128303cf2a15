"""A folder as the place where an artifact store's files lie."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from salver.core.artifact import ArtifactFile
from salver.store.artifacts.backend import StoredFile
from salver.store.artifacts.hashing import BLOCK, check, copy_hashed, hash_file
from salver.store.artifacts.retries import disk_error

INCOMING = "incoming"
"""The folder in which files are written before they are put in place."""

_READ_ONLY = 0o444


class FolderBackend:
    """Files in a folder, which is made by the first file that is put there."""

    read_only = False

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = str(root)

    def info(self, path: str) -> StoredFile | None:
        try:
            status = (self._root / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise disk_error(error, f"{self.name}/{path}") from None
        return _stored(path, status) if stat.S_ISREG(status.st_mode) else None

    def read(self, path: str, start: int, end: int) -> bytes:
        try:
            with (self._root / path).open("rb", buffering=0) as file:
                file.seek(start)
                parts: list[bytes] = []
                missing = end - start
                while missing > 0 and (part := file.read(min(missing, 1 << 30))):
                    parts.append(part)
                    missing -= len(part)
                return b"".join(parts) if len(parts) != 1 else parts[0]
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk_error(error, f"{self.name}/{path}") from None

    def stream(self, path: str) -> Iterator[bytes]:
        with (self._root / path).open("rb", buffering=0) as file:
            while part := file.read(BLOCK):
                yield part

    def list(self, folder: str) -> list[StoredFile]:
        top = self._root / folder if folder else self._root
        found: list[StoredFile] = []
        for current, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = Path(current, name)
                with contextlib.suppress(FileNotFoundError):
                    found.append(_stored(path.relative_to(self._root).as_posix(), path.stat()))
        return found

    def put_file(self, source: Path, file: ArtifactFile, path: str, *, consume: bool) -> None:
        with self._incoming() as temporary:
            if not (consume and self._move(source, file, temporary)):
                with temporary.open("xb", buffering=0) as target:
                    check(copy_hashed(source, target), file)
                    os.fsync(target.fileno())
            self._place(temporary, path)

    def put_bytes(self, data: bytes, path: str) -> None:
        with self._incoming() as temporary:
            with temporary.open("xb") as target:
                target.write(data)
                target.flush()
                os.fsync(target.fileno())
            self._place(temporary, path)

    def remove(self, path: str) -> None:
        try:
            (self._root / path).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, f"{self.name}/{path}") from None

    def close(self) -> None:
        pass

    def local(self, path: str) -> Path | None:
        return self._root / path

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A path for a new file, which is gone afterwards if it wasn't moved away."""
        temporary = self._root / INCOMING / uuid.uuid4().hex
        try:
            _make_folder(temporary.parent)
            yield temporary
        except OSError as error:
            raise disk_error(error, self.name) from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _move(self, source: Path, file: ArtifactFile, temporary: Path) -> bool:
        """Whether a file could be moved rather than copied: not from another file system."""
        check(hash_file(source), file)
        try:
            source.rename(temporary)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EBUSY):
                return False
            raise
        _sync(temporary)
        return True

    def _place(self, temporary: Path, path: str) -> None:
        target = self._root / path
        _make_folder(target.parent)
        # What is stored is shared by hard links: nobody shall write into it.
        temporary.chmod(_READ_ONLY)
        os.utime(temporary)
        temporary.replace(target)
        _sync(target.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stored(path: str, status: os.stat_result) -> StoredFile:
    state = f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"
    return StoredFile(path, status.st_size, status.st_mtime, state)
