"""Graphs in a repository that is checked without being served: each is held against the models beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from salver.core.errors import ModelUnavailable, UnknownModel
from salver.core.model import ModelSpec
from salver.core.registry import Probe
from salver.core.signature import Signature
from salver.graph.adoption import adopt
from salver.graph.check import check_graph
from salver.graph.functions import function_specs
from salver.graph.runtime import GraphRuntime, read_spec
from salver.graph.spec import ModelReference
from salver.registration.probe.result import ProbeResult
from salver.runtimes.base import ComposedModel


class RepositoryModels:
    """The signatures of a repository's models, as far as they have been checked."""

    def __init__(self) -> None:
        self._signatures: dict[str, dict[str, Signature | None]] = {}
        self._aliases: dict[str, Mapping[str, str]] = {}

    def add(self, name: str, version: str, signature: Signature | None, aliases: Mapping[str, str]) -> None:
        """Remember a version; versions come in their order. None for one that can't be served."""
        self._signatures.setdefault(name, {})[version] = signature
        self._aliases[name] = aliases

    def signature_of(self, model: ModelReference) -> Signature:
        """The signature of the version that a reference leads to.

        Raises:
            UnknownModel, ModelUnavailable: there is none, or it can't be served.
        """
        versions = self._signatures.get(model.name)
        if versions is None:
            raise UnknownModel(f"there is no model {model.name!r} here; check the repository that holds both")
        if not model.version:
            ready = [signature for signature in versions.values() if signature is not None]
            if not ready:
                raise ModelUnavailable(f"model {model.name!r} can't be served")
            return ready[-1]
        version = self._aliases[model.name].get(model.version, model.version)
        if version not in versions:
            raise UnknownModel(f"model {model.name!r} has no version {model.version!r}, but {', '.join(versions)}")
        signature = versions[version]
        if signature is None:
            raise ModelUnavailable(f"model {model.name!r} version {version} can't be served")
        return signature


async def check_repository_graph(
    spec: ModelSpec,
    models: RepositoryModels,
    *,
    probe: Callable[[ModelSpec], Awaitable[ProbeResult]],
    allow_code: bool,
) -> ProbeResult:
    """Check a graph: its functions are probed, its models aren't run.

    Args:
        spec: the graph's.
        models: what it may ask; all of them have been checked.
        probe: looks at a function in a process of its own.
        allow_code: whether it may bring functions.

    Raises:
        LoadError: what is wrong with it.
    """
    config, document = await asyncio.to_thread(read_spec, spec)
    functions: dict[str, Signature] = {}
    for function, wanted in function_specs(spec, config, allow_code=allow_code).items():
        functions[function] = (await probe(wanted)).signature
    config = adopt(config, signature_of=models.signature_of, function_signature=functions.__getitem__)
    signature = await asyncio.to_thread(
        check_graph,
        config,
        signature_of=models.signature_of,
        function_signature=functions.__getitem__,
        place=document.place,
    )
    probed = Probe(
        memory_bytes=0,
        peak_memory_bytes=0,
        load_seconds=0.0,
        batch_size_reason="a graph's models have the queues",
        platform=ComposedModel.platform,
    )
    return ProbeResult(signature, probed, GraphRuntime.name)
