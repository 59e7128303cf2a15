"""Trains the router's models and writes its repository: `python examples/router/train_router.py [FOLDER]`.

One model tells a text's language, and one for each language that somebody reads tells its topic. All are scikit-learn
pipelines over parts of words, and lie in skops files: nothing of them runs as code where they are served.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import skops.io
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

HERE = Path(__file__).resolve().parent
DEFAULT_FOLDER = HERE.parent.parent / "build" / "router" / "models"


def train_all(folder: Path) -> list[str]:
    """Write the graphs and all models; the models' names."""
    shutil.copytree(HERE / "models", folder, dirs_exist_ok=True)
    languages: dict[str, Any] = yaml.safe_load((HERE / "messages.yaml").read_text(encoding="utf-8"))
    corpora = {code: list(_texts(language)) for code, language in languages.items()}
    # As many of each language, so that none is likelier from the start.
    least = min(map(len, corpora.values()))
    evenly = [(text, code) for code, corpus in corpora.items() for text, _ in _spread(corpus, 3 * least)]
    models = {"language": _train(evenly, letters=(1, 4), strength=20)}
    for code, corpus in corpora.items():
        if "topics" in languages[code]:
            models[f"topics-{code}"] = _train(corpus, letters=(2, 5), strength=20)
    for name, model in models.items():
        file = folder / name / "1" / "model.skops"
        file.parent.mkdir(parents=True, exist_ok=True)
        skops.io.dump(model, file)
    return list(models)


def _texts(language: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Texts and their topics; "" for a language that has none."""
    for text in language.get("texts", ()):
        yield text, ""
    for topic, templates in language.get("topics", {}).items():
        for template in templates:
            for text in _filled(template, language["slots"]):
                yield text, topic


def _filled(template: str, slots: dict[str, list[str]]) -> Iterator[str]:
    used = [name for name in slots if f"{{{name}}}" in template]
    # Each word once, not each with each: templates with two slots would outweigh the others.
    longest = max((len(slots[name]) for name in used), default=1)
    columns = [list(itertools.islice(itertools.cycle(slots[name]), longest)) for name in used]
    for words in zip(*columns, strict=True) if used else [()]:
        yield template.format(**dict(zip(used, words, strict=True)))


def _spread(corpus: Sequence[tuple[str, str]], count: int) -> Sequence[tuple[str, str]]:
    """So many of a corpus, from all parts of it."""
    if len(corpus) <= count:
        return corpus
    return [corpus[index * len(corpus) // count] for index in range(count)]


def _train(examples: Sequence[tuple[str, str]], *, letters: tuple[int, int], strength: float) -> Pipeline:
    """A classifier over all parts of words of so many letters."""
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=letters, sublinear_tf=True)
    classifier = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
    texts, labels = zip(*examples, strict=True)
    return Pipeline([("letters", vectorizer), ("classifier", classifier)]).fit(texts, labels)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Train the router's models.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="default: build/router/models")
    folder: Path = parser.parse_args().folder
    print(f"{folder}: trained {', '.join(train_all(folder))}.")


if __name__ == "__main__":
    main()
