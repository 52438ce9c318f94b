"""Carrying out calls: whatever the model wrote and whatever the tool does, there is a result and it says why."""

import asyncio
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flyball.errors import ConfigError, ToolError, WorldError
from flyball.tools.approval import Approver
from flyball.tools.call import call_tool, hallucinated_parameter
from flyball.tools.tool import Tool, find_tools, tool
from flyball.types import ToolCall, ToolResult


@dataclasses.dataclass
class Order:
    order_id: str
    cents: int


class Shop:
    """Tools that behave, and tools that do not."""

    def __init__(self) -> None:
        self.never = threading.Event()
        self.paid: list[int] = []

    def look(self, order_id: str) -> dict[str, str]:
        return {"order_id": order_id}

    async def look_async(self, order_id: str) -> Order:
        await asyncio.sleep(0)
        return Order(order_id, 5)

    def say(self, text: str) -> str:
        return text

    def nothing(self) -> None:
        return None

    @tool(writes=True, approval="human")
    def pay(self, cents: int) -> str:
        self.paid.append(cents)
        return "paid"

    def raises(self) -> str:
        raise ValueError("no such order")

    async def raises_async(self) -> str:
        raise KeyError("order")

    def exits(self) -> str:
        sys.exit(3)

    async def exits_async(self) -> str:
        sys.exit(3)

    def stops(self) -> str:
        return next(iter([]))

    async def cancels(self) -> str:
        raise asyncio.CancelledError

    def hangs(self) -> str:
        self.never.wait()
        return "never"

    async def hangs_async(self) -> str:
        while True:  # refuses to be cancelled once
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                raise

    def floods(self) -> str:
        return "x" * 10_000_000

    def floods_list(self) -> list[int]:
        return list(range(200_000))

    def opaque(self) -> object:
        return object()

    def endless(self) -> Iterator[int]:
        while not self.never.is_set():
            yield 1

    def not_a_number(self) -> float:
        return float("nan")

    def circular(self) -> list[Any]:
        loop: list[Any] = []
        loop.append(loop)
        return loop

    def surrogate(self) -> str:
        return "\ud800 broken"


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.never.set()  # let abandoned threads go


def run(shop: Shop, name: str, arguments: str = "{}", **options: Any) -> ToolResult:
    options = {"timeout_seconds": 5.0, **options}
    return asyncio.run(call_tool(find_tools(shop), ToolCall("c1", name, arguments), **options))


@pytest.mark.parametrize(
    ("name", "arguments", "content"),
    [
        ("look", '{"order_id": "A1"}', '{"order_id": "A1"}'),
        ("look_async", '{"order_id": "A1"}', '{"order_id": "A1", "cents": 5}'),
        ("say", '{"text": "größer"}', "größer"),
        ("nothing", "", "null"),
    ],
)
def test_what_the_model_is_shown(shop: Shop, name: str, arguments: str, content: str) -> None:
    result = run(shop, name, arguments)
    assert (result.call_id, result.name, result.content) == ("c1", name, content)
    assert result.problem is None and not result.truncated and result.seconds > 0


@pytest.mark.parametrize(
    ("name", "arguments", "problem", "text"),
    [
        ("lok", "{}", "unknown_tool", "error: there is no tool 'lok'; did you mean 'look'?"),
        ("look", '{"order_id"', "malformed", "error: arguments are not JSON"),
        ("look", "[1]", "malformed", "error: arguments must be one JSON object"),
        ("look", "{}", "bad_arguments", "error: missing argument 'order_id'"),
        ("look", '{"order_id": 1}', "bad_arguments", "error: argument 'order_id' must be a valid string"),
        ("raises", "{}", "raised", "error: ValueError: no such order"),
        ("raises_async", "{}", "raised", "error: KeyError: 'order'"),
        ("exits", "{}", "raised", "error: SystemExit: 3"),
        ("exits_async", "{}", "raised", "error: SystemExit: 3"),
        ("stops", "{}", "raised", "error: StopIteration"),
        ("cancels", "{}", "raised", "error: CancelledError"),
        ("opaque", "{}", "raised", "error: ValueError: object is not JSON"),
        ("not_a_number", "{}", "raised", "error: ValueError: float is not JSON"),
        ("circular", "{}", "raised", "error: ValueError: list is not JSON"),
    ],
)
def test_every_failure_is_a_result_with_its_problem(
    shop: Shop, name: str, arguments: str, problem: str, text: str
) -> None:
    result = run(shop, name, arguments)
    assert result.problem == problem
    assert result.content.startswith(text)
    assert "0x" not in result.content  # no repr


