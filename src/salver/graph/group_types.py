"""What ensembles and maps give, from what the steps inside them give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from salver.core.signature import Signature
from salver.core.tensor import DTYPES, Shape, datatype_of
from salver.graph.known_tensors import Given
from salver.graph.spec import CombineConfig, EnsembleConfig, MapConfig
from salver.graph.steps.map import ITEM_INDEX
from salver.graph.tensor_types import UNKNOWN, TensorType, fits, of_spec

Note = Callable[[str], None]
_FLOATS: Final = ("FP16", "BF16", "FP32", "FP64")


def called(signature: Signature, *, may_skip: bool = False) -> Given:
    """What a model or function of that signature gives; one that doesn't tell may give anything."""
    outputs = {spec.name: of_spec(spec) for spec in signature.outputs}
    return Given(outputs, None if outputs else UNKNOWN, may_skip)


def ensemble_gives(
    config: EnsembleConfig, looked: Sequence[Given], function_signature: Callable[[str], Signature], note: Note
) -> Given:
    """What an ensemble gives.

    Args:
        config: the ensemble.
        looked: what its members give, in their order.
        function_signature: of a function, as FILE.py:NAME.
        note: is told what is wrong.
    """
    if any(each.answers for each in looked):
        note("a member of an ensemble can't be an 'answer'")
    # Where some that it needs don't run and others do, it fails: its outputs are missing where none runs.
    may_skip = all(each.may_skip for each in looked)
    if config.combine == "collect":
        names = [member.name for member in config.members]
        if len(set(names)) < len(names):
            note("two of its members have one name, and 'combine: collect' tells their outputs by it")
        return _collected(config, looked, may_skip=may_skip)
    is_open = all(each.rest is not None for each in looked)
    columns: dict[str, list[TensorType]] = {}
    for key in dict.fromkeys(key for each in looked for key in each.outputs):
        known = [found for each in looked if (found := each.get(key, has_run=True)) is not None]
        if len(known) == len(looked):
            columns[key] = known
    if not columns and not is_open:
        given = "; ".join(
            f"{member.name or number}: {', '.join(each.outputs) or 'none'}"
            for number, (member, each) in enumerate(zip(config.members, looked, strict=True), start=1)
        )
        note(f"its members have no output in common ({given})")
    rest = None if columns and not is_open else UNKNOWN
    stacks = {key: _stacked(key, known, note) for key, known in columns.items()}
    how = config.combine
    if isinstance(how, CombineConfig) and how.function is not None:
        is_whole = config.quorum == len(looked) or all(config.needs(index) for index in range(len(looked)))
        rows = len(looked) if is_whole else -1
        signature = function_signature(how.function)
        _check_function(how.function, signature, stacks, rows, None if is_open else note)
        return called(signature, may_skip=may_skip)
    if how == "vote":
        return Given(stacks, rest, may_skip)
    result: dict[str, TensorType] = {}
    for key, known_stack in stacks.items():
        if known_stack.datatype == "BYTES":
            note(f"output {key!r} is text, which has no mean; use 'combine: vote'")
        is_float = known_stack.datatype in (None, *_FLOATS)
        result[key] = known_stack if is_float else replace(known_stack, datatype="FP64")
    return Given(result, rest, may_skip)


def items_of(config: MapConfig, lists: Mapping[str, TensorType], note: Note) -> dict[str, TensorType]:
    """What the step of a map sees as its items; ``lists``: what the map goes over."""
    lengths: dict[str, int] = {}
    items: dict[str, TensorType] = {}
    for key, known in lists.items():
        if known.shape == ():
            note(f"{key!r} is a scalar, and no list of items")
        rest = None if known.shape is None else known.shape[1:]
        items[key] = TensorType(known.datatype, (-1, *rest) if config.rows is not None and rest is not None else rest)
        if known.shape and known.shape[0] != -1:
            lengths[key] = known.shape[0]
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
        note(f"its lists differ in length: {told}")
    if lengths and max(lengths.values()) > config.max_items:
        note(f"it goes over {max(lengths.values())} items, and its max_items is {config.max_items}")
    return items


