"""Makes a model that was loaded ready for requests: its instances, the size of its batches, warm-up, and its queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from salver.batching.batch_size import probe_batch_size
from salver.batching.executor import Executor
from salver.batching.merge import BatchShape
from salver.batching.policy import BatchPolicy
from salver.batching.resources import Resources
from salver.batching.scheduler import Limits, Scheduler
from salver.cache.loaded_version import LoadedVersion
from salver.cache.response_cache import ResponseCache
from salver.core.errors import InvalidConfig, SalverError
from salver.core.model import ModelSpec
from salver.core.scheduling import Scheduling
from salver.monitoring.statistics import ModelStatistics
from salver.runtimes.base import Inputs, LoadedModel, Outputs
from salver.runtimes.instance import Instance
from salver.runtimes.settings import cores
from salver.runtimes.warm_up import probing, synthetic_inputs
from salver.runtimes.warm_up_requests import warm_up_inputs
from salver.runtimes.workers import Threads

_PROBE_SECONDS = 0.3
_LONGEST_PROBE_SECONDS = 30.0
_WARM_UP_SECONDS = 60.0
_FREE_DIMENSION = 32

_log = logging.getLogger("salver.cache")


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The largest batch of a version, why it is that, and the smallest one that is about as efficient."""

    rows: int
    reason: str
    efficient: int | None = None


