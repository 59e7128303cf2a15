"""The server's settings: from the command line, the environment, a file, and defaults, in this order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from salver.config.document import Document, KeyPath
from salver.config.explain import explain, unknown_key
from salver.config.quantities import PartOrSize, Seconds, Size
from salver.config.yaml_file import read_document
from salver.core.errors import InvalidConfig

ENVIRONMENT_PREFIX = "SALVER_"

# In a pod beside a Service named "salver" or "salver-...", Kubernetes sets variables such as
# SALVER_SERVICE_HOST=10.0.0.1 and SALVER_PORT=tcp://10.0.0.1:8000. They are not meant for Salver.
_SERVICE_LINK = re.compile(
    r"SALVER_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")


def _no_boolean(value: object) -> object:
    if isinstance(value, bool | float):
        raise PydanticCustomError("integer", "not an integer")
    return value


def _not_empty(value: object) -> object:
    if value == "":
        raise PydanticCustomError("path", "an empty path")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _counts(value: object) -> object:
    if not isinstance(value, str):
        return value
    counts: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        name, equals, count = item.partition("=")
        if not equals or not name.strip() or not count.strip().isdigit():
            raise PydanticCustomError("resources", "not names and counts")
        counts[name.strip()] = count.strip()
    return counts


def _shares(value: object) -> object:
    if not isinstance(value, str):
        return value
    shares: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        name, equals, share = item.rpartition("=")
        if not equals or not name.strip():
            raise PydanticCustomError("shares", "not tenants and shares")
        shares[name.strip()] = share.strip()
    return shares


def _options(value: object) -> object:
    if not isinstance(value, str):
        return value
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise PydanticCustomError("options", "not names and values")
        options[name.strip()] = text.strip()
    return options


Integer: TypeAlias = Annotated[int, BeforeValidator(_no_boolean)]
Share: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Shares: TypeAlias = Annotated[dict[str, Share], BeforeValidator(_shares)]
Options: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_options)]
Resources: TypeAlias = Annotated[dict[str, Annotated[Integer, Field(ge=1)]], BeforeValidator(_counts)]


STORE_SETTINGS = (
    "store_options",
    "registry",
    "data_folder",
    "disk_cache",
    "max_artifact_bytes",
    "probe_timeout",
    "probe_memory",
    "advertise",
)
"""Settings of servers over a model store only."""


class ServerSettings(BaseModel):
    """Everything that an operator can set for ``salver serve``. Each setting NAME is also SALVER_NAME."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: Annotated[Path | None, BeforeValidator(_not_empty)] = Field(
        default=None,
        description="What to serve: a model repository, one model folder, or one model file.",
        json_schema_extra={"expected": "a path"},
    )
    store: str | None = Field(
        default=None,
        min_length=1,
        description="What to serve instead of a repository: a model store, the folder or URL (s3://, ...) of its "
        "artifacts. Models are pushed to it, and loaded when they are asked for.",
        json_schema_extra={"expected": "a folder or a URL"},
    )
    store_options: Options = Field(
        default_factory=dict,
        description="Options of the store's file system, such as 'endpoint_url=http://minio:9000'.",
        json_schema_extra={"expected": "names and values such as 'endpoint_url=http://minio:9000'"},
    )
    registry: str | None = Field(
        default=None,
        min_length=1,
        description="URL of the store's registry: sqlite:///PATH, or postgresql://... for one to share. "
        "Left out, a SQLite file in the data folder.",
        json_schema_extra={"expected": "a database URL such as postgresql://user@host/salver"},
    )
    data_folder: Annotated[Path | None, BeforeValidator(_not_empty)] = Field(
        default=None,
        description="Where the server keeps what is its own: the disk cache, uploads, the registry's SQLite file. "
        "Left out, the store's folder where it is one, else ~/.local/share/salver.",
        json_schema_extra={"expected": "a path"},
    )
    disk_cache: Size = Field(
        default=50 * 1024**3, description="Disk space for copies of the store's artifacts; the least used go first."
    )
    max_artifact_bytes: Size = Field(default=50 * 1024**3, description="Largest artifact that may be pushed.")
    probe_timeout: Seconds = Field(
        default=300.0, gt=0, description="How long the probe of a pushed version may take before it has failed."
    )
    probe_memory: Size | None = Field(
        default=None,
        description="Memory that a pushed version may take while it is probed. Left out, the memory budget.",
    )
    load: Literal["startup", "on_demand"] | None = Field(
        default=None,
        description="When a repository's models are loaded: all at startup (the default), or on demand, each when it "
        "is asked for. A store's are loaded on demand.",
    )
    memory_budget: PartOrSize = Field(
        default=0.8,
        description="Memory that the server may take: a size, or a part of what the machine (or its cgroup) has. "
        "Models that were loaded on demand are evicted where others need the room.",
    )
    device_memory_budget: PartOrSize = Field(
        default=0.9, description="The same for each GPU: a size, or a part of its memory."
    )
    eviction: Literal["cost", "lru"] = Field(
        default="cost",
        description="Which models go first: 'cost' weighs how often a model is used, how large it is and how long it "
        "takes to load; 'lru' takes the least recently used.",
    )
    memory_shares: Shares = Field(
        default_factory=dict,
        description="Parts of the memory budget that tenants' models may take, such as 'acme=0.5,*=0.1'; '*' stands "
        "for all tenants that aren't named.",
        json_schema_extra={"expected": "tenants and parts such as 'acme=0.5,*=0.1'"},
    )
    concurrent_loads: Integer = Field(default=4, ge=1, le=256, description="Models that are loaded side by side.")
    advertise: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+$",
        description="URL at which other servers over the same registry reach this one. With it, the servers spread the "
        "models among them, and pass requests on to the one that has the model.",
        json_schema_extra={"expected": "a URL such as http://10.0.0.7:8000"},
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on. The default answers this machine only; 0.0.0.0 answers the network.",
    )
    port: Integer = Field(
        default=8000, ge=0, le=65535, description="Port of REST and gRPC; 0 lets the system choose a free one."
    )
    grpc_port: Integer | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="A port of its own for gRPC; left out, gRPC shares the port of REST.",
    )
    allow_code: bool = Field(
        default=False,
        description="Load models that run their own code: pickle and joblib files, and model.py. "
        "Allow it only where you trust whoever can write to the repository.",
    )
    watch: bool = Field(
        default=False,
        description="Watch the repository: load new and changed versions and unload removed ones while serving.",
    )
    watch_interval: Seconds = Field(default=2.0, ge=0.05, description="Time between two looks at a watched repository.")
    max_request_bytes: Size = Field(
        default=256 * 1024 * 1024, description="Largest request body, after decompression. Larger ones are refused."
    )
    drain_timeout: Seconds = Field(
        default=30.0, description="On SIGTERM, how long accepted requests may take to finish before they are cut off."
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = Field(
        default="text", description="Form of the log: 'text' for people, 'json' for one object a line."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info", description="The least severe messages that are logged."
    )
    log_requests: bool = Field(default=False, description="Log a line for each request.")
    max_concurrent_requests: Integer = Field(
        default=10_000,
        ge=1,
        description="Inference requests that the whole server works on at a time, waiting ones among them; more are "
        "refused as overload.",
    )
    resources: Resources = Field(
        default_factory=dict,
        description="Named resources that models share, and how much there is of each, such as 'gpu_slots=2'; "
        "model.yaml says what a model's executions take.",
        json_schema_extra={"expected": "names and counts such as 'gpu_slots=2,licences=1'"},
    )
    max_queue: Integer = Field(
        default=1000,
        ge=1,
        description="Requests that may wait for one model version; more are refused as overload. "
        "A model's own max_queue in model.yaml comes first.",
    )

    @field_validator("repository", "data_folder", mode="after")
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        try:
            return None if path is None else path.expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    @field_validator("grpc_port", mode="after")
    @classmethod
    def _differs(cls, grpc_port: int | None, info: ValidationInfo) -> int | None:
        if grpc_port and grpc_port == info.data.get("port"):
            raise ValueError(f"{grpc_port} is the port of REST already; leave it out, and both share that port")
        return grpc_port


def read_settings(file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> ServerSettings:
    """Bring the settings together: ``overrides``, then ``environ``, then ``file``, then the defaults.

    A relative ``repository`` in the file starts at the file's folder. An empty variable and an override of None count
    as not set.

    Args:
        file: a YAML file of settings, or None.
        environ: environment variables; those that begin with SALVER_ are read.
        overrides: settings by name, from the command line or a caller.

    Raises:
        InvalidConfig: an unknown name, or a value that doesn't fit, with the file and line or the variable's name.
    """
    values: dict[str, object] = {}
    places: dict[str, str] = {}
    if file is not None:
        _take_file(read_document(file), file.parent, values, places)
    for variable, text in environ.items():
        name = _setting_of(variable, text)
        if name is not None:
            values[name] = text
            places[name] = variable
    for name, value in overrides.items():
        if name not in ServerSettings.model_fields:
            raise InvalidConfig(unknown_key(name, ServerSettings.model_fields, what="setting"))
        if value is not None:
            values[name] = value
            places.pop(name, None)
    _check_source(values, places)

    def place(path: KeyPath) -> str:
        return places.get(str(path[0]), "") if path else ""

    try:
        return ServerSettings.model_validate(values)
    except ValidationError as error:
        raise InvalidConfig(explain(error, ServerSettings, place)) from None


def _check_source(values: Mapping[str, object], places: Mapping[str, str]) -> None:
    """Make sure that there is one thing to serve, and no setting that is for the other."""
    if "repository" in values and "store" in values:
        raise InvalidConfig(
            "both a repository and a store are set; a server has one of them: leave out --store (SALVER_STORE), or PATH"
        )
    if "repository" not in values and "store" not in values:
        raise InvalidConfig(
            "nothing to serve: name a repository on the command line (salver serve PATH), in SALVER_REPOSITORY, "
            "or as 'repository' in the settings file; or a model store (salver serve --store FOLDER)"
        )
    if "store" in values:
        alien = [name for name in ("load", "watch", "watch_interval") if name in values]
    else:
        alien = [name for name in STORE_SETTINGS if name in values]
    if alien:
        name = alien[0]
        where = f"{places[name]}: " if places.get(name) else ""
        other = "a repository" if "store" in values else "a model store (--store)"
        raise InvalidConfig(f"{where}{name!r} is a setting of servers over {other}; leave it out here")


def environment_variable(setting: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + setting.upper()


def _take_file(document: Document, folder: Path, values: dict[str, Any], places: dict[str, str]) -> None:
    for name, value in document.data.items():
        place = document.place((name,))
        if name not in ServerSettings.model_fields:
            raise InvalidConfig(f"{place}: {unknown_key(name, ServerSettings.model_fields)}")
        if name in ("repository", "data_folder") and isinstance(value, str) and value and not value.startswith("~"):
            value = folder / value
        if name == "store" and isinstance(value, str) and value and "://" not in value and not value.startswith("~"):
            value = str(folder / value)
        values[name] = value
        places[name] = place


def _setting_of(variable: str, text: str) -> str | None:
    """The setting that an environment variable is for; None where it is not for Salver, or is empty."""
    if not variable.startswith(ENVIRONMENT_PREFIX) or not text:
        return None
    if _SERVICE_LINK.fullmatch(variable) or (variable.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(text)):
        return None
    name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
    if name not in ServerSettings.model_fields or variable != environment_variable(name):
        valid = [environment_variable(setting) for setting in ServerSettings.model_fields]
        raise InvalidConfig(unknown_key(variable, valid, what="environment variable"))
    return name