def map_gives(config: MapConfig, lists: Mapping[str, TensorType], given: Given, note: Note) -> Given:
    """What a map gives, whose step gives ``given`` for each item."""
    joins = (config.regroup or ("concat" if config.rows else "stack")) == "concat"
    keeps_all = config.on_error == "fail" and not given.may_skip
    lengths = {known.shape[0] for known in lists.values() if known.shape and known.shape[0] != -1}
    count = lengths.pop() if keeps_all and not joins and len(lengths) == 1 else -1
    outputs: dict[str, TensorType] = {}
    for key, known in given.outputs.items():
        if joins and known.shape == ():
            note(f"output {key!r} is a scalar: 'regroup: concat' has nothing to join along")
        rest = None if known.shape is None else known.shape[1:] if joins else known.shape
        # Items whose step didn't run have no part in it; an output that some of the others lack is missing.
        outputs[key] = TensorType(known.datatype, None if rest is None else (count, *rest), known.optional)
    if config.on_error == "skip" or (joins and config.rows is None):
        outputs[ITEM_INDEX] = TensorType("INT64", (-1,))
    return Given(outputs, given.rest, any(known.optional for known in lists.values()))


def _collected(config: EnsembleConfig, looked: Sequence[Given], *, may_skip: bool) -> Given:
    outputs: dict[str, TensorType] = {}
    may_lack = config.quorum is not None and config.quorum < len(looked)
    for member, each in zip(config.members, looked, strict=True):
        for key, known in each.outputs.items():
            outputs[f"{member.name}.{key}"] = replace(known, optional=known.optional or each.may_skip or may_lack)
    return Given(outputs, UNKNOWN if any(each.rest is not None for each in looked) else None, may_skip)


def _stacked(key: str, known: Sequence[TensorType], note: Note) -> TensorType:
    """What is known of each of the members' tensors of one name, which have one shape when they are put together."""
    optional = any(each.optional for each in known)
    datatypes = list(dict.fromkeys(each.datatype for each in known if each.datatype is not None))
    datatype: str | None = None
    if "BYTES" in datatypes and len(datatypes) > 1:
        note(f"its members give output {key!r} as texts and as numbers ({', '.join(datatypes)})")
    elif all(each.datatype is not None for each in known):
        try:
            datatype = datatype_of(np.empty(0, np.result_type(*(DTYPES[each] for each in datatypes))))
        except TypeError:  # as of BF16 and FP16, neither of which holds the other
            note(f"its members give output {key!r} in datatypes that no other holds: {', '.join(datatypes)}")
    shape: Shape | None = None
    for each in known:
        both = each.shape if shape is None else shape if each.shape is None else _both(shape, each.shape)
        if both is None and shape is not None and each.shape is not None:
            note(f"its members give output {key!r} in different shapes, {list(shape)} and {list(each.shape)}")
            return replace(UNKNOWN, datatype=datatype, optional=optional)
        shape = both
    return TensorType(datatype, shape, optional)


def _both(one: Shape, other: Shape) -> Shape | None:
    """A shape that is both; None where there is none."""
    if len(one) != len(other) or any(-1 not in pair and pair[0] != pair[1] for pair in zip(one, other, strict=True)):
        return None
    return tuple(max(pair) for pair in zip(one, other, strict=True))


def _check_function(
    function: str, signature: Signature, stacks: Mapping[str, TensorType], rows: int, note: Note | None
) -> None:
    """Hold a function that combines against what it gets: the members' tensors along a new first dimension.

    ``note`` is None where the members may give anything.
    """
    takes = {spec.name for spec in signature.inputs}
    for key in stacks:
        if key not in takes and note is not None:
            note(f"{function} takes no {key!r}, which its members give; name what it takes in the 'outputs' of each")
    for spec in signature.inputs:
        known = stacks.get(spec.name)
        if known is None:
            if not spec.optional and note is not None:
                note(f"{function} takes {spec.name!r}, which its members don't give")
            continue
        column = TensorType(known.datatype, None if known.shape is None else (rows, *known.shape))
        if note is not None and (problem := fits(column, spec)):
            note(f"{function}: input {spec.name!r}: {problem}")
