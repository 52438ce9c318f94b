"""A tool server that fails on purpose: a share of requests is answered 503, a share is never answered.

    FAULTS="0.05 0.02 7" python -m uvicorn benchmarks.http_tools_server:app      # shares of 5xx and hangs, seed

Which request fails is drawn from its call and how often that call was tried, so a run can be repeated. `GET /log` tells
what arrived: call id, trace id, and what became of it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flyball.rng import derive

FAILS, HANGS, SEED = (float(part) for part in os.environ.get("FAULTS", "0.05 0.02 0").split())
tries: Counter[str] = Counter()
log: list[tuple[str, str, str]] = []


async def call(request: Request) -> JSONResponse:
    body = await request.json()
    call_id, trace_id = body["call_id"], body["trace_id"]
    tries[call_id] += 1
    # By what was asked and not by the trace, which is drawn anew in every run.
    draw = derive(int(SEED), body["item"]["id"], body["arguments"], tries[call_id]) % 10**6 / 10**6
    if draw < FAILS:
        log.append((call_id, trace_id, "failed"))
        return JSONResponse({"error": "injected"}, status_code=503)
    if draw < FAILS + HANGS:
        log.append((call_id, trace_id, "hung"))
        await asyncio.sleep(3600)
    log.append((call_id, trace_id, "answered"))
    output = f"{body['item']['id']} {json.loads(body['arguments'])['n']}"
    return JSONResponse({"type": "function_call_output", "call_id": call_id, "id": body["id"], "output": output})


async def told(request: Request) -> JSONResponse:
    return JSONResponse(log)


app = Starlette(routes=[Route("/call", call, methods=["POST"]), Route("/log", told)])
