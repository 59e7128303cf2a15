"""Reads a Hugging Face folder: its configuration, which files hold the weights, and sentence-transformers' modules.

Only JSON is read, no framework is imported, and nothing outside the folder is followed: ``transformers`` itself
would go where ``config.json`` and other files lead it (adapters and their base models, weights of other names, code).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from salver.core.errors import CodeNotAllowed, InvalidArtifact

CONFIG = "config.json"
MODULES = "modules.json"
SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLED, f"{PICKLED}.index.json")
"""Names of the files with the weights, the preferred ones first; an index names the files of a large model."""

_MAX_JSON = 64 << 20
_SENTENCE_CONFIGS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")


@dataclass(frozen=True, slots=True)
class SentenceModule:
    """One of sentence-transformers' modules that come after the transformer: ``Pooling``, ``Normalize``, ``Dense``.

    Attributes:
        kind: the class, without its package.
        folder: where its files lie.
        config: its config.json; empty where it has none.
    """

    kind: str
    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a Hugging Face folder holds.

    Attributes:
        path: the folder with config.json, tokenizer and weights.
        config: config.json.
        modules: sentence-transformers' modules after the transformer; None where the folder has no modules.json.
        sentence: what sentence-transformers keeps about the tokenizer: ``max_seq_length``, ``do_lower_case``.
        prompt: what sentence-transformers puts before each text.
        activation: the class that a cross-encoder of sentence-transformers puts its scores through, such as
            ``Sigmoid``; "" where none is named.
    """

    path: Path
    config: Mapping[str, Any]
    modules: tuple[SentenceModule, ...] | None = None
    sentence: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    activation: str = ""

    @property
    def architecture(self) -> str:
        """The class that was saved, such as ``BertForSequenceClassification``; "" where config.json has none."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def has_code(self) -> bool:
        """Whether config.json says that the model is of a class which the folder's own code defines."""
        return bool(self.config.get("auto_map"))


def read_folder(path: Path) -> ModelFolder:
    """Look at a folder.

    Raises:
        InvalidArtifact: it is no Hugging Face folder, or one that asks for something that isn't supported.
    """
    if not path.is_dir():
        raise InvalidArtifact(f"{path} isn't a folder; expected one with {CONFIG}, a tokenizer and weights")
    modules = _modules(path) if (path / MODULES).is_file() else None
    inner = modules[0].folder if modules else path
    config = read_object(inner / CONFIG)
    _check_config(inner, config)
    if (inner / "adapter_config.json").is_file():
        raise InvalidArtifact(
            f"{inner} holds an adapter (adapter_config.json); merge it into its model and save that: "
            "PeftModel.merge_and_unload().save_pretrained(...)"
        )
    sentence = next((read_object(inner / name) for name in _SENTENCE_CONFIGS if (inner / name).is_file()), {})
    about = path / "config_sentence_transformers.json"
    settings = read_object(about) if modules and about.is_file() else {}
    return ModelFolder(
        path=inner,
        config=config,
        modules=None if modules is None else modules[1:],
        sentence=sentence,
        prompt=_prompt(settings),
        activation=_activation(settings, config),
    )


def weight_files(folder: Path, *, allow_code: bool) -> list[Path]:
    """The files that hold a module's weights: one, or those that an index lists.

    Raises:
        InvalidArtifact: there are none, or the index names something else than files beside it.
        CodeNotAllowed: they are pickles.
    """
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise InvalidArtifact(f"{folder} holds no weights: there is no {SAFETENSORS} and no {PICKLED}")
    if found.name.startswith(PICKLED) and not allow_code:
        raise CodeNotAllowed(
            f"{found} is a pickle, which isn't read without permission. Save the model anew, as {SAFETENSORS}: "
            "AutoModel...from_pretrained(folder).save_pretrained(folder); or, if you trust the file, set allow_code "
            "(--allow-code, or SALVER_ALLOW_CODE=1)"
        )
    return _shards(found) if found.suffix == ".json" else [found]


