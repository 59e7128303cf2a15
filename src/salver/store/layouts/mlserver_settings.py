"""Reads one ``model-settings.json`` of MLServer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salver.config.explain import explain
from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidRequest
from salver.core.model import check_model_name
from salver.store.files import printable
from salver.store.model_config import ModelConfig

SETTINGS = "model-settings.json"
_MAX_BYTES = 1 << 20


class _Tensor(BaseModel):
    name: str = Field(min_length=1, max_length=256)
    datatype: str
    shape: list[int]


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="allow")

    uri: str | None = None
    version: str | None = None
    format: str | None = None
    content_type: str | None = None
    environment_path: str | None = None
    environment_tarball: str | None = None
    extra: dict[str, Any] | None = None


class _ModelSettings(BaseModel):
    """MLServer ignores keys that it doesn't know, and so does this."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    name: str = ""
    implementation: str = ""
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []
    max_batch_size: int = Field(default=0, ge=0, le=65536)
    max_batch_time: float = Field(default=0.0, ge=0, le=60)
    parameters: _Parameters = _Parameters()


@dataclass(frozen=True, slots=True)
class Settings:
    """What a ``model-settings.json`` says, in Salver's words.

    Attributes:
        name: the model's.
        folder: where the file lies.
        written_version: as the file has it; "1" where it has none.
        version: in letters and digits: "v0p1p0" for "v0.1.0".
        artifact: the file or folder to load.
        config: as model.yaml would have it.
        stamp: changes when the file does.
        problems: what has no equivalent here.
    """

    name: str
    folder: Path
    written_version: str
    version: str
    artifact: Path
    config: ModelConfig
    stamp: str
    problems: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The file, as messages call it."""
        return _shown(self.folder)


@dataclass(frozen=True, slots=True)
class _Implementation:
    """One of MLServer's runtimes.

    Attributes:
        runtime: the one here.
        files: what it looks for in a folder.
        options: that make the one here answer as it does.
    """

    runtime: str
    files: tuple[str, ...] = ()
    options: Mapping[str, Any] | None = None


_NAMES = {"label": "predict", "prediction": "predict", "probabilities": "predict_proba"}
_IMPLEMENTATIONS = {
    "mlserver_sklearn.SKLearnModel": _Implementation(
        "sklearn", ("model.joblib", "model.pickle", "model.pkl"), {"names": _NAMES}
    ),
    "mlserver_xgboost.XGBoostModel": _Implementation(
        "xgboost", ("model.bst", "model.json", "model.ubj"), {"names": _NAMES, "outputs": "sklearn"}
    ),
    "mlserver_lightgbm.LightGBMModel": _Implementation("lightgbm", ("model.bst",), {"names": _NAMES, "outputs": "raw"}),
    "mlserver_catboost.CatboostModel": _Implementation(
        "catboost", ("model.cbm", "model.bst", "model.bin"), {"names": _NAMES}
    ),
    "mlserver_mlflow.MLflowRuntime": _Implementation(
        "mlflow", (), {"names": {"input": "input-0", "output": "output-1"}}
    ),
}
"""By the class alone, too: ``mlserver_sklearn.sklearn.SKLearnModel`` is the same."""

_HUGGING_FACE = "mlserver_huggingface.HuggingFaceRuntime"
_ELSEWHERE = {
    "mlserver_alibi_detect": "detectors of alibi-detect aren't run here",
    "mlserver_alibi_explain": "explainers of alibi-explain aren't run here",
    "mlserver_mllib": "Spark models aren't run here; save it with mlflow.spark, as an MLflow model",
}


def read_settings(folder: Path) -> Settings:
    """The ``model-settings.json`` of a folder.

    Raises:
        InvalidConfig: it can't be understood, or asks for what Salver can't do.
        InvalidArtifact: the artifact that it names isn't there, or not in the folder.
    """
    file, shown = folder / SETTINGS, _shown(folder)
    written, stamp = _read(file, shown)
    name = written.name or printable(folder.name)
    try:
        check_model_name(name)
    except InvalidRequest as error:
        raise InvalidConfig(f"{shown}: 'name': {error}") from None
    version = written.parameters.version or "1"
    here = re.sub(r"[^A-Za-z0-9]", "", version.replace(".", "p"))[:64]
    if not here:
        raise InvalidConfig(f"{shown}: 'parameters.version' is {version[:80]!r}; expected letters and digits")
    implementation = _find(written.implementation, shown)
    if implementation is None:
        implementation, artifact = _hugging_face(written, folder, shown)
    else:
        artifact = _artifact(written.parameters.uri, implementation.files, folder, shown)
    problems = _problems(written, shown)
    config = _config(written, implementation, shown)
    return Settings(name, folder, version, here, artifact, config, stamp, problems)


def peek(folder: Path) -> tuple[str, str] | None:
    """The name and the version in a ``model-settings.json``, whatever else it says; None where it can't be read."""
    try:
        written, _ = _read(folder / SETTINGS, "")
    except InvalidConfig:
        return None
    return written.name or printable(folder.name), written.parameters.version or ""


def _shown(folder: Path) -> str:
    return printable(f"{folder.name}/{SETTINGS}")


