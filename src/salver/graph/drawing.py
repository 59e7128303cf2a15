"""Pictures of graphs: text for a terminal, SVG for a page. Drawn from what the API tells of a graph.

Steps stand in layers: each below all that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

Description = Mapping[str, Any]

_INPUTS, _OUTPUTS = "inputs", "outputs"
_MARKS = {"skipped": "-", "failed": "!", "error": "!", "fallback": "~", "answered": "="}
_BAR_COLUMNS = 40
_LONGEST = 60

_BOX_HEIGHT = 46
_GAP_X, _GAP_Y, _MARGIN = 24, 44, 20
_CHARACTER = 7.3
_COLOURS = {
    "model": "#e8f0fe", "function": "#fef3e0", "graph": "#e9f7ef", "switch": "#f3e8fd", "split": "#f3e8fd",
    "ensemble": "#e0f4f7", "map": "#fde8ef", "values": "#f5f5f5", "answer": "#fff8c5",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Box:
    """A step in a picture.

    Attributes:
        name: references call it so.
        lines: what stands in it, its title first.
        needs: the boxes above that it is joined to.
        kind: of the step; "" for inputs and outputs.
    """

    name: str
    lines: tuple[str, ...]
    needs: tuple[str, ...]
    kind: str = ""


def layers(graph: Description) -> list[list[Box]]:
    """The boxes of a graph, from inputs to outputs, each in the first layer below all that it needs.

    Args:
        graph: as :func:`salver.graph.description.describe_graph` tells it.
    """
    boxes = [
        Box(_INPUTS, _shown("inputs", *map(_tensor, graph["inputs"])), ()),
        *(Box(step["name"], _lines(step), tuple(step["needs"]), step["kind"]) for step in graph["steps"]),
    ]
    known = {box.name for box in boxes}
    depth: dict[str, int] = {_INPUTS: 0}
    waiting = boxes[1:]
    while waiting:
        rest = []
        for box in waiting:
            needs = [need for need in box.needs if need in known]
            if all(need in depth for need in needs):
                depth[box.name] = 1 + max((depth[need] for need in needs), default=0)
            else:
                rest.append(box)
        if len(rest) == len(waiting):
            break  # a cycle, which no graph that was loaded has
        waiting = rest
    result: list[list[Box]] = [[] for _ in range(max(depth.values()) + 1)]
    for box in boxes:
        result[depth[box.name]].append(box)
    result.append([Box(_OUTPUTS, _shown("outputs", *map(_tensor, graph["outputs"])), tuple(graph["answers"]))])
    return result


def draw_text(graph: Description) -> str:
    """A graph as text: a row of boxes a layer, each with what it needs where that isn't all of the layer above."""
    rows: list[str] = []
    above: set[str] = set()
    for layer in layers(graph):
        if rows:
            rows.append("      ▼")
        drawn = [_text_box(box, above) for box in layer]
        height = max(map(len, drawn))
        for number in range(height):
            cells = [box[number] if number < len(box) else " " * len(box[0]) for box in drawn]
            rows.append("  ".join(cells).rstrip())
        above = {box.name for box in layer}
    return "\n".join(rows)


def draw_svg(graph: Description) -> str:
    """A graph as an SVG document."""
    rows = layers(graph)
    widths = {
        box.name: max(90.0, max(len(line) for line in box.lines) * _CHARACTER + 24) for row in rows for box in row
    }
    heights = [max(_BOX_HEIGHT, 18 + 17 * max(len(box.lines) for box in row)) for row in rows]
    total = max(sum(widths[box.name] for box in row) + _GAP_X * (len(row) - 1) for row in rows)
    places: dict[str, tuple[float, float, float, float]] = {}
    top = float(_MARGIN)
    for row, height in zip(rows, heights, strict=True):
        left = _MARGIN + (total - sum(widths[box.name] for box in row) - _GAP_X * (len(row) - 1)) / 2
        for box in row:
            places[box.name] = (left, top, widths[box.name], height)
            left += widths[box.name] + _GAP_X
        top += height + _GAP_Y
    title = f"{graph['name']} {graph['version']}".rstrip()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total + 2 * _MARGIN:.0f}" '
        f'height="{top - _GAP_Y + _MARGIN:.0f}" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(_harmless(title))}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#607080"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    parts += [
        _svg_edge(places[need], places[box.name]) for row in rows for box in row for need in box.needs if need in places
    ]
    parts += [_svg_box(box, places[box.name]) for row in rows for box in row]
    return "\n".join([*parts, "</svg>", ""])


