"""An agent on Pydantic AI."""

from __future__ import annotations

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from examples.agents.serve import Attempt, serve


async def answer(attempt: Attempt) -> str:
    async with AsyncOpenAI(base_url=attempt.base_url, api_key=attempt.api_key) as client:
        model = OpenAIChatModel("policy", provider=OpenAIProvider(openai_client=client))
        keeper = Agent(model, instructions=attempt.system)

        @keeper.tool_plain
        async def count(item: str) -> str:
            """Count one item."""
            return await attempt.use("count", {"item": item})

        try:
            done = await keeper.run(attempt.observation)
        except UnexpectedModelBehavior:  # it used tools wrongly again and again: its failure, not ours
            return ""
    return done.output


if __name__ == "__main__":
    serve(answer)
