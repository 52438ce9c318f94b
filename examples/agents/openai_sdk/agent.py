"""An agent on the plain OpenAI SDK: a loop of chat completions and tools."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI

from examples.agents.serve import Attempt, serve


async def answer(attempt: Attempt) -> str:
    messages: list[Any] = [
        {"role": "system", "content": attempt.system},
        {"role": "user", "content": attempt.observation},
    ]
    async with AsyncOpenAI(base_url=attempt.base_url, api_key=attempt.api_key) as client:
        while True:
            response = await client.chat.completions.create(model="policy", messages=messages, tools=attempt.tools)
            message = response.choices[0].message
            messages.append(message)
            if not message.tool_calls:
                return message.content or ""
            for call in message.tool_calls:
                shown = await attempt.use(call.function.name, call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": shown})


if __name__ == "__main__":
    serve(answer)
