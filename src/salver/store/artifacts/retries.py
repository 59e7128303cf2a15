"""Stores that can't be reached for a moment: what is tried again, how often, and how the rest is told."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from salver.core.errors import InvalidConfig, SalverError, StoreUnavailable

T = TypeVar("T")

_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "DefaultCredentialsError",
        "ClientAuthenticationError",
    }
)
_USER = re.compile(r"://[^/@\s]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often an operation is tried, and how long is waited in between.

    Attributes:
        attempts: at least 1.
        first: seconds before the second attempt; they double from one to the next.
        most: seconds at most.
    """

    attempts: int = 7
    first: float = 0.1
    most: float = 5.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the attempt of this number, which counts from 0."""
        return float(min(self.most, self.first * 2**attempt))


def masked(text: str) -> str:
    """A URL, or a message with URLs in it, without user names, passwords and what follows a "?"."""
    return _QUERY.sub(r"\1", _USER.sub("://***@", text))


def retrying(action: Callable[[], T], *, what: str, name: str, backoff: Backoff) -> T:
    """Run an action until it succeeds, fails for good, or all attempts are used up.

    Args:
        action: may raise anything. FileNotFoundError and SalverError are passed on as they are.
        what: the action in words, such as "reading blobs/ab12".
        name: the store, without secrets.
        backoff: how often, and how long to wait.

    Raises:
        StoreUnavailable: the last attempt failed too, or access is denied.
        InvalidConfig: the store's options can't be understood.
    """
    for attempt in range(backoff.attempts):
        try:
            return action()
        except (FileNotFoundError, SalverError):
            raise
        except Exception as error:  # noqa: BLE001 - each file system has its own errors
            if isinstance(error, TypeError):
                raise InvalidConfig(f"{name}: {what} failed; check the store's options: {reason(error)}") from None
            denied = isinstance(error, PermissionError)
            if denied or type(error).__name__ in _NO_CREDENTIALS:
                hint = "access is denied" if denied else "there are no credentials for it"
                raise StoreUnavailable(f"{name}: {what}: {hint} ({reason(error)})") from None
            if attempt == backoff.attempts - 1:
                raise StoreUnavailable(
                    f"{name}: {what} failed {backoff.attempts} times, the last time with {reason(error)}"
                ) from None
        time.sleep(backoff.delay(attempt))
    raise AssertionError("a backoff has at least one attempt")


def reason(error: BaseException) -> str:
    """An error in one short line without secrets."""
    lines = masked(str(error)).strip().splitlines()
    text = lines[0][:200] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def disk_error(error: OSError, place: str) -> StoreUnavailable:
    """What a failed write or read on a disk means for the user."""
    hints = {
        errno.ENOSPC: "no space is left on the disk",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the disk is read-only",
        errno.EACCES: "access is denied; check who owns the folder",
        errno.EPERM: "access is denied; check who owns the folder",
        errno.ENOTDIR: "a file stands where a folder is needed",
        errno.EEXIST: "a file stands where a folder is needed",
    }
    hint = hints.get(error.errno or 0, error.strerror or type(error).__name__)
    return StoreUnavailable(f"{masked(place)}: {hint}")
