"""What callers may hand to the registry. Everything is checked before the database is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from salver.core.errors import InvalidRequest, UnknownModel
from salver.core.model import check_model_name, check_version
from salver.core.registry import ModelVersion, VersionMetadata
from salver.store.registry.serialized import checked_object
from salver.store.registry.tables import Values, sort_key

MAX_PROPERTIES = 256 * 1024
"""Bytes of JSON that free properties may take, and a configuration."""
MAX_TAGS = 64
"""Tags of a version."""
MAX_TAG_VALUE = 256
"""Characters of a tag's value."""
MAX_TEXT = 256
"""Characters of a short text, such as an owner."""
MAX_DESCRIPTION = 4096
"""Characters of a description."""
MAX_REASON = 8192
"""Characters that are kept of the reason why a version failed."""
MAX_PAGE = 1000
"""Entries of one answer."""

TEXTS = ("framework", "framework_version", "algorithm", "run_id", "owner", "tenant", "description")
"""Texts of a version's metadata; columns have their names."""

_TAG = re.compile(r"[^\s:][^:]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_SIZE = 2**63 - 1


def version_values(version: ModelVersion) -> Values:
    """The columns that whoever registers a version sets; its version may be "" yet.

    Raises:
        InvalidRequest: a name, text, tag, number or JSON can't be kept, or is too large.
    """
    check_model_name(version.name)
    if version.version:
        check_version(version.version)
    if _DIGEST.fullmatch(version.digest) is None:
        raise InvalidRequest("digest: expected a SHA-256 of 64 lower-case hexadecimal digits")
    if type(version.size) is not int or not 0 <= version.size <= _MAX_SIZE:
        raise InvalidRequest(f"size: expected a number of bytes, got {version.size!r}")
    return {
        "name": version.name,
        "digest": version.digest,
        "size": version.size,
        "config": checked_object(version.config, "config", max_bytes=MAX_PROPERTIES),
        **_metadata_values(version.metadata),
    }


def _metadata_values(metadata: VersionMetadata) -> Values:
    values: Values = {}
    for name in TEXTS:
        longest = MAX_DESCRIPTION if name == "description" else MAX_TEXT
        values[name] = check_text(getattr(metadata, name), name, longest=longest)
    _check_tags(metadata.tags)
    values["tags"] = checked_object(metadata.tags, "tags", max_bytes=MAX_PROPERTIES)
    values["properties"] = checked_object(metadata.properties, "properties", max_bytes=MAX_PROPERTIES)
    return values


def _check_tags(tags: Mapping[str, str]) -> None:
    if not isinstance(tags, Mapping):
        raise InvalidRequest(f"tags: expected an object of texts, got {type(tags).__name__}")
    if len(tags) > MAX_TAGS:
        raise InvalidRequest(f"tags: {len(tags)} tags; {MAX_TAGS} are allowed")
    for tag, value in tags.items():
        check_text(tag, "a tag's name", longest=128)
        if _TAG.fullmatch(tag) is None or not tag.isprintable():
            raise InvalidRequest(f"tags: {tag!r} can't be a tag: 1 to 128 printable characters without ':'")
        check_text(value, f"tag {tag!r}", longest=MAX_TAG_VALUE)


def check_text(text: str, what: str, *, longest: int) -> str:
    """The text itself, if every database can keep it.

    Raises:
        InvalidRequest: it isn't a text, is too long, or has characters that can't be stored.
    """
    if not isinstance(text, str):
        raise InvalidRequest(f"{what}: expected a text, got {type(text).__name__}")
    if len(text) > longest:
        raise InvalidRequest(f"{what}: {len(text)} characters; {longest} are allowed")
    if storable(text) != text:
        raise InvalidRequest(f"{what}: a NUL or half of a surrogate pair can't be stored")
    return text


def storable(text: str) -> str:
    """A text that every database can keep: what can't be kept is replaced."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def known_name(name: str, version: str = "") -> None:
    """Nothing, where such a model and version may exist.

    Raises:
        UnknownModel: no model or version has such a name.
    """
    try:
        check_model_name(name)
        if version:
            check_version(version)
    except InvalidRequest as error:
        raise UnknownModel(str(error)) from None


def check_limit(limit: int) -> int:
    """The limit itself, if a page may have so many entries.

    Raises:
        InvalidRequest: it may not.
    """
    if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit: expected 1 to {MAX_PAGE}, got {limit!r}")
    return limit


def key_values(version: str) -> Values:
    """The columns that name a version among those of its model."""
    return {"version": version, "sort_key": sort_key(version)}
