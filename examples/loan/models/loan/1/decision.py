"""The decision, and the reasons for it."""

import math
from typing import Annotated, TypedDict

import numpy as np
import numpy.typing as npt

ENOUGH = 0.6  # a loan is approved from this probability on that it is paid back
DIFFERENCE = 0.03  # a fact is a reason where an ordinary one would change the probability by this

REASONS = (
    ("a high income", "a low income"),
    ("a small sum", "a large sum"),
    ("a term that fits", "a term that doesn't fit"),
    ("few other loans", "many other loans"),
    ("a long employment", "a short employment"),
)
"""For each feature: what speaks for the applicant, and what against."""


class Decision(TypedDict):
    decision: str
    approved: bool
    probability: Annotated[float, "FP32"]
    reasons: list[str]


class Incomplete(TypedDict):
    reasons: list[str]


def decide(probabilities: Annotated[npt.NDArray[np.float32], "FP32", (-1, 2)]) -> Decision:
    """Row 0 is the applicant's, the others tell what it would be if one fact were an ordinary one."""
    chances = probabilities[:, 1]
    own = float(chances[0])
    if math.isnan(own):  # nothing has scored it
        return {"decision": "referred", "approved": False, "probability": own,
                "reasons": ["the score can't be computed at present; a person decides"]}  # fmt: skip
    approved = own >= ENOUGH
    changes = chances[1:] - own  # what an ordinary fact would add: the own one speaks against
    order = np.argsort(changes if approved else -changes, kind="stable")
    reasons = [
        REASONS[index][0] if approved else REASONS[index][1]
        for index in order
        if (-changes[index] if approved else changes[index]) >= DIFFERENCE
    ]
    if not reasons:
        reasons = ["all facts together"]
    return {
        "decision": "approved" if approved else "declined",
        "approved": approved,
        "probability": own,
        "reasons": reasons[:3],
    }


def say_what_is_missing(missing: list[str]) -> Incomplete:
    """A sentence for each fact that the application doesn't tell."""
    return {"reasons": [f"the application doesn't tell: {name.replace('_', ' ')}" for name in missing]}
