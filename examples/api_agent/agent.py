"""An agent as it may have been for a year: the OpenAI SDK, a prompt, two tools. Nothing here knows of Flyball.

Where its model answers is said by OPENAI_BASE_URL and OPENAI_API_KEY.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from openai import AsyncOpenAI

PROMPT = "You are the refunds desk of a shop. Look the order up, then help."


def schema(name: str, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    shape = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": shape}}


TOOLS = [schema("find_order", order="string"), schema("refund", order="string", cents="integer")]


async def serve(message: str, shop: Mapping[str, Callable[..., Any]], client: AsyncOpenAI) -> str:
    """Answer one customer; `shop` carries out the tools."""
    messages: list[Any] = [{"role": "system", "content": PROMPT}, {"role": "user", "content": message}]
    while True:
        answer = await client.chat.completions.create(model="support", messages=messages, tools=TOOLS)
        said = answer.choices[0].message
        messages.append(said)
        if not said.tool_calls:
            return said.content or ""
        for call in said.tool_calls:
            result = shop[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})
