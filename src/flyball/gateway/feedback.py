"""How a matter ended, told after the fact: outcome, score, what a person changed, a number of the business.

    POST /v1/flyball/report
    {"receipt": "v1~...", "report_id": "order-17-closed", "outcome": true}
    {"receipt": "v1~...", "report_id": "o17-edit", "override": {"kind": "edit", "reason": "wrong amount"}}

A report is safe to send again: the same `report_id` with the same content is the same report (200 instead of 202), with
other content it is refused (409), whichever worker it reaches and after a restart too. Where the workers' common memory
cannot be used, the store keeps the first of two that differ and puts the other aside. A receipt of another project is
refused like a forged one.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flyball.capture.openai_form import BadRequest
from flyball.errors import StoreError, nearest
from flyball.gateway.capture import Capture
from flyball.gateway.memory import Memory
from flyball.gateway.receipts import Receipts
from flyball.gateway.request import Caller
from flyball.store.serving_frames import Context, Kpi, Override

MOST_REPORTS = 100_000
"""Reports whose ids a worker has at hand."""


SAYS = ("outcome", "score", "override", "kpi", "context", "harm")


class Report(BaseModel):
    """One report. Which session and call it is about stands in the receipt."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    receipt: str = Field(max_length=1024)
    report_id: str = Field(min_length=1, max_length=128, pattern=r"^[\w.:-]+$")
    outcome: bool | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    override: Override | None = None
    kpi: Kpi | None = None
    context: Context | None = None
    harm: Literal["unsafe", "critical"] | None = None
    """a breach of policy; a critical one sends a canary back at once"""

    @model_validator(mode="after")
    def _says_something(self) -> Report:
        if all(getattr(self, name) is None for name in SAYS):
            raise ValueError("a report says an outcome, a score, an override, a kpi, a context or a harm")
        return self


class Feedback:
    """Takes reports and writes them through `capture`."""

    def __init__(self, receipts: Receipts, capture: Capture, memory: Memory | None = None) -> None:
        self._memory = memory
        self._receipts = receipts
        self._capture = capture
        self._seen: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    async def report(self, caller: Caller, body: bytes) -> dict[str, Any]:
        """Take one report; on disk when this returns. Raises BadRequest."""
        report = _read(body)
        receipt = self._receipts.read(report.receipt)
        if receipt.project != caller.project:
            raise BadRequest("the receipt was not signed for this project", "receipt", "forged_receipt", 403)
        content = report.model_dump(exclude={"report_id"}, exclude_none=True)
        digest = hashlib.sha256(orjson.dumps(content)).digest()
        told = {"report_id": report.report_id, "session": receipt.session, "call_id": receipt.call_id}
        key = (caller.project, report.report_id)
        known = self._seen.get(key) or (self._memory.reported(*key) if self._memory else None)
        if known == digest:
            return {**told, "new": False}
        if known:
            raise BadRequest(
                f"report {report.report_id!r} was sent before with other content; facts are added, never changed: give "
                "the correction an id of its own",
                "report_id",
                "report_differs",
                409,
            )
        frame = {**told, "project": caller.project, "at": time.time(), "by": caller.role, **content}
        del frame["receipt"]
        try:
            await asyncio.wrap_future(self._capture.feedback(frame))
        except StoreError as error:
            raise BadRequest(f"the report was not written: {error}", None, "not_written", 503) from error
        self._seen[key] = digest
        if self._memory:
            self._memory.add_report(*key, digest)
        if len(self._seen) > MOST_REPORTS:
            self._seen.popitem(last=False)
        return {**told, "new": True}


def _read(body: bytes) -> Report:
    try:
        return Report.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        hint = nearest(place, Report.model_fields) if first["type"] == "extra_forbidden" else ""
        why = first["msg"].removeprefix("Value error, ")
        raise BadRequest(f"{place or 'the report'}: {why}{hint}", place or None, "bad_report") from None
