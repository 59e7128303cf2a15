"""The schema of ``graph.yaml``: what a graph's steps are, and where their inputs come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from salver.config.explain import explain, suggestion
from salver.config.quantities import Seconds, Size
from salver.core.errors import InvalidRequest
from salver.core.model import check_model_name, check_version
from salver.core.tensor import DTYPES, MAX_RANK
from salver.store.model_config import Boolean, Integer, TensorConfig

GRAPH_YAML = "graph.yaml"

RESERVED_STEPS = ("inputs", "item", "parameters", "outputs")
"""Names that steps can't have: references begin with them."""

MAX_STEPS = 1000
MAX_RETRIES = 10
MAX_MAP_ITEMS = 100_000

_STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FUNCTION = re.compile(r"(?P<file>[^:]+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_SLICE = re.compile(r"\s*(-?[0-9]+)?\s*:\s*(-?[0-9]+)?\s*(?::\s*(-?[0-9]+)?\s*)?")

KINDS = ("model", "function", "graph", "switch", "split", "ensemble", "map", "values", "answer")
"""What a step can be; it has one of these keys."""

Constant: TypeAlias = bool | int | float | str | list[Any]
Text: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Expression: TypeAlias = Annotated[
    str | bool,
    Field(json_schema_extra={"expected": "a condition, such as scores.confidence[0] > 0.5"}),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ModelReference(_Strict):
    """A model as a step names it: ``NAME``, ``NAME/VERSION``, ``NAME/LABEL`` or ``NAME@ALIAS``.

    Attributes:
        name: the model's.
        version: a version, a label or an alias; "" for the model's default version.
    """

    name: str
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Read a reference.

        Raises:
            ValueError: it isn't one.
        """
        name, separator, version = text.replace("@", "/", 1).partition("/")
        try:
            check_model_name(name)
            if separator:
                check_version(version)
        except InvalidRequest as error:
            raise ValueError(f"{error}; a model is NAME, NAME/VERSION or NAME@ALIAS") from None
        return cls(name=name, version=version)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else self.name


def _source(value: object) -> object:
    """A text alone is a reference, a number or a list alone is a constant."""
    if isinstance(value, str):
        return {"from": value}
    if isinstance(value, bool | int | float | list):
        return {"value": value}
    return value


class SourceConfig(_Strict):
    """Where a tensor comes from. A text alone stands for ``from``, a number or a list alone for ``value``.

    Exactly one of ``from``, ``first``, ``value``, ``parameter``, ``concat`` and ``stack`` is there. The other keys
    change what it gives, in this order: select, transpose, reshape, cast.
    """

    from_: Text | None = Field(
        default=None,
        alias="from",
        description="A tensor by its reference: inputs.NAME, STEP.OUTPUT or, in a map, item.NAME.",
    )
    first: tuple[Source, ...] | None = Field(
        default=None, min_length=1, description="The first of these that is there: others' steps may not have run."
    )
    value: Constant | None = Field(
        default=None, description="A constant: a number, a text, true, false, or lists of them."
    )
    datatype: str | None = Field(
        default=None, description="The datatype of 'value' or 'parameter', where it isn't the natural one."
    )
    parameter: Text | None = Field(default=None, description="A parameter of the request, as a tensor of one element.")
    concat: tuple[Source, ...] | None = Field(
        default=None, min_length=1, description="Tensors that are joined along 'axis'."
    )
    stack: tuple[Source, ...] | None = Field(
        default=None, min_length=1, description="Tensors of one shape that are put together along a new 'axis'."
    )
    axis: Integer = Field(default=0, ge=-MAX_RANK, lt=MAX_RANK, description="Of 'concat' and 'stack'.")
    select: tuple[int | str | tuple[int, ...], ...] | None = Field(
        default=None,
        max_length=MAX_RANK,
        description="For each dimension an index (which takes the dimension away), a range such as '0:3' or ':', or a "
        "list of indices.",
    )
    transpose: tuple[Integer, ...] | None = Field(
        default=None, max_length=MAX_RANK, description="The order of the dimensions, such as [0, 3, 1, 2]."
    )
    reshape: tuple[Annotated[Integer, Field(ge=-1)], ...] | None = Field(
        default=None,
        max_length=MAX_RANK,
        description="The new dimensions; -1, at most once, is what is left, 0 the dimension as it was.",
    )
    cast: str | None = Field(default=None, description="The datatype that the tensor is brought to.")

    @field_validator("datatype", "cast", mode="after")
    @classmethod
    def _known_datatype(cls, datatype: str | None) -> str | None:
        if datatype is not None and datatype not in DTYPES:
            raise ValueError(f"unknown datatype {datatype[:40]!r}; {suggestion(datatype, DTYPES)}")
        return datatype

    @field_validator("select", mode="after")
    @classmethod
    def _readable(cls, select: tuple[int | str | tuple[int, ...], ...] | None) -> object:
        for part in select or ():
            if isinstance(part, str) and _SLICE.fullmatch(part) is None:
                raise ValueError(f"{part[:40]!r} is no range; write START:STOP, such as '0:3', or ':'")
        return select

    @model_validator(mode="after")
    def _one(self) -> SourceConfig:
        origins = self.origins()
        if len(origins) != 1:
            came = " and ".join(origins) or "none of them"
            raise ValueError(f"a tensor has one origin: from, first, value, parameter, concat or stack; here is {came}")
        if self.reshape is not None and self.reshape.count(-1) > 1:
            raise ValueError("'reshape' can have -1 once")
        if self.datatype is not None and origins[0] not in ("value", "parameter"):
            raise ValueError("'datatype' goes with 'value' and 'parameter'; to change a tensor's datatype, use 'cast'")
        return self

    def origins(self) -> list[str]:
        """The keys that say where it comes from."""
        keys = {"from": self.from_, "first": self.first, "value": self.value, "parameter": self.parameter,
                "concat": self.concat, "stack": self.stack}  # fmt: skip
        return [name for name, value in keys.items() if value is not None]

    def index(self) -> tuple[int | slice | list[int], ...]:
        """``select`` as NumPy takes it."""
        index: list[int | slice | list[int]] = []
        for part in self.select or ():
            if isinstance(part, str):
                found = _SLICE.fullmatch(part)
                assert found is not None
                index.append(slice(*(None if bound is None else int(bound) for bound in found.groups())))
            else:
                index.append(part if isinstance(part, int) else list(part))
        return tuple(index)


Source: TypeAlias = Annotated[
    SourceConfig,
    BeforeValidator(_source),
    Field(json_schema_extra={"expected": "a reference such as STEP.OUTPUT, a constant, or a map (see graphs.md)"}),
]


class OutputConfig(SourceConfig):
    """One of the graph's outputs: a tensor and its name."""

    name: str = Field(min_length=1, max_length=256, description="What answers call the tensor.")
    optional: Boolean = Field(default=False, description="Answers may be without it, where its step has not run.")


class CombineConfig(_Strict):
    """How an ensemble's answers become one."""

    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        default=None, description="The mean of the answers, with a weight for each member, in their order."
    )
    function: str | None = Field(
        default=None, description="FILE.py:NAME, called with a list of arrays for each output."
    )

    @field_validator("function", mode="after")
    @classmethod
    def _function(cls, function: str | None) -> str | None:
        if function is not None:
            function_file(function)
        return function

    @model_validator(mode="after")
    def _one(self) -> CombineConfig:
        if (self.weights is None) == (self.function is None):
            raise ValueError("one of 'weights' and 'function' is needed")
        if self.weights is not None and not sum(self.weights) > 0:
            raise ValueError("'weights' must not all be 0")
        return self


_WAYS_TO_COMBINE = ("mean", "vote", "collect")


def _combine(value: object) -> object:
    """One of the words, or a map: a union's own errors would name pydantic's parts."""
    if isinstance(value, Mapping):
        try:
            return CombineConfig.model_validate(value)
        except ValidationError as error:
            raise ValueError(explain(error, CombineConfig, lambda _: "")) from None
    if isinstance(value, CombineConfig) or value in _WAYS_TO_COMBINE:
        return value
    raise ValueError(f"it is {', '.join(_WAYS_TO_COMBINE)}, or a map with 'weights' or 'function', not {value!r:.60}")


class EnsembleConfig(_Strict):
    """The value of ``ensemble``: steps that answer the same question."""

    members: tuple[StepConfig, ...] = Field(min_length=1, max_length=100)
    combine: Annotated[Literal["mean", "vote", "collect"] | CombineConfig, BeforeValidator(_combine)] = Field(
        default="mean",
        description="mean, vote (the most frequent value, the smallest of equals), collect (all outputs, as "
        "MEMBER.OUTPUT), or a map with 'weights' or 'function'.",
    )
    quorum: Integer | None = Field(
        default=None,
        ge=1,
        description="So many members are enough, where others fail. Left out, all are needed but those that are "
        "'optional' or have a 'when'.",
    )

    def needs(self, index: int) -> bool:
        """Whether there is no answer without that of a member."""
        member = self.members[index]
        return self.quorum is None and not member.optional and member.when is None

    @model_validator(mode="after")
    def _fits(self) -> EnsembleConfig:
        if self.quorum is not None and self.quorum > len(self.members):
            raise ValueError(f"'quorum' is {self.quorum}, and there are {len(self.members)} members")
        weights = self.combine.weights if isinstance(self.combine, CombineConfig) else None
        if weights is not None and len(weights) != len(self.members):
            raise ValueError(f"there are {len(weights)} weights for {len(self.members)} members")
        if self.combine == "collect" and any(member.name is None for member in self.members):
            raise ValueError("'combine: collect' needs a 'name' for each member")
        return self


class MapConfig(_Strict):
    """The value of ``map``: a step that runs once for each item of a list."""

    over: dict[str, Source] = Field(
        min_length=1,
        description="Tensors whose first dimension is the list of items; the step's inputs call them item.NAME.",
    )
    step: StepConfig = Field(description="What runs for each item. It may use item.NAME besides the graph's tensors.")
    rows: Integer | None = Field(
        default=None,
        ge=1,
        description="Give the step so many items at a time: they keep their first dimension. Left out, it gets one "
        "item without it.",
    )
    max_items: Integer = Field(default=1000, ge=1, le=MAX_MAP_ITEMS, description="More items than this are refused.")
    concurrency: Integer = Field(default=16, ge=1, le=1000, description="Items that are worked on at a time.")
    regroup: Literal["stack", "concat"] | None = Field(
        default=None,
        description="stack: an item's outputs have one shape, and become a row each. concat: they are joined along "
        "their first dimension, and the output item_index tells of which item each row is. By default stack, or with "
        "'rows' concat without item_index.",
    )
    on_error: Literal["fail", "skip"] = Field(
        default="fail", description="skip: items that fail are left out; the output item_index tells which are there."
    )


class FallbackConfig(_Strict):
    """The value of ``fallback``: what answers instead of a step that fails."""

    on: tuple[Literal["error", "timeout"], ...] = Field(
        default=("error", "timeout"), min_length=1, description="What it stands in for: errors, timeouts or both."
    )
    values: dict[str, Source] | None = Field(default=None, min_length=1, description="The step's outputs.")
    step: StepConfig | None = Field(default=None, description="A step that gives the same outputs.")

    @model_validator(mode="after")
    def _one(self) -> FallbackConfig:
        if (self.values is None) == (self.step is None):
            raise ValueError("one of 'values' and 'step' is needed")
        return self


def _renames(value: object) -> object:
    """A list of names keeps them as they are."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: name for name in value}
    return value


class StepConfig(_Strict):
    """One step. It has one of the keys in :data:`KINDS`. Steps inside others need no name."""

    name: str | None = Field(default=None, description="What references call it: letters, digits and '_'.")
    description: str = ""
    model: str | None = Field(
        default=None, description="A model, or a graph that is served: NAME, NAME/VERSION, NAME/LABEL or NAME@ALIAS."
    )
    function: str | None = Field(default=None, description="FILE.py:NAME, a function or class in the graph's folder.")
    graph: InlineGraph | None = Field(default=None, description="Steps of their own, with inputs and outputs.")
    switch: tuple[StepConfig, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Steps of which the first runs whose 'when' is true; the last one may be without: the default.",
    )
    split: tuple[StepConfig, ...] | None = Field(
        default=None, min_length=1, max_length=100, description="Steps of which one runs, by chance, by their 'weight'."
    )
    split_by: Text | None = Field(
        default=None, description="A parameter of the request: requests with the same value get the same step."
    )
    must_match: Boolean = Field(
        default=False, description="In a switch: where no case fits, it fails. Else its outputs are missing then."
    )
    ensemble: EnsembleConfig | None = None
    map: MapConfig | None = None
    values: dict[str, Source] | None = Field(
        default=None,
        description="Tensors under new names: to rename, select, reshape, cast, join. With 'inputs_from', those too.",
    )
    answer: dict[str, Source] | None = Field(
        default=None, min_length=1, description="The graph's outputs: the request is answered, and nothing else runs."
    )
    inputs: dict[str, Source] = Field(default_factory=dict, description="The inputs of the model, function or graph.")
    inputs_from: Text | None = Field(
        default=None,
        description="'inputs', or a step: what isn't in 'inputs' comes from there, by the model's own names.",
    )
    outputs: Annotated[dict[str, str], BeforeValidator(_renames)] | None = Field(
        default=None, description="New name: name, of the outputs to keep; or a list of names. By default all."
    )
    parameters: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="Parameters of the model's request; the text '$NAME' is the request's own NAME.",
    )
    when: Expression | None = Field(default=None, description="The step runs only where this is true.")
    weight: float | None = Field(default=None, gt=0, description="In a split: how often it runs.")
    timeout: Seconds | None = Field(default=None, gt=0, description="How long one try may take.")
    retries: Integer = Field(default=0, ge=0, le=MAX_RETRIES, description="More tries where one fails.")
    retry_delay: Seconds = Field(
        default=0.05, ge=0, le=60, description="Before the first of them; it doubles each time."
    )
    optional: Boolean = Field(
        default=False, description="Where it fails, its outputs are missing, and the rest goes on."
    )
    fallback: FallbackConfig | None = None
    after: tuple[str, ...] = Field(
        default=(), description="Steps that have to end before, though their outputs aren't used."
    )
    isolation: Literal["thread", "process"] | None = Field(default=None, description="Where a function runs.")
    instances: Integer | None = Field(default=None, ge=1, le=64, description="Calls of a function that run at a time.")

    @field_validator("name", mode="after")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        if name is None:
            return None
        if _STEP_NAME.fullmatch(name) is None:
            raise ValueError(f"{name[:80]!r} can't name a step: letters, digits and '_', no digit first, 64 at most")
        if name in RESERVED_STEPS:
            raise ValueError(f"{name!r} can't name a step: references to other things begin so")
        return name

    @field_validator("model", mode="after")
    @classmethod
    def _model(cls, model: str | None) -> str | None:
        if model is not None:
            ModelReference.parse(model)
        return model

    @field_validator("function", mode="after")
    @classmethod
    def _function(cls, function: str | None) -> str | None:
        if function is not None:
            function_file(function)
        return function

    @model_validator(mode="after")
    def _one_kind(self) -> StepConfig:
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            came = " and ".join(kinds) or "none of them"
            raise ValueError(f"a step has one of {', '.join(KINDS)}; here is {came}")
        if self.values == {} and self.inputs_from is None:
            raise ValueError("'values' is empty; name some tensors, or set 'inputs_from'")
        if self.inputs_from is not None and self.kind not in ("model", "function", "graph", "values"):
            raise ValueError(f"'inputs_from' isn't for '{self.kind}'; set it at the steps inside")
        if self.inputs and self.kind not in ("model", "function", "graph"):
            raise ValueError(f"'inputs' isn't for '{self.kind}'; name the tensors where they are used")
        if self.parameters and self.kind != "model":
            raise ValueError(f"'parameters' are for 'model', not for '{self.kind}'")
        if self.split_by is not None and self.split is None:
            raise ValueError("'split_by' goes with 'split'")
        if self.must_match and self.switch is None:
            raise ValueError("'must_match' goes with 'switch'")
        for key in ("isolation", "instances"):
            if getattr(self, key) is not None and self.function is None:
                raise ValueError(f"'{key}' goes with 'function'; a model's is in its own model.yaml")
        self._check_switch()
        if self.split is not None and any(branch.weight is None for branch in self.split):
            raise ValueError("each step of 'split' needs a 'weight'")
        return self

    def _check_switch(self) -> None:
        for case in (self.switch or ())[:-1]:
            if case.when is None:
                raise ValueError("each step of 'switch' needs 'when', but for the last, which is the default")

    @property
    def kind(self) -> str:
        """Which of :data:`KINDS` it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def inner(self) -> Iterator[tuple[tuple[str | int, ...], StepConfig]]:
        """The steps inside this one, with their paths from here; not those of an inline graph."""
        for key in ("switch", "split"):
            for index, step in enumerate(getattr(self, key) or ()):
                yield (key, index), step
        if self.ensemble is not None:
            for index, step in enumerate(self.ensemble.members):
                yield ("ensemble", "members", index), step
        if self.map is not None:
            yield ("map", "step"), self.map.step
        if self.fallback is not None and self.fallback.step is not None:
            yield ("fallback", "step"), self.fallback.step


class InlineGraph(_Strict):
    """Steps of their own inside a step. They see only the inputs that the step gives them."""

    outputs: tuple[OutputConfig, ...] = ()
    outputs_from: str | None = Field(default=None, description="A step all of whose outputs are this graph's.")
    steps: tuple[StepConfig, ...] = Field(min_length=1, max_length=MAX_STEPS)

    @model_validator(mode="after")
    def _names(self) -> InlineGraph:
        _check_names(self.steps, self.outputs, self.outputs_from)
        return self


class GraphConfig(_Strict):
    """What ``graph.yaml`` holds."""

    description: str = ""
    inputs: tuple[TensorConfig, ...] = Field(default=(), description="The graph's inputs.")
    outputs: tuple[OutputConfig, ...] = Field(default=(), description="The graph's outputs, and where they come from.")
    outputs_from: str | None = Field(default=None, description="A step all of whose outputs are the graph's, too.")
    steps: tuple[StepConfig, ...] = Field(min_length=1, max_length=MAX_STEPS)
    parameters: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Parameters that requests may have, with their default values."
    )
    timeout: Seconds | None = Field(default=None, gt=0, description="How long a request may take.")
    max_step_bytes: Size = Field(default=1 << 30, description="A step whose outputs take more fails.")

    @model_validator(mode="after")
    def _names(self) -> GraphConfig:
        names = [tensor.name for tensor in self.inputs]
        if len(set(names)) != len(names):
            raise ValueError("two inputs have the same name")
        _check_names(self.steps, self.outputs, self.outputs_from)
        return self


