"""The handler of texts that others derive from."""

from __future__ import annotations

import os
import pickle
import re
import string
import unicodedata
from typing import Any

import torch

from salver.runtimes.torchserve.ts.context import Context
from salver.runtimes.torchserve.ts.torch_handler.base_handler import BaseHandler

_MARKUP = re.compile("<.*?>|&([a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
_WHOLE_WORDS = {
    "ain't": "is not", "can't": "cannot", "won't": "will not", "shan't": "shall not", "let's": "let us",
    "y'all": "you all", "ma'am": "madam", "o'clock": "of the clock", "'cause": "because",
}  # fmt: skip
_ENDINGS = (("n't", " not"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'d", " would"), ("'m", " am"))
_WITH_IS = re.compile(r"\b(he|she|it|that|there|here|what|when|where|who|why|how)'s\b")
_WORD = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in _WHOLE_WORDS))


class TextHandler(BaseHandler):
    """Cleans and tokenizes English texts, and has the vocabulary ``source_vocab.pt``."""

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.initialized = False
        path = self.get_source_vocab_path(context)
        try:
            self.source_vocab = torch.load(path, weights_only=True)  # a dict, token -> number
        except pickle.UnpicklingError:
            self.source_vocab = torch.load(path, weights_only=False)  # an object of torchtext's
        self.initialized = True

    def get_source_vocab_path(self, ctx: Context) -> str:
        name = self.manifest["model"].get("sourceVocab", "source_vocab.pt")
        path = os.path.join(str(ctx.system_properties["model_dir"]), name)
        if not os.path.isfile(path):
            raise RuntimeError(f"the archive has no {name}, the vocabulary that its handler needs (--extra-files)")
        return path

    def _remove_html_tags(self, text: str) -> str:
        return _MARKUP.sub("", text)

    def _expand_contractions(self, text: str) -> str:
        text = _WORD.sub(lambda match: _WHOLE_WORDS[match[0]], text)
        text = _WITH_IS.sub(r"\1 is", text)
        for ending, words in _ENDINGS:
            text = re.sub(rf"(?<=\w){ending}\b", words, text)
        return text.replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(str.maketrans("", "", string.punctuation))

    def _tokenize(self, text: str) -> list[str]:
        return text.lower().split()

    def _index(self, token: str) -> int:
        """The number of a token in the vocabulary; that of ``<unk>`` where it isn't there."""
        if isinstance(self.source_vocab, dict):
            return int(self.source_vocab[token] if token in self.source_vocab else self.source_vocab["<unk>"])
        return int(self.source_vocab[token])
