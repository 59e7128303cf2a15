"""A step for each item of a list, and their answers put together again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from salver.core.errors import InvalidInput, ModelFailed
from salver.core.signature import TensorSpec
from salver.core.tensor import DTYPES, Array
from salver.graph.scope import Scope, StepFailed
from salver.graph.spec import StepConfig
from salver.graph.steps.side_by_side import side_by_side
from salver.graph.steps.step import Step, gather
from salver.graph.transforms import CompiledSource
from salver.runtimes.base import Outputs

ITEM_INDEX = "item_index"
"""The output that tells of which item a row is."""

_OFF_LOOP = 1 << 20


class Map(Step):
    """Runs its step for each item, some at a time.

    Args:
        config, name, fallback: as for :class:`Step`.
        over: the lists, by the name that the step has for an item.
        step: what runs for each.
        outputs: gives what is known of the step's outputs: what an empty list's are made of.
    """

    def __init__(
        self,
        config: StepConfig,
        name: str,
        fallback: Step | None,
        *,
        over: Mapping[str, CompiledSource],
        step: Step,
        outputs: Callable[[], Sequence[TensorSpec]],
    ) -> None:
        super().__init__(config, name, fallback)
        assert config.map is not None
        self._map = config.map
        self._over = dict(over)
        self._step = step
        self._outputs_known = outputs
        self._joins = (config.map.regroup or ("concat" if config.map.rows else "stack")) == "concat"
        self._tells_index = config.map.on_error == "skip" or (self._joins and config.map.rows is None)
        # A map in a map may use the outer one's items besides its own.
        self._outer = step.references() - {f"item.{item}" for item in over}
        self.takes_graph_inputs = all(
            reference.startswith("inputs.") for source in over.values() for reference in source.references
        )

    def own_references(self) -> frozenset[str]:
        """The lists, and what the step uses of its graph's tensors."""
        return self._outer.union(*(source.references for source in self._over.values()))

    def references(self) -> frozenset[str]:
        """Those of its own; its step's items are nothing to the graph."""
        found = self.own_references()
        if self._when is not None:
            found |= self._when.references
        return found if self._fallback is None else found | self._fallback.references()

    @property
    def step(self) -> Step:
        """What runs for each item."""
        return self._step

    def all(self) -> Iterator[Step]:
        """It, its step, and what is in that."""
        yield from super().all()
        yield from self._step.all()

    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """See :meth:`Step.compute`."""
        lists: dict[str, Array] = {}
        for name, array in (await gather(self._over, scope)).items():
            if array is None:
                return None, "a list is missing"
            lists[name] = array
        count = self._count(lists)
        rows = self._map.rows or 1
        chunks = -(-count // rows)
        answers: list[Outputs | None] = [None] * chunks
        await self._run_all(scope, lists, answers)
        there = [index for index, answer in enumerate(answers) if answer is not None]
        detail = f"{count} items" if len(there) == chunks else f"{count} items, {chunks - len(there)} runs left out"
        if not there:
            return self._nothing(), detail
        given = [answer for answer in answers if answer is not None]
        if sum(array.nbytes for answer in given for array in answer.values()) > _OFF_LOOP:
            return await asyncio.to_thread(self._regrouped, given, there, count), detail
        return self._regrouped(given, there, count), detail

    def _count(self, lists: Mapping[str, Array]) -> int:
        counts: dict[str, int] = {}
        for name, array in lists.items():
            if not array.ndim:
                raise ModelFailed(f"'over' {name!r}: expected a list of items along the first dimension, got a scalar")
            counts[name] = array.shape[0]
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
            raise ModelFailed(f"its lists differ in length: {told}")
        count = next(iter(counts.values()))
        if count > self._map.max_items:
            raise InvalidInput(f"{count} items, and it takes {self._map.max_items} at most (its max_items)")
        return count

    async def _run_all(self, scope: Scope, lists: Mapping[str, Array], answers: list[Outputs | None]) -> None:
        outer = {name: scope.values[name] for name in self._outer if name in scope.values}
        rows = self._map.rows
        waiting = iter(range(len(answers)))

        async def work() -> None:
            for index in waiting:
                scope.check_deadline(f"item {index * (rows or 1)} ran")
                values = dict(outer)
                for name, array in lists.items():
                    item = array[index] if rows is None else array[index * rows : (index + 1) * rows]
                    values[f"item.{name}"] = item if isinstance(item, np.ndarray) else _scalar(item, array)
                try:
                    answers[index] = await self._step.run(replace(scope, values=values, item=f"{scope.item}[{index}]"))
                except StepFailed:
                    if self._map.on_error == "fail":
                        raise
                # A step that never waits would keep others from the event loop for as long as the list is.
                await asyncio.sleep(0)

        workers = min(self._map.concurrency, len(answers))
        if workers == 1:
            await work()
        elif workers:
            async with side_by_side() as group:
                for _ in range(workers):
                    group.create_task(work())

    def _regrouped(self, given: Sequence[Outputs], there: Sequence[int], count: int) -> Outputs:
        names = [name for name in given[0] if all(name in answer for answer in given)]
        result: Outputs = {}
        for name in names:
            arrays = [answer[name] for answer in given]
            self._check(name, arrays, there)
            result[name] = np.concatenate(arrays) if self._joins else np.stack(arrays)
        if self._tells_index:
            result[ITEM_INDEX] = self._item_index(given, there, names, count)
        return result

    def _check(self, name: str, arrays: Sequence[Array], there: Sequence[int]) -> None:
        first = arrays[0]
        start = 1 if self._joins else 0
        for index, array in zip(there, arrays, strict=True):
            if self._joins and not array.ndim:
                raise ModelFailed(f"output {name!r} of item {index} is a scalar: there is nothing to join along")
            if array.shape[start:] != first.shape[start:]:
                hint = "" if self._joins else "; with 'regroup: concat' they may differ in their first dimension"
                raise ModelFailed(
                    f"output {name!r} has shape {list(array.shape)} for item {index} and {list(first.shape)} for item "
                    f"{there[0]}{hint}"
                )
            if (array.dtype == object) != (first.dtype == object):
                raise ModelFailed(f"output {name!r} is text for some items, and numbers for others")

    def _item_index(self, given: Sequence[Outputs], there: Sequence[int], names: Sequence[str], count: int) -> Array:
        rows = self._map.rows
        if rows is not None:  # a chunk's rows are its items
            parts = [np.arange(index * rows, min((index + 1) * rows, count)) for index in there]
            return np.concatenate(parts).astype(np.int64)
        if not self._joins:
            return np.asarray(there, dtype=np.int64)
        lengths = []
        for index, answer in zip(there, given, strict=True):
            found = {answer[name].shape[0] for name in names}
            if len(found) > 1:
                raise ModelFailed(f"the outputs of item {index} differ in their first dimension: {sorted(found)}")
            lengths.append(found.pop() if found else 0)
        return np.repeat(np.asarray(there, dtype=np.int64), lengths)

    def _nothing(self) -> Outputs:
        """The outputs of an empty list, as far as they are known."""
        result: Outputs = {}
        for spec in self._outputs_known():
            shape = spec.shape or ()
            inner = shape[1:] if self._joins else shape
            dtype = DTYPES[spec.datatype or "FP32"]
            result[spec.name] = np.empty((0, *(max(size, 0) for size in inner)), dtype=dtype)
        if self._tells_index:
            result[ITEM_INDEX] = np.empty(0, dtype=np.int64)
        return result


def _scalar(item: object, array: Array) -> Array:
    """An element that NumPy gives as a scalar, as an array without dimensions."""
    wrapped = np.empty((), dtype=array.dtype)
    wrapped[()] = item
    return wrapped
