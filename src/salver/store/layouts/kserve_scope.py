"""Steps that are made of KServe's: their names, and the tensors that conditions look at."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_NO_NAME = re.compile(r"[^A-Za-z0-9_]")
_RESERVED = ("inputs", "item", "parameters", "outputs")


class Scope:
    """Steps that see each other: the whole graph's, or those of a block.

    Attributes:
        steps: in their order.
        inputs: what a block is given besides all that comes from its origin.

    Args:
        outer: the scope around a block, and what all that the block gets comes from there.
    """

    def __init__(self, outer: tuple[Scope, str] | None = None) -> None:
        self.steps: list[dict[str, Any]] = []
        self.inputs: dict[str, str] = {}
        self._outer = outer
        self._names: set[str] = set()
        self._read: dict[tuple[str, str, bool], str] = {}

    def name(self, wanted: str) -> str:
        """A name that no step here has, as near to the wanted one as can be."""
        name = _NO_NAME.sub("_", wanted)[:50]
        if not name or name[0].isdigit() or name in _RESERVED:
            name = f"step_{name}".rstrip("_")
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique)
        return unique

    def reference(self, origin: str, tensor: str, *, flat: bool, note: Callable[[dict[str, Any]], object]) -> str:
        """A tensor of ``inputs`` or of a step here, for a condition.

        Args:
            origin: ``inputs``, or the step.
            tensor: its name, or ``#`` and its number.
            flat: with one dimension.
            note: is told of a step that is made for it.
        """
        key = (origin, tensor, flat)
        if key not in self._read:
            name = self.name(f"read_{origin}")
            if origin == "inputs" and self._outer is not None:
                scope, origin_there = self._outer
                self.inputs[name] = scope.reference(origin_there, tensor, flat=flat, note=note)
                self._read[key] = f"inputs.{name}"
            else:
                source: dict[str, Any] = {"from": f"{origin}.{tensor}"}
                self.steps.append({"name": name, "values": {"tensor": source | ({"reshape": [-1]} if flat else {})}})
                note(self.steps[-1])
                self._read[key] = f"{name}.tensor"
        return self._read[key]
