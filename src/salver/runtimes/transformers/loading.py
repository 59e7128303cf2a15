"""Builds the tokenizer and the model of a folder with ``transformers``.

Weights are read here, and handed to ``transformers``: it would look for them itself where files in the folder say, for
instance in adapters' base models or distributed checkpoints.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import Tensor

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidConfig, MissingDependency, SalverError
from salver.core.model import ModelSpec
from salver.runtimes.transformers.folder import CONFIG, ModelFolder, weight_files
from salver.runtimes.transformers.options import FEATURES, TEXT, Options

_NO_LIMIT = 1_000_000
"""``model_max_length`` is 10**30 where a tokenizer says nothing."""
_DEFAULT_LENGTH = 512
_MANY_LAYERS = 1000
_VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model"),
)
_SMALL_PARTS = 10_000_000
"""Parameters of parts that a folder may well not have, such as the layer that pools."""

_building = threading.Lock()
"""While it builds a model, transformers changes settings of PyTorch, and its own, that all threads share."""


def load_tokenizer(spec: ModelSpec, folder: ModelFolder, options: Options) -> Any:
    """The tokenizer of a folder.

    Raises:
        InvalidArtifact: it has none, or a broken one.
        MissingDependency: it needs a package that isn't installed.
    """
    has_files = any((folder.path / name).is_file() for name in _VOCABULARIES)
    missing = InvalidArtifact(
        f"model {spec.name!r}: {folder.path} holds no tokenizer: there is none of {', '.join(_VOCABULARIES)}; save it "
        "into the folder (tokenizer.save_pretrained)"
    )
    with _reporting(spec, folder, "tokenizer"), _building, _quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=options.trust_remote_code
            )
        except Exception as error:
            raise error if has_files else missing from error
    # Without files, transformers makes a tokenizer that knows no words; some, of bytes or characters, need none.
    own = tokenizer.vocab_files_names.values()
    if own and not has_files and not any((folder.path / name).is_file() for name in own):
        raise missing
    return tokenizer


def load_model(spec: ModelSpec, folder: ModelFolder, task: str, options: Options, *, allow_code: bool) -> Any:
    """The model of a folder, FP32 on the CPU, in evaluation mode.

    Raises:
        InvalidArtifact: it can't be built, or its weights are missing or don't fit.
        CodeNotAllowed: it is code or a pickle, and that isn't allowed.
        MissingDependency: it needs a package that isn't installed.
    """
    if options.trust_remote_code:
        with _reporting(spec, folder, "model"), _building, _quiet():
            auto = _auto_class(folder.config, task)
            weight_files(folder.path, allow_code=allow_code)
            return auto.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=True, dtype=torch.float32
            ).eval()
    if folder.has_code and folder.config["model_type"] not in transformers.CONFIG_MAPPING:
        raise CodeNotAllowed(
            f"model {spec.name!r}: {folder.path / CONFIG} names code of the folder's own ('auto_map'); if you trust "
            "it, set the option 'trust_remote_code: true' in model.yaml, and allow_code (--allow-code, or "
            "SALVER_ALLOW_CODE=1)"
        )
    weights = read_weights(folder.path, allow_code=allow_code)
    with _reporting(spec, folder, "model"), _building, _quiet():
        return _build(spec, folder, task, weights)


def read_weights(folder: Path, *, allow_code: bool) -> dict[str, Tensor]:
    """The weights of a model or of a module of it; floating-point ones as FP32.

    They are copies: what is read from a file lies in it until it is used, and would be gone if the file was.

    Raises:
        InvalidArtifact: there are none, or they can't be read.
        CodeNotAllowed: they are pickles.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder, allow_code=allow_code):
        try:
            found = (
                safetensors.torch.load_file(file)
                if file.suffix == ".safetensors"
                else torch.load(file, map_location="cpu", weights_only=True, mmap=False)
            )
            for name, tensor in found.items():
                weights[name] = tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        except Exception as error:
            raise InvalidArtifact(f"the weights in {file} can't be read: {first_line(error)}") from error
    return weights


def max_length(spec: ModelSpec, folder: ModelFolder, options: Options, tokenizer: Any, model: Any) -> int:
    """Tokens of a text: what the option says, else sentence-transformers, the tokenizer, or the model.

    Raises:
        InvalidConfig: the option wants more than the model has positions for, or too few for any text.
    """
    positions = _positions(model)
    added = tokenizer.num_special_tokens_to_add(pair=True)
    if options.max_length is not None:
        if positions is not None and options.max_length > positions:
            raise InvalidConfig(f"model {spec.name!r}: option 'max_length' is {options.max_length}, and the model has "
                                f"positions for {positions} tokens")  # fmt: skip
        if options.max_length <= added:
            raise InvalidConfig(f"model {spec.name!r}: option 'max_length' is {options.max_length}, and the tokenizer "
                                f"adds {added} tokens to each pair of texts; expected more")  # fmt: skip
        return options.max_length
    of_sentence = folder.sentence.get("max_seq_length")
    known = (
        of_sentence if isinstance(of_sentence, int) and of_sentence > added else None,
        int(tokenizer.model_max_length) if added < tokenizer.model_max_length < _NO_LIMIT else None,
        positions,
        _DEFAULT_LENGTH,
    )
    length = next(value for value in known if value is not None)
    return length if positions is None else min(length, positions)