@pytest.mark.parametrize("name", ["hangs", "hangs_async", "endless"])
def test_a_tool_that_hangs_is_named_and_left_behind(shop: Shop, name: str) -> None:
    result = run(shop, name, timeout_seconds=0.05)
    assert result.problem == "timeout"
    assert result.content == f"error: {name} did not answer within 0.05 s"


def test_hung_tools_starve_nobody(shop: Shop) -> None:
    async def many() -> tuple[list[ToolResult], ToolResult]:
        tools = find_tools(shop)
        hung = [call_tool(tools, ToolCall(str(i), "hangs", "{}"), timeout_seconds=0.05) for i in range(100)]
        finished = await asyncio.gather(*hung)
        return finished, await call_tool(tools, ToolCall("x", "say", '{"text": "alive"}'), timeout_seconds=5.0)

    hung, alive = asyncio.run(many())
    assert {result.problem for result in hung} == {"timeout"} and alive.content == "alive"


def test_threads_are_used_again(shop: Shop) -> None:
    async def many() -> None:
        tools = find_tools(shop)
        for i in range(200):
            await call_tool(tools, ToolCall(str(i), "nothing", "{}"))

    before = threading.active_count()
    asyncio.run(many())
    assert threading.active_count() <= before + 2


def test_sync_tools_run_side_by_side() -> None:
    meeting = threading.Barrier(20)  # passed only when all twenty are inside at once

    def meet() -> str:
        meeting.wait(timeout=5.0)
        return "met"

    async def many() -> list[ToolResult]:
        tools = {"meet": Tool("meet", "", {}, meet)}
        return await asyncio.gather(*(call_tool(tools, ToolCall(str(i), "meet", "{}")) for i in range(20)))

    assert {result.content for result in asyncio.run(many())} == {"met"}


def test_an_abandoned_tool_may_end_after_its_loop_is_gone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    crashes: list[object] = []
    monkeypatch.setattr(threading, "excepthook", crashes.append)
    assert run(shop, "hangs", timeout_seconds=0.02).problem == "timeout"
    shop.never.set()
    for _ in range(20):
        assert run(shop, "say", '{"text": "next"}').content == "next"
    assert not crashes


@pytest.mark.parametrize("name", ["floods", "floods_list"])
def test_a_flood_is_cut_and_says_so(shop: Shop, name: str) -> None:
    result = run(shop, name, output_chars=200)
    assert len(result.content) == 200 and result.truncated and result.problem is None
    assert "characters in all]" in result.content


def test_a_long_unknown_name_is_cut_too(shop: Shop) -> None:
    result = run(shop, "x" * 100_000, output_chars=300)
    assert len(result.content) == 300 and result.problem == "unknown_tool"


def test_text_that_is_not_unicode_is_repaired(shop: Shop) -> None:
    assert run(shop, "surrogate").content == "? broken"


def test_a_person_is_asked_after_the_arguments_are_checked(shop: Shop) -> None:
    asked: list[str] = []

    def answer(call: ToolCall) -> str:
        asked.append(call.arguments)
        return "approve" if "100" in call.arguments else "deny"

    approver = Approver(answer)
    assert run(shop, "pay", '{"cents": "1"}', approver=approver).problem == "bad_arguments"
    paid = run(shop, "pay", '{"cents": 100}', approver=approver)
    assert (paid.content, paid.approval) == ("paid", "approve")
    denied = run(shop, "pay", '{"cents": 200}', approver=approver)
    assert (denied.problem, denied.approval) == ("denied", "deny")
    assert asked == ['{"cents": 100}', '{"cents": 200}'] and shop.paid == [100]


def test_a_person_may_not_answer_in_time(shop: Shop) -> None:
    result = run(shop, "pay", '{"cents": 100}', approver=Approver("expire"))
    assert (result.problem, result.approval, shop.paid) == ("expired", "expire", [])
    assert result.content == "error: nobody approved pay in time; it was not carried out"


