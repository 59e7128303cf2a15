"""The model store: registry, artifacts, uploads and probes behind one door."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from salver.core.artifact import ArtifactFile, Manifest
from salver.core.errors import (
    Conflict,
    InvalidArtifact,
    InvalidConfig,
    ModelInUse,
    NotFound,
    StoreUnavailable,
    UnknownModel,
    UnsupportedRequest,
    VersionExists,
)
from salver.core.registry import AuditEntry, ModelVersion, RegisteredModel, VersionMetadata
from salver.registration.garbage import GarbageCollector
from salver.registration.graphs import RegisteredGraphs
from salver.registration.probe.limits import ProbeLimits
from salver.registration.probe.prober import Prober
from salver.registration.probing import ProbeQueue
from salver.registration.uploads import Upload, Uploads, check_sizes
from salver.store.artifacts.artifact_store import ArtifactStore
from salver.store.artifacts.disk_cache import DiskCache
from salver.store.model_config import MODEL_YAML
from salver.store.registered import read_config
from salver.store.registry.checks import version_values
from salver.store.registry.registry import Registry

T = TypeVar("T")

_log = logging.getLogger("salver.store")

CHUNK_BYTES = 4 << 20
"""Bytes of an upload or download that are in memory at a time."""

_LOCAL_BLOCK_BYTES = 256 << 10
_SMALLEST_BLOCK = 64 << 10
_RECEIVING_BYTES = 128 << 20  # of all uploads together that are in memory, as far as the smallest blocks allow
_RECENTLY_USED = 60.0
_NODE_ALIVE = 10.0
_QUICK_THREADS = 8
_TRANSFER_THREADS = 8
_KNOWN_MANIFESTS = 32
_PARALLEL_BLOBS = 8
_FEW_BLOBS = 4
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Missing:
    """A blob that an upload still needs; ``received`` bytes of it have come."""

    sha256: str
    size: int
    received: int


class ModelStore:
    """Takes in, keeps, probes, names and gives out model versions. Its methods never block the event loop.

    Args:
        registry: of the versions.
        artifacts: where their files are stored.
        cache: where files are fetched to for probing.
        uploads: what comes over the network.
        node: this server's id, unique and new with each start; "" makes one up.
        allow_code: whether models may bring code of their own.
        limits: what a probe may take; None for the defaults.
        parallel_probes: versions that are probed at a time.
        poll_seconds, claim_seconds: see :class:`ProbeQueue`.
        garbage_age: seconds that files which nothing needs stay in the artifact store.

    Attributes:
        registry, artifacts, disk_cache: what it was made of, for those who load versions.
        changed: called when something was changed here, before whoever asked for it is answered: a server takes the
            change over at once. Others see it when they look.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        artifacts: ArtifactStore,
        cache: DiskCache,
        uploads: Uploads,
        node: str = "",
        allow_code: bool = False,
        limits: ProbeLimits | None = None,
        parallel_probes: int = 1,
        poll_seconds: float = 5.0,
        claim_seconds: float = 15.0,
        garbage_age: float = 24 * 3600.0,
    ) -> None:
        self.registry = registry
        self.artifacts = artifacts
        self.disk_cache = cache
        self.changed: Callable[[], Awaitable[None]] = _nobody
        self._uploads = uploads
        self._quick = ThreadPoolExecutor(_QUICK_THREADS, "salver-store")
        self._transfers = ThreadPoolExecutor(_TRANSFER_THREADS, "salver-transfer")
        self._prober = Prober(parallel=parallel_probes)
        self._graphs = RegisteredGraphs(
            registry=registry,
            cache=cache,
            prober=self._prober,
            run=self._run,
            allow_code=allow_code,
            limits=limits,
        )
        self._probes = ProbeQueue(
            registry=registry,
            cache=cache,
            prober=self._prober,
            graphs=self._graphs,
            run=self._run,
            run_long=self._run_long,
            changed=self._tell,
            node=node or uuid4().hex,
            allow_code=allow_code,
            limits=limits,
            parallel=parallel_probes,
            poll_seconds=poll_seconds,
            claim_seconds=claim_seconds,
        )
        self._garbage = GarbageCollector(
            registry=registry, artifacts=artifacts, uploads=uploads, run=self._run_long, min_age=garbage_age
        )
        self._manifests: dict[str, Manifest] = {}  # of artifacts whose files were asked for lately
        self._receiving = 0  # requests that send bytes
        # One commit of an upload at a time. A lock lives as long as somebody holds or awaits it.
        self._committing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Begin to probe what waits for it."""
        self._probes.start()
        self._garbage.start()

    async def close(self) -> None:
        """Break off what is probed, and wait for what writes. The registry is its owner's to close."""
        await self._probes.close()
        await self._garbage.close()
        await self._prober.close()
        for pool in (self._quick, self._transfers):
            await asyncio.to_thread(pool.shutdown)

    # Pushing

    async def begin_push(
        self, name: str, version: str, manifest: Manifest, metadata: VersionMetadata
    ) -> tuple[Upload, list[Missing]]:
        """Begin to take in a version, or go on with it; the upload, and what is still to be sent.

        Args:
            name: the model.
            version: "" for the next number.
            manifest: the version's files.
            metadata: what is told of it.

        Raises:
            InvalidRequest: a name or the metadata can't be kept.
            InvalidArtifact, RequestTooLarge: the files can't be taken.
            VersionExists: the version has other files.
            Overloaded, StoreUnavailable: not now.
        """
        return await self._run(self._begin, name, version, manifest, metadata)

    async def upload(self, upload_id: str) -> tuple[Upload, list[Missing]]:
        """An upload, and what is still to be sent. Raises UnknownUpload, StoreUnavailable."""
        return await self._run(self._status, upload_id)

    async def receive(self, upload_id: str, sha256: str, offset: int, chunks: AsyncIterable[bytes]) -> int:
        """Append bytes to a blob as they come; how many bytes of it are here now.

        What came stays where the sender breaks off.

        Raises:
            UnknownUpload, InvalidRequest, WrongOffset, RequestTooLarge, InvalidArtifact, StoreUnavailable: see
                :meth:`Uploads.appending`.
        """
        upload = await self._run(self._uploads.get, upload_id)
        appending = self._uploads.appending(upload, sha256, offset)
        async with AsyncExitStack() as stack:
            writer = await self._to_end(self._run(appending.__enter__))

            async def leave(*error: Any) -> bool | None:
                return await self._to_end(self._run_long(appending.__exit__, *error))

            stack.push_async_exit(leave)
            self._receiving += 1
            stack.callback(self._received)
            async for block in _blocks(chunks, self._block_bytes):
                await self._to_end(self._run(writer.write, block))
        received: int = writer.received
        return received

    def _received(self) -> None:
        self._receiving -= 1

    def _block_bytes(self) -> int:
        """What is put together of a file before it is written: less, where many clients send at a time."""
        return max(_SMALLEST_BLOCK, min(CHUNK_BYTES, _RECEIVING_BYTES // max(1, self._receiving)))

    async def commit(self, upload_id: str, *, actor: str) -> ModelVersion:
        """Store an upload's files and register its version, to be probed. Doing it twice does no harm.

        Raises:
            UnknownUpload: there is no such upload.
            Conflict: not all of it has come.
            InvalidArtifact, InvalidConfig: its files or its model.yaml are no good.
            VersionExists: the version has other files.
            StoreUnavailable: the artifact store or the registry can't be reached.
        """
        lock = self._committing.setdefault(upload_id, asyncio.Lock())
        async with lock:
            version = await self._run_long(self._commit, upload_id, actor)
        self._probes.wake()
        return version

    async def give_up(self, upload_id: str) -> None:
        """Forget an upload. Raises UnknownUpload."""
        await self._run(self._uploads.get, upload_id)
        await self._run(self._uploads.remove, upload_id)

    # Models and versions

    async def models(
        self, *, prefix: str = "", tag: tuple[str, str] | None = None, after: str = "", limit: int = 100
    ) -> list[RegisteredModel]:
        """A page of models by name. Raises InvalidRequest, StoreUnavailable."""
        return await self._run(self.registry.models, prefix=prefix, tag=tag, after=after, limit=limit)

    async def model(self, name: str) -> RegisteredModel:
        """A model with its versions. Raises UnknownModel, StoreUnavailable."""
        return await self._run(self.registry.model, name)

    async def version(self, name: str, reference: str) -> ModelVersion:
        """A version, by its name, ``@ALIAS``, or "" for the newest READY one.

        Raises:
            UnknownModel: there is none.
            ModelUnavailable: none is READY.
            StoreUnavailable: the registry can't be reached.
        """
        return await self._run(self.registry.resolve, name, reference)

    async def set_alias(self, name: str, alias: str, version: str, *, actor: str) -> None:
        """Let an alias point to a READY version.

        Raises:
            InvalidRequest, UnknownModel: there is no such version, or the alias can't be one.
            Conflict: the version isn't READY, or a graph couldn't work with it.
            StoreUnavailable: the registry can't be reached.
        """
        await self._graphs.check_alias(name, alias, version)
        await self._run(self.registry.set_alias, name, alias, version, actor=actor)
        await self._tell()

    async def delete_alias(self, name: str, alias: str, *, actor: str) -> None:
        """Take an alias away. Raises UnknownModel, StoreUnavailable."""
        await self._run(self.registry.delete_alias, name, alias, actor=actor)
        await self._tell()

    async def delete(self, name: str, version: str, *, actor: str, force: bool = False) -> None:
        """Delete a version.

        Args:
            force: also where a server has used it in the last minute, or a graph needs it.

        Raises:
            UnknownModel: there is no such version.
            ModelInUse: an alias points to it, it was used in the last minute, or a graph needs it.
            StoreUnavailable: the registry can't be reached.
        """
        await self._run(self.registry.get, name, version)
        if not force:
            await self._graphs.check_delete(name, {version})
            await self._run(self._refuse_used, name, {version})
        await self._run(self.registry.delete, name, version, actor=actor)
        self._garbage.note_deletion()
        await self._tell()

    async def delete_model(self, name: str, *, actor: str, force: bool = False) -> None:
        """Delete a model's versions and aliases. Raises as :meth:`delete`; aliases don't matter."""
        model = await self._run(self.registry.model, name)
        if not force:
            versions = {each.version for each in model.versions}
            await self._graphs.check_delete(name, versions)
            await self._run(self._refuse_used, name, versions)
        await self._run(self.registry.delete_model, name, actor=actor)
        self._garbage.note_deletion()
        await self._tell()

    async def audit(self, name: str = "", *, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
        """What was changed, newest first. Raises InvalidRequest, StoreUnavailable."""
        return await self._run(self.registry.audit, name, limit=limit, before=before)

    # Files

    async def files(self, name: str, reference: str) -> tuple[ModelVersion, Manifest]:
        """A version and its files. Raises as :meth:`version`; and InvalidArtifact where the store has lost them."""
        version = await self.version(name, reference)
        manifest = self._manifests.get(version.digest)
        if manifest is None:
            manifest = await self._run(self.artifacts.manifest, version.digest)
            if len(self._manifests) >= _KNOWN_MANIFESTS:
                self._manifests.clear()
            self._manifests[version.digest] = manifest
        return version, manifest

    async def file(self, name: str, reference: str, path: str) -> ArtifactFile:
        """One file of a version. Raises as :meth:`files`, and NotFound."""
        version, manifest = await self.files(name, reference)
        for file in manifest.files:
            if file.path == path:
                return file
        raise NotFound(f"version {version.version} of model '{name}' has no file {path[:200]!r}")

    async def read(self, file: ArtifactFile, start: int, end: int) -> AsyncGenerator[bytes]:
        """A file's bytes from ``start`` up to ``end``, in blocks. Raises InvalidArtifact, StoreUnavailable."""
        # Each of many slow clients has a block in memory. Over a network small ones would take long.
        size = CHUNK_BYTES if self.artifacts.local_blob(file.sha256) is None else _LOCAL_BLOCK_BYTES
        while start < end:
            block = await self._run(self.artifacts.read_blob, file.sha256, start=start, end=min(end, start + size))
            if not block:
                raise InvalidArtifact(
                    f"{file.path!r} is shorter in the artifact store than it was; push the model again"
                )
            yield block
            start += len(block)

    # On threads

    def _begin(
        self, name: str, version: str, manifest: Manifest, metadata: VersionMetadata
    ) -> tuple[Upload, list[Missing]]:
        if self.artifacts.read_only:
            raise UnsupportedRequest(f"the artifact store {self.artifacts.name} is read only: nothing can be pushed")
        check_sizes(manifest)
        candidate = ModelVersion(name, version, manifest.digest, manifest.size, metadata=metadata)
        version_values(candidate)
        if version:
            self.registry.check_free(name, version, digest=candidate.digest)
        upload = self._uploads.begin(name, version, manifest, metadata)
        missing = self._missing(upload)
        self._uploads.check_space(sum(each.size - each.received for each in missing))
        return upload, missing

    def _status(self, upload_id: str) -> tuple[Upload, list[Missing]]:
        upload = self._uploads.get(upload_id)
        return upload, self._missing(upload)

    def _missing(self, upload: Upload) -> list[Missing]:
        absent = [
            Missing(file.sha256, file.size, received)
            for file, received in (
                (file, self._uploads.received(upload, file.sha256)) for file in upload.blobs().values()
            )
            if received < file.size
        ]
        stored = self._each(self._is_stored, absent)
        return [each for each, there in zip(absent, stored, strict=True) if not there]

    def _is_stored(self, blob: Missing | ArtifactFile) -> bool:
        # Whoever pushes says the size. A blob of another size is damaged, or the size is a lie: it has to be sent.
        return self.artifacts.has_blob(blob.sha256, size=blob.size)

    def _commit(self, upload_id: str, actor: str) -> ModelVersion:
        upload = self._uploads.get(upload_id)
        self._uploads.touch(upload)
        blobs = upload.blobs()
        here = {sha256: self._uploads.complete(upload, file) for sha256, file in blobs.items()}
        elsewhere = [blobs[sha256] for sha256, path in here.items() if path is None]
        there = self._each(self._is_stored, elsewhere)
        if missing := [file.path for file, found in zip(elsewhere, there, strict=True) if not found]:
            raise Conflict(
                f"not all files have come as a whole: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; "
                f"ask what is missing (GET /api/v1/uploads/{upload_id}), send it, and commit again"
            )
        config = self._config(upload, here)
        stored = [(path, blobs[sha256]) for sha256, path in here.items() if path is not None]
        self._each(lambda each: self.artifacts.put_blob(each[0], each[1], consume=True), stored)
        self.artifacts.put_manifest(upload.manifest)
        try:
            version = self._register(upload, config, actor)
        except VersionExists:  # a push that was committed meanwhile: no commit of this one can succeed any more
            self._uploads.remove(upload_id)
            raise
        self._uploads.remove(upload_id)
        return version

    def _register(self, upload: Upload, config: Mapping[str, Any], actor: str) -> ModelVersion:
        digest = upload.manifest.digest
        version = upload.version or self._same_files(upload.name, digest)
        registered = ModelVersion(
            upload.name, version, digest, upload.manifest.size, config=config, metadata=upload.metadata
        )
        return self.registry.register(registered, actor=actor)

    def _same_files(self, name: str, digest: str) -> str:
        """The newest version that has these files already; "" where none has."""
        try:
            versions = self.registry.model(name).versions
        except UnknownModel:
            return ""
        return next((each.version for each in reversed(versions) if each.digest == digest), "")

    def _config(self, upload: Upload, here: Mapping[str, Path | None]) -> Mapping[str, Any]:
        """What the artifact's model.yaml says, checked."""
        file = next((file for file in upload.manifest.files if file.path == MODEL_YAML), None)
        if file is None:
            return {}
        if file.size > _MAX_CONFIG_BYTES:
            raise InvalidConfig(f"{MODEL_YAML}: {file.size} bytes; {_MAX_CONFIG_BYTES} are allowed")
        path = here[file.sha256]
        with tempfile.TemporaryDirectory() as folder:
            if path is None:
                path = Path(folder) / MODEL_YAML
                path.write_bytes(self.artifacts.read_blob(file.sha256))
            config = read_config(path)
        return config.model_dump(mode="json", exclude_unset=True)

    def _refuse_used(self, name: str, versions: Collection[str]) -> None:
        """Refuse to delete versions of a model that serve.

        Raises:
            ModelInUse: a server has used one of them in the last minute.
        """
        for node in self.registry.nodes(within=_NODE_ALIVE):
            for version in versions:
                idle = node.loaded.get(f"{name}/{version}")
                ago = _RECENTLY_USED if idle is None else idle + node.age_seconds
                if ago < _RECENTLY_USED:
                    where = f" by the server at {node.url}" if node.url else ""
                    raise ModelInUse(
                        f"version {version} of model '{name}' was used {ago:.0f} s ago{where}; it can be deleted "
                        f"{_RECENTLY_USED:.0f} s after its last request, or at once with force=true"
                    )

    def _each(self, ask: Callable[[Any], T], values: Sequence[Any]) -> list[T]:
        """Ask for each value, many at a time: over a network each may take a while."""
        if len(values) <= _FEW_BLOBS:
            return [ask(value) for value in values]
        with ThreadPoolExecutor(_PARALLEL_BLOBS, "salver-blobs") as pool:
            return list(pool.map(ask, values))

    async def _to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work on a thread even where this is cancelled: what follows must not run beside it."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait((task,))
            raise

    async def _tell(self) -> None:
        try:
            await self.changed()
        except StoreUnavailable as error:  # the change is made, and will be seen later
            _log.warning("a change of the registry isn't taken over yet: %s", error)

    async def _run(self, function: Callable[..., T], *arguments: Any, **more: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._quick, partial(function, *arguments, **more))

    async def _run_long(self, function: Callable[..., T], *arguments: Any, **more: Any) -> T:
        """What may take minutes: it doesn't hold up what takes moments."""
        return await asyncio.get_running_loop().run_in_executor(self._transfers, partial(function, *arguments, **more))


async def _blocks(chunks: AsyncIterable[bytes], block_bytes: Callable[[], int]) -> AsyncIterator[bytes]:
    """Chunks put together to blocks that are worth a hop to a thread. What came before an error is given, too."""
    waiting: list[bytes] = []
    size = 0
    try:
        async for chunk in chunks:
            waiting.append(chunk)
            size += len(chunk)
            if size >= block_bytes():
                yield b"".join(waiting)
                waiting, size = [], 0
    except Exception:
        if waiting:
            yield b"".join(waiting)
        raise
    if waiting:
        yield b"".join(waiting)


async def _nobody() -> None:
    """Tell nobody of a change."""
