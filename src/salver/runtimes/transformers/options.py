"""The runtime's options, and the task that a folder is for."""

from __future__ import annotations

from dataclasses import dataclass

from salver.core.errors import CodeNotAllowed, InvalidConfig
from salver.core.model import ModelSpec
from salver.runtimes.settings import check_options, nearest
from salver.runtimes.transformers.folder import CONFIG, ModelFolder

TEXT, TOKEN, FEATURES = "text-classification", "token-classification", "feature-extraction"
TASKS = (TEXT, TOKEN, FEATURES)
_ALIASES = {"sentiment-analysis": TEXT, "ner": TOKEN}
STRATEGIES = ("none", "simple", "first", "average", "max")
POOLINGS = ("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean")
ACTIVATIONS = ("softmax", "sigmoid", "none")
DTYPES = ("float32", "float16", "bfloat16")

_ENCODERS = ("Model", "ForMaskedLM", "ForPreTraining")
"""Ends of the names of classes whose encoder gives embeddings."""
_COMMON = ("task", "max_length", "truncation", "max_characters", "batch_tokens", "dtype", "trust_remote_code")
_OF_TASK = {
    TEXT: ("activation",),
    TOKEN: ("aggregation_strategy", "ignore_labels"),
    FEATURES: ("pooling", "normalize", "prompt"),
}


@dataclass(frozen=True, slots=True)
class Options:
    """What ``options`` in model.yaml says; None where it says nothing.

    Attributes:
        max_length: tokens of a text, those that the tokenizer adds among them.
        truncation: longer texts are cut, else refused.
        max_characters: of a text; longer ones are refused before anything is done with them.
        batch_tokens: tokens, with padding, that go through the model at once.
        dtype: what the model computes in.
        trust_remote_code: run the code in the folder.
        activation: what makes scores of a text classifier's logits.
        aggregation_strategy: how tokens become entities.
        ignore_labels: labels that are no entities.
        pooling: how tokens become an embedding.
        normalize: embeddings have the length 1.
        prompt: what is put before each text.
    """

    max_length: int | None = None
    truncation: bool = True
    max_characters: int = 1_000_000
    batch_tokens: int | None = None
    dtype: str = "float32"
    trust_remote_code: bool = False
    activation: str | None = None
    aggregation_strategy: str = "simple"
    ignore_labels: tuple[str, ...] = ("O",)
    pooling: str | None = None
    normalize: bool | None = None
    prompt: str | None = None


def read_options(spec: ModelSpec, task: str, *, allow_code: bool) -> Options:
    """The options of a model with this task.

    Raises:
        InvalidConfig: one is unknown, of another task, or has a value that it can't have.
        CodeNotAllowed: one asks for the folder's code.
    """
    given = dict(check_options(spec, (*_COMMON, *(name for names in _OF_TASK.values() for name in names))))
    given.pop("task", None)
    for name in given:
        if name not in _COMMON and name not in _OF_TASK[task]:
            raise InvalidConfig(f"model {spec.name!r}: option {name!r} isn't one of {task}, the model's task")
    for name, least in (("max_length", 1), ("max_characters", 1), ("batch_tokens", 1)):
        value = given.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _wrong(spec, name, "a number of at least 1", value)
    for name in ("truncation", "trust_remote_code", "normalize"):
        if not isinstance(given.get(name, True), bool):
            raise _wrong(spec, name, "true or false", given[name])
    for name, known in (
        ("dtype", DTYPES),
        ("activation", ACTIVATIONS),
        ("aggregation_strategy", STRATEGIES),
        ("pooling", POOLINGS),
    ):
        if name in given and given[name] not in known:
            raise _wrong(spec, name, f"one of {', '.join(known)}", given[name])
    if not isinstance(given.get("prompt", ""), str):
        raise _wrong(spec, "prompt", "a text", given["prompt"])
    labels = given.get("ignore_labels", ["O"])
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise _wrong(spec, "ignore_labels", "a list of labels", labels)
    if given.get("trust_remote_code") and not allow_code:
        raise CodeNotAllowed(
            f"model {spec.name!r}: option 'trust_remote_code' runs the code in its folder, which isn't allowed; if you "
            "trust it, set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
        )
    return Options(**{**given, "ignore_labels": tuple(labels)})


def read_task(spec: ModelSpec, folder: ModelFolder) -> str:
    """The task: what the option says, else what the class that was saved is for.

    Raises:
        InvalidConfig: the option names no task that is known here, or the class is for none.
    """
    asked: object = spec.options.get("task")
    if asked is not None:
        task = _ALIASES.get(str(asked), str(asked))
        if task not in TASKS:
            raise InvalidConfig(f"model {spec.name!r}: option 'task' can't be {asked!r}; {nearest(str(asked), TASKS)}")
        return task
    architecture = folder.architecture
    if architecture.endswith("ForSequenceClassification"):
        return TEXT
    if architecture.endswith("ForTokenClassification"):
        return TOKEN
    if folder.modules is not None or architecture.endswith(_ENCODERS):
        return FEATURES
    what = f"is a {architecture[:100]}" if architecture else "has no 'architectures'"
    raise InvalidConfig(
        f"model {spec.name!r}: {folder.path / CONFIG} {what}; served are {', '.join(TASKS)}. If the model can do one "
        f"of them, name it: 'options: {{task: {FEATURES}}}' in model.yaml"
    )


def _wrong(spec: ModelSpec, name: str, expected: str, value: object) -> InvalidConfig:
    return InvalidConfig(f"model {spec.name!r}: option {name!r} is {expected}, not {str(value)[:80]!r}")
