"""Registry values as JSON texts and back.

What is read may come from another release of Salver: fields that aren't known here are passed over, and those that are
missing have their default.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from salver.core.errors import InvalidRequest, MalformedBody
from salver.core.registry import Probe
from salver.core.signature import Signature, TensorSpec
from salver.wire.json_depth import refuse_deep

_PROBE_FIELDS = {field.name for field in dataclasses.fields(Probe)}


def checked_object(value: Mapping[str, Any], what: str, *, max_bytes: int) -> str:
    """The JSON text (ASCII, without needless spaces) of an object that a caller gives.

    Raises:
        InvalidRequest: it isn't a JSON object that comes back as it was given (NaN and keys that aren't texts are
            none), has more than ``max_bytes``, or is nested too deeply.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{what}: expected a JSON object, got {type(value).__name__}")
    plain = dict(value)
    try:
        text = json.dumps(plain, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{what}: expected JSON, got something else: {str(error)[:200]}") from error
    if len(text) > max_bytes:
        raise InvalidRequest(f"{what}: {len(text)} bytes of JSON; {max_bytes} are allowed")
    try:
        # What could only just be written here could not be read where the stack is deeper.
        refuse_deep(text.encode())
    except MalformedBody as error:
        raise InvalidRequest(f"{what}: expected JSON that isn't so deep: {error}") from error
    if json.loads(text) != plain:
        raise InvalidRequest(
            f"{what}: expected JSON: objects with texts as keys, lists, texts, numbers, true, false, null"
        )
    return text


def signature_text(signature: Signature) -> str:
    """A signature as JSON."""
    return json.dumps(
        {
            "inputs": [_spec(spec) for spec in signature.inputs],
            "outputs": [_spec(spec) for spec in signature.outputs],
            "batched": signature.batched,
        },
        separators=(",", ":"),
    )


def signature_from(text: str) -> Signature:
    """The signature that :func:`signature_text` wrote."""
    value = json.loads(text)
    return Signature(
        tuple(map(_spec_from, value["inputs"])), tuple(map(_spec_from, value["outputs"])), bool(value.get("batched"))
    )


def probe_text(probe: Probe) -> str:
    """A probe as JSON."""
    value = {name: getattr(probe, name) for name in _PROBE_FIELDS}
    value["latency_seconds"] = {str(rows): seconds for rows, seconds in probe.latency_seconds.items()}
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def probe_from(text: str) -> Probe:
    """The probe that :func:`probe_text` wrote."""
    value = {name: each for name, each in json.loads(text).items() if name in _PROBE_FIELDS}
    value["latency_seconds"] = {int(rows): seconds for rows, seconds in value.get("latency_seconds", {}).items()}
    return Probe(**value)


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": None if spec.shape is None else list(spec.shape),
        "optional": spec.optional,
        "safe_cast": spec.safe_cast,
    }


def _spec_from(value: Mapping[str, Any]) -> TensorSpec:
    shape = value["shape"]
    return TensorSpec(
        value["name"],
        value["datatype"],
        None if shape is None else tuple(shape),
        bool(value.get("optional")),
        bool(value.get("safe_cast")),
    )
