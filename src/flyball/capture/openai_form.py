"""OpenAI's Chat Completions form: what a request may say to a door, and how a reply is written.

A setting that would be ignored is an error (invariant 9), and what an agent asks for must be what the door draws with
(invariant 5), so every known field has a rule below and unknown ones are refused. The model's name is free where the
engine serves no adapters: the address already says which policy answers, and agents have a name of their own written
into them. The Responses form (`responses_form.py`) has fields of its own and the same rules.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from flyball.capture.constraint import Constraint, Unsupported, read_constraint
from flyball.capture.door import Reply
from flyball.engine.protocol import SamplingParams
from flyball.errors import nearest
from flyball.types import Message

POLICY = "policy"
"""The name of what is trained or evaluated, among the models of an endpoint."""
READ = frozenset(
    {
        "messages",
        "model",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "stop",
        "stream",
        "stream_options",
    }
)
HARMLESS = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Fields that change nothing about an answer, whoever gives it."""

ONLY: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
"""Fields with one meaning here; null always means the default. Anything else would be ignored, so it is refused."""

DECLARED: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
}
"""Fields that may repeat what the workflow declares, but not change it."""

_ROLES = ("system", "developer", "user", "assistant", "tool")


class BadRequest(Exception):
    """A request this door does not serve. `param` names the field; the text says the rule and the way out."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


@dataclass(frozen=True)
class FieldRules:
    """What the fields of a request may say: `read` by the form, `harmless`, `only` these values, or as `declared`."""

    read: frozenset[str]
    harmless: frozenset[str]
    only: Mapping[str, tuple[Any, ...]]
    declared: Mapping[str, str]

    def check(self, body: Any, sampling: SamplingParams) -> None:
        """Raise BadRequest for the first field that would be ignored or that differs from the declared sampling."""
        if not isinstance(body, dict):
            raise BadRequest(f"the body is {type(body).__name__}; a request is a JSON object")
        for name, value in body.items():
            self._check_field(name, value, sampling)

    def _check_field(self, name: str, value: Any, sampling: SamplingParams) -> None:
        known = {*self.read, *self.harmless, *self.only, *self.declared}
        if name not in known:
            raise BadRequest(
                f"{name!r} would be ignored here, so it is refused{nearest(name, known)}", name, "unsupported"
            )
        if value is None or name in self.read or name in self.harmless:
            return
        if name in self.declared:
            declared = getattr(sampling, self.declared[name])
            if value != declared:
                raise BadRequest(
                    f"{name} is {value!r} in the request and {declared!r} in the declared sampling "
                    f"({self.declared[name]}); training, evaluation and serving draw alike, so leave it out or declare "
                    "it",
                    name,
                    "differs_from_declared",
                )
        elif value not in self.only[name]:
            allowed = " or ".join(repr(each) for each in self.only[name])
            raise BadRequest(f"{name} is {value!r}; this endpoint serves {allowed} only", name, "unsupported")


RULES = FieldRules(READ, HARMLESS, ONLY, DECLARED)


@dataclass(frozen=True)
class ChatRequest:
    """What is left of a request when all that must agree agrees. `stop` are stop strings beside the declared ones."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    constraint: Constraint | None
    stop: tuple[str, ...]
    model: str
    stream: bool
    include_usage: bool


def read_chat_request(body: Any, sampling: SamplingParams) -> ChatRequest:
    """Read a request body against the declared sampling. Raises BadRequest."""
    RULES.check(body, sampling)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message", "messages")
    stream = bool(body.get("stream"))
    tools = _read_tools(body.get("tools"))
    return ChatRequest(
        messages=[_read_message(message, i) for i, message in enumerate(messages)],
        tools=tools,
        constraint=constraint_of(
            tools,
            _choice_of(body.get("tool_choice")),
            body.get("parallel_tool_calls"),
            _answer_of(body.get("response_format")),
            "response_format",
        ),
        stop=_read_stop(body.get("stop")),
        model=str(body.get("model") or POLICY),
        stream=stream,
        include_usage=read_stream_options(body.get("stream_options"), stream, {"include_usage"}),
    )


def read_stream_options(options: Any, stream: bool, switches: Collection[str]) -> bool:
    """Whether one of the `switches` is on. Every other option that asks for something is refused by name."""
    if not options:
        return False
    if not stream or not isinstance(options, dict):
        raise BadRequest(
            f"stream_options is {short(options)}; it takes an object, beside `stream: true`", "stream_options"
        )
    for name, value in options.items():
        if value and name not in switches:
            raise BadRequest(
                f"stream_options.{name} would be ignored here, so it is refused",
                f"stream_options.{name}",
                "unsupported",
            )
    return any(options.get(name) for name in switches)


