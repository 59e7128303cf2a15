"""Graphs in the registry: each holds with its models when it comes, and no change of a model breaks one that serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from salver.config.document import Document
from salver.core.errors import (
    Conflict,
    InvalidArtifact,
    InvalidConfig,
    LoadError,
    ModelInUse,
    ModelUnavailable,
    SalverError,
    StoreUnavailable,
    UnknownModel,
)
from salver.core.model import ModelSpec, version_order
from salver.core.registry import ModelVersion, Probe, VersionState
from salver.core.signature import Signature
from salver.graph.adoption import adopt
from salver.graph.check import check_graph
from salver.graph.compile import Compiler
from salver.graph.functions import function_specs
from salver.graph.model import answering_call
from salver.graph.runtime import GraphRuntime, read_spec
from salver.graph.spec import GraphConfig, ModelReference, all_steps
from salver.registration.probe.limits import ProbeLimits
from salver.registration.probe.prober import Prober
from salver.registration.probe.result import ProbeResult
from salver.runtimes.base import ComposedModel
from salver.runtimes.detect import detect
from salver.store.artifacts.disk_cache import DiskCache
from salver.store.registered import spec_of
from salver.store.registry.registry import Registry

_SMALL_BYTES = 16 << 20
_KNOWN_GRAPHS = 4096


@dataclass(slots=True)
class _Graph:
    """A graph, and what its functions take and give, once that was looked at."""

    config: GraphConfig
    document: Document
    functions: dict[str, Signature] | None = None

    def models(self) -> frozenset[ModelReference]:
        """The models that it asks."""
        return frozenset(ModelReference.parse(step.model) for step in all_steps(self.config) if step.model is not None)


class RegisteredGraphs:
    """Checks graphs against the registry's models, and changes of models against the registry's graphs.

    Args:
        registry: of both.
        cache: where graphs' files are.
        prober: looks at graphs' functions, each in a process of its own.
        run: calls a blocking function on a thread.
        allow_code: whether graphs may bring functions.
        limits: what a function's probe may take.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        cache: DiskCache,
        prober: Prober,
        run: Callable[..., Awaitable[Any]],
        allow_code: bool,
        limits: ProbeLimits | None,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._prober = prober
        self._run = run
        self._allow_code = allow_code
        self._limits = limits
        self._read: dict[str, _Graph] = {}  # by digest

    async def probe(self, version: ModelVersion, spec: ModelSpec) -> ProbeResult:
        """Check a graph that was pushed: it is sound, and its models are there and fit. They aren't loaded.

        Raises:
            LoadError: what is wrong with it.
            ModelUnavailable: one of its models is still to be probed.
            StoreUnavailable: the registry can't be reached.
        """
        graph = self._read[version.digest] = await self._read_graph(spec)
        own = ModelReference(name=version.name, version=version.version)
        newest = {ModelReference(name=version.name): version} if await self._would_be_newest(version) else {}
        if way := await self._way_back(version, {own: version, **newest}):
            raise InvalidConfig(f"the graph would ask itself: {way}")
        for model in graph.models():
            if await self._resolved(model) is None and await self._pending(model) is not None:
                raise ModelUnavailable(f"model '{model}', which the graph asks, is still to be probed")
        graph.functions = await self._probe_functions(spec, graph.config)
        signature, config = await self._check(graph, {})
        probe = Probe(
            memory_bytes=0,
            peak_memory_bytes=0,
            load_seconds=0.0,
            batch_size_reason="a graph's models have the queues",
            platform=ComposedModel.platform,
            streams=await self._streams(config),
        )
        return ProbeResult(signature, probe, GraphRuntime.name)

    async def check_version(self, version: ModelVersion, signature: Signature) -> None:
        """Refuse a version that would be its model's newest, where a graph that serves couldn't work with it.

        Raises:
            InvalidArtifact: there is such a graph.
            StoreUnavailable: the registry can't be reached.
        """
        if not await self._would_be_newest(version):
            return
        broken = await self._broken(ModelReference(name=version.name), signature)
        if broken:
            raise InvalidArtifact(
                f"it would break {broken}; push a version of the graph first that names the version it needs (such as "
                f"'{version.name}/{version.version}')"
            )

    async def check_alias(self, name: str, alias: str, version: str) -> None:
        """Refuse to let an alias point to a version with which a graph that serves couldn't work.

        Raises:
            Conflict: there is such a graph.
            StoreUnavailable: the registry can't be reached.
        """
        pointed: ModelVersion = await self._run(self._registry.get, name, version)
        if pointed.signature is None:
            return
        changed = ModelReference(name=name, version=alias)
        if way := await self._way_back(pointed, {changed: pointed}):
            raise Conflict(f"'{name}@{alias}' can't point to version {version}: the graph would ask itself: {way}")
        broken = await self._broken(changed, pointed.signature)
        if broken:
            raise Conflict(f"'{name}@{alias}' can't point to version {version}: it would break {broken}")

    async def _broken(self, changed: ModelReference, signature: Signature) -> str:
        """The first graph that doesn't hold any more, and why; "" for none."""
        for version in await self._run(self._registry.ready_of, GraphRuntime.name):
            graph = await self._graph(version)
            if graph is None or changed not in graph.models() or not await self._holds(version, graph):
                continue  # where it doesn't hold as it is, this change isn't what breaks it
            try:
                await self._check(graph, {changed: signature})
            except LoadError as error:
                return f"graph '{version.name}' version {version.version}, which asks '{changed}': {error}"
        return ""

    async def check_delete(self, name: str, versions: Collection[str]) -> None:
        """Refuse to delete versions of a model without which a graph that serves couldn't work.

        Raises:
            ModelInUse: there is such a graph.
            StoreUnavailable: the registry can't be reached.
        """
        for version in await self._run(self._registry.ready_of, GraphRuntime.name):
            graph = await self._graph(version)
            if (version.name == name and version.version in versions) or graph is None:
                continue
            asked = {model for model in graph.models() if model.name == name}
            if not asked or not await self._holds(version, graph):
                continue
            changed: dict[ModelReference, Signature | SalverError] = {}
            for model in asked:
                left = await self._resolved(model, without=versions)
                if left is None or left.signature is None:
                    changed[model] = UnknownModel(f"model '{model}' would be gone")
                else:
                    changed[model] = left.signature
            try:
                await self._check(graph, changed)
            except LoadError as error:
                raise ModelInUse(
                    f"graph '{version.name}' version {version.version} asks model '{name}', and would break: {error}; "
                    "delete or change the graph first, or delete the model all the same with force=true"
                ) from error

    async def _holds(self, version: ModelVersion, graph: _Graph) -> bool:
        """Whether a graph that is registered holds with its models as they are."""
        try:
            if graph.functions is None:
                graph.functions = await self._functions_of(version, graph)
            await self._check(graph, {})
        except LoadError:
            return False
        return True

    async def _way_back(self, start: ModelVersion, changed: Mapping[ModelReference, ModelVersion]) -> str:
        """The way on which a graph would ask itself, such as ``a -> b -> a``; "" where it doesn't."""
        seen: set[tuple[str, str]] = set()
        waiting = [(start, start.name)]
        while waiting:
            version, way = waiting.pop()
            graph = await self._graph(version) if _may_be_graph(version) else None
            for model in () if graph is None else sorted(graph.models(), key=str):
                found = changed.get(model) or await self._resolved(model) or await self._pending(model)
                if found is None:
                    continue
                key = (found.name, found.version)
                if key == (start.name, start.version):
                    return f"{way} -> {found.name}"
                if key not in seen:
                    seen.add(key)
                    waiting.append((found, f"{way} -> {found.name}"))
        return ""

    async def _would_be_newest(self, version: ModelVersion) -> bool:
        newest = await self._resolved(ModelReference(name=version.name))
        return newest is None or version_order(newest.version) <= version_order(version.version)

    async def _graph(self, version: ModelVersion) -> _Graph | None:
        """A registered graph; None where it is none, or can't be read any more."""
        graph = self._read.get(version.digest)
        if graph is not None:
            return graph
        try:
            folder = await self._run(self._cache.hold, version.digest)
        except LoadError:
            return None
        try:
            spec = await self._run(spec_of, version, folder, detect=detect)
            if spec.runtime != GraphRuntime.name:
                return None
            if len(self._read) >= _KNOWN_GRAPHS:
                self._read.clear()
            graph = self._read[version.digest] = await self._read_graph(spec)
        except LoadError:
            return None
        finally:
            await self._run(self._cache.release, version.digest)
        return graph

    async def _read_graph(self, spec: ModelSpec) -> _Graph:
        config, document = await self._run(read_spec, spec)
        return _Graph(config, document)

    async def _functions_of(self, version: ModelVersion, graph: _Graph) -> dict[str, Signature]:
        """What a registered graph's functions take and give. Raises LoadError."""
        folder = await self._run(self._cache.hold, version.digest)
        try:
            return await self._probe_functions(await self._run(spec_of, version, folder, detect=detect), graph.config)
        finally:
            await self._run(self._cache.release, version.digest)

    async def _probe_functions(self, spec: ModelSpec, config: GraphConfig) -> dict[str, Signature]:
        functions: dict[str, Signature] = {}
        for function, wanted in function_specs(spec, config, allow_code=self._allow_code).items():
            result = await self._prober.probe(wanted, allow_code=self._allow_code, limits=self._limits)
            functions[function] = result.signature
        return functions

    async def _streams(self, config: GraphConfig) -> bool:
        """Whether a graph that holds gives one answer after another."""
        last = answering_call(Compiler(None, lambda _: ()).graph(config))
        asked = None if last is None else await self._resolved(last.model)
        return asked is not None and asked.probe is not None and asked.probe.streams

    async def _check(
        self, graph: _Graph, changed: Mapping[ModelReference, Signature | SalverError]
    ) -> tuple[Signature, GraphConfig]:
        """The signature of a graph that holds, and the graph with what it takes over from its models.

        Raises:
            LoadError: what is wrong with it.
            StoreUnavailable: the registry can't be reached.
        """
        functions = (graph.functions or {}).__getitem__
        signatures: dict[ModelReference, Signature | SalverError] = {}
        for model in graph.models():
            if model in changed:
                signatures[model] = changed[model]
                continue
            found = await self._resolved(model)
            if found is None or found.signature is None:
                signatures[model] = ModelUnavailable(f"model '{model}' isn't registered, or not READY; push it first")
            else:
                signatures[model] = found.signature

        def signature_of(model: ModelReference) -> Signature:
            signature = signatures[model]
            if isinstance(signature, SalverError):
                raise signature
            return signature

        def check() -> tuple[Signature, GraphConfig]:
            config = adopt(graph.config, signature_of=signature_of, function_signature=functions)
            signature = check_graph(
                config, signature_of=signature_of, function_signature=functions, place=graph.document.place
            )
            return signature, config

        return await asyncio.to_thread(check)

    async def _resolved(self, model: ModelReference, *, without: Collection[str] = ()) -> ModelVersion | None:
        """The READY version that a reference leads to, were some versions not there; None where there is none."""
        if without and not model.version:
            try:
                known = await self._run(self._registry.model, model.name)
            except UnknownModel:
                return None
            ready = [each for each in known.versions if each.state is VersionState.READY]
            return next((each for each in reversed(ready) if each.version not in without), None)
        references = [model.version] if not model.version else [model.version, f"@{model.version}"]
        for reference in references:
            try:
                found: ModelVersion = await self._run(self._registry.resolve, model.name, reference)
            except StoreUnavailable:
                raise
            except SalverError:
                continue
            if found.state is VersionState.READY and found.version not in without:
                return found
        return None

    async def _pending(self, model: ModelReference) -> ModelVersion | None:
        """The version that is still to be probed to which a reference may lead; None where there is none."""
        try:
            known = await self._run(self._registry.model, model.name)
        except UnknownModel:
            return None
        waiting = [each for each in known.versions if each.state is VersionState.PENDING]
        return next((each for each in reversed(waiting) if model.version in ("", each.version)), None)


def _may_be_graph(version: ModelVersion) -> bool:
    """Before its probe nobody knows; what is large isn't fetched to see."""
    return version.runtime == GraphRuntime.name or (not version.runtime and version.size <= _SMALL_BYTES)
