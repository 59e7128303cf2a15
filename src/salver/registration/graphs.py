"""Graphs in the registry: each holds with its models when it comes, and no change of a model breaks one that serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from salver.config.document import Document
from salver.core.errors import Conflict, InvalidArtifact, LoadError, ModelUnavailable, SalverError, StoreUnavailable
from salver.core.model import ModelSpec, version_order
from salver.core.registry import ModelVersion, Probe, VersionState
from salver.core.signature import Signature
from salver.graph.adoption import adopt
from salver.graph.check import check_graph
from salver.graph.functions import function_specs
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


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph, and what its functions take and give."""

    config: GraphConfig
    document: Document
    functions: dict[str, Signature]

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
            StoreUnavailable: the registry can't be reached.
        """
        graph = self._read[version.digest] = await self._read_graph(spec)
        signature = await self._check(graph, {})
        probe = Probe(
            memory_bytes=0,
            peak_memory_bytes=0,
            load_seconds=0.0,
            batch_size_reason="a graph's models have the queues",
            platform=ComposedModel.platform,
        )
        return ProbeResult(signature, probe, GraphRuntime.name)

    async def check_version(self, version: ModelVersion, signature: Signature) -> None:
        """Refuse a version that would be its model's newest, where a graph that serves couldn't work with it.

        Raises:
            InvalidArtifact: there is such a graph.
            StoreUnavailable: the registry can't be reached.
        """
        newest = await self._resolved(ModelReference(name=version.name))
        if newest is not None and version_order(newest.version) > version_order(version.version):
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
        broken = await self._broken(ModelReference(name=name, version=alias), pointed.signature)
        if broken:
            raise Conflict(f"'{name}@{alias}' can't point to version {version}: it would break {broken}")

    async def _broken(self, changed: ModelReference, signature: Signature) -> str:
        """The first graph that doesn't hold any more, and why; "" for none."""
        for version in await self._run(self._registry.ready_of, GraphRuntime.name):
            graph = await self._graph(version)
            if graph is None or changed not in graph.models():
                continue
            try:
                await self._check(graph, {})
            except LoadError:
                continue  # it doesn't hold as it is: this change isn't what breaks it
            try:
                await self._check(graph, {changed: signature})
            except LoadError as error:
                return f"graph '{version.name}' version {version.version}, which asks '{changed}': {error}"
        return ""

    async def _graph(self, version: ModelVersion) -> _Graph | None:
        """A registered graph; None where it can't be read any more."""
        graph = self._read.get(version.digest)
        if graph is not None:
            return graph
        folder = await self._run(self._cache.hold, version.digest)
        try:
            spec = await self._run(spec_of, version, folder, detect=detect)
            graph = self._read[version.digest] = await self._read_graph(spec)
        except LoadError:
            return None
        finally:
            await self._run(self._cache.release, version.digest)
        return graph

    async def _read_graph(self, spec: ModelSpec) -> _Graph:
        config, document = await self._run(read_spec, spec)
        functions: dict[str, Signature] = {}
        for function, wanted in function_specs(spec, config, allow_code=self._allow_code).items():
            result = await self._prober.probe(wanted, allow_code=self._allow_code, limits=self._limits)
            functions[function] = result.signature
        return _Graph(config, document, functions)

    async def _check(self, graph: _Graph, changed: dict[ModelReference, Signature]) -> Signature:
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

        def check() -> Signature:
            functions = graph.functions.__getitem__
            config = adopt(graph.config, signature_of=signature_of, function_signature=functions)
            return check_graph(
                config, signature_of=signature_of, function_signature=functions, place=graph.document.place
            )

        return await asyncio.to_thread(check)

    async def _resolved(self, model: ModelReference) -> ModelVersion | None:
        """The READY version that a reference leads to; None where there is none."""
        references = [model.version] if not model.version else [model.version, f"@{model.version}"]
        for reference in references:
            try:
                found: ModelVersion = await self._run(self._registry.resolve, model.name, reference)
            except StoreUnavailable:
                raise
            except SalverError:
                continue
            if found.state is VersionState.READY:
                return found
        return None