def _read(file: Path, shown: str) -> tuple[_ModelSettings, str]:
    try:
        status = file.stat()
        if status.st_size > _MAX_BYTES:
            raise InvalidConfig(f"{shown}: larger than {_MAX_BYTES >> 10} KiB, which no file of settings should be")
        data = orjson.loads(file.read_bytes())
    except OSError as error:
        raise InvalidConfig(f"{shown}: can't be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise InvalidConfig(f"{shown}:{error.lineno}: not valid JSON: {error.msg}") from None
    if not isinstance(data, dict):
        raise InvalidConfig(f"{shown}: expected a JSON object with 'name' and 'implementation'")
    try:
        settings = _ModelSettings.model_validate({key: value for key, value in data.items() if value is not None})
    except ValidationError as error:
        raise InvalidConfig(explain(error, _ModelSettings, lambda _: shown, lambda _: 1)) from None
    return settings, f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _find(written: str, shown: str) -> _Implementation | None:
    """The runtime of an implementation; None for Hugging Face's, which has settings of its own."""
    package, _, rest = written.partition(".")
    short = f"{package}.{rest.rpartition('.')[2]}"
    if short == _HUGGING_FACE:
        return None
    if short in _IMPLEMENTATIONS:
        return _IMPLEMENTATIONS[short]
    if package in _ELSEWHERE:
        raise InvalidConfig(f"{shown}: 'implementation' is {written!r}: {_ELSEWHERE[package]}")
    if not written:
        raise InvalidConfig(f"{shown}: 'implementation' is missing; expected one of {', '.join(_IMPLEMENTATIONS)}")
    raise InvalidConfig(
        f"{shown}: 'implementation' is {written[:120]!r}, a class of your own, written for MLServer. To serve it here, "
        "write a model.py: a class Model that loads in __init__ what load() loads, with a method predict whose "
        "parameters are the inputs; and leave model-settings.json out"
    )


def _artifact(uri: str | None, files: tuple[str, ...], folder: Path, shown: str) -> Path:
    path = _inside(uri or ".", folder, shown, "parameters.uri")
    if path.is_file():
        return path
    if not path.is_dir():
        raise InvalidArtifact(f"{shown}: 'parameters.uri' is {uri!r}, and there is no such file or folder")
    named = [path / name for name in files if (path / name).is_file()]
    if named:
        return named[0]
    if files:
        raise InvalidArtifact(
            f"{shown}: there is none of {', '.join(files)} in {printable(path.name)}; name the file in parameters.uri"
        )
    return path


def _inside(uri: str, folder: Path, shown: str, key: str) -> Path:
    """A path of the settings, which starts at their folder and may not lead out of it."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]*:", uri):
        raise InvalidConfig(
            f"{shown}: {key!r} is {uri.partition(':')[0]}:...; only files in the model's folder are read"
        )
    path = (folder / uri).absolute()
    if ".." in Path(uri).parts or not path.is_relative_to(folder.absolute()):
        raise InvalidConfig(
            f"{shown}: {key!r} is {uri[:200]!r}, which leads out of the model's folder; "
            "put the files into it, or a link to them"
        )
    return path


def _hugging_face(written: _ModelSettings, folder: Path, shown: str) -> tuple[_Implementation, Path]:
    extra = written.parameters.extra or {}
    model = extra.get("pretrained_model") or written.parameters.uri or "."
    if not isinstance(model, str) or not (path := _inside(model, folder, shown, "pretrained_model")).is_dir():
        raise InvalidConfig(
            f"{shown}: 'pretrained_model' is {str(model)[:200]!r}, which is no folder here, and models aren't "
            "downloaded; save it into the model's folder (pipeline(...).save_pretrained), and name that folder"
        )
    task = extra.get("task")
    return _Implementation("transformers", (), {} if not task else {"task": task}), path


_KNOWN_EXTRA = frozenset({"task", "pretrained_model"})
_MEANINGLESS = frozenset(
    {"platform", "versions", "parallel_workers", "warm_workers", "cache_enabled", "inference_pool_gid"}
)


def _problems(written: _ModelSettings, shown: str) -> tuple[str, ...]:
    parameters = written.parameters
    told = [
        f"{shown}: {key!r} has no equivalent here: {why}"
        for key, value, why in (
            (
                "parameters.environment_tarball",
                parameters.environment_tarball,
                "unpack it, and see 'python' in model.yaml",
            ),
            ("parameters.environment_path", parameters.environment_path, "see 'python' in model.yaml"),
            ("parameters.content_type", parameters.content_type, "the model's signature says how inputs are read"),
        )
        if value
    ]
    unknown = sorted(set(parameters.extra or {}) - _KNOWN_EXTRA)
    told += [f"{shown}: 'parameters.extra.{key[:80]}' has no equivalent here" for key in unknown]
    told += [
        f"{shown}: {key[:80]!r} is no setting of MLServer's"
        for key in sorted((written.model_extra or {}).keys() - _MEANINGLESS)
    ]
    return tuple(told)


def _config(written: _ModelSettings, implementation: _Implementation, shown: str) -> ModelConfig:
    keys: dict[str, Any] = {"runtime": implementation.runtime}
    options = dict(implementation.options or {})
    if implementation.runtime not in ("mlflow", "transformers") and len(written.inputs) == 1:
        options["names"] = {**options["names"], "input": written.inputs[0].name}
    if options:
        keys["options"] = options
    # MLServer batches where both are set (mlserver/batching/hooks.py).
    if written.max_batch_size > 1 and written.max_batch_time > 0:
        keys["max_batch_size"] = written.max_batch_size
        keys["max_queue_delay"] = written.max_batch_time
    try:
        return ModelConfig.model_validate(keys)
    except ValidationError as error:
        raise InvalidConfig(explain(error, ModelConfig, lambda _: shown, lambda _: 1)) from None
