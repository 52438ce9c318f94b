"""The parameters of one tool: JSON schema for the model, and the strict reading of what the model wrote.

Reading is pydantic's strict JSON mode with one allowance: a whole float counts as an int, since models write 12.0.
"12" for an int, an unknown name or a missing one are refused in words short enough for a model to act on.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import operator
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaValidator, core_schema

from flyball.errors import ConfigError, nearest

UNKNOWN_ARGUMENT = "unknown argument"
MAX_ERRORS_SHOWN = 3
_MAX_EXACT_INTEGER = 2**53


class MalformedArguments(ValueError):
    """The text is not a JSON object."""


class BadArguments(ValueError):
    """A JSON object that the tool does not accept: missing, unknown or of the wrong type."""


@dataclass(frozen=True)
class Parameter:
    """One parameter as the model sees it. `passed_as` names what the function receives; None = accepted and dropped."""

    annotation: Any
    schema: Mapping[str, Any]
    required: bool
    passed_as: str | None


@dataclass(frozen=True)
class Arguments:
    """Named parameters in order. `open` accepts further names too (a function with **kwargs)."""

    parameters: Mapping[str, Parameter]
    open: bool = False
    _validator: SchemaValidator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fields = {
            name: core_schema.typed_dict_field(TypeAdapter(p.annotation).core_schema, required=p.required)
            for name, p in self.parameters.items()
        }
        extra: Literal["allow", "forbid"] = "allow" if self.open else "forbid"
        validator = SchemaValidator(core_schema.typed_dict_schema(fields, extra_behavior=extra))
        object.__setattr__(self, "_validator", validator)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema object of an OpenAI function."""
        return {
            "type": "object",
            "properties": {name: dict(p.schema) for name, p in self.parameters.items()},
            "required": [name for name, p in self.parameters.items() if p.required],
        }

    def read(self, text: str) -> dict[str, Any]:
        """Return keyword arguments for the function. Raises MalformedArguments or BadArguments.

        Empty text reads as no arguments: several servers send it for a tool without parameters.
        """
        try:
            value = _JSON.decode(text or "{}")
        except (ValueError, RecursionError) as error:
            raise MalformedArguments(f"arguments are not JSON: {error or 'nested too deeply'}") from error
        if not isinstance(value, dict):
            raise MalformedArguments("arguments must be one JSON object, such as {}")
        return self.accept(value)

    def accept(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check JSON values and return keyword arguments for the function. Raises BadArguments."""
        try:
            accepted = self._validator.validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            raise BadArguments(self._explain(error)) from error
        renamed = {}
        for name, value in accepted.items():
            passed_as = self.parameters[name].passed_as if name in self.parameters else name
            if passed_as is not None:
                renamed[passed_as] = value
        return renamed

    def _explain(self, error: ValidationError) -> str:
        said: dict[str, str] = {}  # the first complaint about each argument
        for problem in error.errors(include_url=False, include_context=False):
            name = str(problem["loc"][0])
            if problem["type"] == "missing" and len(problem["loc"]) == 1:
                text = f"missing argument {name!r}"
            elif problem["type"] == "extra_forbidden":
                text = f"{UNKNOWN_ARGUMENT} {name!r}{nearest(name, self.parameters) if self.parameters else ''}"
            else:
                rule = problem["msg"].replace("Input should be", "must be")
                shown = json.dumps(problem["input"], ensure_ascii=False, default=str)
                text = f"argument {name!r} {rule}, got {shown if len(shown) <= 60 else shown[:60] + '…'}"
            said.setdefault(name, text)
        return "; ".join(list(said.values())[:MAX_ERRORS_SHOWN])


def arguments_of_function(
    fn: Callable[..., Any], bound: bool = False, described: Mapping[str, str] | None = None
) -> Arguments:
    """Read the parameters of a function from its signature; `bound` leaves out the first (self or cls).

    Raises ConfigError for a parameter without a type, or with one that has no JSON form.
    """
    where = getattr(fn, "__qualname__", repr(fn))
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        raise ConfigError(f"{where}: {error}; types of tool parameters must be importable names") from error
    parameters: dict[str, Parameter] = {}
    accepts_more = False
    for name, parameter in list(inspect.signature(fn).parameters.items())[int(bound) :]:
        if parameter.kind is parameter.VAR_KEYWORD:
            accepts_more = True
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ConfigError(f"{where}: parameter {name!r} cannot be passed by name, and tools are called by name")
        if name not in hints:
            raise ConfigError(f"{where}: parameter {name!r} has no type; annotate it, or start the name with _")
        schema = {**_schema_of(where, name, hints[name])}
        if described and name in described:
            schema["description"] = described[name]
        required = parameter.default is parameter.empty
        if not required and isinstance(parameter.default, (bool, int, float, str)):
            schema["default"] = parameter.default
        parameters[name] = Parameter(hints[name], schema, required, name)
    return Arguments(parameters, accepts_more)


def _schema_of(where: str, name: str, annotation: Any) -> dict[str, Any]:
    rule = "use str, int, float, bool, list, dict, Literal or an optional of these"
    try:
        schema = TypeAdapter(annotation).json_schema()
    except PydanticUserError as error:
        raise ConfigError(f"{where}: parameter {name!r} is {annotation!r}, which has no JSON form; {rule}") from error
    if "$defs" in schema:
        raise ConfigError(f"{where}: parameter {name!r} is {annotation!r}, a nested type of its own; {rule}")
    schema.pop("title", None)
    return schema


def arguments_of_schema(schema: Mapping[str, Any], passed: bool = True) -> Arguments:
    """Read the parameters from a JSON schema object. `passed` False: accepted and dropped. Raises ConfigError."""
    if schema.get("type", "object") != "object" or not isinstance(schema.get("properties", {}), Mapping):
        raise ConfigError(f"parameters must be a JSON schema of type object with properties, got {dict(schema)!r}")
    required = set(schema.get("required", ()))
    properties: Mapping[str, Any] = schema.get("properties", {})
    if required - set(properties):
        raise ConfigError(f"required names {sorted(required - set(properties))} are not among the properties")
    return Arguments(
        {
            name: Parameter(annotation_of_schema(name, spec), spec, name in required, name if passed else None)
            for name, spec in properties.items()
        }
    )


def arguments_of_remote_schema(schema: Mapping[str, Any]) -> Arguments:
    """Read the parameters of a tool that a server carries out. Raises ConfigError for what is no object schema.

    Names, required ones and types are checked here, in words a model can act on; what a schema asks beyond that
    (formats, references, shapes inside objects) is the server's to check. Further names are refused unless the schema
    says `additionalProperties: true`.
    """
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        return arguments_of_schema(schema)  # which says what is wrong with it
    plain = {**schema, "properties": {name: _checked_here(name, spec) for name, spec in properties.items()}}
    read = arguments_of_schema(plain)
    shown = {name: replace(p, schema=properties[name]) for name, p in read.parameters.items()}
    return Arguments(shown, open=schema.get("additionalProperties") is True)


def _checked_here(name: str, schema: Any) -> Any:
    """The part of a parameter's schema that is enforced before the call leaves."""
    try:
        annotation_of_schema(name, schema)
    except ConfigError:
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        return {"type": kind} if isinstance(kind, str) and kind in (*_TYPES, "array") else {}
    return schema


_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None, "object": dict}
_BOUNDS = {"minimum": "ge", "maximum": "le", "minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"}
_READ = {"type", "enum", "anyOf", "items", "title", "description", "default", *_BOUNDS}