def read_object(path: Path) -> dict[str, Any]:
    """A file with one JSON object.

    Raises:
        InvalidArtifact: it isn't there, or is something else.
    """
    found = _read(path)
    if not isinstance(found, dict):
        raise InvalidArtifact(f"{path}: expected a JSON object, got a {type(found).__name__}")
    return found


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise InvalidArtifact(f"{path} has more than {_MAX_JSON >> 20} MiB, which no configuration should have")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InvalidArtifact(
            f"there is no {path}; a Hugging Face folder has one (save_pretrained writes it)"
        ) from None
    except OSError as error:
        raise InvalidArtifact(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArtifact(f"{path} is no JSON: {error}") from None


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    shown = folder / CONFIG
    if not isinstance(config.get("model_type"), str):
        raise InvalidArtifact(f"{shown} has no 'model_type', such as bert: it is no configuration of transformers")
    if config.get("quantization_config"):
        raise InvalidArtifact(f"{shown}: quantized models ('quantization_config') can't be served; save it as it was")
    if config.get("transformers_weights"):
        raise InvalidArtifact(f"{shown}: 'transformers_weights' isn't followed; name the weights {SAFETENSORS}")


def _shards(index: Path) -> list[Path]:
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise InvalidArtifact(f"{index} lists no files: expected 'weight_map', a map of names to files")
    suffix = ".safetensors" if index.name.startswith(SAFETENSORS) else ".bin"
    files = []
    for name in sorted(set(listed.values())):
        if PurePosixPath(name).name != name or not name.endswith(suffix):
            raise InvalidArtifact(f"{index} names {name[:200]!r}; expected {suffix} files beside it")
        if not (index.parent / name).is_file():
            raise InvalidArtifact(f"{index} names {name[:200]!r}, and there is no such file")
        files.append(index.parent / name)
    return files


def _modules(path: Path) -> tuple[SentenceModule, ...]:
    listed = _read(path / MODULES)
    shown = path / MODULES
    if not isinstance(listed, list) or not listed or not all(isinstance(each, dict) for each in listed):
        raise InvalidArtifact(f"{shown}: expected a list of sentence-transformers' modules")
    modules = tuple(_module(path, each) for each in listed)
    if modules[0].kind != "Transformer":
        raise InvalidArtifact(f"{shown} begins with {modules[0].kind!r}; only models with a Transformer can be served")
    return modules


def _module(path: Path, entry: Mapping[str, Any]) -> SentenceModule:
    kind, inner = str(entry.get("type", "")).rpartition(".")[2], entry.get("path", "")
    if not isinstance(inner, str) or PurePosixPath(inner).is_absolute() or ".." in PurePosixPath(inner).parts:
        raise InvalidArtifact(f"{path / MODULES}: 'path' is {str(inner)[:200]!r}; expected a folder beside it")
    folder = path / inner
    has_config = kind != "Transformer" and (folder / CONFIG).is_file()
    return SentenceModule(kind, folder, read_object(folder / CONFIG) if has_config else {})


def _prompt(settings: Mapping[str, Any]) -> str:
    """What sentence-transformers puts before a text where the caller says nothing else."""
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    found = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    return found if isinstance(found, str) else ""


def _activation(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What a cross-encoder is saved with; where, depends on the version of sentence-transformers."""
    older = config.get("sentence_transformers")
    named = (
        settings.get("activation_fn"),
        older.get("activation_fn") if isinstance(older, dict) else None,
        config.get("sbert_ce_default_activation_function"),
    )
    return next((str(name).rpartition(".")[2] for name in named if name), "")


def label_names(config: Mapping[str, Any], shown: Path, count: int) -> Sequence[str]:
    """The names of a classifier's labels, in the order of its scores.

    Raises:
        InvalidArtifact: ``id2label`` in config.json has names for others than 0 to ``count`` - 1.
    """
    listed = config.get("id2label")
    if listed is None:
        return [f"LABEL_{index}" for index in range(count)]
    try:
        names = {int(index): str(name) for index, name in listed.items()}
    except (AttributeError, TypeError, ValueError):
        raise InvalidArtifact(f"{shown / CONFIG}: 'id2label' is no map of numbers to names") from None
    if set(names) != set(range(count)):
        raise InvalidArtifact(f"{shown / CONFIG}: 'id2label' has {len(names)} names, and the model {count} labels")
    return [names[index] for index in range(count)]
