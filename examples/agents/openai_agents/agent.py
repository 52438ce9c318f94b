"""An agent on the OpenAI Agents SDK, over Chat Completions."""

from __future__ import annotations

from agents import Agent, ModelBehaviorError, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
from openai import AsyncOpenAI

from examples.agents.serve import Attempt, serve


async def answer(attempt: Attempt) -> str:
    @function_tool
    async def count(item: str) -> str:
        """Count one item."""
        return await attempt.use("count", {"item": item})

    async with AsyncOpenAI(base_url=attempt.base_url, api_key=attempt.api_key) as client:
        model = OpenAIChatCompletionsModel("policy", client)
        keeper = Agent(name="keeper", instructions=attempt.system, tools=[count], model=model)
        try:
            done = await Runner.run(keeper, attempt.observation, run_config=RunConfig(tracing_disabled=True))
        except ModelBehaviorError:  # it called a tool that does not exist: its failure, and no reason to run it again
            return ""
    return str(done.final_output)


if __name__ == "__main__":
    serve(answer)
