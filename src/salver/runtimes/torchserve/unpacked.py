"""Private folders for what archives hold, on the disk for temporary files. Those of processes that died are removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

from salver.core.errors import InvalidArtifact

_LOCK = ".lock"


class UnpackedFolder:
    """A new folder that nobody else has, until it is removed.

    A lock on the file beside it says that it is in use: it goes with the process, however that ends.

    Attributes:
        path: the folder.
    """

    def __init__(self) -> None:
        """Make one, and remove those that nobody uses any more.

        Raises:
            InvalidArtifact: the disk doesn't let us.
        """
        try:
            root = _root()
            _sweep(root)
            self._lock, self.path = _make(root)
        except OSError as error:
            raise InvalidArtifact(
                f"there can be no folder to unpack an archive in: {error.strerror}: {error.filename}"
            ) from None

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(f"{self.path}{_LOCK}").unlink()
        self._lock.close()


def _root() -> Path:
    """The folder of these folders: of this user, and for nobody else."""
    root = Path(tempfile.gettempdir(), f"salver-torchserve-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InvalidArtifact(f"{root} isn't a folder of this user alone (mode 0700); remove it")
    return root


def _make(root: Path) -> tuple[IO[bytes], Path]:
    while True:
        handle, name = tempfile.mkstemp(suffix=_LOCK, dir=root)
        lock = os.fdopen(handle, "wb")
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Between the two lines above, another process may have taken it for one of a process that died.
        if os.fstat(lock.fileno()).st_nlink:
            break
        lock.close()
    path = Path(name.removesuffix(_LOCK))
    path.mkdir(mode=0o700)
    return lock, path


def _sweep(root: Path) -> None:
    for file in root.glob(f"*{_LOCK}"):
        try:
            with file.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(str(file).removesuffix(_LOCK), ignore_errors=True)
                file.unlink(missing_ok=True)
        except OSError:
            continue  # in use, or just removed by another process
