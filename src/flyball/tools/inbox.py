"""The inbox of the person who approves, where sessions are real: a call waits in the store until somebody answers.

`flyball approvals list | approve | deny` answers. A request outlives its process: a session that comes back and makes
the same call waits for the same answer, or gets the one that was given meanwhile. Whether an approved call was carried
out before a crash is for the session to know. Training and evaluation never ask here (invariant 5).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from flyball.errors import ConfigError
from flyball.store.store import Store
from flyball.types import ApprovalDecision, ToolCall

_DECISIONS: dict[str, ApprovalDecision] = {"approved": "approve", "denied": "deny", "expired": "expire"}


@dataclass(frozen=True)
class Inbox:
    """Asks a person through the store. A request nobody answers within `expires_seconds` is expired.

    `for_attempt` binds it to a session, by whose id and the call's a request is known.
    """

    store: Store
    expires_seconds: float = 3600.0
    poll_seconds: float = 0.5
    session_id: str = ""

    def __post_init__(self) -> None:
        if self.expires_seconds <= 0 or self.poll_seconds <= 0:
            raise ConfigError(
                f"expires_seconds {self.expires_seconds:g} and poll_seconds {self.poll_seconds:g} are both above 0"
            )

    @property
    def name(self) -> str:
        return "inbox"

    def for_attempt(self, trace_id: str) -> Inbox:
        """The same inbox for one session. Raises ConfigError without an id: its requests could not be told apart."""
        if not trace_id:
            raise ConfigError("an inbox needs the session's id; pass it as trace_id when the world is opened")
        return replace(self, session_id=trace_id)

    async def decide(self, call: ToolCall, timeout_seconds: float) -> ApprovalDecision:
        """Wait for the answer. `timeout_seconds` is a tool's and not a person's: `expires_seconds` bounds the wait."""
        expires = datetime.now(UTC) + timedelta(seconds=self.expires_seconds)
        asked = self.store.request_approval(
            self.session_id, call.call_id, call.name, call.arguments, expires.isoformat(timespec="milliseconds")
        )
        while asked.state == "pending":
            await asyncio.sleep(self.poll_seconds)
            asked = self.store.approval(asked.approval_id)
        return _DECISIONS[asked.state]
