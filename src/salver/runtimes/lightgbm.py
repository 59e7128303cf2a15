"""The ``lightgbm`` runtime: LightGBM's text models."""

from __future__ import annotations

import logging
import re
import threading
from typing import Any

import lightgbm
import numpy as np

from salver.core.errors import InvalidArtifact
from salver.core.model import ModelSpec
from salver.core.tensor import Array
from salver.runtimes.base import Inputs, LoadedModel, Runtime
from salver.runtimes.boosting import (
    INPUT,
    Answer,
    BoostedModel,
    Classes,
    Values,
    check_placement,
    choice,
    corrupt,
    integers,
    numeric_input,
)
from salver.runtimes.renaming import NAMES, renamed
from salver.runtimes.settings import check_options

logger = logging.getLogger(__name__)

_TREE_SIZES = re.compile(r"^tree_sizes=.*\n", re.MULTILINE)
_OBJECTIVE = re.compile(r"^objective=(\w+)", re.MULTILINE)
_END_OF_HEADER = re.compile(r"^Tree=0$", re.MULTILINE)


class LightgbmRuntime(Runtime):
    """Loads text models (``.lgb``, ``.txt``, ``.bst``; ``Booster.save_model``).

    The one input is ``input``, ``[-1, features]``; NaN is a missing value, and categories are the numbers that
    LightGBM was trained with. Outputs are ``label`` and ``probabilities`` of models with the objectives binary,
    multiclass and multiclassova, ``prediction`` of all others. The files don't keep the classes' own names: labels are
    0, 1, 2 and so on.

    Options: ``outputs`` ("classes", as above, or "raw": ``prediction`` is what ``Booster.predict`` gives, whatever the
    objective is), ``names`` (see :mod:`salver.runtimes.renaming`).
    """

    name = "lightgbm"
    extra = "lightgbm"

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Load a text model; see :meth:`Runtime.load`."""
        options = check_options(spec, ("outputs", NAMES))
        raw = choice(spec, options, "outputs", ("classes", "raw")) == "raw"
        threads = check_placement(spec, "LightGBM")
        _log_to_python()
        text = _read(spec)
        try:
            booster = lightgbm.Booster(model_str=text, params={"verbosity": -1, "num_threads": threads})
            return renamed(spec, _LightgbmModel(spec, booster, _answer(booster, text, raw=raw), threads))
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise corrupt(spec, "LightGBM", error) from error


def _read(spec: ModelSpec) -> str:
    """The file's text, without the sizes of its trees.

    With them LightGBM reads the trees on several threads, and ends the whole process at the first error in one (4.7:
    83 of 150 files that were cut off or had bytes changed; without them, none in this way).
    """
    try:
        text = spec.path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} is no LightGBM text model: {error}") from None
    if not text.startswith("tree") or _END_OF_HEADER.search(text) is None:
        raise InvalidArtifact(
            f"model {spec.name!r}: {spec.path} is no LightGBM text model, as Booster.save_model writes it"
        )
    if "\nend of trees" not in text or ("\nparameters:" in text and "\nend of parameters" not in text):
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} is cut off: its trees or parameters have no end")
    return _TREE_SIZES.sub("", text, count=1)


def _answer(booster: lightgbm.Booster, text: str, *, raw: bool) -> Answer:
    header = text[: _END_OF_HEADER.search(text).start()]  # type: ignore[union-attr]
    found = _OBJECTIVE.search(header)
    objective = found[1] if found else ""
    columns = booster.num_model_per_iteration()
    if not raw and objective == "binary":
        return Classes("FP64", integers(2))
    if not raw and objective in ("multiclass", "multiclassova"):
        return Classes("FP64", integers(columns))
    return Values("FP64", columns)


class _LightgbmModel(BoostedModel):
    # Predicting takes a shared lock in the library (src/c_api.cpp), so that threads don't wait for each other; eight on
    # one model gave the answers of one.
    platform = "lightgbm"

    def __init__(self, spec: ModelSpec, booster: lightgbm.Booster, answer: Answer, threads: int) -> None:
        self._booster = booster
        super().__init__(spec, "LightGBM", (numeric_input(spec, booster.num_feature()),), answer, threads)

    def raw(self, inputs: Inputs) -> Array:
        features = inputs[INPUT]
        try:
            found: Any = self._booster.predict(features, num_threads=self.threads)
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise self.failure(error, features) from error
        return np.asarray(found)

    def close(self) -> None:
        del self._booster


class _Log:
    """What LightGBM says goes to the log: by default it prints."""

    def info(self, text: str) -> None:
        logger.debug("%s", text.strip())

    def warning(self, text: str) -> None:
        logger.warning("%s", text.strip())


_registering = threading.Lock()
_registered = False


def _log_to_python() -> None:
    global _registered
    with _registering:
        if not _registered:
            lightgbm.register_logger(_Log())
            _registered = True
