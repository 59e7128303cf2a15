"""The default handler ``text_classifier``."""

from __future__ import annotations

from typing import Any

import torch

from salver.runtimes.torchserve.ts.torch_handler.text_handler import TextHandler
from salver.runtimes.torchserve.ts.utils.util import map_class_to_label


class TextClassifier(TextHandler):
    """For a text, the classes and their probabilities. The model takes token numbers and the offset of each text."""

    ngrams = 2

    def preprocess(self, data: Any) -> Any:
        numbers: list[int] = []
        self._offsets = []
        for row in data:
            text = row.get("data") or row.get("body")
            text = text.decode() if isinstance(text, bytes | bytearray) else str(text)
            text = self._expand_contractions(self._remove_html_tags(text).lower())
            tokens = self._tokenize(self._remove_punctuation(self._remove_accented_characters(text)))
            self._offsets.append(len(numbers))
            numbers += [self._index(ngram) for ngram in _ngrams(tokens, self.ngrams)]
        return torch.as_tensor(numbers, dtype=torch.int64, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return super().inference(data, torch.as_tensor(self._offsets, device=self.device))

    def postprocess(self, data: Any) -> Any:
        return map_class_to_label(torch.softmax(data, dim=1).tolist(), self.mapping)


def _ngrams(tokens: list[str], longest: int) -> list[str]:
    """The tokens, then what each 2, 3, ... of them that follow each other are together."""
    return [
        " ".join(tokens[start : start + length])
        for length in range(1, longest + 1)
        for start in range(len(tokens) - length + 1)
    ]
