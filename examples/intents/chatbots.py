"""The tenants: each has a chatbot with intents, words and questions of its own."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

WORD = "[a-z0-9']+"
"""A word of a question in lower case, as a regular expression of Python and of RE2."""

SENTENCES_PER_INTENT = 70
QUESTIONS_PER_INTENT = 4

_SLOT = re.compile(r"\{(\w+)\}")
_OPENINGS = (
    "",
    "",
    "",
    "hi, ",
    "hello, ",
    "please help: ",
    "excuse me, ",
    "hey {bot}, ",
    "{bot}, ",
    "good day {bot}. ",
)
_ENDINGS = ("", "", "", "?", ".", "!", ", please", ". Thanks", " {bot}?", ", thank you {bot}")
_BOTS = ("Ada", "Bo", "Cleo", "Dot", "Echo", "Finn", "Gus", "Hal", "Iris", "Juno", "Kai", "Luna", "Max", "Nova", "Otto")


@dataclass(frozen=True)
class Question:
    """What a customer says, and the label of the intent behind it."""

    text: str
    label: str


@dataclass(frozen=True)
class Chatbot:
    """A tenant's chatbot.

    Attributes:
        name: of the tenant, and of its model: "banking-0012". Its labels begin with it.
        domain: the tenant's trade.
        seed: chooses whatever of it is left to chance.
        training: what its network learns from.
        held_out: what its network doesn't see in training.
    """

    name: str
    domain: str
    seed: int
    training: tuple[Question, ...]
    held_out: tuple[Question, ...]

    @property
    def labels(self) -> list[str]:
        return sorted({question.label for question in self.training})


def words(text: str) -> list[str]:
    """The words of a question, in lower case."""
    return re.findall(WORD, text.lower())


def make_chatbots(count: int) -> list[Chatbot]:
    """So many tenants; each domain has one more in turn."""
    return [make_chatbot(index) for index in range(count)]


def make_chatbot(index: int) -> Chatbot:
    """The same tenant for the same index, always."""
    domains = _domains()
    domain = sorted(domains)[index % len(domains)]
    name = f"{domain.replace('_', '-')}-{index:04}"
    chance = random.Random(index)
    intents: Mapping[str, list[str]] = domains[domain]["intents"]
    slots = {slot: _some(chance, values, 0.6) for slot, values in domains[domain]["slots"].items()}
    bot = chance.choice(_BOTS)
    training: list[Question] = []
    held_out: list[Question] = []
    for intent in sorted(_some(chance, list(intents), 0.6)):
        texts = list(dict.fromkeys(_sentences(chance, intents[intent], slots, bot)))
        chance.shuffle(texts)
        questions = [Question(text, f"{name}/{intent}") for text in texts]
        held_out += questions[:QUESTIONS_PER_INTENT]
        training += questions[QUESTIONS_PER_INTENT:][:SENTENCES_PER_INTENT]
    chance.shuffle(held_out)
    return Chatbot(name, domain, index, tuple(training), tuple(held_out))


def _sentences(
    chance: random.Random, templates: Sequence[str], slots: Mapping[str, Sequence[str]], bot: str
) -> Iterator[str]:
    """Every template as often as any other, with words in its slots, said in one way or another."""
    for _, template in product(range(1 + 2 * SENTENCES_PER_INTENT // len(templates)), templates):
        core = _SLOT.sub(lambda found: chance.choice(slots[found[1]]), template)
        yield (chance.choice(_OPENINGS) + core + chance.choice(_ENDINGS)).replace("{bot}", bot)


def _some(chance: random.Random, values: Sequence[str], least: float) -> list[str]:
    """At least this part of the values."""
    count = chance.randint(max(2, round(least * len(values))), len(values))
    return chance.sample(list(values), count)


@cache
def _domains() -> dict[str, Any]:
    domains: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "domains.yaml").read_text())
    return domains
