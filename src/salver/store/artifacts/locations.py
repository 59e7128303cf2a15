"""From a URL to the place that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from salver.config.explain import suggestion
from salver.core.errors import InvalidConfig, MissingDependency
from salver.store.artifacts.backend import Backend
from salver.store.artifacts.folder import FolderBackend
from salver.store.artifacts.retries import Backoff, masked

_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "hf": "hf",
}
_KNOWN = ("file", "s3", "gs", "az", "http", "https", "hf", "memory")
# They run commands, unpack archives or stand in front of others: nothing that a store could be kept in.
_REFUSED = frozenset({"reference", "simplecache", "filecache", "blockcache", "cached", "zip", "tar", "dir", "generic"})


def open_backend(url: str, *, options: Mapping[str, Any], backoff: Backoff) -> Backend:
    """The place that a URL names; nothing is reached for yet.

    Args:
        url: a path of a folder, or an fsspec URL.
        options: what fsspec's file system of this protocol takes, such as ``key``, ``secret``, ``anon``.
        backoff: how often operations are tried.

    Raises:
        InvalidConfig: the URL or its options can't be understood.
        MissingDependency: the protocol needs a package that isn't installed.
    """
    protocol, separator, rest = url.partition("://")
    if not url.strip() or "::" in url or "\0" in url:
        raise InvalidConfig(
            f"{masked(url)!r} is not the URL of a place for files: a folder, or one such as s3://bucket/path"
        )
    if not separator:
        return FolderBackend(Path(url).absolute())
    if protocol in ("file", "local"):
        return FolderBackend(_folder(url))
    if not rest.strip("/"):
        raise InvalidConfig(f"{masked(url)!r} names no place; expected {protocol}://... with a host, bucket or path")
    if protocol in ("http", "https"):
        from salver.store.artifacts.http import HttpBackend

        return HttpBackend(url if urlsplit(url).query else url.rstrip("/"), options=options, backoff=backoff)
    _check_protocol(protocol, url)
    from salver.store.artifacts.remote import FsspecBackend

    return FsspecBackend(url.rstrip("/"), protocol=protocol, options=options, backoff=backoff)


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    path = parts.netloc + parts.path if parts.scheme == "local" else parts.path
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise InvalidConfig(f"{masked(url)!r} names the host {parts.netloc!r}; a folder here is file:///path")
    if not path.strip("/"):
        raise InvalidConfig(f"{masked(url)!r} names no folder")
    return Path(unquote(path)).absolute()


def _check_protocol(protocol: str, url: str) -> None:
    import fsspec  # type: ignore[import-untyped]

    if protocol in _REFUSED:
        raise InvalidConfig(f"{masked(url)!r}: {protocol}:// can't be used here; known are {', '.join(_KNOWN)}")
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise InvalidConfig(
            f"{masked(url)!r}: unknown protocol; {suggestion(protocol, _KNOWN, what='protocol')}"
        ) from None
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        install = f"pip install 'salver[{extra}]'" if extra else str(error)
        raise MissingDependency(f"{protocol}:// needs a package that isn't installed: {install}") from None
