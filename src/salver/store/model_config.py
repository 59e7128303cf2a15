"""The schema of ``model.yaml``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from salver.config.explain import suggestion
from salver.config.quantities import Seconds, Size
from salver.config.yaml_file import read_yaml
from salver.core.errors import InvalidRequest
from salver.core.model import Isolation, check_version
from salver.core.scheduling import Padding, Priorities, Scheduling, Sequences, WarmUp
from salver.core.signature import TensorSpec
from salver.core.tensor import DTYPES, MAX_RANK

MODEL_YAML = "model.yaml"

# What people write for a datatype when they think of NumPy, PyTorch, ONNX or a Triton config.
_OTHER_NAMES = {
    "bool": "BOOL", "boolean": "BOOL",
    "float16": "FP16", "half": "FP16", "bfloat16": "BF16",
    "float": "FP32", "float32": "FP32", "double": "FP64", "float64": "FP64",
    "int": "INT64", "long": "INT64",
    "str": "BYTES", "string": "BYTES", "text": "BYTES", "object": "BYTES",
}  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Integer: TypeAlias = Annotated[int, Field(strict=True)]
Boolean: TypeAlias = Annotated[bool, Field(strict=True)]
Dimension: TypeAlias = Annotated[
    int,
    Field(strict=True, ge=-1, le=2**63 - 1, json_schema_extra={"expected": "an integer of at least -1 (any size)"}),
]


class TensorConfig(_Strict):
    """One item of ``inputs`` or ``outputs``."""

    name: str = Field(min_length=1, max_length=256, description="What requests call the tensor.")
    datatype: str | None = Field(
        default=None,
        description="A V2 datatype: BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32, FP64, or BYTES for text "
        "and raw bytes. Left out, the model takes any.",
    )
    shape: tuple[Dimension, ...] | None = Field(
        default=None,
        max_length=MAX_RANK,
        description="The dimensions, -1 for a free one. Where the model batches, the batch dimension comes first "
        "and is -1. Left out, the model takes any shape.",
        json_schema_extra={"expected": "a list of integers of at least -1 (-1 is any size), such as [-1, 3, 224, 224]"},
    )
    optional: Boolean = Field(default=False, description="Requests may leave this input out.")

    @field_validator("datatype", mode="after")
    @classmethod
    def _known(cls, datatype: str | None) -> str | None:
        if datatype is None or datatype in DTYPES:
            return datatype
        known = _OTHER_NAMES.get(datatype.lower().removeprefix("type_"))
        hint = f"did you mean {known!r}?" if known else suggestion(datatype.removeprefix("TYPE_"), DTYPES)
        raise ValueError(f"unknown datatype {datatype[:40]!r}; {hint}")

    def to_spec(self) -> TensorSpec:
        """The tensor as the core knows it."""
        return TensorSpec(self.name, self.datatype, self.shape, optional=self.optional)


class PaddingConfig(_Strict):
    """One value of ``padding``."""

    value: Annotated[int, Field(strict=True)] | float | bool | str = Field(
        default=0, description="What the added elements are."
    )
    lengths: tuple[Annotated[Integer, Field(ge=1)], ...] = Field(
        default=(),
        description="Sizes that a free dimension is brought to, the next larger one. Left out, to the longest of the "
        "batch.",
        json_schema_extra={"expected": "a list of sizes such as [32, 64, 128]"},
    )


class PrioritiesConfig(_Strict):
    """The value of ``priorities``."""

    levels: Integer = Field(default=3, ge=1, le=100, description="How many levels there are; level 1 is served first.")
    default: Integer = Field(default=2, ge=1, description="The level of requests that name no priority.")
    max_queue: dict[Annotated[int, Field(ge=1)], Annotated[Integer, Field(ge=1)]] = Field(
        default_factory=dict,
        description="Requests that may wait, by level; other levels have the model's max_queue, each for itself.",
    )

    @model_validator(mode="after")
    def _within(self) -> PrioritiesConfig:
        for level in (self.default, *self.max_queue):
            if level > self.levels:
                raise ValueError(f"there is no level {level}; there are {self.levels} (see 'levels')")
        return self


class SequencesConfig(_Strict):
    """The value of ``sequences``."""

    idle_timeout: Seconds = Field(default=60.0, gt=0, description="How long a sequence lives without a request.")
    max_sequences: Integer = Field(default=1000, ge=1, description="How many sequences there may be at a time.")


class WarmUpConfig(_Strict):
    """One item of ``warm_up``."""

    file: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        default=None,
        description="A file with the JSON body of a request, in the model's folder. Left out, inputs are drawn from "
        "the signature.",
        json_schema_extra={"expected": "a path in the model's folder, such as warm_up/request.json"},
    )
    batch_size: Integer = Field(default=1, ge=1, le=65536, description="Rows of drawn inputs.")
    count: Integer = Field(default=1, ge=1, le=1000, description="How many times the request runs.")

    @field_validator("file", mode="after")
    @classmethod
    def _inside(cls, file: str | None) -> str | None:
        if file is not None and (Path(file).is_absolute() or ".." in Path(file).parts):
            raise ValueError(f"{file!r} leads out of the model's folder")
        return file


def _versions(value: object) -> object:
    if value in ("all", "latest") and isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not value:
        raise PydanticCustomError("versions", "not a version policy")
    return tuple(_version(item) for item in value)


def _version(item: object) -> str:
    if isinstance(item, bool) or not isinstance(item, int | str):
        raise ValueError(f"a version is an integer, or letters and digits; got {item}")
    try:
        return check_version(str(item))
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


class ModelConfig(_Strict):
    """What ``model.yaml`` can say. Every key is optional: what is left out is read from the model's files."""

    runtime: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_\-]{1,64}$",
        description="The runtime that loads the model. Left out, it is found from the files.",
        json_schema_extra={"expected": "the name of a runtime, such as onnx, pytorch, sklearn or python"},
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
        description="Where the model runs: 'cpu', 'cuda', 'cuda:N', or 'auto' for the first GPU that the runtime can "
        "use, else the CPU.",
        json_schema_extra={"expected": "auto, cpu, cuda or cuda:N (such as cuda:0)"},
    )
    inputs: tuple[TensorConfig, ...] | None = Field(
        default=None, description="The inputs, for formats whose files don't tell them."
    )
    outputs: tuple[TensorConfig, ...] | None = Field(
        default=None, description="The outputs, for formats whose files don't tell them."
    )
    batched: Boolean | None = Field(
        default=None,
        description="Whether the first dimension of every tensor is a batch dimension, so that one request may hold "
        "many inferences. Left out, it is read from the files.",
    )
    versions: Annotated[Literal["all", "latest"] | tuple[str, ...], BeforeValidator(_versions)] = Field(
        default="all",
        description="Which versions are served: 'all', 'latest' (the highest number), or a list of versions.",
        json_schema_extra={"expected": "all, latest, or a list of versions such as [1, 2]"},
    )
    threads: Integer | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="CPU threads that one execution may use. Left out, the runtime chooses.",
    )
    isolation: Isolation = Field(
        default="auto",
        description="Where the model executes: 'inline' (on the event loop, for models that take microseconds), "
        "'thread', 'process' (processes of its own, for code that may crash, hang, leak or hold the GIL), or 'auto', "
        "which measures and chooses between the first two.",
    )
    instances: Integer | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="How many executions run side by side, each with `threads` threads. Left out, as many as the "
        "cores have room for; one for Python models.",
    )
    max_batch_size: Integer | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="Rows of the largest batch that is put together from waiting requests, and of the largest request; "
        "1 turns batching off. Left out, it is found by probing, and a larger request runs alone.",
    )
    max_queue_delay: Seconds = Field(
        default=0.0,
        le=60,
        description="How long the first request of a batch may wait for others while an instance is free.",
    )
    preferred_batch_sizes: tuple[Annotated[Integer, Field(ge=1)], ...] = Field(
        default=(),
        description="Batch sizes that run without further delay when enough rows wait.",
        json_schema_extra={"expected": "a list of batch sizes such as [4, 8]"},
    )
    padding: dict[str, PaddingConfig] = Field(
        default_factory=dict,
        description="Inputs of variable size that are padded to one shape so that they share batches, by name.",
    )
    max_queue: Integer | None = Field(
        default=None,
        ge=1,
        description="Requests that may wait for one version; more are refused as overload. Left out, the server's "
        "max_queue applies.",
    )
    priorities: PrioritiesConfig = Field(
        default=PrioritiesConfig(), description="The levels of the queue, for requests with a `priority`."
    )
    sequences: SequencesConfig | None = Field(
        default=None, description="Bounds of stateful sequences (requests with a `sequence_id`)."
    )
    resources: dict[str, Annotated[Integer, Field(ge=1)]] = Field(
        default_factory=dict,
        description="How much of the server's named resources each execution takes.",
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="The model's share of resources that several models want, relative to the others'.",
    )
    execution_timeout: Seconds | None = Field(
        default=None,
        gt=0,
        description="The longest that one execution may take before its process is ended and started anew; needs "
        "`isolation: process`.",
    )
    memory_limit: Size | None = Field(
        default=None,
        description="Memory that an instance's process may take beyond what it starts with; needs "
        "`isolation: process`.",
    )
    python: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        default=None,
        description="The Python, or the virtual environment, that runs the model's processes; needs "
        "`isolation: process`. A relative path starts at the model's folder.",
        json_schema_extra={"expected": "a path of a Python or of a virtual environment"},
    )
    idempotent: Boolean = Field(
        default=False,
        description="Running a request twice does no harm: one whose instance died is run once more.",
    )
    response_cache: Size | None = Field(
        default=None,
        description="Bytes of answers to keep and give again to identical requests. Left out, none are.",
    )
    pinned: Boolean = Field(
        default=False, description="Never evict the model to make room for others; it is loaded at startup."
    )
    tenant: str = Field(
        default="",
        max_length=128,
        description="Whose share of the memory budget the model counts to, where it is loaded on demand.",
    )
    warm_up: tuple[WarmUpConfig, ...] = Field(
        default=(), description="Requests that run on each instance before a version is ready."
    )
    description: str = Field(default="", description="A sentence about the model.")
    labels: dict[str, str] = Field(default_factory=dict, description="Names and texts of your own, such as the owner.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the runtime alone; each runtime lists and checks its own."
    )
    requirements: tuple[Annotated[str, StringConstraints(min_length=1, max_length=1000)], ...] = Field(
        default=(),
        description="Packages that must be installed before the model is loaded, as pip writes them (Python models).",
        json_schema_extra={"expected": "a list of texts such as 'pandas>=2.1'"},
    )

    @model_validator(mode="after")
    def _in_processes(self) -> ModelConfig:
        for name in ("execution_timeout", "memory_limit", "python"):
            if getattr(self, name) is not None and self.isolation != "process":
                raise ValueError(f"'{name}' needs a process to hold to it; set 'isolation: process'")
        return self

    @model_validator(mode="after")
    def _within_batch_size(self) -> ModelConfig:
        sizes = self.preferred_batch_sizes
        if self.max_batch_size is not None and sizes and max(sizes) > self.max_batch_size:
            raise ValueError(
                f"preferred_batch_sizes has {max(sizes)}, which is more than max_batch_size, {self.max_batch_size}"
            )
        return self

    @field_validator("inputs", "outputs", mode="after")
    @classmethod
    def _distinct(cls, tensors: tuple[TensorConfig, ...] | None) -> tuple[TensorConfig, ...] | None:
        if tensors == ():
            raise ValueError("the list is empty; leave the key out to read the tensors from the model's files")
        seen: set[str] = set()
        for tensor in tensors or ():
            if tensor.name in seen:
                raise ValueError(f"two tensors are named {tensor.name!r}; names must differ")
            seen.add(tensor.name)
        return tensors

    @model_validator(mode="after")
    def _batch_first(self) -> ModelConfig:
        if self.batched:
            for tensor in (*(self.inputs or ()), *(self.outputs or ())):
                if tensor.shape is not None and tensor.shape[:1] != (-1,):
                    raise ValueError(
                        f"with 'batched: true' every shape begins with -1, the batch dimension, and the shape of "
                        f"{tensor.name!r} is {list(tensor.shape)}"
                    )
        return self

    def input_specs(self) -> tuple[TensorSpec, ...] | None:
        """The declared inputs; None where they are to be read from the files."""
        return _specs(self.inputs)

    def scheduling(self, folder: Path) -> Scheduling:
        """Queue, batches and instances as the core knows them; relative paths start at ``folder``."""
        return Scheduling(
            max_batch_size=self.max_batch_size,
            max_queue_delay=self.max_queue_delay,
            preferred_batch_sizes=tuple(sorted(set(self.preferred_batch_sizes))),
            padding={
                name: Padding(each.value, tuple(sorted(set(each.lengths)))) for name, each in self.padding.items()
            },
            instances=self.instances,
            execution_timeout=self.execution_timeout,
            memory_limit=self.memory_limit,
            # Not resolved: a virtual environment's Python is a link, and is known by the link's place.
            python=None if self.python is None else folder / Path(self.python).expanduser(),
            idempotent=self.idempotent,
            max_queue=self.max_queue,
            priorities=Priorities(self.priorities.levels, self.priorities.default, self.priorities.max_queue),
            sequences=None
            if self.sequences is None
            else Sequences(self.sequences.idle_timeout, self.sequences.max_sequences),
            resources=self.resources,
            weight=self.weight,
            response_cache=self.response_cache,
            warm_up=tuple(
                WarmUp(None if each.file is None else folder / each.file, each.batch_size, each.count)
                for each in self.warm_up
            ),
        )

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        """The declared outputs; None where they are to be read from the files."""
        return _specs(self.outputs)


def read_model_config(path: Path, *, shown_as: str = "") -> ModelConfig:
    """Read a ``model.yaml``.

    Raises:
        InvalidConfig: with the file, the line and the key; see :func:`salver.config.read_yaml`.
    """
    return read_yaml(path, ModelConfig, shown_as=shown_as)


def _specs(tensors: Iterable[TensorConfig] | None) -> tuple[TensorSpec, ...] | None:
    return None if tensors is None else tuple(tensor.to_spec() for tensor in tensors)
