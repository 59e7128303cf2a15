"""Asks the router what customers write about.

    python examples/router/ask_router.py "Wo ist mein Paket?"
    python examples/router/ask_router.py                          # all of questions.yaml, which it was not trained on

The exit code is 1 where an answer to one of questions.yaml is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from salver import Client, errors

QUESTIONS = Path(__file__).resolve().parent / "questions.yaml"


def questions() -> list[tuple[str, str, str]]:
    """Texts of questions.yaml, with the language and the topic that are expected."""
    languages = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    return [
        (text, language, topic)
        for language, topics in languages.items()
        for topic, texts in topics.items()
        for text in texts
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*", help="messages; those of questions.yaml without any")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server's")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    expected = [] if options.text else questions()
    texts = options.text or [text for text, _, _ in expected]
    try:
        with Client(options.url) as client:
            answer = client.predict("mailbox", {"texts": texts})
    except errors.SalverError as error:
        console.print(str(error), markup=False)
        return 1
    found = list(zip(answer["language"].tolist(), answer["topic"].tolist(), strict=True))
    table = Table("language", "topic", "message")
    for text, (language, topic) in zip(texts, found, strict=True):
        table.add_row(language, topic, text)
    console.print(table)
    if not expected:
        return 0
    right = sum((language, topic) == answer for (_, language, topic), answer in zip(expected, found, strict=True))
    console.print(f"{right} of {len(expected)} as expected")
    return 0 if right == len(expected) else 1


if __name__ == "__main__":
    sys.exit(main())