def check_vocabulary(folder: ModelFolder, tokenizer: Any, model: Any) -> None:
    """Make sure that the model has an embedding for each of the tokenizer's tokens.

    Raises:
        InvalidArtifact: it hasn't. On a GPU, such a token would put an end to the process's work there.
    """
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:
        return
    if not isinstance(embeddings, torch.nn.Embedding) or not tokenizer.is_fast:
        return
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= embeddings.num_embeddings:
        raise InvalidArtifact(
            f"{folder.path}: the tokenizer's tokens go up to {highest}, and the model has {embeddings.num_embeddings} "
            "embeddings; the tokenizer is another model's"
        )


def _build(spec: ModelSpec, folder: ModelFolder, task: str, weights: Mapping[str, Tensor]) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    # Neither code nor kernels that config.json names.
    if hasattr(config, "auto_map"):
        del config.auto_map
    config._attn_implementation = None
    _check_layers(folder, config, weights)
    with torch.device("meta"):
        described = _auto_class(folder.config, task).from_config(copy.deepcopy(config))
    _check_size(folder, described, weights)
    model, told = type(described).from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # which are told of here
    )
    for name, there, expected in sorted(told["mismatched_keys"]):
        raise InvalidArtifact(
            f"model {spec.name!r}: {name} has the shape {list(there)} in the weights of {folder.path}, and "
            f"{list(expected)} by its {CONFIG}"
        )
    # Layers whose weights are missing were filled at random; embeddings don't use the one that pools.
    missing = sorted(name for name in told["missing_keys"] if task != FEATURES or ".pooler." not in f".{name}")
    if missing:
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InvalidArtifact(
            f"model {spec.name!r}: {folder.path} has no weights for {named}, which {task} with a "
            f"{type(described).__name__} needs; it was saved as a model for something else"
        )
    return model.eval()


def _check_layers(folder: ModelFolder, config: Any, weights: Mapping[str, Tensor]) -> None:
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > max(len(weights), _MANY_LAYERS):
        raise InvalidArtifact(
            f"{folder.path / CONFIG} tells of {layers} layers, and the files hold {len(weights)} weights in all"
        )


def _check_size(folder: ModelFolder, described: Any, weights: Mapping[str, Tensor]) -> None:
    """Refuse, before memory is taken for it, a model that is much larger than its weights."""
    expected = sum(parameter.numel() for parameter in described.parameters())
    there = sum(tensor.numel() for tensor in weights.values())
    if expected > 1.5 * there + _SMALL_PARTS:
        raise InvalidArtifact(
            f"{folder.path / CONFIG} tells of a {type(described).__name__} with {expected:,} parameters, and the files "
            f"hold {there:,}"
        )


def _auto_class(config: Mapping[str, Any], task: str) -> Any:
    if task == TEXT:
        return transformers.AutoModelForSequenceClassification
    if task == FEATURES:
        return transformers.AutoModelForTextEncoding if config.get("is_encoder_decoder") else transformers.AutoModel
    return transformers.AutoModelForTokenClassification


def _positions(model: Any) -> int | None:
    """How many positions a model has learnt; None where it isn't known to be bounded."""
    embedding = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if isinstance(embedding, torch.nn.Embedding):
        # RoBERTa and its kin count positions from the padding token's id on.
        return embedding.num_embeddings - (0 if embedding.padding_idx is None else embedding.padding_idx + 1)
    stated = getattr(model.config, "max_position_embeddings", None)  # which some call n_positions
    return stated if isinstance(stated, int) and stated > 0 else None


@contextmanager
def _reporting(spec: ModelSpec, folder: ModelFolder, what: str) -> Iterator[None]:
    try:
        yield
    except SalverError:
        raise
    except ImportError as error:
        raise MissingDependency(
            f"model {spec.name!r}: the {what} in {folder.path} needs a package that isn't installed: "
            f"{first_line(error)}"
        ) from error
    except Exception as error:
        raise InvalidArtifact(
            f"model {spec.name!r}: transformers can't load the {what} in {folder.path}: {first_line(error)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and reports, which go to stderr; what was set before is set again."""
    logging = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """What the error says, without the hints below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return f"{type(error).__name__} {error}".strip()
    told = " ".join(lines[:3]) if lines[0].endswith(":") else lines[0]
    return told[:500]
