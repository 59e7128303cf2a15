"""The text format of Protocol Buffers, read without a schema: what Triton and TensorFlow Serving are configured in.

Follows https://protobuf.dev/reference/protobuf/textformat-spec/. What depends on a schema is left to who reads the
:class:`Message`: its getters say which type a field has to be of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar

from salver.core.errors import InvalidConfig

MAX_BYTES = 8 << 20
MAX_DEPTH = 64

T = TypeVar("T")
D = TypeVar("D")

Value: TypeAlias = "str | int | float | bool | Message"


class Identifier(str):
    """A bare word, such as the name of an enum's value; quoted text is a plain ``str``."""

    __slots__ = ()


class Message(Mapping[str, list[Value]]):
    """Field name -> its values in the order in which they stand; lists are taken apart. Unknown fields are kept.

    Attributes:
        shown_as: the file, as error messages call it.
        line: where the message begins, from 1.
    """

    def __init__(self, shown_as: str, line: int) -> None:
        self.shown_as = shown_as
        self.line = line
        self._values: dict[str, list[Value]] = {}
        self._lines: dict[str, list[int]] = {}

    def __getitem__(self, name: str) -> list[Value]:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def line_of(self, name: str, index: int = 0) -> int:
        """The line of a field's value; that of the message where the field isn't there."""
        lines = self._lines.get(name, ())
        return lines[index] if index < len(lines) else self.line

    def wrong(self, name: str, problem: str, index: int = 0) -> InvalidConfig:
        """An error (to be raised) about a field, with the file and the line."""
        return InvalidConfig(f"{self.shown_as}, line {self.line_of(name, index)}: {problem}")

    def text(self, name: str, default: str = "") -> str:
        """A field that holds text or an enum's name. Raises InvalidConfig: it doesn't, or is there twice."""
        return self._single(name, self.texts(name), default)

    def texts(self, name: str) -> list[str]:
        """All values of such a field."""
        return [v if isinstance(v, str) else self._expected(name, i, "text") for i, v in self._each(name)]

    def integer(self, name: str, default: int = 0) -> int:
        """A field that holds an integer. Raises InvalidConfig: it doesn't, or is there twice."""
        return self._single(name, self.integers(name), default)

    def integers(self, name: str) -> list[int]:
        """All values of such a field."""
        return [
            v if isinstance(v, int) and not isinstance(v, bool) else self._expected(name, i, "an integer")
            for i, v in self._each(name)
        ]

    def number(self, name: str, default: float = 0.0) -> float:
        """A field that holds a number. Raises InvalidConfig: it doesn't, or is there twice."""
        values = [
            float(v) if isinstance(v, int | float) and not isinstance(v, bool) else self._expected(name, i, "a number")
            for i, v in self._each(name)
        ]
        return self._single(name, values, default)

    def boolean(self, name: str, default: bool = False) -> bool:
        """A field that holds true or false. Raises InvalidConfig: it doesn't, or is there twice."""
        values = []
        for index, value in self._each(name):
            if isinstance(value, Message | float) or value not in _BOOLEANS:
                self._expected(name, index, "true or false")
            values.append(_BOOLEANS[value])
        return self._single(name, values, default)

    def message(self, name: str) -> Message | None:
        """A field that holds a message, or None. Raises InvalidConfig: it holds another thing, or is there twice."""
        return self._single(name, self.messages(name), None)

    def messages(self, name: str) -> list[Message]:
        """All values of such a field."""
        return [
            v if isinstance(v, Message) else self._expected(name, i, "a message in { }") for i, v in self._each(name)
        ]

    def entries(self, name: str) -> dict[str, Value]:
        """A map field, ``name { key: "k" value: ... }`` for each entry; keys as text, values that are left out are "".

        Raises:
            InvalidConfig: the field holds something else.
        """
        found: dict[str, Value] = {}
        for entry in self.messages(name):
            keys, values = entry.get("key", [""]), entry.get("value", [""])
            if isinstance(keys[-1], Message):
                raise entry.wrong("key", f"the key of an entry of {name!r} is text or a number, not a message")
            found[str(keys[-1])] = values[-1]
        return found

    def _each(self, name: str) -> Iterator[tuple[int, Value]]:
        return enumerate(self._values.get(name, ()))

    def _single(self, name: str, values: Sequence[T], default: D) -> T | D:
        if len(values) > 1:
            raise self.wrong(name, f"{name!r} stands here a second time; it can have one value", 1)
        return values[0] if values else default

    def _expected(self, name: str, index: int, expected: str) -> NoReturn:
        value = self._values[name][index]
        came = "a message in { }" if isinstance(value, Message) else _shown(value)
        raise self.wrong(name, f"{name!r} has to be {expected}, not {came}", index)

    def _add(self, name: str, value: Value, line: int) -> None:
        self._values.setdefault(name, []).append(value)
        self._lines.setdefault(name, []).append(line)


