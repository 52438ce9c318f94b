"""What a model may write as arguments."""

from typing import Any, Literal

import pytest

from flyball.errors import ConfigError
from flyball.tools.arguments import BadArguments, MalformedArguments, arguments_of_function, arguments_of_schema


def pay(
    order_id: str, cents: int, rate: float = 1.0, how: Literal["card", "cash"] = "card", tags: list[int] | None = None
) -> None: ...


ARGUMENTS = arguments_of_function(pay)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"order_id": "a", "cents": 12}', {"order_id": "a", "cents": 12}),
        ('{"order_id": "a", "cents": 12.0}', {"order_id": "a", "cents": 12}),
        ('{"order_id": "a", "cents": 1, "rate": 3}', {"order_id": "a", "cents": 1, "rate": 3.0}),
        ('{"order_id": "a", "cents": 1, "tags": [2.0, 3]}', {"order_id": "a", "cents": 1, "tags": [2, 3]}),
        ('{"order_id": "a", "cents": 1, "tags": null}', {"order_id": "a", "cents": 1, "tags": None}),
    ],
)
def test_accepted(text: str, read: dict[str, Any]) -> None:
    got = ARGUMENTS.read(text)
    assert got == read and all(type(got[k]) is type(read[k]) for k in read)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"order_id": "a", "cents": "12"}', "argument 'cents' must be a valid integer, got \"12\""),
        ('{"order_id": "a", "cents": 1.5}', "argument 'cents' must be a valid integer, got 1.5"),
        ('{"order_id": "a", "cents": true}', "argument 'cents' must be a valid integer, got true"),
        ('{"order_id": 7, "cents": 1}', "argument 'order_id' must be a valid string, got 7"),
        ('{"order_id": "a", "cents": 1, "rate": "2"}', "argument 'rate' must be a valid number, got \"2\""),
        ('{"order_id": "a", "cents": 1, "how": "gold"}', "argument 'how' must be 'card' or 'cash', got \"gold\""),
        ('{"cents": 1}', "missing argument 'order_id'"),
        ('{"order_id": "a", "cents": 1, "tag": []}', "unknown argument 'tag'; did you mean 'tags'?"),
    ],
)
def test_refused_in_words_a_model_can_act_on(text: str, message: str) -> None:
    with pytest.raises(BadArguments) as refused:
        ARGUMENTS.read(text)
    assert str(refused.value) == message


def test_all_complaints_come_at_once_and_stay_short() -> None:
    with pytest.raises(BadArguments) as refused:
        ARGUMENTS.read('{"order_id": 1, "cents": "' + "9" * 5000 + '"}')
    assert "'order_id'" in str(refused.value) and "'cents'" in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "text", ["{", "nonsense", "[]", '"x"', "null", '{"cents": NaN}', '{"cents": 1e999}', "[" * 100_000, "9" * 5000]
)
def test_not_an_object_is_malformed(text: str) -> None:
    with pytest.raises(MalformedArguments):
        ARGUMENTS.read(text)


def test_no_text_means_no_arguments() -> None:
    assert arguments_of_schema({}).read("") == {}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 1}, "1", "0"),
        ({"type": "string", "pattern": "^A"}, '"A1"', '"B1"'),
        ({"enum": ["x", 2]}, "2", "3"),
        ({"type": "array", "items": {"type": "boolean"}}, "[true]", "[1]"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "null", '"1"'),
        ({"type": "object"}, '{"a": 1}', "[]"),
    ],
)
def test_json_schemas_are_enforced(schema: dict[str, Any], good: str, bad: str) -> None:
    arguments = arguments_of_schema({"properties": {"x": schema}, "required": ["x"]})
    assert "x" in arguments.read(f'{{"x": {good}}}')
    with pytest.raises(BadArguments):
        arguments.read(f'{{"x": {bad}}}')


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"x": {"type": "integer", "multipleOf": 3}}}, "keyword 'multipleOf' is not enforced"),
        ({"properties": {"x": {"type": "int"}}}, "type 'int' is not known; did you mean 'integer'"),
        ({"properties": {"x": "integer"}}, "schema of 'x' must be an object"),
        ({"properties": {}, "required": ["y"]}, "required names \\['y'\\] are not among the properties"),
        ({"type": "array"}, "must be a JSON schema of type object"),
    ],
)
def test_a_schema_that_would_not_be_enforced_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arguments_of_schema(schema)
