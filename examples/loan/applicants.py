"""People who ask for a loan: made up, the same each time."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

TODAY = datetime.date(2026, 3, 2)

_FIRST = ("Ada", "Jonas", "Mira", "Samuel", "Ruth", "Felix", "Clara", "Hugo", "Nora", "Victor", "Helen", "Simon")
_LAST = ("Lindgren", "Okafor", "Marsh", "Keller", "Duval", "Novak", "Hartley", "Moreno", "Fischer", "Brandt", "Walsh")
_EMPLOYERS = (
    "Northgate Hospital",
    "Delta Logistics Ltd",
    "Harbour Bakery",
    "City Library",
    "Meyer & Sons",
    "Orion Software GmbH",
    "Green Valley School",
    "Union Railways",
)


@dataclass(frozen=True)
class Applicant:
    """What somebody writes into the form.

    Attributes:
        name: first and last name.
        employer: who pays the income.
        income: after taxes, each month.
        requested: the sum that is asked for.
        months: in which it is to be paid back.
        debts: what is paid for other loans each month.
        employed_since: first day of the employment.
        applied_on: the application's date.
    """

    name: str
    employer: str
    income: int
    requested: int
    months: int
    debts: int
    employed_since: datetime.date
    applied_on: datetime.date = TODAY

    @property
    def employed_months(self) -> int:
        """Whole months since the employment began."""
        begun, now = self.employed_since, self.applied_on
        return (now.year - begun.year) * 12 + now.month - begun.month - (now.day < begun.day)

    @property
    def features(self) -> list[float]:
        """What the score is computed from: income, requested, months, debts, months employed.

        Neither name nor age, nor what could stand for them.
        """
        return [self.income, self.requested, self.months, self.debts, self.employed_months]

    @property
    def chance(self) -> float:
        """How likely people like this one pay back, from 0 to 1, in this made-up world."""
        instalment = self.requested / self.months * (1 + 0.03 * self.months / 12)
        left = (self.income - self.debts - instalment) / self.income
        steadiness = min(self.employed_months, 60) / 60
        return 1 / (1 + math.exp(-(14 * (left - 0.62) + 2.5 * (steadiness - 0.4))))


def applicants(seed: int) -> Iterator[Applicant]:
    """One after another, without end."""
    chance = random.Random(seed)
    while True:
        income = round(chance.lognormvariate(8.0, 0.35) / 10) * 10
        yield Applicant(
            name=f"{chance.choice(_FIRST)} {chance.choice(_LAST)}",
            employer=chance.choice(_EMPLOYERS),
            income=income,
            requested=round(income * chance.uniform(1, 14) / 500 + 1) * 500,
            months=chance.choice((12, 18, 24, 36, 48, 60, 72)),
            debts=chance.choice((0, round(income * chance.uniform(0.02, 0.4) / 10) * 10)),
            employed_since=TODAY - datetime.timedelta(days=chance.randrange(30, 4000)),
        )
