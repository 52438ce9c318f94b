"""What the frames of the gateway must hold to become rows; what else they hold is kept in the column `facts`.

A frame that does not fit is put into quarantine with the reason, and the frames behind it are stored all the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from flyball.types import Channel

# What every database has a column for: text without NUL, whole numbers of 64 bits.
Text = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00]*\z")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]*\z")]
Whole = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Frame(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    project: Name
    session: Name
    at: float
    """seconds since 1970, of the gateway's clock; for display, never for an order"""


class RequestFrame(_Frame):
    """A call is about to be served, or (`response`) was: without a `call`, the gateway died in between."""

    call_id: Name
    arm: Text = ""
    version: Text = ""
    release_id: Text | None = None


class CallFrame(RequestFrame):
    """One model call as it was served. `messages`, `message` and `tokens` become a body, `tools` another."""

    agent: Text = "main"
    exactness: Literal["exact", "text", "cut"]
    parent: Text | None = None
    continues: Text | None = None
    stands_at: Text | None = None
    ends: Text | None = None
    status: Whole
    problem: Text | None = None
    model: Text = ""
    tokens_in: Whole | None = None
    tokens_out: Whole | None = None
    cost_usd: float = 0.0
    seconds: float = 0.0
    messages: Any = None
    message: Any = None
    tokens: Any = None
    tools: Any = None


class SessionFrame(_Frame):
    """What one gateway saw of one session; the parts of a session add up."""

    first_call: Name
    arm: Text = "stable"
    version: Text = ""
    release_id: Text | None = None
    release_channel: Channel
    calls: Whole
    tokens_in: Whole
    tokens_out: Whole
    tool_calls_count: Whole
    tool_error_count: Whole
    duration_ms: float
    cost_usd: float = 0.0


class Override(BaseModel):
    """What a person did instead of leaving it at what the agent did."""

    model_config = ConfigDict(extra="allow")
    kind: Literal["approve", "reject", "edit", "takeover", "stop"]
    reason: str = ""


class Kpi(BaseModel):
    """A number that stands for what the business wants, known `delay_seconds` after the session."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: Name
    value: float
    unit: Text = ""
    delay_seconds: float = Field(default=0.0, ge=0)


class Context(BaseModel):
    """What the agent had before it at the time: a summary, the documents it was given, the rules that held.

    `intent` names the class of what the user wanted; reports split numbers by it.
    """

    model_config = ConfigDict(extra="forbid")
    intent: Text = ""
    summary: str = ""
    retrieved: list[Any] = []
    constraints: list[str] = []


class FeedbackFrame(_Frame):
    """A fact that came late. The same `report_id` again is the same report."""

    report_id: Name
    call_id: Text = ""
    outcome: bool | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    override: Override | None = None
    kpi: Kpi | None = None
    context: Context | None = None


class CounterFrame(BaseModel):
    """What a spool accepted and lost since `life`, its first segment after it was opened."""

    life: Whole
    accepted: list[tuple[Text, Text, Whole]]
    lost: list[tuple[Text, Text, Text, Whole]]
