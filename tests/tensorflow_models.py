"""Small SavedModels and Keras models, saved where a test needs one. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from salver.core.tensor import Array
from salver.runtimes.tensorflow import tf

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


def save(folder: Path, *inputs: Any, **functions: Callable[..., Any]) -> Path:
    """A SavedModel whose signatures are ``functions`` of tensors that ``inputs`` (TensorSpecs) describe."""
    module = tf.Module()
    signatures = {
        name: tf.function(function, input_signature=inputs).get_concrete_function()
        for name, function in functions.items()
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def save_linear(folder: Path, factor: float = 1.0) -> Path:
    """``x`` (FP32, [-1, 3]) -> ``y`` (FP32, [-1, 2]) = factor * x @ WEIGHTS, where WEIGHTS is a variable."""
    module = tf.Module()
    module.weights = tf.Variable(factor * WEIGHTS)
    function = tf.function(
        lambda x: {"y": x @ module.weights}, input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")]
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function.get_concrete_function()})
    return folder


def train_digits() -> tuple[Any, Array, Array]:
    """A dense Keras net trained on scikit-learn's digits for a moment, and data that it hasn't seen: rows, labels."""
    import keras
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = (data.data / 16).astype(np.float32)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,), name="pixels"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(rows[:1400], data.target[:1400], epochs=15, verbose=0)
    return model, rows[1400:], data.target[1400:]
