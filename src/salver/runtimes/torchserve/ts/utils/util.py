"""Helpers that handlers import from ``ts.utils.util``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml


class PredictionException(Exception):
    """What a handler raises to choose the status of its answer."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Classes that a module itself defines; with ``parent_class``, those that derive from it."""
    return [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__ and (parent_class is None or issubclass(found, parent_class))
    ]


def load_label_mapping(mapping_file_path: str) -> dict[str, str] | None:
    """The labels of ``index_to_name.json`` by the class's number; None where there is no such file.

    Values may be texts, or lists whose last element is the text; ``{"object_type_names": [...]}`` is taken, too.
    """
    file = Path(mapping_file_path)
    if not file.is_file():
        return None
    mapping = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(mapping, dict):
        raise ValueError(f'{file.name} has to be of the form {{"0": "label"}}')
    if isinstance(names := mapping.get("object_type_names"), list):
        mapping = dict(enumerate(names))
    labels = {str(key): value[-1] if isinstance(value, list) and value else value for key, value in mapping.items()}
    if not all(isinstance(label, str) for label in labels.values()):
        raise ValueError(f"the labels in {file.name} have to be texts, or lists of texts")
    return labels


def map_class_to_label(
    probs: Sequence[Sequence[float]],
    mapping: dict[str, str] | None = None,
    lbl_classes: Iterable[Iterable[int]] | None = None,
) -> list[dict[str, float]]:
    """For each row, label -> probability.

    Args:
        probs: of each row.
        mapping: labels by number; without it, the label is the number.
        lbl_classes: which classes each row's probabilities are of; 0, 1, 2, ... by default.
    """
    classes = [range(len(row)) for row in probs] if lbl_classes is None else lbl_classes
    return [
        {
            str(number) if mapping is None else mapping[str(number)]: value
            for number, value in zip(numbers, row, strict=False)
        }
        for numbers, row in zip(classes, probs, strict=False)
    ]


def get_yaml_config(yaml_file_path: str) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(Path(yaml_file_path).read_text(encoding="utf-8"))
