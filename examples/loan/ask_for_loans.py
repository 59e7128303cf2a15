"""Asks a server about loans: files of yours, or applications that are made up and written here.

    python examples/loan/ask_for_loans.py                    # some of each kind
    python examples/loan/ask_for_loans.py application.pdf    # files

The exit code is 1 where a file isn't answered.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import paper
from applicants import Applicant, applicants

from salver import Client, errors


@dataclass(frozen=True)
class Answer:
    """What the graph says of a file.

    Attributes:
        decision: approved, declined, referred, incomplete, unreadable or no application.
        approved: whether the loan is.
        probability: that it is paid back; None where it wasn't scored.
        facts: what the application says, null where it doesn't; empty where there is none.
        reasons: for the decision.
    """

    decision: str
    approved: bool
    probability: float | None
    facts: Mapping[str, Any]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A file that was made up.

    Attributes:
        name: what it is.
        pdf: the file.
        applicant: whose application it is; None where it is none.
    """

    name: str
    pdf: bytes
    applicant: Applicant | None = None


def samples() -> list[Sample]:
    """Each layout, printed and scanned, of different people; a form with a gap; two that are no applications."""
    made: list[Sample] = []
    people = applicants(seed=62)  # among its first six, each is a clear case
    for layout in paper.LAYOUTS:
        first, second = islice(people, 2)
        made.append(Sample(f"{layout}, printed", paper.application(first, layout), first))
        scan = paper.scanned(paper.application(second, layout), degrees=1.2)
        made.append(Sample(f"{layout}, scanned", scan, second))
    without = replace(next(people), employer="")
    made.append(Sample("letter, without the employer", paper.application(without, "letter"), without))
    made.append(Sample("an invoice", paper.invoice()))
    made.append(Sample("a blank page", paper.blank()))
    return made


def ask(client: Client, pdf: bytes) -> Answer:
    """Ask the graph about one file.

    Raises:
        SalverError: it has no answer.
    """
    answer = client.predict("loan", {"pdf": [pdf]})
    probability = answer.get("probability")
    return Answer(
        decision=str(answer["decision"][0]),
        approved=bool(answer["approved"][0]),
        probability=None if probability is None else float(probability[0]),
        facts=json.loads(answer["facts"][0]) if "facts" in answer else {},
        reasons=tuple(map(str, answer["reasons"])),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="PDF files; without any, some are made up")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server's")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="where made-up files are written, to look at them")
    options = parser.parse_args(arguments)
    try:
        files = [Sample(str(file), file.read_bytes()) for file in options.files] or samples()
        if options.write is not None and not options.files:
            _write(options.write, files)
        with Client(options.url) as client:
            for file in files:
                began = perf_counter()
                _print(file.name, ask(client, file.pdf), perf_counter() - began)
    except (errors.SalverError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _write(folder: Path, files: Sequence[Sample]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / f"{file.name.replace(', ', '-').replace(' ', '-')}.pdf").write_bytes(file.pdf)


def _print(name: str, answer: Answer, seconds: float) -> None:
    chance = "" if answer.probability is None else f" ({answer.probability:.0%} sure to be paid back)"
    print(f"{name}: {answer.decision}{chance}: {', '.join(answer.reasons)}; {seconds:.1f} s")
    if answer.facts:
        print("    " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in answer.facts.items()))


if __name__ == "__main__":
    sys.exit(main())
