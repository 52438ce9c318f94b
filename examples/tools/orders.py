"""A tool server of the agent-RFT contract: `python orders.py PORT`. Every attempt has orders of its own, by its trace.

`context.open` makes them, `context.close` tells how they ended and forgets them. With ORDERS_SECRET set, requests must
be signed with it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import uvicorn
from openai import InvalidWebhookSignatureError, OpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

SECRET = os.environ.get("ORDERS_SECRET")
WEBHOOKS = OpenAI(api_key="none").webhooks  # its verifier knows the signature's form
ORDERS = {
    "A1": {"item": "kettle", "quantity": 2},
    "A2": {"item": "lamp", "quantity": 9},
    "A3": {"item": "kettle", "quantity": 1},
}

reserved: dict[str, dict[str, int]] = {}  # what each attempt reserved, by trace_id


async def read(request: Request) -> dict[str, Any]:
    """The body, once its signature holds."""
    body = await request.body()
    if SECRET:
        WEBHOOKS.verify_signature(body, dict(request.headers), secret=SECRET)
    return json.loads(body)


async def call(request: Request) -> JSONResponse:
    called = await read(request)
    arguments = json.loads(called["arguments"])
    order = ORDERS.get(arguments["order_id"])
    if order is None:
        return JSONResponse({"error": f"no order {arguments['order_id']}"}, status_code=404)
    if called["name"] == "find_order":
        output = json.dumps(order)
    else:
        reserved[called["trace_id"]][arguments["order_id"]] = arguments["quantity"]
        output = f"reserved {arguments['quantity']}"
    answer = {"type": "function_call_output", "call_id": called["call_id"], "id": called["id"], "output": output}
    return JSONResponse(answer)


async def open_context(request: Request) -> JSONResponse:
    reserved[(await read(request))["trace_id"]] = {}
    return JSONResponse({})


async def close_context(request: Request) -> JSONResponse:
    return JSONResponse({"state": {"reserved": reserved.pop((await read(request))["trace_id"], {})}})


async def not_signed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"not signed: {error}"}, status_code=401)


app = Starlette(
    routes=[
        Route("/call", call, methods=["POST"]),
        Route("/open", open_context, methods=["POST"]),
        Route("/close", close_context, methods=["POST"]),
    ],
    exception_handlers={InvalidWebhookSignatureError: not_signed},
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