def test_nobody_declared_means_nothing_is_approved(shop: Shop) -> None:
    with pytest.raises(ConfigError, match=r"tool 'pay' has approval=.*no approver is declared"):
        run(shop, "pay", '{"cents": 100}')
    assert shop.paid == []


@pytest.mark.parametrize(
    ("declared", "text"),
    [("approved", "did you mean 'approve'"), (True, "approver is True; it is one of approve, deny, expire")],
)
def test_what_cannot_approve_is_refused(declared: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Approver(declared)


def raising(call: ToolCall) -> str:
    raise KeyError(call.name)


@pytest.mark.parametrize(
    ("answer", "text"),
    [(raising, "raised KeyError: 'pay'"), (lambda call: "yes", "returned 'yes'; return one of approve, deny, expire")],
)
def test_an_approver_that_fails_is_the_worlds_failure(shop: Shop, answer: Any, text: str) -> None:
    with pytest.raises(WorldError, match=text):
        run(shop, "pay", '{"cents": 100}', approver=Approver(answer))
    assert shop.paid == []


class Flaky:
    """Tools that work the second or third time."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self.left, self.error, self.running = failures, error or OSError("busy"), 0

    def _try(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return "done"

    @tool(retries=2, cost_usd=0.5)
    def fetch(self) -> str:
        return self._try()

    @tool(cost_usd=0.5)
    def send(self) -> str:
        return self._try()

    @tool(retries=2)
    async def wait(self) -> str:
        self.running += 1
        try:
            await asyncio.sleep(3600 if self.running < 2 else 0)
        finally:
            self.left -= 1
        return "done"

    @tool(retries=2)
    def block(self) -> str:
        self.running += 1
        time.sleep(0.2)
        return "late"


def use(flaky: Flaky, name: str, **options: Any) -> ToolResult:
    return asyncio.run(call_tool(find_tools(flaky), ToolCall("c1", name, "{}"), **options))


def test_a_call_is_tried_again_where_it_is_declared_idempotent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyball.tools.call.PAUSE_SECONDS", 0.0)
    second = use(Flaky(1), "fetch")
    assert (second.content, second.problem, second.tries, second.cost_usd) == ("done", None, 2, 1.0)
    given_up = use(Flaky(9), "fetch")
    assert (given_up.problem, given_up.tries, given_up.cost_usd) == ("raised", 3, 1.5)
    once = use(Flaky(1), "send")
    assert (once.problem, once.tries, once.cost_usd) == ("raised", 1, 0.5)


def test_what_a_tool_says_on_purpose_is_not_tried_again() -> None:
    told = use(Flaky(1, ToolError("no such order")), "fetch")
    assert (told.content, told.tries) == ("error: no such order", 1)


def test_a_timeout_is_tried_again_only_where_the_first_try_is_over() -> None:
    waited = use(Flaky(0), "wait", timeout_seconds=0.05)
    assert (waited.content, waited.tries) == ("done", 2)
    flaky = Flaky(0)
    blocked = use(flaky, "block", timeout_seconds=0.02)
    assert (blocked.problem, blocked.tries, flaky.running) == ("timeout", 1, 1)


@pytest.mark.parametrize(("declared", "text"), [({"retries": -1}, "retries is -1"), ({"cost_usd": -0.5}, "cost_usd")])
def test_impossible_declarations_are_refused(declared: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Tool("send", "", {}, lambda: "", **declared)


def test_hallucinated_parameters_are_told_from_wrong_types(shop: Shop) -> None:
    assert hallucinated_parameter(run(shop, "look", '{"order": "A1"}'))
    assert not hallucinated_parameter(run(shop, "look", '{"order_id": 1}'))
    assert not hallucinated_parameter(run(shop, "look", "{}"))


def test_cancelling_the_caller_cancels_the_tool() -> None:
    ended: list[str] = []

    async def slow() -> str:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cancelled")
        return ""

    async def main() -> None:
        tools = {"slow": Tool("slow", "", {}, slow)}
        task = asyncio.create_task(call_tool(tools, ToolCall("1", "slow", "{}"), timeout_seconds=60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert ended == ["cancelled"]  # now, not when the loop is torn down

    asyncio.run(main())
