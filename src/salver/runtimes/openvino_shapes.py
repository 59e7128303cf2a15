"""Whether shapes suit an OpenVINO model: its CPU plugin doesn't always look.

A MatMul of [2, 5] by a constant [3, 4] gives numbers there (2026.4, FP32, AVX-512), and one of [2, 2] by it reads
beyond the input's end. Shape inference of OpenVINO's core refuses both.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

from openvino import opset13 as ops  # type: ignore[import-untyped]

from salver.core.tensor import Shape

_LARGE = 1024  # elements; smaller constants may decide about shapes
_KNOWN = 4096  # sets of shapes that are remembered


class ShapeCheck:
    """Holds the shapes of a call's inputs against a model; what it has seen fit costs it a look into a dict.

    A set of shapes that is new takes it 2.6 ms for a MiniLM, whose run takes 9. It keeps the graph without weights.
    """

    def __init__(self, model: Any) -> None:
        """``model``: as it was read; it is left as it is, and not kept."""
        self._graph = _without_weights(model)
        self._lock = threading.Lock()
        self._known: dict[tuple[Shape, ...], None] = {}

    def check(self, shapes: tuple[Shape, ...]) -> None:
        """Check the shapes of all inputs, in the model's order.

        Raises:
            RuntimeError: (OpenVINO's) they don't suit the model.
        """
        if shapes in self._known:
            return
        with self._lock:
            self._graph.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            if len(self._known) >= _KNOWN:
                del self._known[next(iter(self._known))]
            self._known[shapes] = None


def needs_check(model: Any, free: Sequence[Shape | None], *, batched: bool) -> bool:
    """Whether a signature's shapes say too little about what fits: they leave more open than a batch dimension.

    Branches (``If``) are let through: shape inference would refuse shapes for the sake of the one that isn't taken.
    """
    if any(node.get_type_name() == "If" for node in model.get_ops()):
        return False
    return any(shape is None or -1 in (shape[1:] if batched else shape) for shape in free)


def _without_weights(model: Any) -> Any:
    graph = model.clone()
    parameters = []
    for node in graph.get_ops():
        if node.get_type_name() == "Constant" and math.prod(shape := list(node.get_output_shape(0))) > _LARGE:
            parameter = ops.parameter(shape, node.get_output_element_type(0))
            node.output(0).replace(parameter.output(0))
            parameters.append(parameter)
    graph.add_parameters(parameters)
    graph.validate_nodes_and_infer_types()
    return graph
