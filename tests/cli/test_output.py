"""What is printed of texts that others have written."""

from __future__ import annotations

import pytest

from salver.cli.output import brief, harmless, print_rows

HOSTILE = "\x1b]0;title\x07 \x1b[31mred\r\n\u202eback é 名"


def test_what_would_steer_a_terminal_is_shown_as_what_it_is() -> None:
    assert harmless(HOSTILE) == r"\x1b]0;title\x07 \x1b[31mred\r\n\u202eback é 名"


def test_cells_of_tables_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(["A", "B"], [["1", HOSTILE], ["2", "plain"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["A  B", f"1  {harmless(HOSTILE)}", "2  plain"]


def test_long_texts_are_cut() -> None:
    assert brief("x" * 200) == "x" * 200
    assert brief("x" * 10_000) == "x" * 200 + "..."
