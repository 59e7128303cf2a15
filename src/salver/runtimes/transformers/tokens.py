"""Texts to tokens, for many threads at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salver.core.errors import InvalidInput
from salver.core.tensor import Array

_CHARACTERS_PER_TOKEN = 32
"""Of a long text so much is looked at first: most have as many tokens as the model takes in the first part of it."""
_MARGIN = 128
"""Tokens beyond those that count, so that a cut in the middle of a text changes none of these: of a word,
WordPiece makes 100 at most."""
_CHARACTERS_AT_ONCE = 1 << 20
"""Of the texts that the tokenizer gets at once: each token takes a hundred bytes or more, those that are cut too."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens.

    Attributes:
        ids: of the tokens, those that the tokenizer added among them.
        types: 0 for the first text of a pair, 1 for the second; None where the model doesn't want them.
        offsets: first character and last + 1 of each token in its text, [tokens, 2]; None unless asked for.
        special: true for tokens that the tokenizer added; None unless asked for.
    """

    ids: Sequence[int]
    types: Sequence[int] | None
    offsets: Array | None = None
    special: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Tokenization:
    """A tokenizer that is set once, and then only read.

    ``transformers`` sets cutting and padding anew for each call, which fails where another thread is in the tokenizer
    ("Already borrowed"). Here the Rust tokenizer below it is used as it was set when the model was loaded; tokenizers
    that are Python code, which tell nothing of threads, are called by one thread at a time.
    """

    def __init__(
        self, tokenizer: Any, *, max_length: int, truncation: bool, max_characters: int, wants_offsets: bool
    ) -> None:
        self.max_length = max_length
        self.pad_id: int | None = tokenizer.pad_token_id
        self.pad_type = int(tokenizer.pad_token_type_id or 0)
        self._tokenizer = tokenizer
        self._truncation = truncation
        self._max_characters = max_characters
        self._wants_offsets = wants_offsets
        self._wants_types = "token_type_ids" in tokenizer.model_input_names
        self._cuts_left = tokenizer.truncation_side == "left"
        self._python_lock = threading.Lock()
        self._fast = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        if self._fast is not None:
            self._fast.no_padding()
            direction = tokenizer.truncation_side
            self._fast.enable_truncation(max_length, strategy="longest_first", direction=direction)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[Tokens]:
        """The tokens of each text, or of each pair of texts.

        Raises:
            InvalidInput: a text is too long, or has no tokens.
        """
        self._check("text", texts)
        if pairs is not None:
            self._check("text_pair", pairs)
        window = _CHARACTERS_PER_TOKEN * self.max_length
        try:
            if pairs is not None:
                found = self._encode_all(list(zip(texts, pairs, strict=True)))
            elif any(len(text) > window for text in texts):
                found = [self._encode_long(text, window) for text in texts]
            else:
                found = self._encode_all(texts)
        except (TypeError, UnicodeError) as error:
            raise InvalidInput(f"input 'text' is no text that can be written as UTF-8: {error}") from None
        for row, (tokens, beyond) in enumerate(found):
            if not len(tokens):
                raise InvalidInput(f"input 'text': row {row} has no tokens; expected a text that isn't empty")
            if beyond and not self._truncation:
                raise InvalidInput(
                    f"input 'text': row {row} has more than {self.max_length} tokens, and the model takes no more"
                )
        return [tokens for tokens, _ in found]

    def _check(self, name: str, texts: Sequence[str]) -> None:
        for row, text in enumerate(texts):
            if len(text) > self._max_characters:
                raise InvalidInput(
                    f"input {name!r}: row {row} has {len(text)} characters; {self._max_characters} at most "
                    "(option max_characters)"
                )

    def _encode_long(self, text: str, window: int) -> tuple[Tokens, int]:
        """A long text's tokens, from as much of it as is needed: the rest would cost time and memory for nothing."""
        while len(text) > window:
            found, beyond = self._encode([text[-window:] if self._cuts_left else text[:window]])[0]
            if beyond >= _MARGIN:
                return found, beyond
            window *= 2
        return self._encode([text])[0]

    def _encode_all(self, texts: Sequence[Any]) -> list[tuple[Tokens, int]]:
        found: list[tuple[Tokens, int]] = []
        first = characters = 0
        for index, text in enumerate(texts):
            characters += len(text) if isinstance(text, str) else sum(map(len, text))
            if characters > _CHARACTERS_AT_ONCE:
                found += self._encode(list(texts[first : index + 1]))
                first, characters = index + 1, 0
        return found + self._encode(list(texts[first:]))

    def _encode(self, texts: list[Any]) -> list[tuple[Tokens, int]]:
        """The tokens of each text, and how many more there would be."""
        if self._fast is None:
            with self._python_lock:
                return [self._encode_in_python(text) for text in texts]
        encode = self._fast.encode_batch if self._wants_offsets else self._fast.encode_batch_fast
        return [
            (self._tokens(encoding), sum(len(part.ids) for part in encoding.overflowing)) for encoding in encode(texts)
        ]

    def _tokens(self, encoding: Any) -> Tokens:
        types = encoding.type_ids if self._wants_types else None
        if not self._wants_offsets:
            return Tokens(encoding.ids, types)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return Tokens(encoding.ids, types, offsets, encoding.special_tokens_mask)

    def _encode_in_python(self, text: Any) -> tuple[Tokens, int]:
        first, second = text if isinstance(text, tuple) else (text, None)
        whole = self._tokenizer(first, second, truncation=False, verbose=False)["input_ids"]
        cut = self._tokenizer(first, second, truncation="longest_first", max_length=self.max_length)
        types = cut.get("token_type_ids") if self._wants_types else None
        return Tokens(cut["input_ids"], types), len(whole) - len(cut["input_ids"])


def batches(lengths: Sequence[int], *, max_tokens: int, max_padding: int) -> list[list[int]]:
    """Which rows go through the model together: those of like length.

    Args:
        lengths: tokens of each row.
        max_tokens: of a batch, with padding; a longer row goes alone.
        max_padding: tokens of a batch that are there only to make its rows equally long.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    found: list[list[int]] = []
    tokens = 0
    for row in order:
        length = lengths[row]
        rows = len(found[-1]) + 1 if found else 0
        if rows and length * rows <= max_tokens and length * rows - tokens - length <= max_padding:
            found[-1].append(row)
            tokens += length
        else:
            found.append([row])
            tokens = length
    return found


def pad(rows: Sequence[Tokens], tokenization: Tokenization) -> dict[str, Array]:
    """Rows as the model takes them: ``input_ids``, ``attention_mask`` and, where it wants them, ``token_type_ids``.

    Each is INT64 [rows, tokens of the longest].
    """
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), tokenization.pad_id or 0, np.int64)
    mask = np.zeros_like(ids)
    types = None if rows[0].types is None else np.full_like(ids, tokenization.pad_type)
    for index, row in enumerate(rows):
        place = slice(0, len(row))  # padding before a text would move it to other positions
        ids[index, place] = row.ids
        mask[index, place] = 1
        if types is not None and row.types is not None:
            types[index, place] = row.types
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs if types is None else {**inputs, "token_type_ids": types}
