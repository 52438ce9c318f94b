"""A Hugging Face tokenizer with its chat template as the one renderer.

Tool calls are written in the Hermes form, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, which most open
models learned. A template that knows no `tools` gets them in the system text, calls in the assistant's text and results
as `<tool_response>` in a user turn. Needs `transformers`, not torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from flyball.errors import ModelError
from flyball.models.chat import Parsed
from flyball.types import Message, ToolCall

CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
CALLING = 'To use a tool answer only <tool_call>{"name": NAME, "arguments": {...}}</tool_call>.'


class HfChat:
    """`ChatFormat` over a `transformers` tokenizer. Raises ModelError when the tokenizer cannot hold a conversation."""

    def __init__(self, tokenizer: Any, origin: str = "tokenizer") -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                f"{origin} has no chat template; take the instruct version of the model or set `chat_template` in its "
                "tokenizer_config.json"
            )
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{origin} names no end-of-turn token; set `eos_token` in its tokenizer_config.json")
        self.tokenizer = tokenizer
        self._knows_tools = "tools" in tokenizer.chat_template
        self._stop = (int(tokenizer.eos_token_id),)
        self._stop_text: str = tokenizer.eos_token

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self._stop

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int]:
        return self._encode(self._text(messages, tools, speak=True))

    def render_more(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], num_seen: int, ended: bool
    ) -> list[int] | None:
        whole = self._text(messages, tools, speak=True)
        given = self._after_turn(whole, self._text(messages[:num_seen], tools, speak=False))
        if given is None:
            return None
        more = self._encode(given)
        return more if ended else [*self._stop, *more]

    def parse(self, token_ids: Sequence[int]) -> Parsed:
        """The turn that `token_ids` are. One unreadable tool call makes all of it malformed: none is carried out."""
        ids = [t for t in token_ids if t not in self._stop]
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        bodies = CALL.findall(text)
        if not bodies:
            return Parsed(text.strip())
        calls: list[ToolCall] = []
        for i, body in enumerate(bodies):
            call = _read_call(body, i)
            if isinstance(call, str):
                return Parsed(text.strip(), (), call)
            calls.append(call)
        return Parsed(CALL.sub("", text).strip(), tuple(calls))

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a finished conversation and a mask, True on what the assistant would have sampled.

        The assistant's turns are encoded apart from what surrounds them, exactly as sampling and `render_more` put them
        together, so that supervised tokens are the ones the policy will meet. Raises ModelError for an unstable
        template.
        """
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        before = self._texts([messages[:i] for i in turns], tools, speak=True)
        through = self._texts([messages[: i + 1] for i in turns], tools, speak=False)
        pieces: list[str] = []  # what is given and what is sampled, in turn
        for k, i in enumerate(turns):
            if not through[k].startswith(before[k]):
                raise ModelError(
                    f"the chat template is not prefix-stable at message {i} ({messages[i]['role']}): the conversation "
                    "so far is written differently once more is said; training on it would not be what is sampled"
                )
            given = self._after_turn(before[k], through[k - 1]) if k else before[k]
            if given is None:
                raise ModelError(f"the chat template is not prefix-stable between messages {turns[k - 1]} and {i}")
            turn = through[k][len(before[k]) :]
            stop_at = turn.rindex(self._stop_text) if self._stop_text in turn else len(turn)
            pieces += [given, turn[:stop_at]]
        ids: list[int] = []
        mask: list[bool] = []
        for n, piece in enumerate(self.tokenizer(pieces, add_special_tokens=False)["input_ids"] if pieces else ()):
            sampled = n % 2 == 1
            tokens = [*piece, *self._stop] if sampled else piece
            ids += tokens
            mask += [sampled] * len(tokens)
        return ids, mask

    def _after_turn(self, whole: str, seen: str) -> str | None:
        """What `whole` adds after the last turn of `seen`; None when it does not begin with it."""
        if not whole.startswith(seen) or self._stop_text not in seen:
            return None
        return whole[seen.rindex(self._stop_text) + len(self._stop_text) :]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    def _text(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], speak: bool) -> str:
        return self._texts([messages], tools, speak)[0]

    def _texts(
        self, conversations: Sequence[Sequence[Message]], tools: Sequence[dict[str, Any]], speak: bool
    ) -> list[str]:
        if self._knows_tools:
            lowered = [[_arguments_as_objects(m) for m in messages] for messages in conversations]
            given = list(tools) or None
        else:
            lowered, given = [_lower(messages, tools) for messages in conversations], None
        if not lowered:
            return []
        return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            lowered, tools=given, tokenize=False, add_generation_prompt=speak
        )


def _read_call(body: str, index: int) -> ToolCall | str:
    """The call, or what is wrong with it in words for the model."""
    try:
        call = json.loads(body)
        json.dumps(call, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, RecursionError) as error:
        return f"the tool call is not JSON: {error}"
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return 'a tool call needs a "name"'
    arguments = call.get("arguments", {})
    return ToolCall(f"call_{index}", call["name"], json.dumps(arguments, ensure_ascii=False))


def _arguments_as_objects(message: Message) -> Message:
    """Templates print `arguments` with `tojson`; OpenAI's form carries JSON text."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = function["arguments"]
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                arguments = {"malformed": arguments}
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "content": message.get("content") or "", "tool_calls": calls}


def signature(schema: dict[str, Any]) -> str:
    """One line for a tool: `name(param: type, optional?: type) - description`."""
    function = schema["function"]
    parameters = function.get("parameters", {})
    required = set(parameters.get("required", ()))
    parts = [
        f"{name}{'' if name in required else '?'}: {spec.get('type', 'any')}"
        for name, spec in parameters.get("properties", {}).items()
    ]
    return f"{function['name']}({', '.join(parts)}) - {function.get('description', '')}"


def _lower(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """The same conversation in plain text turns, for templates without tools."""
    lowered: list[Message] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "tool":
            lowered.append({"role": "user", "content": f"<tool_response>{content}</tool_response>"})
        elif message.get("tool_calls"):
            calls = []
            for call in _arguments_as_objects(message)["tool_calls"]:
                function = call["function"]
                written = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
                calls.append(f"<tool_call>{written}</tool_call>")
            lowered.append({"role": "assistant", "content": content + "".join(calls)})
        else:
            lowered.append({"role": role, "content": content})
    if tools:
        described = "\n".join(["Tools:", *map(signature, tools), CALLING])
        if lowered and lowered[0]["role"] == "system":
            lowered[0] = {"role": "system", "content": f"{lowered[0]['content']}\n{described}"}
        else:
            lowered.insert(0, {"role": "system", "content": described})
    return lowered
