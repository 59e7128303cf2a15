"""Trains a chatbot's intent classifier: a bag of word embeddings and two layers, in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from chatbots import Chatbot, words
from numpy.typing import NDArray
from torch import nn

HIDDEN = 128
STEPS = 30
WORD_DROPOUT = 0.1

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Classifier:
    """What was learnt.

    Attributes:
        vocabulary: the words that it knows.
        labels: of the intents.
        embeddings: [words + 1, width], in the order of the vocabulary; the first row, of unknown words, is zero.
        layers: weight [out, in] and bias [out] of each; ReLU between, softmax after the last.
    """

    vocabulary: list[str]
    labels: list[str]
    embeddings: Weights
    layers: list[tuple[Weights, Weights]]


def train(chatbot: Chatbot) -> Classifier:
    """Some tenths of a second on one thread. Networks are 384 to 768 wide, as tenants' models differ in size."""
    torch.manual_seed(chatbot.seed)
    width = 384 + 96 * (chatbot.seed % 5)
    sentences = [words(question.text) for question in chatbot.training]
    vocabulary = sorted({word for sentence in sentences for word in sentence})
    numbers = {word: number for number, word in enumerate(vocabulary, start=1)}
    labels = chatbot.labels
    longest = max(map(len, sentences))
    inputs = torch.tensor([[numbers[word] for word in each] + [0] * (longest - len(each)) for each in sentences])
    targets = torch.tensor([labels.index(question.label) for question in chatbot.training])

    embeddings = nn.EmbeddingBag(len(vocabulary) + 1, width, mode="mean", padding_idx=0)
    layers = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(labels)))
    optimiser = torch.optim.Adam([*embeddings.parameters(), *layers.parameters()], lr=0.01)
    for _ in range(STEPS):
        # Words are left out by chance, so that no single one decides.
        seen = inputs * (torch.rand(inputs.shape) >= WORD_DROPOUT)
        loss = nn.functional.cross_entropy(layers(embeddings(seen)), targets, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Classifier(
        vocabulary,
        labels,
        _weights(embeddings.weight),
        [(_weights(each.weight), _weights(each.bias)) for each in layers if isinstance(each, nn.Linear)],
    )


def _weights(parameter: Any) -> Weights:
    weights: Weights = parameter.detach().numpy().astype(np.float32)
    return weights
