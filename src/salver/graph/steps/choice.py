"""Steps that choose one of several: by conditions, or by chance."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate

from salver.core.errors import InvalidRequest
from salver.graph.scope import Scope
from salver.graph.spec import StepConfig
from salver.graph.steps.step import Step
from salver.runtimes.base import Outputs


class _Choice(Step):
    def __init__(self, config: StepConfig, name: str, fallback: Step | None, cases: Sequence[Step]) -> None:
        super().__init__(config, name, fallback)
        self._cases = tuple(cases)
        self.takes_graph_inputs = all(case.takes_graph_inputs for case in cases)

    def inner(self) -> Iterator[Step]:
        """The cases."""
        return iter(self._cases)


class Switch(_Choice):
    """Runs the first case whose condition is true; skipped where none is, unless one must."""

    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """See :meth:`Step.compute`.

        Raises:
            InvalidRequest: no condition is true, and one must.
        """
        for case in self._cases:
            if case.is_wanted(scope):
                return await case.run_wanted(scope), case.name
        if self.config.must_match:
            raise InvalidRequest("no case fits: the conditions of all of them are false")
        return None, "no case fits"


class Split(_Choice):
    """Runs one of its steps by chance, by their weights; requests with one value of ``split_by`` get the same one."""

    def __init__(self, config: StepConfig, name: str, fallback: Step | None, cases: Sequence[Step]) -> None:
        super().__init__(config, name, fallback, cases)
        self._bounds = list(accumulate(case.config.weight or 0.0 for case in cases))
        self._by = config.split_by

    async def compute(self, scope: Scope) -> tuple[Outputs | None, str]:
        """See :meth:`Step.compute`."""
        index = min(bisect_right(self._bounds, self._point(scope) * self._bounds[-1]), len(self._cases) - 1)
        case = self._cases[index]
        return await case.run(scope), case.name

    def _point(self, scope: Scope) -> float:
        value = None if self._by is None else scope.parameters.get(self._by)
        if value is None:
            return random.random()  # noqa: S311  nobody gains by guessing it
        digest = blake2b(f"{self.name}:{value}".encode(errors="surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64