def with_threads(spec: ModelSpec) -> ModelSpec:
    """The spec with the threads that its instances leave to each of them: all of them together have no more than there
    are cores. Where the instances aren't set either, the probe has found out, or else the runtime decides.
    """
    if spec.threads is not None:
        return spec
    if spec.scheduling.instances is not None:
        return replace(spec, threads=max(1, cores() // spec.scheduling.instances))
    if spec.measured is not None and spec.measured.threads is not None:
        return replace(spec, threads=min(spec.measured.threads, cores()))
    return spec


def copies(spec: ModelSpec, model: LoadedModel) -> int:
    """How many copies of a model its instances need: one where it is thread-safe."""
    if model.max_concurrency is None and model.kind in ("sync", "stream"):
        return 1
    return spec.scheduling.instances or 1


def make_instances(
    spec: ModelSpec, models: Sequence[LoadedModel], max_queue: int, threads: Threads | None = None
) -> list[Instance]:
    """The instances of a model in this process; one object stands for all those of a thread-safe model."""
    model = models[0]
    if model.kind in ("async", "async_stream"):
        # Executions that run are mostly waiting themselves: the queue's bound is the bound of both.
        capacity = model.max_concurrency or max_queue
    elif model.max_concurrency is None:
        capacity = spec.scheduling.instances or max(1, cores() // model.threads)
    else:
        capacity = model.max_concurrency
    return [
        Instance(each, name=spec.name, isolation=spec.isolation, capacity=capacity, threads=threads) for each in models
    ]


async def prepare(
    spec: ModelSpec,
    model: LoadedModel,
    executors: Sequence[Executor],
    *,
    instance: Instance | None,
    statistics: ModelStatistics,
    resources: Resources,
    memory_bytes: int,
    max_queue: int,
    measuring: asyncio.Lock | None,
) -> LoadedVersion:
    """A version that requests may use.

    Args:
        spec: what was loaded.
        model: the loaded model, or its description.
        executors: its instances.
        instance: the first of them, where it is in this process.
        statistics: its counters.
        resources: the server's.
        memory_bytes: what it takes.
        max_queue: requests that may wait, where its model.yaml doesn't say.
        measuring: held while times are measured: versions that load side by side would disturb each other. None where
            nothing is to be measured, and nothing batched: for a caller who runs the model past its queue.

    Raises:
        InvalidConfig: model.yaml asks for something that the model or the server doesn't have.
        SalverError: a warm-up request of model.yaml fails.
    """
    scheduling = spec.scheduling
    signature = model.signature
    share = None
    if scheduling.resources:
        share = resources.register(scheduling.resources, weight=scheduling.weight, model=spec.name)
    _check_batching(spec, model)
    shape = None
    if signature.batched and model.kind in ("sync", "async"):
        shape = BatchShape(signature, scheduling.padding, sees_parameters=model.sees_parameters, model=spec.name)
    if measuring is None:
        size = BatchSize(1, "it is embedded")
    else:
        async with measuring:
            if instance is not None and (inputs := synthetic_inputs(signature)) is not None:
                await instance.warm_up(inputs)
            size = await _batch_size(spec, model, executors[0], is_inline=instance is not None and instance.runs_inline)
    await _warm_up(spec, model, executors)
    limits = Limits(
        BatchPolicy(
            size.rows,
            scheduling.max_queue_delay,
            _preferred(scheduling, size.rows),
            efficient_batch_size=size.efficient,
        ),
        max_queue=scheduling.max_queue or max_queue,
        counts_running=model.kind in ("async", "async_stream") and model.max_concurrency is None,
    )
    scheduler = Scheduler(
        executors,
        name=spec.name,
        scheduling=scheduling,
        limits=limits,
        observer=statistics,
        shape=shape,
        share=share,
        takes_sequences=model.sees_parameters,
    )
    return LoadedVersion(
        spec,
        model,
        executors=executors,
        instance=instance,
        scheduler=scheduler,
        responses=None if scheduling.response_cache is None else ResponseCache(scheduling.response_cache),
        statistics=statistics,
        memory_bytes=memory_bytes,
        batch_size_reason=size.reason,
    )


def _check_batching(spec: ModelSpec, model: LoadedModel) -> None:
    scheduling = spec.scheduling
    if model.signature.batched and model.kind in ("sync", "async"):
        return
    for name in ("max_batch_size", "preferred_batch_sizes", "padding"):
        wanted = getattr(scheduling, name)
        if wanted and wanted != 1:
            why = "streams its answers" if model.signature.batched else "has no batch dimension that is known"
            raise InvalidConfig(
                f"model {spec.name!r}: '{name}' is set, and the model {why}; "
                "with 'batched: true' the first dimension of its tensors is one"
            )


def _preferred(scheduling: Scheduling, largest: int) -> tuple[int, ...]:
    return tuple(size for size in scheduling.preferred_batch_sizes if size <= largest)


async def _batch_size(spec: ModelSpec, model: LoadedModel, executor: Executor, *, is_inline: bool) -> BatchSize:
    """The largest batch: what model.yaml says, else what is found by running the model."""
    wanted = spec.scheduling.max_batch_size
    if wanted is not None:
        return BatchSize(wanted, "model.yaml says so")
    if not model.signature.batched:
        return BatchSize(1, "the model has no batch dimension")
    if is_inline:
        return BatchSize(1, "it takes so little time that requests don't wait for each other")
    if model.kind != "sync":
        return BatchSize(1, "async models run requests side by side; set max_batch_size to batch them")
    if (measured := spec.measured) is not None:
        return BatchSize(measured.max_batch_size, measured.batch_size_reason, measured.efficient_batch_size)

    async def run(inputs: Inputs) -> Outputs:
        return await asyncio.shield(executor.start(inputs, None, {}))

    token = probing.set(True)
    try:
        # A text of one token says little of real ones; but not every model can have 32 of everything.
        for free in (_FREE_DIMENSION, 1):

            def inputs_of(rows: int, seed: int | None = None, free: int = free) -> Inputs | None:
                return synthetic_inputs(model.signature, rows=rows, seed=seed, free=free)

            async with asyncio.timeout(_LONGEST_PROBE_SECONDS):
                probe = await probe_batch_size(run, inputs_of=inputs_of, budget=_PROBE_SECONDS)
            if probe.seconds:
                break
    except TimeoutError:
        return BatchSize(1, f"made-up inputs took more than {_LONGEST_PROBE_SECONDS:g} s; set max_batch_size")
    finally:
        probing.reset(token)
    return BatchSize(probe.max_batch_size, probe.reason, probe.efficient_batch_size)


async def _warm_up(spec: ModelSpec, model: LoadedModel, executors: Sequence[Executor]) -> None:
    """Run the requests that model.yaml lists on each instance."""
    for warm_up in spec.scheduling.warm_up:
        inputs, parameters, asked = await asyncio.to_thread(warm_up_inputs, model.signature, warm_up, model=spec.name)
        for executor in executors:
            for _ in range(warm_up.count):
                try:
                    async with asyncio.timeout(_WARM_UP_SECONDS):
                        if model.kind in ("sync", "async"):
                            await asyncio.shield(executor.start(inputs, asked, parameters))
                        else:
                            async for _ in executor.stream(inputs, asked, parameters):
                                pass
                except TimeoutError:
                    raise InvalidConfig(
                        f"model {spec.name!r}: a warm-up request took more than {_WARM_UP_SECONDS:g} s"
                    ) from None
                except SalverError as error:
                    where = warm_up.file.name if warm_up.file is not None else "inputs drawn from the signature"
                    raise InvalidConfig(f"model {spec.name!r}: warm-up with {where} failed: {error}") from error
