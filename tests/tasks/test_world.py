"""The user's class as worlds, and every way it can go wrong."""

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from flyball.errors import ConfigError, DatasetError, Fault, WorldError
from flyball.tasks.world import World, WorldSpec
from flyball.tools.call import call_tool
from flyball.tools.tool import tool
from flyball.types import Limits, Task, ToolCall


class Desk:
    """You are the refunds desk.

    Refund inside the policy.
    """

    def __init__(self, greeting: str = "") -> None:
        self.greeting = greeting

    def reset(self, ticket: str, cents: int = 0) -> str:
        self.cents = cents
        return self.greeting + ticket

    def find_order(self, order_id: str) -> dict[str, str]:
        """Look up one order."""
        return {"order_id": order_id}

    @tool(writes=True)
    async def refund(self, cents: int) -> str:
        """Refund."""
        self.cents -= cents
        return "done"

    def export_state(self) -> dict[Any, Any]:
        return {1: (self.cents,)}


class Chat:
    async def reset(self, **fields: Any) -> str:
        return ", ".join(sorted(fields))

    async def user_reply(self, text: str) -> str | None:
        return None if text == "bye" else text.upper()


TASK = Task("t1", {"ticket": "Money back!", "cents": 500, "extra": "ignored"})


async def opened(make: Any, task: Task = TASK) -> World:
    return await WorldSpec(make).open(task)


def test_the_spec_says_what_the_class_is() -> None:
    spec = WorldSpec(Desk)
    assert spec.name == "Desk"
    assert spec.system == "You are the refunds desk.\n\nRefund inside the policy."
    assert list(spec.tool_versions) == ["find_order", "refund"]
    assert spec.version == WorldSpec(Desk).version != WorldSpec(Chat).version


def test_a_world_from_reset_to_state() -> None:
    async def main() -> tuple[World, Any]:
        world = await opened(Desk)
        await call_tool(world.tools, ToolCall("1", "refund", '{"cents": 200}'))
        return world, await world.export_state()

    world, state = asyncio.run(main())
    assert world.observation == "Money back!" and world.system.startswith("You are") and not world.has_user
    assert [schema["function"]["name"] for schema in world.schemas] == ["find_order", "refund"]
    assert state == {"1": [300]}  # plain JSON, as it will read back from the store


def test_worlds_do_not_share_state() -> None:
    async def main() -> list[Any]:
        spec = WorldSpec(Desk)
        one, two = await spec.open(TASK), await spec.open(TASK)
        await call_tool(one.tools, ToolCall("1", "refund", '{"cents": 200}'))
        return [await one.export_state(), await two.export_state()]

    assert asyncio.run(main()) == [{"1": [300]}, {"1": [500]}]


def test_sync_tools_of_one_world_take_turns_in_the_order_they_were_called() -> None:
    class Ledger:
        def reset(self) -> str:
            self.lines: list[str] = []
            return ""

        def write(self, text: str) -> str:
            for part in ("begin", "end"):
                self.lines.append(f"{part} {text}")
                time.sleep(0.001)  # another thread would step in here
            return text

        def export_state(self) -> list[str]:
            return self.lines

    async def main() -> Any:
        world = await opened(Ledger, Task("t", {}))
        calls = [ToolCall(str(i), "write", f'{{"text": "{i}"}}') for i in range(8)]
        await asyncio.gather(*(call_tool(world.tools, call) for call in calls))
        return await world.export_state()

    assert asyncio.run(main()) == [f"{part} {i}" for i in range(8) for part in ("begin", "end")]


def test_a_hung_tool_gives_up_its_turn() -> None:
    release = threading.Event()

    class Stuck:
        def reset(self) -> str:
            return ""

        def hang(self) -> None:
            release.wait()

        def answer(self) -> str:
            return "here"

    async def main() -> list[str | None]:
        world = await opened(Stuck, Task("t", {}))
        calls = [ToolCall("1", "hang", "{}"), ToolCall("2", "answer", "{}")]
        results = await asyncio.gather(*(call_tool(world.tools, call, timeout_seconds=0.1) for call in calls))
        return [result.problem for result in results]

    assert asyncio.run(main()) == ["timeout", None]
    release.set()


def test_factories_and_async_worlds() -> None:
    async def main() -> tuple[str, str, str | None, str | None, Any]:
        desk = await opened(partial(Desk, "Hi. "))
        chat = await opened(Chat)
        state = await chat.export_state()
        await chat.close()
        return desk.observation, chat.observation, await chat.user_reply("yes"), await chat.user_reply("bye"), state

    assert asyncio.run(main()) == ("Hi. Money back!", "cents, extra, ticket", "YES", None, None)
    assert WorldSpec(partial(Desk, "Hi. ")).version != WorldSpec(partial(Desk, "Ho. ")).version


