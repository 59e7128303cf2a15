"""Pictures of graphs: layers, text, SVG that is XML, and time lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from salver.graph.description import describe_file
from salver.graph.drawing import draw_svg, draw_text, draw_time_line, layers

SVG = "{http://www.w3.org/2000/svg}"

DIAMOND = """
inputs: [{name: "<x> & \\"\\u0007\\"", datatype: FP32, shape: [-1, 2]}]
outputs: [{name: y, from: join.y}, {name: early, from: left.y, optional: true}]
steps:
- {name: join, values: {y: {concat: [left.y, right.y]}}}
- {name: left, model: a, inputs: {x: 'inputs.<x> & "'}, when: "1 < 2", optional: true}
- {name: right, switch: [{model: b, when: "true"}, {model: c}], fallback: {step: {model: d}}}
""".replace("""'inputs.<x> & "'""", '"inputs.<x> & \\"\\u0007\\""')


def described(folder: Path, text: str = DIAMOND) -> dict[str, Any]:
    (folder / "graph.yaml").write_text(text)
    return describe_file(folder)


def test_each_box_is_below_all_that_it_needs(tmp_path: Path) -> None:
    rows = layers(described(tmp_path))
    depth = {box.name: number for number, row in enumerate(rows) for box in row}
    assert [sorted(box.name for box in row) for row in rows] == [
        ["inputs"],
        ["left", "right"],
        ["join"],
        ["outputs"],
    ]
    for row in rows:
        for box in row:
            assert all(depth[need] < depth[box.name] for need in box.needs)


def test_text(tmp_path: Path) -> None:
    text = draw_text(described(tmp_path))
    assert "│ when 1 < 2 │" in text
    assert "or else: model d" in text
    assert "model b when true" in text
    assert "\a" not in text
    boxes = [line for line in text.splitlines() if "▼" not in line]
    assert sum(line.count("┌") for line in boxes) == sum(line.count("└") for line in boxes) == 5


def test_svg_is_xml_whatever_the_names_are(tmp_path: Path) -> None:
    graph = described(tmp_path)
    graph["name"], graph["version"] = "</title><script>", '"'
    root = ElementTree.fromstring(draw_svg(graph))
    assert root.findtext(f"{SVG}title") == '</title><script> "'
    assert not list(root.iter(f"{SVG}script"))
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert '<x> & "\\x07": FP32 [-1, 2]' in texts
    assert len(list(root.iter(f"{SVG}rect"))) == 6  # the boxes, and the background
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.iter(f"{SVG}rect"):
        if "x" in box.attrib:
            assert 0 <= float(box.attrib["x"]) <= float(box.attrib["x"]) + float(box.attrib["width"]) <= width
            assert 0 <= float(box.attrib["y"]) <= float(box.attrib["y"]) + float(box.attrib["height"]) <= height


def step(name: str, start: float, end: float, status: str = "ok", detail: str = "") -> dict[str, Any]:
    return {"step": name, "start": start, "end": end, "status": status, "detail": detail}


def test_a_time_line() -> None:
    steps = [
        step("late", 5000, 10000, "error", "out of\nluck \x1b[2J"),
        step("first", 0, 5000),
        step("never", 5000, 5000, "skipped", "its condition is false"),
    ]
    head, first, late, never = draw_time_line({"microseconds": 10000.0, "steps": steps}).splitlines()
    assert head.split() == ["0", "10.0", "ms"]
    assert first.split() == ["first", "█" * 20, "5.0", "ms"]
    assert late == f"late   {' ' * 20}{'!' * 20}    5.0 ms  error (out of\\nluck \\x1b[2J)"
    assert never.endswith("skipped (its condition is false)")
    assert " 0 us" not in never


def test_a_time_line_without_steps() -> None:
    assert draw_time_line({"microseconds": 0.0, "steps": []}).split() == ["0", "0", "us"]
