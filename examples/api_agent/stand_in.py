"""A stand-in for a hosted model, so that the example runs without an account: OpenAI's form, rules for a mind.

It asks for the order once it knows the number. Then it refunds what is asked for, unless its prompt tells it to look at
the policy first: the prompt decides how well it does, as with a model.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def turn(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The next message of the assistant."""
    prompt = messages[0]["content"] if messages[0]["role"] == "system" else ""
    asked = next(message["content"] for message in messages if message["role"] == "user")
    number = re.search(r"#(\d+)", asked)
    shown = [json.loads(message["content"]) for message in messages if message["role"] == "tool"]
    if number is None:
        return say("Which order is it? Please send its number.")
    if not shown:
        return use("find_order", order=number[1])
    order = shown[0]
    if len(shown) > 1:
        return say(f"Order {number[1]} is refunded.")
    if "30 days" in prompt and order["days"] > 30:
        return say(f"Order {number[1]} is older than 30 days, so it cannot be refunded.")
    return use("refund", order=number[1], cents=order["cents"])


def say(text: str) -> dict[str, Any]:
    """A message that calls no tool."""
    return {"role": "assistant", "content": text}


def use(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A message that calls one tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{name}", "type": "function", "function": function}],
    }


async def complete(request: Request) -> JSONResponse:
    """Chat Completions, without streams."""
    body = await request.json()
    message = turn(body["messages"])
    used = {"prompt_tokens": len(json.dumps(body["messages"])) // 4, "completion_tokens": len(json.dumps(message)) // 4}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
    return JSONResponse(
        {
            "id": "chatcmpl-stand-in",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [choice],
            "usage": {**used, "total_tokens": sum(used.values())},
        }
    )


app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
