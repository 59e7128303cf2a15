"""What a model cache could have made of a trace, had it known the future: no policy does better.

It must load what is asked for, as every policy must: a request's own model takes its memory while it runs. Memory is
empty at first.
"""

from __future__ import annotations

import heapq

import numpy as np
from scipy.optimize import linprog  # type: ignore[import-untyped]
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from traces import Numbers, Outcome, Trace, outcome


def optimum(trace: Trace) -> Outcome:
    """The best hit ratio, the best byte hit ratio and the fewest seconds, each for itself where models differ."""
    if trace.is_equal:
        return farthest(trace)
    sizes = trace.sizes[trace.requests].astype(float)
    count = len(trace.requests)
    return Outcome(
        1.0 - least_cost(trace, np.ones(count)) / count,
        1.0 - least_cost(trace, sizes / sizes.mean()) / count,
        1000 * least_cost(trace, trace.load_seconds[trace.requests]) / count,
    )


def farthest(trace: Trace) -> Outcome:
    """Belady's MIN (1966): the model that is asked for last goes. It is the best where all models are alike."""
    slots = int(trace.capacity // trace.sizes[0])
    following = _next_requests(trace.requests)
    is_hit = np.zeros(len(trace.requests), bool)
    loaded: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    for index, model in enumerate(trace.requests.tolist()):
        is_hit[index] = model in loaded
        while not is_hit[index] and len(loaded) >= slots:
            negated, other = heapq.heappop(heap)
            if loaded.get(other) == -negated:
                del loaded[other]
        loaded[model] = int(following[index])
        heapq.heappush(heap, (-loaded[model], model))
    return outcome(trace, is_hit)


def least_cost(trace: Trace, costs: Numbers) -> float:
    """A bound below what any policy pays for loads, however large and costly models are.

    Between two requests for a model it is kept, which saves a load and takes memory all the while, or it isn't. What to
    keep is a linear program in which parts of models may be kept: the relaxation of FOO (Berger et al. 2018, "Practical
    Bounds on Optimal Caching with Variable Object Sizes"), here with costs. Where all models are alike, the bound is
    what :func:`farthest` pays.

    Args:
        trace: which requests there are, and how large models are.
        costs: of loading, for each request.

    Raises:
        RuntimeError: the solver failed.
    """
    count = len(trace.requests)
    following = _next_requests(trace.requests)
    begins = np.flatnonzero(following < count)
    ends = following[begins]
    is_repeated = ends == begins + 1  # nothing comes between: always a hit
    spared = costs[ends[is_repeated]].sum()
    begins, ends = begins[~is_repeated], ends[~is_repeated]
    parts = trace.sizes[trace.requests[begins]] / trace.capacity
    room = 1.0 - trace.sizes[trace.requests] / trace.capacity
    # For each request: what is kept over it, and what stays empty, make up the room. From each such equation the one
    # before it is subtracted, which leaves two numbers for each model that is kept.
    kept, empty = np.arange(len(begins)), len(begins) + np.arange(count)
    rows = np.concatenate([begins + 1, ends, np.arange(count), np.arange(1, count)])
    columns = np.concatenate([kept, kept, empty, empty[:-1]])
    values = np.concatenate([parts, -parts, np.ones(count), -np.ones(count - 1)])
    solution = linprog(
        np.concatenate([-costs[ends], np.zeros(count)]),
        A_eq=csr_matrix((values, (rows, columns)), shape=(count, len(kept) + count)),
        b_eq=np.diff(room, prepend=0.0),
        bounds=np.stack([np.zeros(len(kept) + count), np.concatenate([np.ones(len(kept)), room])], axis=1),
        method="highs-ds",
    )
    if solution.status != 0:
        raise RuntimeError(f"the optimum of '{trace.name}' wasn't found: {solution.message}")
    return float(costs.sum() - spared + solution.fun)


def _next_requests(requests: Numbers) -> Numbers:
    """For each request, the index of the next one for the same model; the number of requests where there is none."""
    following = np.full(len(requests), len(requests))
    last: dict[int, int] = {}
    for index in range(len(requests) - 1, -1, -1):
        model = int(requests[index])
        following[index] = last.get(model, len(requests))
        last[model] = index
    return following
