"""Conditions of KServe's graphs, which are written in the syntax of GJSON over the JSON of requests and answers.

Described in https://github.com/tidwall/gjson/blob/master/SYNTAX.md. Of it, one comparison is read, as
``[@this].#(outputs.0.data.0=="dog")`` has it, since KServe asks no more than whether something is found.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_WHOLE = re.compile(r"\[@this\]\.#\((?P<inside>.*)\)", re.DOTALL)
_COMPARISON = re.compile(
    r"""(?P<path>(?:\#\([^()]*\)|[^=!<>%"()\s])+)
    (?:\s*(?P<operator>==|!=|<=|>=|<|>|!?%)\s*(?P<value>"(?:[^"\\]|\\.)*"|[^\s"()=!<>%]+))?""",
    re.VERBOSE,
)
_PARAMETER = re.compile(r"parameters\.(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_TENSOR = re.compile(
    r"""(?:outputs|inputs)\.(?:(?P<number>[0-9]{1,4})|\#\(name=="?(?P<name>[^"()]+?)"?\))
    (?:\.data(?P<index>(?:\.[0-9]{1,9})+))?""",
    re.VERBOSE,
)
_ROWS = re.compile(r"(?:predictions|instances)(?P<index>(?:\.[0-9]{1,9})+)(?:\.(?P<name>[A-Za-z_][^.]*))?")
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

EXPECTED = (
    "expected PATH == VALUE or [@this].#(PATH == VALUE), with one of == != < <= > >= %; PATH is outputs.0.data.0, "
    'outputs.#(name=="label").data.0, predictions.0 (or inputs, instances), or parameters.NAME'
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a request or an answer.

    Attributes:
        tensor: the tensor that it looks at: its name, ``#N`` for the one of that number, ``#`` for the only one; ""
            where it looks at a parameter.
        is_flat: it counts elements as if the tensor had one dimension, as the protocol's JSON has it.
        index: of the element; none where any will do.
        parameter: the parameter that it looks at.
        operator: a comparison, ``%`` or ``!%`` (a text's pattern); "" where it asks whether there is such an element.
        value: what it compares with.
    """

    tensor: str = ""
    is_flat: bool = False
    index: tuple[int, ...] = ()
    parameter: str = ""
    operator: str = ""
    value: str | float | bool = ""

    def expression(self, reference: str) -> str:
        """The condition as graphs have it: false where there is no such element, as in GJSON.

        Args:
            reference: of the tensor; it has one dimension where ``is_flat``.
        """
        if self.parameter:
            found = f"parameters.{self.parameter}"
            return f"has({found})" + (f" and {self._compared(found)}" if self.operator else "")
        parts = [f"has({reference})"]
        if len(self.index) == 1:
            parts.append(f"len({reference}) > {self.index[0]}")
        elif self.index:
            parts.append(f"len(shape({reference})) >= {len(self.index)}")
            parts += [f"shape({reference})[{axis}] > {size}" for axis, size in enumerate(self.index)]
        if self.operator:
            parts.append(self._compared(f"{reference}[{', '.join(map(str, self.index))}]"))
        return " and ".join(parts)

    def _compared(self, found: str) -> str:
        if "%" not in self.operator:
            return f"{found} {self.operator} {_written(self.value)}"
        pattern = str(self.value)
        part = pattern.strip("*")
        begins, ends = not pattern.startswith("*"), not pattern.endswith("*")
        test = f"{found} == {part!r}"
        if not (begins and ends):
            name = "startswith" if begins else "endswith" if ends else "contains"
            test = f"{name}({found}, {part!r})"
        return test if self.operator == "%" else f"not {test}" if begins != ends else f"not ({test})"


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        ValueError: it asks for more than graphs can be asked.
    """
    whole = _WHOLE.fullmatch(text.strip())
    match = _COMPARISON.fullmatch((whole["inside"] if whole else text).strip())
    if match is None:
        raise ValueError(EXPECTED)
    operator = match["operator"] or ""
    value = _value(match["value"]) if operator else ""
    path = match["path"]
    if "%" in operator and (not isinstance(value, str) or re.search(r"[*?\\]", value.strip("*"))):
        raise ValueError(f"the pattern {value!r} can't be read; '*' can stand at its begin and its end")
    if parameter := _PARAMETER.fullmatch(path):
        return Condition(parameter=parameter["name"], operator=operator, value=value)
    if tensor := _TENSOR.fullmatch(path):
        index = _index(tensor["index"])
        if operator and not index:
            raise ValueError(f"{path!r} is a tensor; compare an element of it, such as {path}.data.0")
        name = tensor["name"] or f"#{tensor['number']}"
        return Condition(name, len(index) == 1, index, operator=operator, value=value)
    if rows := _ROWS.fullmatch(path):
        return Condition(rows["name"] or "#", False, _index(rows["index"]), operator=operator, value=value)
    raise ValueError(EXPECTED)


def _index(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "").split(".") if part)


def _value(text: str) -> str | float | bool:
    if text.startswith('"'):
        try:
            value = json.loads(text)
        except ValueError:
            raise ValueError(f"{text} is no text as JSON has it") from None
        assert isinstance(value, str)
        return value
    if text in ("true", "false"):
        return text == "true"
    if _NUMBER.fullmatch(text):
        return float(text) if re.search(r"[.eE]", text) else int(text)
    if text == "null":
        raise ValueError("tensors hold no null to compare with")
    return text


def _written(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
