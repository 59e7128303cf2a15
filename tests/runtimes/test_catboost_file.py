"""What is found in CatBoost's files before the library gets them: it crashes on what isn't."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import catboost  # type: ignore[import-untyped]
import numpy as np
import pytest

from salver.core.errors import InvalidArtifact
from salver.core.model import ModelSpec
from salver.runtimes import catboost_file
from salver.runtimes.catboost import CatboostRuntime

pytestmark = pytest.mark.e2e

RANDOM = np.random.default_rng(5)
ROWS = RANDOM.normal(size=(200, 4))
CLASSES = (ROWS[:, 0] * 3).astype(int) % 3
WORDS = np.c_[ROWS.astype(object), RANDOM.choice(list("ab"), 200), RANDOM.choice(list("cdefg"), 200)]

_KINDS = ("Borders", "Buckets", "BinarizedTargetMeanValue")
ALL_KINDS = {
    "loss_function": "RMSE",
    "simple_ctr": [*(f"{kind}:TargetBorderCount=2" for kind in _KINDS), "Counter"],
}


def trained(path: Path, rows: Any = ROWS, target: Any = CLASSES, **parameters: Any) -> bytes:
    """The file of a model."""
    settings = {"iterations": 4, "depth": 3, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
    model = catboost.CatBoost(settings | {"loss_function": "MultiClass"} | parameters)
    model.fit(rows, target, cat_features=[4, 5] if rows is WORDS else None)
    model.save_model(str(path), format="cbm")
    return path.read_bytes()


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"grow_policy": "Lossguide", "max_leaves": 5},
        {"grow_policy": "Depthwise"},
        {"rows": WORDS, "max_ctr_complexity": 3},
        {"rows": WORDS, "one_hot_max_size": 2},
        {"rows": WORDS} | ALL_KINDS,
        {"loss_function": "RMSE"},
        {"loss_function": "RMSE", "iterations": 1, "depth": 1},
        {"loss_function": "RMSEWithUncertainty"},
        {"loss_function": "MultiRMSE", "target": ROWS[:, :2]},
        {"loss_function": "Logloss", "target": CLASSES > 0, "ignored_features": [0, 2]},
        {"border_count": 1000},
    ],
)
def test_models_of_catboost_pass(tmp_path: Path, model: dict[str, Any]) -> None:
    catboost_file.check(trained(tmp_path / "model.cbm", **model))


@pytest.mark.parametrize("model", [{}, {"grow_policy": "Lossguide"}, {"rows": WORDS}, {"rows": WORDS} | ALL_KINDS])
def test_what_is_wrong_is_found_or_does_no_harm(tmp_path: Path, model: dict[str, Any]) -> None:
    """What passes is loaded and run in this very process."""
    good, chance, refused = trained(tmp_path / "model.cbm", **model), random.Random(1), 0
    for number in range(300):
        content = bytearray(good)
        start = int.from_bytes(good[4:8], "little") if number % 2 else 0  # what follows is small, and goes wrong often
        if number % 3 == 0:
            del content[chance.randrange(start, len(content)) :]
        for _ in range(number % 3):
            content[chance.randrange(start, len(content))] = chance.choice([0, 1, 127, 128, 255])
        try:
            catboost_file.check(bytes(content))
            found = catboost.CatBoost().load_model(blob=bytes(content))
            found.predict(model.get("rows", ROWS), thread_count=1)
        except (catboost_file.Malformed, catboost.CatBoostError, ValueError):
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "content", [b"CBM1", b"CBM1\0\0\0\0", b"CBM1\xff\xff\xff\xff" + bytes(100), b"CBM1\x40" + bytes(67)]
)
def test_garbage_behind_the_right_beginning_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.cbm").write_bytes(content)
    with pytest.raises(InvalidArtifact, match=r"CatBoost can't load .*model\.cbm: "):
        CatboostRuntime(allow_code=False).load(ModelSpec("m", "1", tmp_path / "model.cbm", "catboost"))