def _check_names(steps: tuple[StepConfig, ...], outputs: tuple[OutputConfig, ...], outputs_from: str | None) -> None:
    if not outputs and outputs_from is None:
        raise ValueError("a graph has 'outputs'; here are none")
    seen: set[str] = set()
    for number, step in enumerate(steps, start=1):
        if step.name is None:
            raise ValueError(f"step {number} of 'steps' needs a 'name'")
        if step.name in seen:
            raise ValueError(f"two steps are named {step.name!r}")
        seen.add(step.name)
    if outputs_from is not None and outputs_from not in seen:
        raise ValueError(f"'outputs_from' names {outputs_from[:80]!r}, and there is no such step")
    named = [output.name for output in outputs]
    if len(set(named)) != len(named):
        raise ValueError("two outputs have the same name")


def all_steps(graph: GraphConfig | InlineGraph) -> Iterator[StepConfig]:
    """A graph's steps and those inside them, inline graphs' too."""
    waiting = list(graph.steps)
    while waiting:
        step = waiting.pop(0)
        yield step
        waiting += [inner for _, inner in step.inner()]
        if step.graph is not None:
            waiting += step.graph.steps


def function_file(function: str) -> tuple[str, str]:
    """The file and the name in ``FILE.py:NAME``.

    Raises:
        ValueError: it is something else, or leads out of the graph's folder.
    """
    found = _FUNCTION.fullmatch(function)
    if found is None:
        raise ValueError(f"{function[:80]!r} is no function; write FILE.py:NAME, such as steps.py:find_faces")
    file = Path(found["file"])
    if file.is_absolute() or ".." in file.parts:
        raise ValueError(f"{function[:80]!r} leads out of the graph's folder")
    return found["file"], found["name"]
