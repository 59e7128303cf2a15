"""Validation errors as sentences: which key, what was expected, what came."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from salver.config.document import KeyPath, shorten

JsonSchema = dict[str, Any]

MAX_PROBLEMS = 5


def explain(
    error: ValidationError,
    schema: type[BaseModel],
    place: Callable[[KeyPath], str],
    line: Callable[[KeyPath], int] = lambda _: 0,
) -> str:
    """One line a problem, each ``place: problem``; the first few where there are many.

    Args:
        error: what validating ``schema`` raised.
        schema: the model that was validated.
        place: where the value with this path was written, such as ``model.yaml:7``; "" for nowhere in particular.
        line: the line of the value, by which the problems are sorted.
    """
    root = schema.model_json_schema()
    problems: list[str] = []
    found = [detail for detail in error.errors(include_url=False) if not _comes_of_others(detail)]
    details = sorted(found, key=lambda detail: line(detail["loc"]))
    for detail in details[:MAX_PROBLEMS]:
        path = tuple(part for part in detail["loc"] if part != "[key]")
        where = place(path)
        problem = _problem(detail, path, root)
        problems.append(f"{where}: {problem}" if where else problem)
    if len(details) > MAX_PROBLEMS:
        problems.append(f"and {len(details) - MAX_PROBLEMS} more")
    return "\n".join(problems)


def unknown_key(key: str, valid: Iterable[str], *, what: str = "key", inside: str = "") -> str:
    """The sentence about a key that doesn't exist, with the nearest one that does."""
    names = list(valid)
    place = f" in {inside}" if inside else ""
    return f"unknown {what} {shorten(key)}{place}; {suggestion(key, names, what=what)}"


def suggestion(word: str, valid: Iterable[str], *, what: str = "value") -> str:
    """``did you mean 'device'?``, or the list of what is valid where nothing is near."""
    names = list(valid)
    by_shape = {name.lower().replace("-", "_"): name for name in names}
    near = difflib.get_close_matches(word[:100].lower().replace("-", "_"), by_shape, n=1)
    if near:
        return f"did you mean {by_shape[near[0]]!r}?"
    return f"valid {what}s are {', '.join(names)}"


def describe(schema: JsonSchema, root: JsonSchema) -> str:
    """What a JSON schema wants, in words: ``an integer of at least 1``. ``expected`` in the schema says it itself."""
    schema = _resolve(schema, root)
    if "expected" in schema:
        return str(schema["expected"])
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(repr(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(describe(option, root) for option in schema["anyOf"] if option.get("type") != "null")
    match schema.get("type"):
        case "integer":
            return "an integer" + _range(schema)
        case "number":
            return "a number" + _range(schema)
        case "boolean":
            return "true or false"
        case "string":
            return "text" if not schema.get("minLength") else "text that is not empty"
        case "array":
            return f"a list (each item {describe(schema.get('items', {}), root)})"
        case "object" if "properties" in schema:
            return f"a map with the keys {', '.join(schema['properties'])}"
        case "object":
            return "a map of names to values"
        case _:
            return "a value"


def dotted(path: KeyPath) -> str:
    """``("inputs", 0, "shape", 1)`` as ``inputs[0].shape[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _comes_of_others(detail: Any) -> bool:
    """A list that is called too short because none of its items is right: they are explained themselves."""
    return bool(detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"])


def _problem(detail: Any, path: KeyPath, root: JsonSchema) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        valid = _at(root, path[:-1], root).get("properties", {})
        return unknown_key(str(path[-1]), valid, inside=dotted(path[:-1]))
    if kind == "missing":
        inside = f" in {dotted(path[:-1])}" if path[:-1] else ""
        return f"missing key {shorten(path[-1])}{inside}"
    if kind == "too_long":
        limit = detail["ctx"]["max_length"]
        return f"'{dotted(path)}' must have a length of at most {limit}, got {len(detail['input'])}"
    if kind == "too_short":
        return (
            f"'{dotted(path)}' must have a length of at least {detail['ctx']['min_length']}, got {len(detail['input'])}"
        )
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
        return f"'{dotted(path)}': {message}" if path else message
    wanted = _at(root, path, root)
    name = f"'{dotted(path)}'" if path else "the file"
    came = detail["input"]
    text = f"{name} must be {describe(wanted, root)}, got {shorten(came)}"
    if kind == "string_type" and isinstance(came, bool | int | float):
        text += "; put it in quotes"
    choices = wanted.get("enum")
    if choices and isinstance(came, str) and difflib.get_close_matches(came, choices, n=1):
        text += f"; {suggestion(came, choices)}"
    return text


def _at(schema: JsonSchema, path: KeyPath, root: JsonSchema) -> JsonSchema:
    """The schema of the value at a path."""
    schema = _resolve(schema, root)
    for part in path:
        if isinstance(part, int):
            inner = schema.get("items", {})
        else:
            inner = schema.get("properties", {}).get(part) or schema.get("additionalProperties") or {}
        schema = _resolve(inner if isinstance(inner, dict) else {}, root)
    return schema


def _resolve(schema: JsonSchema, root: JsonSchema) -> JsonSchema:
    """Follow ``$ref``, and look through the ``anyOf`` of an optional value."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        schema = {**root["$defs"][name], **{key: value for key, value in schema.items() if key == "expected"}}
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        said = {key: value for key, value in schema.items() if key == "expected"}
        return {**_resolve(options[0], root), **said}
    return schema


def _range(schema: JsonSchema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        return f" over {schema['exclusiveMinimum']}" + ("" if high is None else f", at most {high}")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    if high is not None:
        return f" of at most {high}"
    return ""