def parse_file(path: Path, *, shown_as: str) -> Message:
    """Read a file of text Protocol Buffers; see :func:`parse`.

    Raises:
        InvalidConfig: it can't be read, is larger than 8 MiB, isn't UTF-8, or :func:`parse` raises it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidConfig(f"{shown_as}: can't be read: {error.strerror}") from None
    try:
        return parse(content.decode("utf-8-sig"), shown_as=shown_as)
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{shown_as}: isn't UTF-8 text ({error.reason} at byte {error.start})") from None


def parse(text: str, *, shown_as: str) -> Message:
    """The message that a text stands for.

    Integers become ``int``, other numbers ``float``, true and false ``bool`` (also written True and False), quoted
    text ``str``, other words :class:`Identifier`.

    Args:
        text: the text.
        shown_as: the file, as error messages call it.

    Raises:
        InvalidConfig: with the line, where the text isn't of this format, is larger than 8 MiB, or nests deeper than
            64 messages.
    """
    if len(text) > MAX_BYTES:
        raise InvalidConfig(f"{shown_as}: is larger than {MAX_BYTES >> 20} MiB, which no configuration should be")
    return _Parser(text, shown_as).run()


_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f\v]+|\#[^\n]*)+)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>[{}<>\[\]:,;./-])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_LETTERS = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
    b"\\": b"\\", b"'": b"'", b'"': b'"', b"?": b"?",
}  # fmt: skip
_CLOSING = {"{": "}", "<": ">"}
_WORDS: dict[str, Value] = {"true": True, "True": True, "false": False, "False": False}
_BOOLEANS: dict[str | int, bool] = {**dict.fromkeys((1, "t"), True), **dict.fromkeys((0, "f"), False)}
_FLOATS = {"inf", "infinity", "nan"}


class _Parser:
    """Recursive descent over the tokens, of which it sees one ahead."""

    def __init__(self, text: str, shown_as: str) -> None:
        self._text = text
        self._shown_as = shown_as
        self._end = 0  # of the token
        self._line = 1
        self._counted = 0  # lines are counted up to here
        self._kind = ""  # "" at the end
        self._token = ""
        self._advance()

    def run(self) -> Message:
        return self._fields(Message(self._shown_as, 1), "", 0)

    def _fields(self, message: Message, closing: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise self._error(f"messages are nested deeper than {MAX_DEPTH}")
        while True:
            if self._kind == "" and closing:
                raise self._error(f"the text ends before the {closing!r} of the message of line {message.line}")
            if (self._kind == "" and not closing) or (self._kind == "sign" and self._token == closing):
                return message
            name, line = self._name(), self._line
            has_colon = self._skip(":")
            if self._is("["):
                self._list(message, name, depth)
            elif has_colon or self._is("{") or self._is("<"):
                message._add(name, self._value(depth), line)
            else:
                raise self._error(f"expected ':' or '{{' after {_shown(name)}, got {self._shown()}")
            _ = self._skip(",") or self._skip(";")

    def _name(self) -> str:
        if self._kind == "word":
            return self._take()
        if not self._skip("["):
            raise self._error(f"expected the name of a field, got {self._shown()}")
        parts = []  # of an extension, or of a type's URL
        while not self._is("]"):
            if self._kind not in ("word", "number") and self._token not in (".", "/", "-"):
                raise self._error(f"expected ']' at the end of a name, got {self._shown()}")
            parts.append(self._take())
        self._advance()
        return f"[{''.join(parts)}]"

    def _list(self, message: Message, name: str, depth: int) -> None:
        self._advance()
        if self._skip("]"):
            return
        while True:
            line = self._line
            message._add(name, self._value(depth), line)
            if self._skip("]"):
                return
            if not self._skip(","):
                raise self._error(f"expected ',' or ']' in the list of {name!r}, got {self._shown()}")

    def _value(self, depth: int) -> Value:
        if self._is("{") or self._is("<"):
            closing = _CLOSING[self._token]
            message = Message(self._shown_as, self._line)
            self._advance()
            self._fields(message, closing, depth + 1)
            self._advance()
            return message
        if self._kind == "text":
            return self._string()
        is_negative = self._skip("-")
        if self._kind == "number":
            number = self._number()
            return -number if is_negative else number
        if self._kind == "word":
            if self._token.lower() in _FLOATS:
                return float(("-" if is_negative else "") + self._take())
            if not is_negative:
                word = self._take()
                return _WORDS.get(word, Identifier(word))
        raise self._error(f"expected a value, got {self._shown()}")

    def _number(self) -> int | float:
        token = self._token
        try:
            if token[:2] in ("0x", "0X"):
                value: int | float = int(token, 16)
            elif token.isdigit():
                value = int(token, 8 if token[0] == "0" and len(token) > 1 else 10)
            else:
                value = float(token.rstrip("fF"))
        except ValueError:
            raise self._error(f"{_shown(token)} is no number") from None
        self._advance()
        return value

    def _string(self) -> str:
        raw = b""
        while self._kind == "text":  # pieces that follow each other are one
            raw += _ESCAPE.sub(self._unescape, self._token[1:-1].encode("utf-8", "surrogatepass"))
            self._advance()
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._error("expected UTF-8 text, and the escapes in this one stand for other bytes") from None

    def _unescape(self, match: re.Match[bytes]) -> bytes:
        hexadecimal, octal, short, long, letter = match.groups()
        if letter is not None:
            if letter not in _LETTERS:
                raise self._error(f"there is no escape {_shown(match[0].decode('utf-8', 'replace'))}")
            return _LETTERS[letter]
        if hexadecimal is not None or octal is not None:
            value = int(hexadecimal, 16) if hexadecimal is not None else int(octal, 8)
            if value > 255:
                raise self._error(f"the escape {_shown(match[0].decode())} is more than a byte")
            return bytes([value])
        point = int(short or long, 16)
        if point > 0x10FFFF or 0xD800 <= point < 0xE000:
            raise self._error(f"the escape {_shown(match[0].decode())} is no character")
        return chr(point).encode()

    def _is(self, sign: str) -> bool:
        return self._kind == "sign" and self._token == sign

    def _skip(self, sign: str) -> bool:
        found = self._is(sign)
        if found:
            self._advance()
        return found

    def _take(self) -> str:
        token = self._token
        self._advance()
        return token

    def _advance(self) -> None:
        start = self._end
        match = _TOKEN.match(self._text, start)
        if match is not None and match.lastgroup == "space":
            start = match.end()
            match = _TOKEN.match(self._text, start)
        self._line += self._text.count("\n", self._counted, start)
        self._counted = start
        if match is None and start < len(self._text):
            rest = self._text[start : start + 20].splitlines()[0]
            broken = "a text that doesn't end on its line" if rest[:1] in ("'", '"') else "something that is no token"
            raise self._error(f"{broken}: {_shown(rest)}")
        self._kind, self._token = ("", "") if match is None else (str(match.lastgroup), match[0])
        self._end = start if match is None else match.end()

    def _shown(self) -> str:
        return "the end of the text" if self._kind == "" else _shown(self._token)

    def _error(self, problem: str) -> InvalidConfig:
        return InvalidConfig(f"{self._shown_as}, line {self._line}: {problem}")


def _shown(value: object) -> str:
    shown = repr(str(value)) if isinstance(value, str) else str(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