def annotation_of_schema(name: str, schema: Any) -> Any:
    """Return the Python type of a JSON schema. Raises ConfigError for a keyword that would not be enforced."""
    if not isinstance(schema, Mapping):
        raise ConfigError(f"schema of {name!r} must be an object such as {{'type': 'string'}}, got {schema!r}")
    if ignored := sorted(set(schema) - _READ):
        raise ConfigError(f"schema of {name!r}: keyword {ignored[0]!r} is not enforced{nearest(ignored[0], _READ)}")
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    if "anyOf" in schema:
        options = [annotation_of_schema(name, option) for option in schema["anyOf"]]
        return functools.reduce(operator.or_, [option or type(None) for option in options])
    kind = schema.get("type")
    if kind == "array":
        return list[annotation_of_schema(name, schema.get("items", {}))]  # type: ignore[misc]  # built at run time
    if kind is not None and kind not in _TYPES:
        raise ConfigError(f"schema of {name!r}: type {kind!r} is not known{nearest(str(kind), [*_TYPES, 'array'])}")
    bounds = {_BOUNDS[key]: value for key, value in schema.items() if key in _BOUNDS}
    annotation = Any if kind is None else _TYPES[kind]
    return Annotated[annotation, Field(**bounds)] if bounds else annotation


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text} is too large")
    return int(value) if value.is_integer() and abs(value) <= _MAX_EXACT_INTEGER else value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


_JSON = json.JSONDecoder(parse_float=_number, parse_constant=_refuse_constant)
