"""Keeps what a node offers in step with a registry, and loads from the model store what is asked for."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from sys import intern
from types import MappingProxyType
from typing import Any

from salver.cache.model_cache import ModelCache
from salver.cache.offer import Offer
from salver.core.errors import ModelUnavailable, SalverError, StoreUnavailable, UnknownModel
from salver.core.model import ModelSpec, ModelState
from salver.core.registry import ModelVersion, VersionMetadata, VersionState
from salver.core.signature import Signature
from salver.runtimes.detect import detect
from salver.store.artifacts.disk_cache import DiskCache
from salver.store.registered import spec_of
from salver.store.registry.registry import Registry

_POLL_SECONDS = 0.25
_LONGEST_PAUSE = 5.0
_HOT_SECONDS = 30.0
_HOTTEST = 1000
_PAGE = 1000
_SPECS = 4096
"""As many versions' files needn't be looked through again when they are loaded again."""

_SERVING_KEYS = ("pinned", "tenant")
_NOTHING_SET: Mapping[str, Any] = MappingProxyType({})
_NOTHING_TOLD = VersionMetadata()
_SIGNATURES = 10_000
"""As many different ones are kept once each."""

_log = logging.getLogger("salver.repository")


class RegisteredModels:
    """The models of a registry, each loaded when it is asked for.

    Args:
        registry: tells which there are.
        disk_cache: brings their artifacts here.
        models: where they are offered and loaded.
        hot_file: keeps the names of the models that are asked for most, so that they are loaded again after a restart;
            None to forget them.
        concurrent_fetches: how many artifacts are downloaded side by side, and how many are read.

    Attributes:
        loaded: what the registry held at the start is offered.
    """

    def __init__(
        self,
        registry: Registry,
        disk_cache: DiskCache,
        *,
        models: ModelCache,
        hot_file: Path | None = None,
        concurrent_fetches: int = 4,
    ) -> None:
        self._registry = registry
        self._disk_cache = disk_cache
        self._models = models
        self._hot_file = hot_file
        self._revision = 0
        # Downloads have threads of their own: what is here already doesn't wait for them.
        self._downloads = ThreadPoolExecutor(concurrent_fetches, thread_name_prefix="salver-fetch")
        self._readers = ThreadPoolExecutor(concurrent_fetches, thread_name_prefix="salver-read")
        self._specs: dict[tuple[str, str], tuple[ModelVersion, ModelSpec]] = {}
        self._signatures: dict[Signature, Signature] = {}
        self._known: dict[tuple[str, str], ModelVersion] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._looking = asyncio.Lock()
        self.loaded = False

    async def start(self) -> None:
        """Offer what there is, follow the registry from now on, and begin to load what was asked for most before.

        Raises:
            StoreUnavailable: the registry can't be reached.
        """
        await self.refresh()
        self.loaded = True
        self._begin(self._follow())
        for (name, version), known in list(self._known.items()):
            if known.config.get("pinned") is True:
                self._prefetch(name, version)
        if self._hot_file is not None:
            self._begin(self._follow_hottest())

    async def load(self, name: str) -> None:
        """Load a model's default version now; one that was unloaded on request is offered again.

        Raises:
            UnknownModel: the registry has no such model.
            SalverError: it can't be loaded.
        """
        await self.refresh()
        versions = [known for (model, _), known in self._known.items() if model == name]
        if not versions:
            raise UnknownModel(f"failed to load '{name}': Request for unknown model: '{name}' is not in the registry")
        for known in versions:
            self._apply(known)
        loaded = await self._models.acquire(name)
        loaded.unpin()

    async def unload(self, name: str) -> None:
        """Take a model's versions out of service on this node, until :meth:`load` or a new push brings them back."""
        versions = [version for model, version in self._known if model == name]
        await asyncio.gather(*(self._models.unload(name, version) for version in versions))

    async def refresh(self) -> None:
        """Take over what has changed in the registry, up to now.

        Raises:
            StoreUnavailable: it can't be reached.
        """
        async with self._looking:
            while True:
                changes = await asyncio.to_thread(self._registry.changes, self._revision, limit=_PAGE)
                for version in changes.versions:
                    self._apply(version)
                for name, aliases in changes.aliases.items():
                    self._models.set_aliases(name, aliases)
                reached, self._revision = changes.revision == self._revision, changes.revision
                if reached or not (changes.versions or changes.aliases):
                    return

    async def close(self) -> None:
        """Stop following the registry, and keep the names of what is asked for most."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.loaded and self._hot_file is not None:
            await asyncio.to_thread(self._write_hottest, self._models.reservations.hottest(_HOTTEST))
        self._downloads.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _apply(self, version: ModelVersion) -> None:
        key = (version.name, version.version)
        if version.state is VersionState.DELETED:
            if self._known.pop(key, None) is not None:
                self._begin(self._models.withdraw(*key))
            else:
                self._models.forget(*key)
            return
        version = self._known[key] = self._lean(version)
        if version.state is VersionState.READY:
            self._models.offer(self._offer(version))
        elif version.state is VersionState.PENDING:
            self._models.note(*key, ModelState.LOADING, "being probed")
        else:
            self._models.note(*key, ModelState.UNAVAILABLE, version.reason)

    def _lean(self, version: ModelVersion) -> ModelVersion:
        """A version with what serving it takes only: there may be a hundred thousand, many of them much alike."""
        config = {key: version.config[key] for key in _SERVING_KEYS if key in version.config}
        signature, probe = version.signature, version.probe
        if signature is not None:
            signature = self._signatures.setdefault(signature, signature)
            if len(self._signatures) > _SIGNATURES:
                self._signatures.clear()
        if probe is not None:
            probe = replace(
                probe,
                latency_seconds={},
                platform=intern(probe.platform),
                device=intern(probe.device),
                batch_size_reason=intern(probe.batch_size_reason),
                framework=intern(probe.framework),
                framework_version=intern(probe.framework_version),
            )
        return replace(
            version,
            runtime=intern(version.runtime),
            config=config or _NOTHING_SET,
            metadata=VersionMetadata(tenant=version.metadata.tenant) if version.metadata.tenant else _NOTHING_TOLD,
            signature=signature,
            probe=probe,
        )

    def _offer(self, version: ModelVersion) -> Offer:
        offer = Offer(
            version.name,
            version.version,
            fetch=partial(self._fetch, version),
            bring=partial(self._bring, version.digest),
            release=partial(self._release, version.digest),
            tenant=version.metadata.tenant or str(version.config.get("tenant", "")),
            pinned=version.config.get("pinned") is True,
            signature=version.signature,
        )
        if version.probe is not None:
            offer.memory_bytes = version.probe.memory_bytes
            offer.peak_memory_bytes = version.probe.peak_memory_bytes
            offer.load_seconds = version.probe.load_seconds
            offer.platform = version.probe.platform
            offer.streams = version.probe.streams
        return offer

    async def _bring(self, digest: str) -> None:
        """Download an artifact. Where nobody waits any more, a download that has begun goes on: others may come."""
        await asyncio.get_running_loop().run_in_executor(self._downloads, self._disk_cache.fetch, digest)

    async def _fetch(self, version: ModelVersion) -> ModelSpec | None:
        reading = asyncio.get_running_loop().run_in_executor(self._readers, self._read, version)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            # It goes on, for nothing stops it; then its files are let go.
            reading.add_done_callback(partial(self._release_late, version.digest))
            raise

    def _read(self, version: ModelVersion) -> ModelSpec | None:
        """(Thread) Hold a version's files, and tell what they are; None where they aren't here."""
        folder = self._disk_cache.hold_if_here(version.digest)
        if folder is None:
            return None
        key = (version.name, version.version)
        known, spec = self._specs.get(key, (None, None))
        if known is version:  # an artifact never changes
            return spec
        try:
            spec = spec_of(version, folder, detect=detect)
        except BaseException:
            self._release(version.digest)
            raise
        if len(self._specs) >= _SPECS:
            self._specs.clear()
        self._specs[key] = (version, spec)
        return spec

    def _release(self, digest: str) -> None:
        self._disk_cache.release(digest)

    def _release_late(self, digest: str, reading: asyncio.Future[ModelSpec | None]) -> None:
        if not reading.cancelled() and reading.exception() is None and reading.result() is not None:
            self._release(digest)

    async def _follow(self) -> None:
        pause = _POLL_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                await self.refresh()
                pause = _POLL_SECONDS
            except StoreUnavailable as error:
                if pause == _POLL_SECONDS:
                    _log.error("what changes in the registry isn't seen for now: %s", error)
                pause = min(_LONGEST_PAUSE, pause * 2)
            except Exception:  # noqa: BLE001  the next look may go better, and serving goes on
                _log.exception("looking at the registry failed")
                pause = _LONGEST_PAUSE

    def _prefetch(self, name: str, version: str) -> None:
        try:
            self._models.prefetch(name, version)
        except (UnknownModel, ModelUnavailable) as error:
            _log.debug("not loaded again: %s", error)
        except SalverError as error:
            _log.warning("not loaded again: %s", error)

    async def _follow_hottest(self) -> None:
        """Load what was asked for most before the restart, hottest first, while there is room; then keep the list."""
        for name, version in await asyncio.to_thread(self._read_hottest):
            try:
                if not await self._models.preload(name, version):
                    break
            except (UnknownModel, ModelUnavailable) as error:
                _log.debug("not loaded again: %s", error)
        while True:
            await asyncio.sleep(_HOT_SECONDS)
            hottest = await self._models.reservations.find_hottest(_HOTTEST)
            await asyncio.to_thread(self._write_hottest, hottest)

    def _write_hottest(self, hottest: list[tuple[str, str]]) -> None:
        assert self._hot_file is not None
        temporary = self._hot_file.with_name(f".{self._hot_file.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(hottest))
            temporary.replace(self._hot_file)
        except OSError as error:
            _log.warning("%s can't be written: %s", self._hot_file, error.strerror)

    def _read_hottest(self) -> list[tuple[str, str]]:
        if self._hot_file is None:
            return []
        try:
            found = json.loads(self._hot_file.read_text())
            return [(str(name), str(version)) for name, version in found][:_HOTTEST]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            _log.warning("%s isn't read, and nothing is loaded before it is asked for: %s", self._hot_file, error)
            return []

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a change of the registry couldn't be followed", exc_info=error)
