"""The three tasks as loaded models: texts in; labels, entities or embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import orjson
import torch
from torch import Tensor

from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import TensorSpec
from salver.core.tensor import Array
from salver.runtimes.base import Inputs, LoadedModel, Outputs
from salver.runtimes.settings import declare
from salver.runtimes.torch_device import storage_bytes
from salver.runtimes.transformers.entities import EntityFinder
from salver.runtimes.transformers.folder import ModelFolder
from salver.runtimes.transformers.network import Network
from salver.runtimes.transformers.pooling import Pooler
from salver.runtimes.transformers.tokens import Tokens
from salver.runtimes.values import read_text_list

_TEXT = TensorSpec("text", "BYTES", (-1,))
_PAIR = TensorSpec("text_pair", "BYTES", (-1,), optional=True)


class _TextModel(LoadedModel):
    """What all tasks share. Thread-safe: a tokenizer that is only read, and a network in inference mode."""

    platform = "pytorch_transformers"

    def __init__(
        self, spec: ModelSpec, network: Network, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        self.signature = declare(spec, tuple(inputs), tuple(outputs))
        self.device = str(network.device)
        self.threads = torch.get_num_threads() if network.device.type == "cpu" else 1
        self._network = network

    def _encode(self, inputs: Inputs, change: Callable[[str], str] | None = None) -> tuple[list[str], list[Tokens]]:
        texts: list[str] = read_text_list("text", inputs["text"])
        if change is not None:
            texts = [change(text) for text in texts]
        pairs = read_text_list("text_pair", inputs["text_pair"]) if "text_pair" in inputs else None
        return texts, self._network.tokenization.encode(texts, pairs)

    def memory_bytes(self) -> int:
        return self._network.memory_bytes()

    def close(self) -> None:
        self._network.close()


class TextClassifier(_TextModel):
    """``text`` [-1] -> ``label`` BYTES [-1], ``score`` FP32 [-1], ``scores`` FP32 [-1, labels].

    Args:
        spec: of the model.
        network: of a model for sequence classification.
        labels: names of the labels, in the order of ``scores``.
        activation: softmax, sigmoid or none.
    """

    def __init__(self, spec: ModelSpec, network: Network, labels: Sequence[str], activation: str) -> None:
        outputs = (
            TensorSpec("label", "BYTES", (-1,)),
            TensorSpec("score", "FP32", (-1,)),
            TensorSpec("scores", "FP32", (-1, len(labels))),
        )
        super().__init__(spec, network, (_TEXT, _PAIR), outputs)
        self._labels = np.array([label.encode() for label in labels], np.object_)
        self._activate = _ACTIVATIONS[activation]

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        _, tokens = self._encode(inputs)
        rows = self._network.run(tokens, lambda output, mask: self._activate(output.logits.float()))
        scores = np.stack(rows) if rows else np.empty((0, len(self._labels)), np.float32)
        best = scores.argmax(axis=1)
        score: Array = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
        return {"label": self._labels[best], "score": score, "scores": scores}


class TokenClassifier(_TextModel):
    """``text`` [-1] -> ``entities`` BYTES [-1], for each text a JSON list; see :mod:`.entities`."""

    def __init__(self, spec: ModelSpec, network: Network, finder: EntityFinder) -> None:
        super().__init__(spec, network, (_TEXT,), (TensorSpec("entities", "BYTES", (-1,)),))
        self._finder = finder

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        texts, tokens = self._encode(inputs)
        rows = self._network.run(tokens, lambda output, mask: output.logits.float().softmax(dim=2))
        entities = np.empty(len(texts), np.object_)
        for index, (text, row, scores) in enumerate(zip(texts, tokens, rows, strict=True)):
            entities[index] = orjson.dumps(self._finder.find(text, row, scores[: len(row)]))
        return {"entities": entities}


class FeatureExtractor(_TextModel):
    """``text`` [-1] -> ``embedding`` FP32 [-1, size].

    Args:
        spec: of the model.
        network: of a model that gives ``last_hidden_state``.
        pooler: makes embeddings of the tokens' vectors.
        size: of an embedding.
        prompt: put before each text.
        lower_case: texts are put in lower case.
    """

    def __init__(
        self, spec: ModelSpec, network: Network, pooler: Pooler, *, size: int, prompt: str, lower_case: bool
    ) -> None:
        super().__init__(spec, network, (_TEXT,), (TensorSpec("embedding", "FP32", (-1, size)),))
        self._pooler = pooler
        self._size = size
        self._prompt = prompt
        self._lower_case = lower_case

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        _, tokens = self._encode(inputs, self._prepare if self._prompt or self._lower_case else None)
        rows = self._network.run(tokens, lambda output, mask: self._pooler(output.last_hidden_state, mask))
        return {"embedding": np.stack(rows) if rows else np.empty((0, self._size), np.float32)}

    def _prepare(self, text: str) -> str:
        text = self._prompt + text
        return text.lower() if self._lower_case else text

    def memory_bytes(self) -> int:
        return super().memory_bytes() + storage_bytes(self._pooler.tensors())


def default_activation(folder: ModelFolder, labels: int) -> str:
    """What ``transformers``' text classification pipeline applies, or, where a cross-encoder of sentence-transformers
    names one, what that library does.
    """
    if folder.activation in _OF_CROSS_ENCODERS:
        return _OF_CROSS_ENCODERS[folder.activation]
    problem = folder.config.get("problem_type")
    if problem == "regression":
        return "none"
    return "sigmoid" if problem == "multi_label_classification" or labels == 1 else "softmax"


_OF_CROSS_ENCODERS = {"Identity": "none", "Sigmoid": "sigmoid", "Softmax": "softmax"}


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)


def _none(logits: Tensor) -> Tensor:
    return logits


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"softmax": _softmax, "sigmoid": torch.sigmoid, "none": _none}