def draw_time_line(trace: Description) -> str:
    """A request's steps on a time line, as text.

    Args:
        trace: as :func:`salver.graph.description.describe_trace` tells it.
    """
    steps = sorted(trace["steps"], key=lambda step: (step["start"], -step["end"]))
    whole = max(trace["microseconds"], 1e-9)
    width = max((len(step["step"]) for step in steps), default=4)
    rows = [f"{'':{width}}  {'0':<{_BAR_COLUMNS - 8}}{_duration(whole):>8}"]
    for step in steps:
        begin = min(int(step["start"] / whole * _BAR_COLUMNS), _BAR_COLUMNS - 1)
        length = max(1, round((step["end"] - step["start"]) / whole * _BAR_COLUMNS))
        mark = _MARKS.get(step["status"], "█")
        bar = (" " * begin + mark * length)[:_BAR_COLUMNS]
        told = "" if step["status"] == "ok" else f"  {step['status']}"
        told += f" ({step['detail']})" if step["detail"] and step["status"] != "ok" else ""
        taken = "" if step["status"] == "skipped" else _duration(step["end"] - step["start"])
        rows.append(_harmless(f"{step['step']:{width}}  {bar:<{_BAR_COLUMNS}}  {taken:>8}{told}".rstrip()))
    return "\n".join(rows)


def _duration(microseconds: float) -> str:
    if microseconds < 1000:
        return f"{microseconds:.0f} us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds / 1_000_000:.2f} s"


def _tensor(spec: Mapping[str, Any]) -> str:
    shape = "" if spec["shape"] is None else f" {spec['shape']}"
    return f"{spec['name']}: {spec['datatype'] or 'any'}{shape}{' (optional)' if spec['optional'] else ''}"


def _lines(step: Mapping[str, Any]) -> tuple[str, ...]:
    lines = [step["name"], f"{step['kind']} {step['asks']}".rstrip()]
    if step["when"]:
        lines.append(f"when {step['when']}")
    lines += _inner(step, 1)
    if step["optional"]:
        lines.append("optional")
    return _shown(*lines)


def _shown(*lines: str) -> tuple[str, ...]:
    """Lines that fit in a box."""
    cleaned = map(_harmless, lines)
    return tuple(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..." for line in cleaned)


def _harmless(text: str) -> str:
    """A text without what XML forbids, and what would move a terminal's cursor: models' texts may hold anything."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _inner(step: Mapping[str, Any], depth: int) -> list[str]:
    lines: list[str] = []
    for each in step.get("steps", ()):
        when = f" when {each['when']}" if each["when"] else ""
        lines.append(f"{'  ' * depth}{each['kind']} {each['asks']}".rstrip() + when)
        lines += _inner(each, depth + 1)
    if "fallback" in step:
        fallback = step["fallback"]
        lines.append(f"{'  ' * depth}or else: {fallback['kind']} {fallback['asks']}".rstrip())
    return lines


def _text_box(box: Box, above: set[str]) -> list[str]:
    lines = list(box.lines)
    if box.needs and set(box.needs) != above:
        lines.append(f"← {', '.join(box.needs)}")
    width = max(len(line) for line in lines)
    title, rest = lines[0], lines[1:]
    return [
        f"┌ {title} {'─' * (width - len(title))}┐",
        *(f"│ {line:{width}} │" for line in rest),
        f"└{'─' * (width + 2)}┘",
    ]


def _svg_edge(start: Sequence[float], end: Sequence[float]) -> str:
    from_x, from_y = start[0] + start[2] / 2, start[1] + start[3]
    to_x, to_y = end[0] + end[2] / 2, end[1] - 2
    middle = (from_y + to_y) / 2
    curve = f"M{from_x:.1f},{from_y:.1f} C{from_x:.1f},{middle:.1f} {to_x:.1f},{middle:.1f} {to_x:.1f},{to_y:.1f}"
    return f'<path d="{curve}" fill="none" stroke="#607080" stroke-width="1.4" marker-end="url(#arrow)"/>'


def _svg_box(box: Box, place: Sequence[float]) -> str:
    left, top, width, height = place
    colour = _COLOURS.get(box.kind, "#ffffff")
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" fill="{colour}" '
        'stroke="#607080"/>'
    ]
    for number, line in enumerate(box.lines):
        weight = ' font-weight="600"' if number == 0 else ' fill="#405060"'
        at = f'x="{left + 12:.1f}" y="{top + 21 + 17 * number:.1f}"'
        parts.append(f'<text {at} xml:space="preserve"{weight}>{escape(line)}</text>')
    return "\n".join(parts)
