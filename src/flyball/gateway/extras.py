"""What an upstream is asked for on the agent's behalf, for capture, and what of it the agent does not get.

Of a stream the tokens it used; of a vLLM server (`tokens: vllm`) the ids that were given and sampled, with their
logprobs. Names and places are those of vLLM 0.10.2 and later: the request says `return_token_ids` and `logprobs`, the
answer has `prompt_token_ids` (of a stream: in its first chunk) and in each choice `token_ids` (of a stream: those that
are new) and `logprobs.content`. vLLM's logprobs are those of the model before temperature and cuts, unless it was
started with `--logprobs-mode processed_logprobs`; the server does not tell which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from flyball.gateway.request import Asked
from flyball.gateway.settings import UpstreamSettings

BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")
_NO_LOGPROB = -9999.0
"""vLLM's word for a logprob that it does not have."""


@dataclass(frozen=True)
class Extras:
    """What is added to a request, and so taken out of its answer. Nothing where the agent asked for it itself."""

    usage: bool = False
    ids: bool = False
    logprobs: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """What the request says besides."""
        added: dict[str, Any] = {"stream_options": {"include_usage": True}} if self.usage else {}
        if self.ids:
            added["return_token_ids"] = True
        if self.logprobs:
            added["logprobs"] = True
        return added


def extras(settings: UpstreamSettings, asked: Asked) -> Extras:
    """What this request to this upstream is to ask for besides."""
    if asked.form != "chat":
        return Extras()
    exact = settings.tokens == "vllm"
    return Extras(
        usage=asked.stream and settings.ask_usage and not asked.wants_usage,
        ids=exact and asked.value("return_token_ids") is not True,
        logprobs=exact and asked.value("logprobs") is not True,
    )


class Withheld:
    """Takes extras out of an answer as it passes; every other byte stays, and whole events where ids were added."""

    def __init__(self, added: Extras, content_type: str) -> None:
        self._added = added
        self._stream = content_type.startswith("text/event-stream")
        self._tokens = added.ids or added.logprobs
        self._whole = self._tokens and content_type.startswith("application/json")
        self._rest = b""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take out of this answer."""
        return not (self._whole or (self._stream and (self._tokens or self._added.usage)))

    def feed(self, part: bytes) -> bytes:
        """What may go on now: whole events of a stream; of JSON nothing before its end."""
        if self.idle:
            return part
        whole = self._rest + part
        ends = [match.end() for match in BLANK.finditer(whole)] if self._stream else []
        if not ends:
            self._rest = whole
            return b""
        self._rest = whole[ends[-1] :]
        if not self._tokens and not re.search(rb'"choices":\s*\[\s*\]', whole[: ends[-1]]):
            return whole[: ends[-1]]
        starts = [0, *ends[:-1]]
        return b"".join(self._event(whole[a:b]) for a, b in zip(starts, ends, strict=True))

    def rest(self) -> bytes:
        """What is left at the end of the answer."""
        read = _object(self._rest) if self._whole else None
        return self._rest if read is None else orjson.dumps(self._without(read))

    def _event(self, event: bytes) -> bytes:
        read = _object(next(sse_data(event), b""))
        if read is None:
            return event
        if self._added.usage and read.get("choices") == [] and read.get("usage"):
            return b""
        return b"data: " + orjson.dumps(self._without(read)) + b"\n\n" if self._tokens else event

    def _without(self, read: dict[str, Any]) -> dict[str, Any]:
        if self._added.ids:
            read.pop("prompt_token_ids", None)
        choices = read.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                if self._added.ids:
                    choice.pop("token_ids", None)
                if self._added.logprobs and "logprobs" in choice:
                    choice["logprobs"] = None
        return read


@dataclass(frozen=True)
class Sampled:
    """The tokens of one call as the server saw them: the whole prompt, and what it sampled with logprobs."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def read_tokens(parts: Iterable[Mapping[str, Any]]) -> Sampled | None:
    """The tokens of the first choice of an answer (one part) or a stream; None where they are not all told."""
    try:
        found = _read_tokens(parts)
    except (KeyError, TypeError, ValueError, AttributeError):  # somebody else's fields under these names
        return None
    told = found.prompt_ids and found.completion_ids and len(found.completion_ids) == len(found.logprobs)
    return found if told and min(found.logprobs) > _NO_LOGPROB else None


def _read_tokens(parts: Iterable[Mapping[str, Any]]) -> Sampled:
    prompt: tuple[int, ...] = ()
    ids: list[int] = []
    logprobs: list[float] = []
    for part in parts:
        prompt = prompt or tuple(map(int, part.get("prompt_token_ids") or ()))
        for choice in part.get("choices") or ():
            if choice.get("index", 0) == 0:
                ids += map(int, choice.get("token_ids") or ())
                logprobs += (float(each["logprob"]) for each in (choice.get("logprobs") or {}).get("content") or ())
    return Sampled(prompt, tuple(ids), tuple(logprobs))


def sse_data(body: bytes) -> Iterator[bytes]:
    """Yield the data of each server-sent event; comments and events without data yield nothing."""
    for event in BLANK.split(body):
        lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
        if lines:
            yield b"\n".join(lines)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        read = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return read if isinstance(read, dict) else None
