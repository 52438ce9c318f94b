"""Any OpenAI-compatible endpoint as an engine, for evaluation and shadow traffic. Nothing it says can be trained on.

A chat endpoint takes and gives text: the tokens it samples and their probabilities stay with its owner. The one path
works in token ids, so here they are a code of the conversation that `TextChat` writes and `HttpEngine` reads: a few
bytes to an id, as many ids to a reply as the endpoint says it has tokens (of a prompt it says so only afterwards, so
there it is four bytes to an id). Logprobs are NaN and every draw's support is UNKNOWN: the learner refuses such
samples, and `load_weights` is refused outright.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from flyball.engine.protocol import Completion, FinishReason, Request
from flyball.engine.remote import RemoteEngine
from flyball.errors import EngineError, GrammarError, ModelError, WeightsError
from flyball.models.chat import CallForm, Parsed
from flyball.rl.support import unknown_support
from flyball.types import Message, ToolCall, WeightsRef

BYTES_PER_ID = 4
MOST_BYTES_PER_ID = 6
"""An id holds its bytes and their number, and must fit into 63 bits."""

FINISHED: dict[str, FinishReason] = {"stop": "stop", "tool_calls": "stop", "function_call": "stop", "length": "length"}


class TextChat:
    """The ChatFormat of an endpoint that speaks messages: one JSON line for each, so a conversation only ever grows."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """None: the endpoint ends its own turns."""
        return ()

    @property
    def call_form(self) -> CallForm | None:
        return None

    @property
    def keeps_strict(self) -> bool:
        return True

    def render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int]:
        return _encode(_lines([{"tools": list(tools)}] if tools else [], messages))

    def render_more(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], num_seen: int, ended: bool
    ) -> list[int] | None:
        """The names under which the agent knows the turn's tool calls, then what follows."""
        calls = messages[num_seen - 1].get("tool_calls") or ()
        return _encode(_lines([{"ids": [call["id"] for call in calls]}] if calls else [], messages[num_seen:]))

    def parse(self, token_ids: Sequence[int]) -> Parsed:
        try:
            turn = json.loads(_decode(token_ids))
        except ValueError as error:
            return Parsed("", malformed=f"not a turn of this endpoint: {error}")
        return Parsed(turn["say"], tuple(ToolCall("", name, arguments) for name, arguments in turn["calls"]))


class HttpEngine(RemoteEngine):
    """`model` at `base_url` (with `/v1`). `chat` is the chat format to use with it.

    `max_tokens_field`: newer OpenAI models want "max_completion_tokens". `max_context` is in tokens as estimated here.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        max_context: int = 128_000,
        max_tokens_field: str = "max_tokens",
        **remote: Any,
    ) -> None:
        super().__init__(base_url, model, max_context=max_context, **remote)
        self.chat = TextChat()
        self._max_tokens_field = max_tokens_field

    async def _complete(self, request: Request, max_tokens: int) -> Completion:
        started = time.perf_counter()
        answer = await self._ask("POST", "/chat/completions", self._body(request, max_tokens))
        try:
            (choice,) = answer["choices"]
            finish_reason, message = choice["finish_reason"], choice["message"]
            calls = [[c["function"]["name"], c["function"]["arguments"]] for c in message.get("tool_calls") or ()]
            usage = answer.get("usage") or {}
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"the endpoint's answer cannot be read: {error!r} in {str(answer)[:300]}") from error
        if finish_reason not in FINISHED:
            raise EngineError(f"the endpoint ended the turn with {finish_reason!r} and not with an answer")
        said = json.dumps({"say": message.get("content") or "", "calls": calls}, ensure_ascii=False)
        ids = _encode(f"{said}\n", usage.get("completion_tokens"))
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Completion(
            tuple(ids),
            (math.nan,) * len(ids),
            (self._version,) * len(ids),
            FINISHED[finish_reason],
            usage.get("prompt_tokens", len(request.prompt_ids)) - cached,
            time.perf_counter() - started,
            unknown_support(len(ids)),
        )

    def _body(self, request: Request, max_tokens: int) -> dict[str, Any]:
        sampling = request.sampling
        if sampling.grammar:
            raise GrammarError("an endpoint of OpenAI's interface takes no grammars; leave what asks for one out")
        for name, off in (("top_k", 0), ("min_p", 0.0)):
            if (value := getattr(sampling, name)) != off:
                raise EngineError(f"{name} {value!r} is not in OpenAI's interface and would be ignored; leave it out")
        messages, tools = _read_conversation(request.prompt_ids)
        wanted = {
            "model": self._model,
            "messages": messages,
            self._max_tokens_field: max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "tools": tools or None,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    async def load_weights(self, ref: WeightsRef) -> None:
        """Always refused."""
        raise WeightsError(
            f"{self._base_url} is not ours to load weights into (version {ref.version}, {ref.path}): an endpoint that "
            "answers in text serves evaluation and shadow traffic only; train with the local or the vllm engine"
        )


def _lines(first: Iterable[Any], messages: Iterable[Message]) -> str:
    return "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in (*first, *messages))


def _encode(text: str, num_ids: int | None = None) -> list[int]:
    """Ids of a text, `num_ids` of them if so many can hold it. An id is its bytes behind a byte that is 1."""
    raw = text.encode("utf-8", "surrogatepass")
    wanted = math.ceil(len(raw) / BYTES_PER_ID) if num_ids is None else num_ids
    n = max(wanted, math.ceil(len(raw) / MOST_BYTES_PER_ID))
    size, longer = divmod(len(raw), n)
    starts = [i * size + min(i, longer) for i in range(n + 1)]
    return [int.from_bytes(b"\x01" + raw[a:b]) for a, b in pairwise(starts)]


def _decode(ids: Sequence[int]) -> str:
    coded = [i.to_bytes((i.bit_length() + 7) // 8) for i in ids]
    if any(code[:1] != b"\x01" for code in coded):
        raise ValueError("ids that hold no bytes")
    return b"".join(code[1:] for code in coded).decode("utf-8", "surrogatepass")


def _read_conversation(ids: Sequence[int]) -> tuple[list[Message], list[dict[str, Any]]]:
    """What `TextChat` wrote: (messages, tools). Tool calls bear the names that the agent gave them."""
    messages: list[Message] = []
    tools: list[dict[str, Any]] = []
    try:
        for line in map(json.loads, _decode(ids).split("\n")[:-1]):
            if "tools" in line:
                tools = line["tools"]
            elif "ids" in line:
                for call, name in zip(messages[-1]["tool_calls"], line["ids"], strict=True):
                    call["id"] = name
            elif "say" in line:
                messages.append(_spoken(line, len(messages)))
            else:
                messages.append(line)
    except (ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"the prompt was not written by TextChat ({error}); use `engine.chat` as the chat format of this engine"
        ) from error
    return messages, tools


def _spoken(turn: dict[str, Any], index: int) -> Message:
    message: Message = {"role": "assistant", "content": turn["say"]}
    if turn["calls"]:
        message["tool_calls"] = [
            {"id": f"m{index}_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(turn["calls"])
        ]
    return message
