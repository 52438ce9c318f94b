"""An agent on LangGraph: a graph of a model node and a tool node."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import ValidationError

from examples.agents.serve import Attempt, serve


async def answer(attempt: Attempt) -> str:
    @tool
    async def count(item: str) -> str:
        """Count one item."""
        return await attempt.use("count", {"item": item})

    model = ChatOpenAI(model="policy", base_url=attempt.base_url, api_key=attempt.api_key).bind_tools([count])

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", ask)
    graph.add_node("tools", ToolNode([count]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    opening = [SystemMessage(attempt.system), HumanMessage(attempt.observation)]
    try:
        end = await graph.compile().ainvoke({"messages": opening})
    except ValidationError:  # the policy wrote arguments that no message can hold: its failure, not ours
        return ""
    return str(end["messages"][-1].content)


if __name__ == "__main__":
    serve(answer)
