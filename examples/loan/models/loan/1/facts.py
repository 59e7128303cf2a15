"""Finds the facts of a loan application in its lines of text."""

import datetime
import difflib
import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

TITLES = ("loan application", "credit application", "application for a loan", "application for a personal loan")
ALIKE = 0.82  # OCR mistakes a letter now and then: labels may differ so much

ORDINARY = (3200.0, 9000.0, 36.0, 150.0, 48.0)
"""An applicant of whom nobody would speak: what the facts of others are held against, to find the reasons."""


class Place(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


class Line(NamedTuple):
    text: str
    place: Place
    page: int


class Facts(TypedDict):
    is_application: bool
    facts: str  # a JSON object
    missing: list[str]
    features: Annotated[npt.NDArray[np.float32], "FP32", (6, 5)]


def find_facts(texts: list[str], places: npt.NDArray[np.float32], pages: list[int]) -> Facts:
    """What an application says.

    ``features`` are income, requested sum, months, debts and months employed: in the first row those of the applicant,
    in each other row one of them is that of an ordinary applicant.
    """
    lines = [Line(text, Place(*place), page) for text, place, page in zip(texts, places.tolist(), pages, strict=True)]
    found = {name: _find(lines, *wanted) for name, wanted in _WANTED.items()}
    began, applied = found["employed_since"], found["applied_on"]
    known = {
        "monthly_income": found["monthly_income"],
        "requested": found["requested"],
        "months": found["months"],
        "monthly_debts": found["monthly_debts"],
        "employed_months": _months_between(began, applied) if began and applied else None,
    }
    missing = [name for name, value in (found | known).items() if value is None]
    row = np.array([np.nan if value is None else value for value in known.values()], np.float32)
    features = np.repeat(row[np.newaxis], 1 + len(row), axis=0)
    for index, value in enumerate(ORDINARY):
        features[1 + index, index] = value
    titled = any(_alike(title, line.text) for line in lines for title in TITLES)
    return {
        "is_application": titled,
        "facts": json.dumps(found | known, default=str, ensure_ascii=False),
        "missing": missing,
        "features": features,
    }


def _find(lines: list[Line], labels: tuple[str, ...], parse: Callable[[str], object]) -> object:
    """The value at the first of the labels that has one."""
    for label in labels:
        for line in lines:
            rest = _after(label, line.text)
            if rest is None:
                continue
            for text in (rest, *_beside(line, [other for other in lines if not _is_label(other.text)])):
                value = parse(text)
                if value is not None:
                    return value
    return None


def _after(label: str, text: str) -> str | None:
    """What follows a label in a text; None where the text doesn't begin with it."""
    head, colon, rest = text.partition(":")
    if colon:
        return rest.strip() if _alike(label, head) else None
    return "" if _alike(label, text) else None


def _is_label(text: str) -> bool:
    return any(_after(label, text) is not None for labels, _ in _WANTED.values() for label in labels)


def _alike(one: str, other: str) -> bool:
    one, other = (re.sub(r"\(.*|[^a-z]", "", text.lower()) for text in (one, other))
    if abs(len(one) - len(other)) > 4:
        return False
    return difflib.SequenceMatcher(None, one, other).ratio() >= ALIKE


def _beside(label: Line, lines: list[Line]) -> Iterator[str]:
    """Texts at the right of a label, then those below it; the nearest first."""
    here = label.place
    others = [line for line in lines if line.page == label.page and line is not label]
    right = [
        line
        for line in others
        if line.place.left > here.left + here.height and abs(line.place.middle - here.middle) < 0.6 * here.height
    ]
    below = [
        line
        for line in others
        if 0 < line.place.top - here.top < 4 * here.height and abs(line.place.left - here.left) < 2 * here.height
    ]
    for line in sorted(right, key=lambda line: line.place.left)[:1]:
        yield line.text
    for line in sorted(below, key=lambda line: line.place.top)[:1]:
        yield line.text


# Values


def _money(text: str) -> float | None:
    """3,450.00 or EUR 3 450 or 3450; "none" is 0."""
    text = re.sub("eur|€", "", text, flags=re.IGNORECASE).strip()
    if text.lower() in ("none", "-"):
        return 0.0
    found = re.fullmatch(r"(\d{1,3}(?:[,. ]\s?\d{3})+|\d+)(?:[.,]\s?(\d{2}))?", text)
    if found is None:
        return None
    return float(re.sub(r"\D", "", found[1])) + float(found[2] or 0) / 100


def _count(text: str) -> int | None:
    found = re.match(r"(\d{1,3})\s*(?:months?)?$", text.strip(), re.IGNORECASE)
    return int(found[1]) if found else None


def _date(text: str) -> datetime.date | None:
    text = text.strip()
    compact = re.sub(r"\s", "", text)
    for pattern, written in (("%Y-%m-%d", compact), ("%d.%m.%Y", compact), ("%d%B%Y", compact)):
        try:
            return datetime.datetime.strptime(written, pattern).date()
        except ValueError:
            continue
    return None


def _words(text: str) -> str | None:
    text = re.sub(r"\s+", " ", text).strip()
    return text if re.match(r"[^\W\d_]{2}", text) else None


def _months_between(began: object, applied: object) -> int:
    assert isinstance(began, datetime.date)
    assert isinstance(applied, datetime.date)
    return (applied.year - began.year) * 12 + applied.month - began.month - (applied.day < began.day)


_WANTED: dict[str, tuple[tuple[str, ...], Callable[[str], object]]] = {
    "name": (("Name of applicant", "Applicant", "Full name"), _words),
    "employer": (("Employer", "Employed by", "Current employer"), _words),
    "monthly_income": (("Net monthly income", "Income per month after taxes", "Monthly net income"), _money),
    "requested": (("Loan amount requested", "Amount of the loan", "Sum requested"), _money),
    "months": (("Term", "To be repaid in", "Duration in months"), _count),
    "monthly_debts": (
        ("Monthly payments for other loans", "Other loans, per month", "Existing loan payments"), _money,
    ),
    "employed_since": (("Employed since", "In this employment since", "Start of employment"), _date),
    "applied_on": (("Date", "Application date", "Date of application"), _date),
}  # fmt: skip
"""What is looked for: how forms call it, and how it is written."""
