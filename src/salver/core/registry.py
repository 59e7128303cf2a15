"""What the registry knows of models and versions, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from salver.core.errors import InvalidRequest
from salver.core.signature import Signature

_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,63}")


class VersionState(StrEnum):
    """Where a registered version stands.

    PENDING: its bytes are stored, and it waits for its probe, or is being probed. READY: the probe went well, and it
    may be served. FAILED: the probe went wrong; it is never served. DELETED: it is gone; its name stays taken.
    """

    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured when a version was loaded and warmed up in a process of its own.

    Attributes:
        memory_bytes: resident memory that the loaded, warmed-up version takes, its framework not counted.
        peak_memory_bytes: the most that loading and running took, counted likewise.
        device_memory_bytes: memory on the accelerator; 0 without one.
        load_seconds: from the artifact on disk to the first answer, the framework's import not counted.
        latency_seconds: rows of a batch -> median seconds of an execution.
        max_batch_size: rows of the largest batch that pays; 1 where batches don't.
        efficient_batch_size: the smallest batch that is about as efficient as the largest; None where nobody knows.
        batch_size_reason: why it is that.
        threads: CPU threads of one execution; None where the runtime wasn't asked.
        device: where it ran.
        platform: what the V2 metadata calls the format.
        framework, framework_version: what loaded it, such as "onnxruntime" and "1.32.0".
        streams: it answers a request with one response after another.
    """

    memory_bytes: int
    peak_memory_bytes: int
    load_seconds: float
    device_memory_bytes: int = 0
    latency_seconds: Mapping[int, float] = field(default_factory=dict)
    max_batch_size: int = 1
    efficient_batch_size: int | None = None
    batch_size_reason: str = ""
    threads: int | None = None
    device: str = "cpu"
    platform: str = ""
    framework: str = ""
    framework_version: str = ""
    streams: bool = False


@dataclass(frozen=True, slots=True)
class VersionMetadata:
    """What whoever pushes a version may tell of it; all of it may be left out.

    Attributes:
        framework, framework_version: it was trained with.
        algorithm: such as "random forest".
        run_id: of the training run that made it.
        owner: a person or a team.
        tenant: whose share of the memory budget it counts to.
        description: a sentence.
        tags: short texts by name, which lists can be filtered by.
        properties: free JSON.
    """

    framework: str = ""
    framework_version: str = ""
    algorithm: str = ""
    run_id: str = ""
    owner: str = ""
    tenant: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered version.

    Attributes:
        name, version: which.
        digest: of its artifact, see :attr:`salver.core.artifact.Manifest.digest`.
        size: bytes of the artifact.
        state: where it stands.
        reason: why it failed; "" otherwise.
        runtime: the runtime that loads it; "" until it was probed.
        config: what its model.yaml says, as JSON; {} where it has none.
        metadata: what was told of it.
        signature: found by the probe; None before.
        probe: what was measured; None before.
        created_at, updated_at: in UTC.
        revision: of the registry, when this was last changed.
    """

    name: str
    version: str
    digest: str
    size: int
    state: VersionState = VersionState.PENDING
    reason: str = ""
    runtime: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: VersionMetadata = field(default_factory=VersionMetadata)
    signature: Signature | None = None
    probe: Probe | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model and its versions.

    Attributes:
        name: which.
        description, owner: what its newest version that has one says.
        aliases: alias -> version.
        versions: oldest first (see :func:`salver.core.model.version_order`), without deleted ones.
        created_at: when its name was first registered, in UTC.
    """

    name: str
    description: str = ""
    owner: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[ModelVersion, ...] = ()
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change: who did what to which model and version, and when (UTC).

    ``revision`` is the registry's after the change: unique, and in the order of the changes.
    """

    at: datetime
    actor: str
    action: str
    name: str
    version: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A server over the registry, as it tells the others of itself.

    Attributes:
        node_id: unique, and new with each start.
        url: where it answers.
        budget_bytes, used_bytes: its memory for models, and what of it is taken.
        loaded: versions that it has loaded, as ``NAME/VERSION``, and seconds since each was last used.
        draining: it is about to stop, and wants no more requests.
        age_seconds: since it last told.
    """

    node_id: str
    url: str
    budget_bytes: int = 0
    used_bytes: int = 0
    loaded: Mapping[str, float] = field(default_factory=dict)
    draining: bool = False
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RegistryChanges:
    """What changed in the registry after some revision.

    Attributes:
        revision: up to which this tells; ask for changes after it the next time.
        versions: changed versions as they are now, deleted ones among them.
        aliases: names of models whose aliases changed -> all their aliases as they are now (alias -> version).
    """

    revision: int
    versions: tuple[ModelVersion, ...] = ()
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def check_alias(alias: str) -> str:
    """The alias itself, if it can be one.

    Raises:
        InvalidRequest: it is empty, too long, doesn't begin with a letter, or has unsafe characters.
    """
    if _ALIAS.fullmatch(alias) is None:
        shown = repr(alias if len(alias) <= 80 else alias[:77] + "...")
        raise InvalidRequest(
            f"{shown} can't be an alias: letters, digits, '_', '-' and '.', a letter first, 64 at most"
        )
    return alias
