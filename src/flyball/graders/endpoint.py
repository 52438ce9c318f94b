"""`endpoint`: somebody's server grades (openai-rft 3.8, 4.4).

It is sent `{sample, item, trace_id}`, the whole row with its hidden fields, and answers `{"score": number}`. Failures
of the way there are the infrastructure's, an answer without a score is the grader's; neither is a zero.
"""

from __future__ import annotations

import math

import httpx

from flyball.errors import ConfigError, Fault
from flyball.graders.flags import NotGraded
from flyball.graders.row import Row
from flyball.graders.spec import Endpoint
from flyball.graders.spec_grader import SpecGrader, unit_score
from flyball.tools.jsonable import as_json
from flyball.tools.post import Poster, PostFailed
from flyball.tools.source import UNREAD
from flyball.types import Score

TIMEOUT_SECONDS = 600.0


class EndpointGrader(SpecGrader[Endpoint]):
    """A score from a server. Its version knows the address, not what runs there, and says so: `unread:`."""

    version_mark = UNREAD

    def __init__(
        self, spec: Endpoint, transport: httpx.AsyncBaseTransport | None = None, backoff_seconds: float = 0.5
    ) -> None:
        super().__init__(spec)
        if masked := [name for name, value in spec.headers.items() if value and not value.strip("*")]:
            raise ConfigError(
                f"grader {spec.name!r}: header {masked[0]!r} is made of asterisks; it was copied from an answer that "
                "masks secrets, so write the secret itself"
            )
        self._poster = Poster(
            timeout_seconds=TIMEOUT_SECONDS,
            backoff_seconds=backoff_seconds,
            per_second=spec.rate_limit,
            transport=transport,
        )

    async def judge(self, row: Row) -> Score:
        """Ask the server. Raises NotGraded."""
        body = {"sample": row.sample, "item": row.item, "trace_id": row.attempt.trace_id}
        try:
            answer = await self._poster.post(self.spec.url, as_json(body), self.spec.headers)
        except PostFailed as failed:
            cause = f"grader {self.name!r}: {self.spec.url} {failed}"
            raise NotGraded("unresponsive_reward_error", cause, Fault.INFRASTRUCTURE) from None
        score = answer.get("score") if isinstance(answer, dict) else None
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            cause = (
                f'grader {self.name!r}: {self.spec.url} answered {str(answer)[:120]!r}; it answers {{"score": number}}'
            )
            raise NotGraded("unresponsive_reward_error", cause)
        return unit_score(float(score))

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self._poster.aclose()