def constraint_of(
    tools: list[dict[str, Any]], choice: Any, parallel: Any, answer: Any, answer_field: str
) -> Constraint | None:
    """What the request demands of the form of its answer. Raises BadRequest."""
    try:
        return read_constraint(tools, choice, parallel, answer, answer_field=answer_field)
    except Unsupported as why:
        raise BadRequest(str(why), why.field, "unsupported") from why


def _choice_of(choice: Any) -> Any:
    """`tool_choice` with a named function as {"function": NAME}."""
    named = isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("function"), dict)
    return {"function": choice["function"].get("name")} if named else choice


def _answer_of(wanted: Any) -> Any:
    """`response_format` with the schema beside its type."""
    if isinstance(wanted, dict) and isinstance(wanted.get("json_schema"), dict):
        return {"type": wanted.get("type"), "schema": wanted["json_schema"].get("schema")}
    return wanted


def _read_stop(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(each, str) and each for each in stops):
        raise BadRequest(f"stop is {short(stop)}; it is a text or a list of texts, none of them empty", "stop")
    return tuple(stops)


def _read_message(message: Any, i: int) -> Message:
    where = f"messages[{i}]"
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise BadRequest(f"{where} needs a role out of {', '.join(_ROLES)}; it is {short(message)}", where)
    role = "system" if message["role"] == "developer" else message["role"]
    read: Message = {"role": role, "content": _read_content(message.get("content"), where)}
    for name in ("name", "tool_call_id"):
        if message.get(name):
            read[name] = message[name]
    if message.get("tool_calls"):
        read["tool_calls"] = [_read_tool_call(call, where) for call in message["tool_calls"]]
    ignored = [k for k, v in message.items() if v and k not in read]
    if ignored:
        raise BadRequest(f"{where}.{ignored[0]} would be ignored here, so it is refused", f"{where}.{ignored[0]}")
    return read


def _read_content(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(is_text_part(part) for part in content):
        return "".join(part["text"] for part in content)
    raise BadRequest(f"{where}.content must be text or text parts; it is {short(content)}", f"{where}.content")


def is_text_part(part: Any, kinds: Collection[str] = ("text",)) -> bool:
    """Whether one part of a content in parts is text under one of these names."""
    return isinstance(part, dict) and part.get("type") in kinds and isinstance(part.get("text"), str)


def _read_tool_call(call: Any, where: str) -> dict[str, Any]:
    try:
        function = {"name": str(call["function"]["name"]), "arguments": str(call["function"]["arguments"])}
        return {"id": str(call["id"]), "type": "function", "function": function}
    except (TypeError, KeyError) as error:
        raise BadRequest(
            f"{where}.tool_calls holds {short(call)}; a call is {{id, type, function: {{name, arguments}}}}",
            f"{where}.tool_calls",
        ) from error


def _read_tools(tools: Any) -> list[dict[str, Any]]:
    tools = tools or []
    for i, each in enumerate(tools):
        function = each.get("function") if isinstance(each, dict) and each.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequest(
                f"tools[{i}] is {short(each)}; a tool is {{type: function, function: {{name, ...}}}}", "tools"
            )
    return list(tools)


def short(value: Any) -> str:
    """A value for an error message, at most 120 characters of it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def completion_body(reply: Reply, model: str) -> dict[str, Any]:
    """The whole answer of a request without `stream`."""
    choice = {"index": 0, "message": reply.message, "logprobs": None, "finish_reason": _finish_reason(reply)}
    return {**_head(reply, model, "chat.completion"), "choices": [choice], "usage": _usage(reply)}


def completion_chunks(reply: Reply, model: str, include_usage: bool) -> list[dict[str, Any]]:
    """The chunks of a streamed answer; the usage comes when it is asked for, in a last chunk without choices."""
    head = _head(reply, model, "chat.completion.chunk")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": reply.message["content"]}]
    for i, call in enumerate(reply.message.get("tool_calls", ())):
        function = call["function"]
        deltas.append({"tool_calls": [{"index": i, **call, "function": {"name": function["name"], "arguments": ""}}]})
        deltas.append({"tool_calls": [{"index": i, "function": {"arguments": function["arguments"]}}]})
    chunks = [{**head, "choices": [_choice(delta, None)]} for delta in deltas]
    chunks.append({**head, "choices": [_choice({}, _finish_reason(reply))]})
    if include_usage:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**head, "choices": [], "usage": _usage(reply)})
    return chunks


def error_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """OpenAI's error form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _head(reply: Reply, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.call_id}", "object": kind, "created": int(time.time()), "model": model}


def _finish_reason(reply: Reply) -> str:
    if reply.finish_reason == "stop" and reply.message.get("tool_calls"):
        return "tool_calls"
    return reply.finish_reason


def _usage(reply: Reply) -> dict[str, Any]:
    given, sampled = reply.num_prompt_tokens, reply.num_completion_tokens
    return {
        "prompt_tokens": given,
        "completion_tokens": sampled,
        "total_tokens": given + sampled,
        "prompt_tokens_details": {"cached_tokens": reply.num_cached_tokens},
    }
