"""The model store's values as the JSON of the management API, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from salver.core.artifact import MAX_FILES, ArtifactFile, Manifest, manifest_of
from salver.core.errors import InvalidArtifact, InvalidRequest
from salver.core.registry import AuditEntry, ModelVersion, Probe, RegisteredModel, VersionMetadata
from salver.core.signature import Signature
from salver.wire.v2_metadata import encode_tensor

METADATA_TEXTS = ("framework", "framework_version", "algorithm", "run_id", "owner", "tenant", "description")
"""Texts of a version's metadata."""

_PUSH = ("version", "files", "metadata")
_FILE = ("path", "size", "sha256")
_SHOWN = 80


def encode_version(version: ModelVersion) -> dict[str, Any]:
    """All that is known of a version."""
    return {
        "name": version.name,
        "version": version.version,
        "state": version.state.value,
        "reason": version.reason,
        "digest": version.digest,
        "size": version.size,
        "runtime": version.runtime,
        "config": dict(version.config),
        "metadata": encode_metadata(version.metadata),
        "signature": None if version.signature is None else _signature(version.signature),
        "probe": None if version.probe is None else _probe(version.probe),
        "created_at": version.created_at,
        "updated_at": version.updated_at,
        "revision": version.revision,
    }


def encode_model(model: RegisteredModel) -> dict[str, Any]:
    """A model, and what matters most of each version."""
    return {
        "name": model.name,
        "description": model.description,
        "owner": model.owner,
        "aliases": dict(model.aliases),
        "versions": [_summary(version) for version in model.versions],
        "created_at": model.created_at,
    }


def encode_metadata(metadata: VersionMetadata) -> dict[str, Any]:
    """The metadata of a version."""
    texts = {name: getattr(metadata, name) for name in METADATA_TEXTS}
    return texts | {"tags": dict(metadata.tags), "properties": dict(metadata.properties)}


def encode_audit(entry: AuditEntry) -> dict[str, Any]:
    """A line of the history."""
    return {
        "at": entry.at,
        "actor": entry.actor,
        "action": entry.action,
        "name": entry.name,
        "version": entry.version,
        "details": dict(entry.details),
        "revision": entry.revision,
    }


def encode_manifest(manifest: Manifest) -> list[dict[str, Any]]:
    """The files of an artifact."""
    return [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files]


def decode_push(document: Any) -> tuple[str, Manifest, VersionMetadata]:
    """Version ("" for the next number), files and metadata of ``{"version", "files", "metadata"}``.

    Raises:
        InvalidRequest: it has other keys or values.
        InvalidArtifact: the files can't be those of an artifact.
    """
    _check_object(document, _PUSH, "the push")
    version = document.get("version") or ""
    if type(version) is int:
        version = str(version)
    if not isinstance(version, str):
        raise InvalidRequest(
            f"'version' is a text such as \"3\", or left out for the next number; got {_show(version)}"
        )
    return version, decode_manifest(document.get("files")), decode_metadata(document.get("metadata") or {})


def decode_manifest(files: Any) -> Manifest:
    """The manifest of a list of ``{"path", "size", "sha256"}``.

    Raises:
        InvalidRequest: it is no such list.
        InvalidArtifact: the files can't be those of an artifact.
    """
    if not isinstance(files, list):
        raise InvalidRequest(f"'files' is a list of objects with path, size and sha256; got {_show(files)}")
    if len(files) > MAX_FILES:
        raise InvalidArtifact(f"the artifact has {len(files)} files; {MAX_FILES} are allowed")
    found: list[ArtifactFile] = []
    for file in files:
        _check_object(file, _FILE, "a file")
        path, size, sha256 = (file.get(key) for key in _FILE)
        if not isinstance(path, str) or not isinstance(sha256, str) or type(size) is not int:
            raise InvalidRequest(f"a file has path and sha256 as texts and size as a number; got {_show(file)}")
        found.append(ArtifactFile(path, size, sha256))
    return manifest_of(found)


def decode_metadata(document: Any) -> VersionMetadata:
    """The metadata of a version; how long texts may be is the registry's to say.

    Raises:
        InvalidRequest: it has other keys, or values of other kinds.
    """
    _check_object(document, (*METADATA_TEXTS, "tags", "properties"), "'metadata'")
    for name in METADATA_TEXTS:
        if not isinstance(document.get(name, ""), str):
            raise InvalidRequest(f"'{name}' in 'metadata' is a text; got {_show(document[name])}")
    tags = document.get("tags", {})
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise InvalidRequest(f"'tags' in 'metadata' is an object of texts; got {_show(tags)}")
    if not isinstance(document.get("properties", {}), dict):
        raise InvalidRequest(f"'properties' in 'metadata' is an object; got {_show(document['properties'])}")
    return VersionMetadata(**document)


def _summary(version: ModelVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "state": version.state.value,
        "reason": version.reason,
        "digest": version.digest,
        "size": version.size,
        "memory_bytes": None if version.probe is None else version.probe.memory_bytes,
        "runtime": version.runtime,
        "owner": version.metadata.owner,
        "tenant": version.metadata.tenant,
        "tags": dict(version.metadata.tags),
        "created_at": version.created_at,
    }


def _signature(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": [encode_tensor(spec) | {"optional": spec.optional} for spec in signature.inputs],
        "outputs": [encode_tensor(spec) for spec in signature.outputs],
        "batched": signature.batched,
    }


def _probe(probe: Probe) -> dict[str, Any]:
    found = {field.name: getattr(probe, field.name) for field in dataclasses.fields(probe)}
    latencies: Mapping[int, float] = probe.latency_seconds
    return found | {"latency_seconds": {str(rows): latencies[rows] for rows in sorted(latencies)}}


def _check_object(document: Any, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(document, dict):
        raise InvalidRequest(f"{what} is an object with {', '.join(keys)}; got {_show(document)}")
    for key in document:
        if key not in keys:
            raise InvalidRequest(f"{what} has no key {_show(key)}; its keys are {', '.join(keys)}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
