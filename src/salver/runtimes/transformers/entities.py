"""From each token's scores to entities, as ``transformers``' token classification pipeline has it.

The rules are those of ``transformers/pipelines/token_classification.py`` (aggregation strategies none, simple, first,
average, max); here ``word`` is always the part of the text itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from salver.core.tensor import Array
from salver.runtimes.transformers.tokens import Tokens


@dataclass(slots=True)
class _Span:
    """A token, a word, or an entity.

    Attributes:
        start, end: first character and last + 1.
        scores: of each label.
        label: the label of the highest score.
        score: that score.
        index: of the token.
        is_subword: it goes on a word that the token before it is a part of.
    """

    start: int
    end: int
    scores: Array
    label: str
    score: float
    index: int
    is_subword: bool


class EntityFinder:
    """Finds the entities of texts.

    Args:
        labels: in the order of the scores.
        strategy: of :data:`salver.runtimes.transformers.options.STRATEGIES`.
        ignored: labels that are no entities.
        token_text: what the vocabulary has for a token's id.
        marks_subwords: the vocabulary's tokens say whether they begin a word (``##`` in WordPiece).
        unknown_id: the token for what isn't in the vocabulary.
    """

    def __init__(
        self,
        labels: Sequence[str],
        strategy: str,
        ignored: Sequence[str],
        *,
        token_text: Callable[[int], str],
        marks_subwords: bool,
        unknown_id: int | None,
    ) -> None:
        self._labels = labels
        self._strategy = strategy
        self._ignored = frozenset(ignored)
        self._token_text = token_text
        self._marks_subwords = marks_subwords
        self._unknown_id = unknown_id

    def find(self, text: str, tokens: Tokens, scores: Array) -> list[dict[str, Any]]:
        """The entities of a text.

        Args:
            text: the text.
            tokens: its tokens.
            scores: FP32 [tokens, labels], of which each row adds up to 1.
        """
        spans = self._spans(text, tokens, scores)
        if self._strategy == "none":
            return [
                {**_common(text, span), "entity": span.label, "index": span.index}
                for span in spans
                if span.label not in self._ignored
            ]
        if self._strategy != "simple":
            spans = [self._word(group) for group in _words(spans)]
        found = []
        for group in _groups(spans):
            name = group[0].label.split("-", 1)[-1]
            if name not in self._ignored:
                whole = group[0]
                whole.end = group[-1].end
                whole.score = sum(span.score for span in group) / len(group)
                found.append({**_common(text, whole), "entity_group": name})
        return found

    def _spans(self, text: str, tokens: Tokens, scores: Array) -> list[_Span]:
        assert tokens.offsets is not None
        assert tokens.special is not None
        best = scores.argmax(axis=1).tolist()
        spans = []
        for index, (start, end) in enumerate(tokens.offsets.tolist()):
            if not tokens.special[index]:
                label = best[index]
                spans.append(
                    _Span(
                        start,
                        end,
                        scores[index],
                        self._labels[label],
                        float(scores[index, label]),
                        index,
                        self._is_subword(text, tokens.ids[index], start, end),
                    )
                )
        return spans

    def _is_subword(self, text: str, token: int, start: int, end: int) -> bool:
        if token == self._unknown_id:
            return False
        if self._marks_subwords:
            return len(self._token_text(token)) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]

    def _word(self, group: list[_Span]) -> _Span:
        """A word of several tokens, which agree on a label by the strategy."""
        if self._strategy == "first":
            scores = group[0].scores
        elif self._strategy == "max":
            scores = max(group, key=lambda span: span.score).scores
        else:
            scores = sum((span.scores for span in group[1:]), start=group[0].scores) / len(group)
        label = int(scores.argmax())
        first = group[0]
        return _Span(
            first.start, group[-1].end, scores, self._labels[label], float(scores[label]), first.index, is_subword=False
        )


def _common(text: str, span: _Span) -> dict[str, Any]:
    return {"start": span.start, "end": span.end, "word": text[span.start : span.end], "score": span.score}


def _words(spans: Sequence[_Span]) -> list[list[_Span]]:
    words: list[list[_Span]] = []
    for span in spans:
        if words and span.is_subword:
            words[-1].append(span)
        else:
            words.append([span])
    return words


def _groups(spans: Sequence[_Span]) -> list[list[_Span]]:
    """Neighbours of one kind: ``B-PER``, ``I-PER``; another ``B-`` begins another entity."""
    groups: list[list[_Span]] = []
    for span in spans:
        prefix, kind = _kind(span.label)
        if groups and kind == _kind(groups[-1][-1].label)[1] and prefix != "B":
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _kind(label: str) -> tuple[str, str]:
    if label.startswith(("B-", "I-")):
        return label[0], label[2:]
    return "I", label
