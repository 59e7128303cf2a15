"""The text format of Protocol Buffers, held against Google's own parser where that has a word to say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import struct_pb2, text_format
from hypothesis import given
from hypothesis import strategies as st

from salver.core.errors import InvalidConfig
from salver.store.layouts.text_protobuf import Identifier, Message, parse, parse_file


def read(text: str) -> Message:
    return parse(text, shown_as="net/config.pbtxt")


def plain(message: Message) -> dict[str, list[Any]]:
    return {
        name: [plain(value) if isinstance(value, Message) else value for value in values]
        for name, values in message.items()
    }


def test_a_triton_configuration() -> None:
    found = read(
        """
        # what a line begins with is a comment
        name: "densenet"   # and what ends one
        platform: 'onnxruntime_onnx';
        max_batch_size: 8,
        input [
          { name: "data_0" data_type: TYPE_FP32 dims: [ 3, 224, -1 ] reshape { shape: [ 1, 3 ] } },
          { name: "more" data_type: TYPE_STRING dims: [] optional: true }
        ]
        instance_group < count: 2; kind: KIND_CPU >
        parameters: { key: "mode" value: { string_value: "fast" } }
        """
    )
    assert plain(found) == {
        "name": ["densenet"],
        "platform": ["onnxruntime_onnx"],
        "max_batch_size": [8],
        "input": [
            {"name": ["data_0"], "data_type": ["TYPE_FP32"], "dims": [3, 224, -1], "reshape": [{"shape": [1, 3]}]},
            {"name": ["more"], "data_type": ["TYPE_STRING"], "optional": [True]},
        ],
        "instance_group": [{"count": [2], "kind": ["KIND_CPU"]}],
        "parameters": [{"key": ["mode"], "value": [{"string_value": ["fast"]}]}],
    }
    assert isinstance(found["instance_group"][0]["kind"][0], Identifier)
    assert not isinstance(found["name"][0], Identifier)
    assert found.line_of("max_batch_size") == 5
    assert [found.line_of("input", index) for index in (0, 1)] == [7, 8]
    assert [message.line for message in found.messages("input")] == [7, 8]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x1F", 31),
        ("017", 15),
        ("-0", 0),
        ("-12", -12),
        ("- 12", -12),
        ("1.5f", 1.5),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("2.", 2.0),
        ("10F", 10.0),
        ("-inf", -math.inf),
        ("Infinity", math.inf),
        ("true", True),
        ("False", False),
        ("'a' \"b\"\n'c'", "abc"),
        (r"'\x41\101\n\t\'\"\\\?'", "AA\n\t'\"\\?"),
        (r"'\xe2\x82\xac \u20ac \U0001F600'", "€ € 😀"),
        ("'# no comment'", "# no comment"),
        ("'it\\'s'", "it's"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    (found,) = read(f"x: {text}")["x"]
    assert found == value
    assert type(found) is type(value)


def test_nan_and_names_of_extensions_and_types() -> None:
    found = read("x: nan [type.googleapis.com/a.B-c] { y: 1 } [ext.name]: 2")
    assert math.isnan(found.number("x"))
    assert found.message("[type.googleapis.com/a.B-c]")["y"] == [1]  # type: ignore[index]
    assert found["[ext.name]"] == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb {\n c: 2\n", "line 4: the text ends before the '}' of the message of line 2"),
        ("a: 1\n}", "line 2: expected the name of a field, got '}'"),
        ("a 1", "line 1: expected ':' or '{' after 'a', got '1'"),
        ("a:", "line 1: expected a value, got the end of the text"),
        ("a: [1, 2", "line 1: expected ',' or ']' in the list of 'a', got the end of the text"),
        ("a: [1 2]", "line 1: expected ',' or ']' in the list of 'a', got '2'"),
        ("a { b: 1 >", "line 1: expected the name of a field, got '>'"),
        ("\n\na: 'open\n'", "line 3: a text that doesn't end on its line: \"'open\""),
        ("a: 12abc", "line 1: something that is no token: '12abc'"),
        ("a: -yes", "line 1: expected a value, got 'yes'"),
        ("a: 09", "line 1: '09' is no number"),
        (r"a: '\q'", r"line 1: there is no escape '\\q'"),
        (r"a: '\777'", r"line 1: the escape '\\777' is more than a byte"),
        (r"a: '\ud800'", r"line 1: the escape '\\ud800' is no character"),
        (r"a: '\xff'", "line 1: expected UTF-8 text, and the escapes in this one stand for other bytes"),
        ("a: §", "line 1: something that is no token: '§'"),
        ("[a.b: 1", "line 1: expected ']' at the end of a name, got ':'"),
        ("a {" * 65, "line 1: messages are nested deeper than 64"),
        ("a: " + "9" * 5000, "line 1: '" + "9" * 56 + "... is no number"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        read(text)
    assert str(raised.value) == f"net/config.pbtxt, {message}"


def test_getters() -> None:
    found = read("t: 'text' e: WORD i: 3 n: 2 f: 1.5 b: t c: 0 m { x: 1 } m { x: 2 } r: [1, 2]")
    assert (found.text("t"), found.text("e"), found.text("none", "d")) == ("text", "WORD", "d")
    assert (found.integer("i"), found.integer("none"), found.integers("r")) == (3, 0, [1, 2])
    assert (found.number("n"), found.number("f"), found.number("none", 4.0)) == (2.0, 1.5, 4.0)
    assert (found.boolean("b"), found.boolean("c"), found.boolean("none", True)) == (True, False, True)
    assert [m.integer("x") for m in found.messages("m")] == [1, 2]
    assert (found.message("none"), found.messages("none")) == (None, [])
    entries = read("l { key: 'a' value: 1 } l { key: 7 } l { value { x: 1 } }").entries("l")
    assert (entries["a"], entries["7"]) == (1, "")
    assert isinstance(entries[""], Message)


@pytest.mark.parametrize(
    ("text", "getter", "message"),
    [
        ("\nx: 1", "text", "line 2: 'x' has to be text, not 1"),
        ("x: 'a'", "integer", "line 1: 'x' has to be an integer, not 'a'"),
        ("x: true", "integer", "line 1: 'x' has to be an integer, not True"),
        ("x: 1.5", "integer", "line 1: 'x' has to be an integer, not 1.5"),
        ("x { }", "number", "line 1: 'x' has to be a number, not a message in { }"),
        ("x: yes", "boolean", "line 1: 'x' has to be true or false, not 'yes'"),
        ("x: 2", "boolean", "line 1: 'x' has to be true or false, not 2"),
        ("x: 1", "message", "line 1: 'x' has to be a message in { }, not 1"),
        ("x: 1\nx: 2", "integer", "line 2: 'x' stands here a second time; it can have one value"),
    ],
)
def test_getters_refuse(text: str, getter: str, message: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        getattr(read(text), getter)("x")
    assert str(raised.value) == f"net/config.pbtxt, {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: '\xff'", "shown: isn't UTF-8 text"),
        (b" " * ((8 << 20) + 1), "shown: is larger than 8 MiB"),
        (None, "can't be read"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "config.pbtxt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=message):
        parse_file(path, shown_as="shown")


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_bytes(b"\xef\xbb\xbfname: 'a'")
    assert parse_file(path, shown_as="shown").text("name") == "a"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=("Cs",))),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
        max_leaves=12,
    ).filter(lambda value: isinstance(value, dict))
)
def test_what_google_writes_is_read_back(value: dict[str, Any]) -> None:
    struct = struct_pb2.Struct()
    struct.update(value)
    assert struct_value(read(text_format.MessageToString(struct))) == value
    assert struct_value(read(text_format.MessageToString(struct, as_one_line=True, as_utf8=True))) == value
    assert struct_value(read(text_format.MessageToString(struct, pointy_brackets=True))) == value


def struct_value(message: Message) -> dict[str, Any]:
    return {str(key): value_of(value) for key, value in message.entries("fields").items()}


def value_of(message: object) -> Any:
    assert isinstance(message, Message)
    ((name, (value,)),) = message.items()
    if name == "list_value":
        assert isinstance(value, Message)
        return [value_of(each) for each in value.messages("values")]
    if name == "struct_value":
        assert isinstance(value, Message)
        return struct_value(value)
    return {"null_value": None, "number_value": value, "bool_value": value, "string_value": value}[name]


@given(st.text(st.sampled_from("a:{}<>[],;'\"\\x0#\n -.1e"), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read(text)
    except InvalidConfig as error:
        assert str(error).startswith("net/config.pbtxt, line ")  # noqa: PT017
    else:
        assert isinstance(found, Message)
