"""`json_schema`: what the policy wrote is JSON of a schema (JSON Schema 2020-12, or the draft that `$schema` names)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Literal

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import Field
from referencing import Registry

from flyball.errors import ConfigError, Fault, nearest
from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import GraderSpec
from flyball.graders.spec_grader import SpecGrader
from flyball.graders.template import Template
from flyball.types import Score


class JsonSchema(GraderSpec):
    """1 when `input` is JSON of the schema, else 0, with the first thing that is wrong."""

    type: Literal["json_schema"]
    json_schema: Mapping[str, Any] = Field(min_length=1, description="a JSON schema")
    input: str = "{{sample.output_text}}"


class JsonSchemaGrader(SpecGrader[JsonSchema]):
    """Validates. What is no JSON at all is the policy's fault: 0, with the flag `sample_parse_error`."""

    decides = True

    def __init__(self, spec: JsonSchema) -> None:
        super().__init__(spec)
        self._input = Template(spec.input, f"grader {spec.name!r}, input")
        schema = dict(spec.json_schema)
        kind: Any = validator_for(schema, default=Draft202012Validator)
        self._check(schema, kind)
        # an empty registry: a schema that names another document is refused instead of fetched
        self._validator = kind(schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER)

    def _check(self, schema: Mapping[str, Any], kind: Any) -> None:
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise ConfigError(f"grader {self.name!r}: json_schema is no schema: {error.message}") from None
        for keyword, value in _keywords(schema):
            if keyword == "$ref" and not str(value).startswith("#"):
                raise ConfigError(f"grader {self.name!r}: $ref {value!r} is another document; write it into this one")
            if keyword == "format" and isinstance(value, str) and value not in kind.FORMAT_CHECKER.checkers:
                known = nearest(value, kind.FORMAT_CHECKER.checkers)
                raise ConfigError(f"grader {self.name!r}: format {value!r} would not be checked{known}")

    def _made_of(self) -> list[str]:
        return [f"jsonschema {version('jsonschema')}"]

    async def judge(self, row: Row) -> Score:
        """Validate. Raises NotGraded."""
        value = self._input.value(row)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                cause = f"the output is not JSON ({error}): {value[:80]!r}"
                raise NotGraded("sample_parse_error", cause, Fault.POLICY) from None
        wrong = next(iter(self._validator.iter_errors(value)), None)
        return Score(1.0, 1.0) if wrong is None else Score(0.0, 0.0, explanation=f"{wrong.json_path}: {wrong.message}")


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, however deep."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            yield key, value
            yield from _keywords(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _keywords(value)
