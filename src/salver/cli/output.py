"""What commands print: tables for people, JSON for scripts. Colours and lines are for a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from salver.core.tensor import Array

_MAX_CELL = 200


def print_json(document: object) -> None:
    """One JSON document; arrays are nested lists, NaN is null."""
    import orjson

    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode())


def harmless(text: str) -> str:
    """A text from elsewhere without what moves a terminal's cursor, changes its title or answers in its user's name."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def brief(text: str) -> str:
    """A text that fits in a table."""
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}..."


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; ``header`` may be empty."""
    rows = [[harmless(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_table(header, rows)
        return
    lines = [header, *rows] if header else list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def note(text: str) -> None:
    """Something about the way to a result, on stderr."""
    typer.echo(f"note: {text}", err=True)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on a terminal that work goes on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True, markup=False, highlight=False).status(text):
        yield


def summary(array: Array) -> str:
    """An array's values in a line, those in the middle of a large one left out."""
    import numpy as np

    if array.dtype == np.object_:
        elements = [_element(element) for element in array.ravel()[:9].tolist()]
        if array.size == 1:
            return elements[0]
        if array.size > 8:
            elements[8] = f"... ({array.size} in all)"
        return ", ".join(elements)
    if array.size == 1:
        return str(array.item())
    text = np.array2string(array, threshold=40, edgeitems=3, precision=6, suppress_small=True, max_line_width=10**6)
    return " ".join(text.split())


def plain(array: Array) -> Any:
    """An array as JSON can hold it; bytes that are not UTF-8 become base64."""
    import base64

    import numpy as np

    if array.dtype == np.object_:
        texts = [base64.b64encode(each).decode() if isinstance(each, bytes) else each for each in array.ravel()]
        return np.array([*texts, None], dtype=np.object_)[:-1].reshape(array.shape).tolist()
    if array.dtype.kind not in "biuf" or (array.dtype.itemsize < 4 and array.dtype.kind == "f"):
        return array.astype(np.float32).tolist()
    return array.tolist()


def size(count: float) -> str:
    """Bytes for people: ``12.5 MiB``."""
    from salver.registration.probe.limits import show_size

    return show_size(count)


def tensors(specs: Sequence[Any]) -> str:
    """Inputs or outputs in a line: ``pixels FP32 [-1, 64]``."""
    return ", ".join(
        f"{spec.name} {spec.datatype or 'any'} {'any shape' if spec.shape is None else list(spec.shape)}"
        for spec in specs
    )


def _element(element: object) -> str:
    text = element if isinstance(element, str) else repr(element)
    return text if len(text) <= 500 else f"{text[:500]}... ({len(text)} characters)"


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD if header else None, show_header=bool(header))
    for _ in () if header else rows[0]:
        table.add_column()
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False, emoji=False).print(table)
