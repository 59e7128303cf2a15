"""The ``lightgbm`` runtime: LightGBM's text models."""

from __future__ import annotations

import logging
import threading
from typing import Any

import lightgbm
import numpy as np

from salver.core.errors import InvalidArtifact
from salver.core.model import ModelSpec
from salver.core.tensor import Array
from salver.runtimes import lightgbm_file
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
            text, header = lightgbm_file.check(text)
            booster = lightgbm.Booster(model_str=text)
            answer = _answer(booster, header.get("objective", ""), raw=raw)
            return renamed(spec, _LightgbmModel(spec, booster, answer, threads))
        except (lightgbm_file.Malformed, lightgbm.basic.LightGBMError, ValueError) as error:
            raise corrupt(spec, "LightGBM", error) from error


def _read(spec: ModelSpec) -> str:
    try:
        return spec.path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} is no LightGBM text model: {error}") from None


def _answer(booster: lightgbm.Booster, objective: str, *, raw: bool) -> Answer:
    """By the objective, which the file has with its settings behind it: ``multiclass num_class:3``."""
    kind = objective.partition(" ")[0]
    columns = booster.num_model_per_iteration()
    if not raw and kind == "binary":
        return Classes("FP64", integers(2))
    if not raw and kind in ("multiclass", "multiclassova"):
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
