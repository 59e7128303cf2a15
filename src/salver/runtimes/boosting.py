"""What the runtimes of gradient boosting libraries share: the loaded model, its input, its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidInput, ModelFailed, SalverError
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import TensorSpec
from salver.core.tensor import DTYPES, Array, as_tensor
from salver.runtimes.base import Inputs, LoadedModel, Outputs
from salver.runtimes.settings import cores, declare, gpu_index

INPUT = "input"


class Answer(ABC):
    """What a model answers: the outputs, and how they are made of what the library predicts."""

    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def __call__(self, raw: Array, asked: Sequence[str] | None) -> Outputs:
        """The outputs, made of one prediction a row."""


class Values(Answer):
    """``prediction``: the library's own, as it is (regression, ranking, raw scores).

    Args:
        datatype: of the prediction.
        columns: values a row; with 1 the output is ``[-1]``.
    """

    def __init__(self, datatype: str, columns: int = 1) -> None:
        self.outputs = (TensorSpec("prediction", datatype, (-1,) if columns == 1 else (-1, columns)),)

    def __call__(self, raw: Array, asked: Sequence[str] | None) -> Outputs:
        return {"prediction": raw}


class Classes(Answer):
    """``label`` and ``probabilities`` of a classifier, named as the sklearn runtime names them.

    Of raw predictions ``[-1]``, the probability of the second of two classes, or ``[-1, n]``, of each class.

    Args:
        datatype: of the probabilities.
        classes: the class of each column.
        threshold: the probability above which a row is of the second of two classes.
    """

    def __init__(self, datatype: str, classes: Array, threshold: float = 0.5) -> None:
        self._classes = as_tensor(classes)
        self._threshold = threshold
        label = {"b": "BOOL", "i": "INT64", "u": "INT64", "f": "FP64"}.get(self._classes.dtype.kind, "BYTES")
        self.outputs = (
            TensorSpec("label", label, (-1,)),
            TensorSpec("probabilities", datatype, (-1, len(classes))),
        )

    def __call__(self, raw: Array, asked: Sequence[str] | None) -> Outputs:
        probabilities = np.stack((1 - raw, raw), axis=1) if raw.ndim == 1 else raw
        if asked and "label" not in asked:
            return {"probabilities": probabilities}
        if len(self._classes) == 2:
            chosen = (probabilities[:, 1] > self._threshold).astype(np.intp)
        else:
            chosen = probabilities.argmax(axis=1)
        return {"label": self._classes[chosen], "probabilities": probabilities}


class ManyLabels(Answer):
    """``label`` and ``probabilities`` of a classifier with several yes-or-no labels: both ``[-1, labels]``."""

    def __init__(self, datatype: str, labels: int) -> None:
        self.outputs = (
            TensorSpec("label", "INT64", (-1, labels)),
            TensorSpec("probabilities", datatype, (-1, labels)),
        )

    def __call__(self, raw: Array, asked: Sequence[str] | None) -> Outputs:
        return {"label": (raw > 0.5).astype(np.int64), "probabilities": raw}


class BoostedModel(LoadedModel):
    """A model whose library predicts one array, of which an :class:`Answer` makes the outputs.

    Args:
        spec: what model.yaml says.
        library: as messages name it.
        inputs: what the file says of them.
        answer: makes the outputs.
        threads: of one execution.
    """

    may_run_inline = True

    def __init__(
        self, spec: ModelSpec, library: str, inputs: tuple[TensorSpec, ...], answer: Answer, threads: int
    ) -> None:
        self.threads = threads
        self._name = spec.name
        self._library = library
        self._size = spec.path.stat().st_size
        self._answer = answer
        self.signature = declare(spec, inputs, answer.outputs)

    @abstractmethod
    def raw(self, inputs: Inputs) -> Array:
        """What the library predicts for at least one row; ValueErrors and the library's own go to the caller."""

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        if not len(next(iter(inputs.values()))):
            return {
                tensor.name: np.empty((0, *(tensor.shape or ())[1:]), DTYPES[tensor.datatype or "FP64"])
                for tensor in self._answer.outputs
            }
        return self._answer(self.raw(inputs), asked)

    def memory_bytes(self) -> int:
        return self._size

    def failure(self, error: Exception, features: Array) -> SalverError:
        """For whatever the library says of a request that fits the signature."""
        if features.dtype.kind == "f" and np.isinf(features).any():
            return InvalidInput(
                f"model {self._name!r} takes no infinite numbers (NaN is a missing value): {first_line(error)}"
            )
        return ModelFailed(f"model {self._name!r} failed in {self._library}: {first_line(error)}")


def integers(count: int) -> Array:
    """The classes 0 to ``count`` - 1, of libraries whose files don't keep others."""
    return np.arange(count, dtype=np.int64)


def numeric_input(spec: ModelSpec, features: int) -> TensorSpec:
    """The one input ``input``, ``[-1, features]``: FP64, or FP32 where model.yaml says so.

    FP64 takes all numbers that fit in it without loss.
    """
    declared = next((tensor for tensor in spec.inputs or () if tensor.name == INPUT), None)
    datatype = "FP32" if declared is not None and declared.datatype == "FP32" else "FP64"
    return TensorSpec(INPUT, datatype, (-1, features), safe_cast=datatype == "FP64")


def check_placement(spec: ModelSpec, library: str) -> int:
    """The threads of one execution; refuses GPUs and what isn't a file.

    One thread, unless model.yaml says otherwise or executions follow each other: requests that run side by side use
    the other cores, and rows of small requests aren't worth the threads' meeting.

    Raises:
        InvalidArtifact: the artifact isn't a file.
        InvalidConfig: ``device`` names a GPU.
    """
    if spec.device != "auto" and gpu_index(spec) is not None:
        raise InvalidConfig(
            f"model {spec.name!r}: {library} models run on the CPU here, and device is {spec.device!r}; "
            "leave it out, or set it to cpu"
        )
    if not spec.path.is_file():
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} isn't a file; expected a {library} model")
    return spec.threads or (cores() if spec.one_at_a_time else 1)


def choice(spec: ModelSpec, options: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """An option that is one of some words; the first by default.

    Raises:
        InvalidConfig: it is none of them.
    """
    value = options.get(name, known[0])
    if value not in known:
        raise InvalidConfig(f"model {spec.name!r}: option {name!r} is one of {', '.join(known)}, not {value!r}")
    return str(value)


def corrupt(spec: ModelSpec, library: str, error: BaseException) -> InvalidArtifact:
    """For whatever a library says of a file that it can't read."""
    return InvalidArtifact(f"model {spec.name!r}: {library} can't load {spec.path}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """The beginning of a library's message: what follows is its own stack."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 300 else text[:297] + "..."
