"""Asks each tenant's chatbot its own questions, and counts what came."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from chatbots import Chatbot, Question

from salver import Client

CLIENTS = 8


@dataclass(frozen=True)
class Answered:
    """A question, and the label that came for it."""

    chatbot: Chatbot
    question: Question
    label: str

    @property
    def is_right(self) -> bool:
        return self.label == self.question.label

    @property
    def is_foreign(self) -> bool:
        """Another tenant's model has answered."""
        return not self.label.startswith(f"{self.chatbot.name}/")


def ask_all(url: str, chatbots: Sequence[Chatbot], *, seed: int = 0) -> list[Answered]:
    """Every tenant's held-out questions, one by one, in conversations of four that come in any order.

    Raises:
        SalverError: as of :class:`salver.Client`.
    """
    conversations = [
        (chatbot, chatbot.held_out[start : start + 4])
        for chatbot in chatbots
        for start in range(0, len(chatbot.held_out), 4)
    ]
    random.Random(seed).shuffle(conversations)
    with Client(url) as client, ThreadPoolExecutor(CLIENTS) as threads:
        answers = threads.map(lambda conversation: _converse(client, *conversation), conversations)
        return [answered for each in answers for answered in each]


def _converse(client: Client, chatbot: Chatbot, questions: Sequence[Question]) -> list[Answered]:
    found = []
    for question in questions:
        outputs = client.predict(chatbot.name, {"text": [question.text]})
        found.append(Answered(chatbot, question, str(outputs["intent"][0])))
    return found