def test_a_task_chooses_tools_by_the_names_of_the_world() -> None:
    surface = {
        "rename": {"refund": {"name": "pay_back"}},
        "distractors": [{"name": "weather", "description": "", "answer": "sunny"}],
    }
    world = asyncio.run(opened(Desk, Task("t", {"ticket": "x"}, tools=("refund",), surface=surface)))
    assert list(world.tools) == ["pay_back", "weather"]
    assert list(asyncio.run(opened(Desk, Task("t", {"ticket": "x"}, tools=()))).tools) == []


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("t", {"tickt": "x"}), "task 't': Desk.reset needs the field 'ticket'; did you mean 'tickt'?"),
        (Task("t", {}), "Desk.reset needs the field 'ticket'; the row has no public fields"),
        (Task("t", {"ticket": 3}), "Desk.reset: argument 'ticket' must be a valid string, got 3"),
        (Task("t", {"ticket": "x", "cents": "5"}), "argument 'cents' must be a valid integer, got \"5\""),
        (Task("t", {"ticket": object()}), "not JSON serializable"),
        (Task("t", {"ticket": "x"}, tools=("refnd",)), "allows tool 'refnd', .*; did you mean 'refund'?"),
        (Task("t", {"ticket": "x"}, surface={"rename": {"pay": {}}}), "task 't': surface renames tool 'pay'"),
    ],
)
def test_a_task_that_does_not_fit_the_world_is_the_datasets_fault(task: Task, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        WorldSpec(Desk).check(task)
    with pytest.raises(DatasetError, match=message):
        asyncio.run(opened(Desk, task))


class Broken:
    """A world whose methods do what `ticket` says when they are asked to."""

    release = threading.Event()
    closed = 0

    def reset(self, ticket: str) -> Any:
        self.ticket = ticket
        return self._do("reset", "hello")

    def export_state(self) -> Any:
        return self._do("export_state", {})

    async def user_reply(self, text: str) -> Any:
        return self._do("user_reply", "ok")

    def close(self) -> None:
        Broken.closed += 1
        self._do("close", None)

    def _do(self, method: str, usual: Any) -> Any:
        where, _, what = self.ticket.partition(":")
        if where != method:
            return usual
        if what == "hang":
            self.release.wait()
        if what == "raise":
            raise LookupError("no such snapshot")
        if what == "exit":
            raise SystemExit(1)
        return {"none": None, "number": 3, "object": object(), "nan": float("nan")}[what]


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    Broken.release.clear()
    Broken.closed = 0
    yield
    Broken.release.set()


async def live(ticket: str) -> None:
    world = await opened(Broken, Task("t7", {"ticket": ticket}, limits=Limits(max_seconds=0.1)))
    await world.user_reply("text")
    await world.export_state()
    await world.close()


@pytest.mark.parametrize(
    ("ticket", "message"),
    [
        ("reset:raise", r"Broken.reset raised LookupError: no such snapshot \(test_world.py:\d+\), for task 't7'"),
        ("reset:exit", "Broken.reset raised SystemExit: 1"),
        ("reset:hang", "Broken.reset did not return within 0.1 s, for task 't7'"),
        ("reset:number", "Broken.reset returned int; it returns the first message, a str"),
        ("user_reply:raise", "Broken.user_reply raised LookupError"),
        ("user_reply:number", "Broken.user_reply returned int; it returns a str, or None"),
        ("export_state:raise", "Broken.export_state raised LookupError"),
        ("export_state:hang", "Broken.export_state did not return"),
        ("export_state:object", "Broken.export_state returned what cannot be stored: object is not JSON"),
        ("export_state:nan", "Broken.export_state returned what cannot be stored: float is not JSON"),
        ("close:raise", "Broken.close raised LookupError"),
    ],
)
def test_what_a_world_does_wrong_is_infrastructures_fault(ticket: str, message: str) -> None:
    with pytest.raises(WorldError, match=message) as raised:
        asyncio.run(live(ticket))
    assert raised.value.fault is Fault.INFRASTRUCTURE and str(raised.value).startswith("[world] ")


def test_a_world_that_did_not_start_is_closed() -> None:
    with pytest.raises(WorldError, match=r"Broken\.reset raised"):
        asyncio.run(live("reset:raise"))
    assert Broken.closed == 1


def test_a_world_that_is_cancelled_while_it_starts_is_closed() -> None:
    async def give_up() -> None:
        task = Task("t7", {"ticket": "reset:hang"}, limits=Limits(max_seconds=60))
        opening = asyncio.create_task(opened(Broken, task))
        await asyncio.sleep(0.05)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(give_up())
    assert Broken.closed == 1


def test_a_constructor_that_raises() -> None:
    class Unbuilt:
        def __init__(self) -> None:
            raise OSError("no disk")

        def reset(self) -> str:
            return ""

    with pytest.raises(WorldError, match=r"Unbuilt.__init__ raised OSError: no disk"):
        asyncio.run(opened(Unbuilt))
    with pytest.raises(ConfigError, match=r"factory .* raised OSError: no disk"):
        WorldSpec(lambda: Unbuilt())


def test_classes_that_are_no_worlds() -> None:
    class NeedsArguments:
        def __init__(self, path: str) -> None: ...

        def reset(self) -> str:
            return ""

    class Untyped:
        def reset(self, ticket) -> str:  # type: ignore[no-untyped-def]
            return ""

    with pytest.raises(ConfigError, match="dict has no reset"):
        WorldSpec(dict)
    with pytest.raises(ConfigError, match=r"NeedsArguments\(\) missing a required argument: 'path'; give defaults"):
        WorldSpec(NeedsArguments)
    with pytest.raises(ConfigError, match=r"Untyped\.reset: parameter 'ticket' has no type"):
        WorldSpec(Untyped)


class Guarded:
    def reset(self, ticket: str) -> str:
        return ticket

    def look(self) -> str:
        """Look."""
        return ""

    @tool(approval="human")
    def pay(self) -> str:
        """Pay."""
        return ""


def test_a_task_with_a_tool_that_needs_approval_needs_an_approver() -> None:
    ticket = {"ticket": "x"}
    with pytest.raises(ConfigError, match=r"tool 'pay' has approval=.*`fb.Workflow\(approver=...\)` takes 'approve'"):
        WorldSpec(Guarded).check(Task("t", ticket))
    WorldSpec(Guarded).check(Task("t", ticket, tools=("look",)))
    WorldSpec(Guarded, "deny").check(Task("t", ticket))


def test_whoever_approves_is_part_of_the_worlds_version() -> None:
    versions = {WorldSpec(Guarded, approver).version for approver in (None, "approve", "deny", lambda call: "deny")}
    assert len(versions) == 4
