"""Drill and rollback of a release through gateways that serve: probes are answered, and counted nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyball.cli.main import invoke
from flyball.errors import ConfigError, ReleaseError
from flyball.gateway.running import RunningGateway
from flyball.release.controller import Controller
from flyball.release.routing import bucket
from flyball.release.serving import Answer, Observed
from flyball.types import Release
from tests.gateway.servers import KEYS, Mock, Running, go, json_answer, running, settings, text_answer
from tests.release.conftest import TRAFFIC, begun, owners, plan, release, store

FILE = """port: {port}
keys: [{{key_env: OPERATOR_KEY, project: shop, role: {role}}}]
upstreams: {{a: {{url: "http://127.0.0.1:1/v1"}}}}
default: a
"""

__all__ = ["owners", "plan", "release", "store"]  # the fixtures of a release that may go all the way


@contextlib.asynccontextmanager
async def workers(tmp_path: Path, release: Release, number: int = 2) -> AsyncIterator[tuple[list[Running], Mock, Mock]]:
    """Gateways that share a store, the mock of the version in force and that of the candidate."""
    old, new = (Mock(lambda asked: json_answer(text_answer("ok"))) for _ in range(2))
    async with contextlib.AsyncExitStack() as stack:
        mocks: dict[str, object] = {release.baseline: old, release.candidate: new}
        yield (
            [await stack.enter_async_context(running(tmp_path, mocks, workers=number)) for _ in range(number)],
            old,
            new,
        )


def asking(*gateways: Running) -> RunningGateway:
    return RunningGateway([gateway.url for gateway in gateways], KEYS["OPERATOR_KEY"])


def test_a_drill_goes_the_way_of_users_and_leaves_no_trace(tmp_path: Path, store, release, plan) -> None:
    controller = Controller(store)
    controller.launch(release, plan, now=0.0, **TRAFFIC)

    async def test() -> None:
        async with workers(tmp_path, release) as (gateways, old, new):
            with asking(*gateways) as seen:
                drill = await asyncio.to_thread(controller.drill, seen, clock=time.time, wait=time.sleep)
            assert drill.verified, drill.problem
            assert len(new.bodies) >= 2 and len(old.bodies) >= 2, "models answered, not the gateway"
            for gateway in gateways:
                assert not gateway.app.counts and not gateway.app.capture.dropped
                assert len(gateway.app.router._begun) == 0
            user = await gateways[0].chat("hi", path="/s/s1/v1/chat/completions")
            assert user.status_code == 200 and "x-flyball-version" not in user.headers
            assert [frame["session"] for frame in await gateways[0].frames("request")] == ["s1"]

    go(test)
    (entry,) = store.acts("drill", release.release_id)
    assert entry.detail["verified"] and not entry.detail["by_hand"]


def test_only_an_operator_probes_and_the_key_is_no_session(tmp_path: Path, store, release, plan) -> None:
    controller = Controller(store)
    controller.launch(release, plan, now=0.0, **TRAFFIC)

    async def test() -> None:
        async with workers(tmp_path, release, 1) as ([gateway], _, _):
            refused = await gateway.chat("hi", headers={"x-flyball-probe": "k"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "probe_not_allowed")
            asked = await gateway.http.get("/v1/flyball/answered?since=0")
            assert (asked.status_code, asked.json()["error"]["code"]) == (403, "not_allowed")
            agent = RunningGateway([gateway.url], KEYS["SHOP_KEY"])
            with agent, pytest.raises(ReleaseError, match="probes need an operator's"):
                await asyncio.to_thread(agent.probe, "k")
            controller._write(replace(controller.table(), version=2, probe="k"), at=0.0)
            with asking(gateway) as seen:
                while (await asyncio.to_thread(seen.probe, "k")) != [Answer(gateway.url, 2, release.candidate)]:
                    await asyncio.sleep(0.01)
                assert await asyncio.to_thread(seen.probe, "K") == [Answer(gateway.url, 2, release.baseline)]
            await gateway.chat("hi", path="/s/k/v1/chat/completions")
            (request,) = await gateway.frames("request")
            assert (request["arm"], request["version"]) == ("stable", release.baseline)

    go(test)


def test_a_rollback_is_confirmed_by_what_users_of_every_worker_got(
    tmp_path: Path, store, release, plan, owners
) -> None:
    controller = begun(store, release, plan, owners)
    table = controller.table()
    on_canary = next(f"s{i}" for i in range(9999) if bucket(table.salt, f"shop~s{i}") < table.share)
    on_stable = next(f"s{i}" for i in range(9999) if table.arm(f"shop~s{i}") == "stable")

    async def test() -> None:
        async with workers(tmp_path, release) as (gateways, _, new):
            began = time.time()
            with asking(*gateways) as seen, asking(gateways[0]) as one:
                for gateway in gateways:
                    for session in (on_canary, on_stable):
                        await gateway.chat("hi", path=f"/s/{session}/v1/chat/completions")
                assert await asyncio.to_thread(seen.observed, release.candidate, began) == Observed(4, 2)
                assert await asyncio.to_thread(one.observed, release.candidate, began) == Observed(2, 1)
                controller.roll_back(by="ada", reason="worse", now=time.time())
                restored = await asyncio.to_thread(controller.confirm_restored, seen, time.time())
                assert restored is None, "nobody was answered since"
                while restored is None:
                    for gateway in gateways:
                        await gateway.chat("hi", path=f"/s/{on_canary}/v1/chat/completions")
                    await asyncio.sleep(0.02)
                    restored = await asyncio.to_thread(controller.confirm_restored, seen, time.time())
                answered = len(new.bodies)
                for gateway in gateways:
                    await gateway.chat("hi", path=f"/s/{on_canary}/v1/chat/completions")
                assert len(new.bodies) == answered, "confirmed, so the candidate answers nobody"
                assert restored.restore_seconds > 0

    go(test)


def test_the_commands_drill_and_roll_back_through_the_gateway_of_a_file(
    tmp_path: Path, store, release, plan, capsys: pytest.CaptureFixture[str]
) -> None:
    Controller(store).launch(release, plan, now=0.0, **TRAFFIC)
    file = tmp_path / "gateway.yaml"

    async def command(*arguments: str) -> tuple[int, str]:
        whole = ["release", *arguments, "--by", "ada", "--gateway", str(file), "--home", str(store.root)]
        code = await asyncio.to_thread(invoke, whole)
        told = capsys.readouterr()
        return code, told.out + told.err

    async def test() -> None:
        async with workers(tmp_path, release, 1) as ((gateway,), _, _):
            file.write_text(FILE.format(port=1, role="operator"))
            code, told = await command("drill")
            assert code == 4 and "http://127.0.0.1:1 gave no answer to a probe: start the gateway" in told
            assert Controller(store).table().version == 1, "nothing was rehearsed, so nothing was written"
            file.write_text(FILE.format(port=gateway.url.rpartition(":")[2], role="agent"))
            code, told = await command("drill")
            assert code != 0 and "role: operator" in told
            file.write_text(FILE.format(port=gateway.url.rpartition(":")[2], role="operator"))
            code, told = await command("drill")
            assert code == 0 and "drill:   in " in told
            users = asyncio.create_task(ask_for_ever(gateway))
            code, told = await command("rollback", "--reason", "worse")
            users.cancel()
            assert code == 0 and "users:   on the version in force after" in told

    go(test)


async def ask_for_ever(gateway: Running) -> None:
    for i in itertools.count():
        await gateway.chat("hi", path=f"/s/u{i}/v1/chat/completions")
        await asyncio.sleep(0.02)


def test_a_worker_that_is_gone_verifies_nothing(tmp_path: Path, store, release, plan) -> None:
    Controller(store).launch(release, plan, now=0.0, **TRAFFIC)

    async def test() -> None:
        gone = "http://127.0.0.1:1"
        async with workers(tmp_path, release, 1) as ([gateway], _, _):
            with RunningGateway([gateway.url, gone], KEYS["OPERATOR_KEY"]) as seen:
                answers = await asyncio.to_thread(seen.probe, "k")
                assert answers == [Answer(gateway.url, 1, release.baseline), Answer(gone, 0, "")]
                with pytest.raises(ReleaseError, match=r"127\.0\.0\.1:1 does not tell"):
                    await asyncio.to_thread(seen.observed, release.candidate, time.time())
                with pytest.raises(ReleaseError, match="60 s"):
                    await asyncio.to_thread(asking(gateway).observed, release.candidate, 0.0)

    go(test)


def test_each_worker_needs_an_address(tmp_path: Path) -> None:
    upstreams = {"a": {"url": "https://a.example/v1"}}
    shared = settings(tmp_path, upstreams, workers=4)
    with pytest.raises(ConfigError, match="worker_port"):
        _ = shared.worker_addresses
    assert settings(tmp_path, upstreams, workers=2, worker_port=9464).worker_addresses == (
        "http://127.0.0.1:9464",
        "http://127.0.0.1:9465",
    )
    assert settings(tmp_path, upstreams).worker_addresses == ("http://127.0.0.1:8080",)
    agents = shared.model_copy(update={"keys": shared.keys[:1]})
    with pytest.raises(ConfigError, match="role: operator"):
        RunningGateway.of(agents)
