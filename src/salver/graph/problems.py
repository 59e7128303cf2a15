"""What is wrong with a graph, as it is found: where, and no more than anybody reads."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice
from typing import Final

from salver.config.document import KeyPath
from salver.config.explain import suggestion

MAX_PROBLEMS: Final = 20
_MAX_NAMES: Final = 20
_MAX_COMPARED: Final = 1000


class TooManyProblems(Exception):
    """There are more than are told: looking on would cost time, and help nobody."""


class Problems:
    """Problems and the places in the document that have them.

    Attributes:
        quiet: what is found was found before, and isn't noted.
    """

    def __init__(self) -> None:
        self.quiet = False
        self._found: dict[tuple[KeyPath, str], None] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def note(self, path: KeyPath, problem: str) -> None:
        """Remember a problem.

        Raises:
            TooManyProblems: there are enough.
        """
        if self.quiet or (path, problem) in self._found:
            return
        if len(self._found) == MAX_PROBLEMS:
            raise TooManyProblems
        self._found[path, problem] = None

    def told(self, place: Callable[[KeyPath], str], *, and_more: bool) -> str:
        """A line a problem, in the order of the steps; ``place``: where a value of the document stands."""
        lines = [f"{place(path)}: {problem}" for path, problem in sorted(self._found, key=_position)]
        return "\n".join([*lines, "and more"] if and_more else lines)


def nearest(name: str, names: Collection[str]) -> str:
    """The name that was meant, or those that there are."""
    if not names:
        return "there are none"
    told = suggestion(name, islice(names, _MAX_COMPARED), what="name")
    if told.startswith("did you mean") or len(names) <= _MAX_NAMES:
        return told
    return f"there are {len(names)}, such as {', '.join(islice(names, 5))}"


def _position(found: tuple[KeyPath, str]) -> tuple[tuple[int, str], ...]:
    return tuple((part, "") if isinstance(part, int) else (-1, part) for part in found[0])
