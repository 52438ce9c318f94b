"""What comes in: who calls, in which session, and the few fields of the body that the gateway reads.

The body is decoded one level deep. What goes on to the upstream is written anew from that level, so a key that stands
there twice cannot mean one thing here and another thing there. Headers that decide anything may come once.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from flyball.capture.openai_form import BadRequest
from flyball.gateway.settings import KeySettings, Role, secret

Form = Literal["chat", "responses"]
SESSION_HEADER = b"x-flyball-session"
USER_HEADER = b"x-flyball-user"
AGENT_HEADER = b"x-flyball-agent"
PIN_HEADER = b"x-flyball-pin"
PROBE_HEADER = b"x-flyball-probe"
READ_HEADERS = (
    b"authorization",
    b"content-length",
    SESSION_HEADER,
    USER_HEADER,
    AGENT_HEADER,
    PIN_HEADER,
    PROBE_HEADER,
)
PASSED_HEADERS = (b"accept", b"content-type", b"user-agent", b"openai-beta", b"traceparent", b"tracestate", b"baggage")
"""What a client's request may tell the upstream besides its body."""

_NAME = re.compile(r"[\w.:-]{1,128}\Z", re.ASCII)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()
encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Caller:
    """Whoever holds a key."""

    project: str
    role: Role
    scopes: frozenset[str]


class Keyring:
    """The keys of the file. Raises ConfigError for a variable that is not set, and for one key in two entries."""

    def __init__(self, keys: Sequence[KeySettings]) -> None:
        self._callers = [
            (secret(key.key_env, "keys").encode(), Caller(key.project, key.role, frozenset(key.scopes))) for key in keys
        ]

    @property
    def projects(self) -> frozenset[str]:
        return frozenset(caller.project for _, caller in self._callers)

    def find(self, authorization: bytes) -> tuple[Caller, str]:
        """(caller, session named in the key or ''). `Bearer KEY` or `Bearer KEY/SESSION`. Raises BadRequest, 401."""
        scheme, _, rest = authorization.partition(b" ")
        key, _, session = rest.strip().partition(b"/")
        if scheme.lower() == b"bearer":
            for known, caller in self._callers:
                if hmac.compare_digest(known, key):
                    return caller, session.decode("latin-1")
        raise BadRequest("the key is not known here; send `Authorization: Bearer KEY`", None, "invalid_api_key", 401)


def check_operator(caller: Caller, what: str, code: str) -> None:
    """Raises BadRequest, 403, unless the caller's key has the role operator."""
    if caller.role != "operator":
        raise BadRequest(f"only a key with role operator may {what}", None, code, 403)


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by lower-case name. Raises BadRequest for one that decides something and comes twice."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in found and name in READ_HEADERS:
            raise BadRequest(f"header {name.decode('latin-1')} comes twice; send it once", None, "ambiguous_header")
        found[name] = value
    return found


def named_session(*names: str) -> str:
    """The session that path, header and key agree on, '' where none names one. Raises BadRequest."""
    given = {name for name in names if name}
    if len(given) > 1:
        raise BadRequest(
            f"the request names {len(given)} sessions ({', '.join(sorted(given))[:80]}) in its path, header and key; "
            "name one",
            None,
            "ambiguous_session",
        )
    return checked_name(given.pop(), "a session") if given else ""


def checked_name(name: str, what: str) -> str:
    """The name. Raises BadRequest unless it is 1 to 128 letters, digits, `_`, `.`, `:` and `-`."""
    if not _NAME.match(name):
        raise BadRequest(f"{what} is named {name[:40]!r}; 1 to 128 letters, digits, _ . : and - are allowed")
    return name


@dataclass(frozen=True)
class Asked:
    """A request's body, one level of it. `fields` hold the rest as it was written."""

    form: Form
    fields: Mapping[str, msgspec.Raw]
    stream: bool

    @property
    def wants_usage(self) -> bool:
        """Whether the agent itself asked for the tokens of a stream."""
        return "stream_options" in self.fields

    def value(self, name: str) -> Any:
        """A field, decoded; None where it is absent. Raises BadRequest for what is no JSON after all."""
        raw = self.fields.get(name)
        if raw is None:
            return None
        try:
            return _ANY.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BadRequest(f"{name} cannot be read: {str(error)[:120]}", name) from error

    def body(self, *, model: str | None, prompt: str | None, more: Mapping[str, Any]) -> bytes:
        """What the upstream is sent: the request with its model, its system prompt and further fields replaced."""
        fields: dict[str, Any] = dict(self.fields)
        if model is not None:
            fields["model"] = model
        if prompt is not None:
            fields |= self._prompted(prompt)
        return encode({**fields, **more})

    def _prompted(self, prompt: str) -> dict[str, Any]:
        if self.form == "responses":
            return {"instructions": prompt}
        messages: list[Any] = list(_RAWS.decode(self.fields["messages"]))
        first = _ANY.decode(messages[0]) if messages else {}
        has_one = isinstance(first, dict) and first.get("role") in ("system", "developer")
        return {"messages": [{"role": "system", "content": prompt}, *messages[has_one:]]}


def read_body(form: Form, body: bytes) -> Asked:
    """Read a request's body. Raises BadRequest for what is no JSON object with messages (or an input)."""
    try:
        fields = _FIELDS.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body cannot be read: {str(error)[:120]}; send a JSON object") from error
    needed = "messages" if form == "chat" else "input"
    if form == "chat" and not _has_items(bytes(fields.get(needed, b""))):
        raise BadRequest(f"{needed} must be a list with at least one message", needed)
    return Asked(form, fields, bytes(fields.get("stream", b"")) == b"true")


def _has_items(raw: bytes) -> bool:
    """Whether JSON is a list that is not empty, without decoding it."""
    return raw[:1] == b"[" and raw[1:64].lstrip()[:1] != b"]"
