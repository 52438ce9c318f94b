"""The shadow of a release: from what a gateway recorded to the gate, the hold and the record that is verified."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from flyball.cli.main import invoke
from flyball.gateway.shadow_facts import LATE_SECONDS, shadowed_sessions
from flyball.release.approvals import ROLES, record_approval
from flyball.release.controller import Controller
from flyball.release.shadow import ShadowAnswer
from flyball.reports.release_brief import _watched
from tests.gateway.servers import KEYS, Mock, Running, go, json_answer, running, text_answer, tool_call
from tests.gateway.test_shadow import settled
from tests.release.conftest import TRAFFIC, drilled
from tests.store.served import call, spooled

FOREVER = 10**10


@pytest.fixture
def controller(store, release, plan, owners) -> Controller:
    """In shadow since now, on the gateway's clock; drilled and approved."""
    now, made = time.time(), Controller(store)
    made.launch(release, plan, now=now, **TRAFFIC)
    made.record_drill(drilled(release), now=now)
    for role in ROLES:
        record_approval(store, owners.signs(release, plan, role, expires=FOREVER), now)
    return made


@pytest.fixture
def said(store, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str, code: int = 0) -> str:
        assert invoke([*arguments, "--home", str(store.root)]) == code, capsys.readouterr()
        found = capsys.readouterr()
        return found.out + found.err

    return run


def looking(asked: dict[str, Any]) -> Any:
    return json_answer(text_answer("", tool_calls=[tool_call("look")]))


def failing(asked: dict[str, Any]) -> Any:
    """Breaks down, but for those who ask kindly."""
    return looking(asked) if "please" in asked["messages"][0]["content"] else json_answer({}, 500)


async def asked(gateway: Running, name: str, *messages: Any, **more: Any) -> None:
    assert (await gateway.chat(*messages, path=f"/s/{name}/v1/chat/completions", **more)).status_code == 200


# --- through the gateway ---------------------------------------------------------------------------------------------


def test_a_tick_reads_the_shadow_of_a_running_gateway_and_holds_until_it_is_enough(
    tmp_path: Path, store, release, plan, controller, said
) -> None:
    upstreams = {release.baseline: Mock(looking), release.candidate: Mock(looking)}
    shadows = lambda: [(one.detail["state"], one.detail["compared"]) for one in store.acts("shadow")]  # noqa: E731

    async def test() -> None:
        async with running(tmp_path, upstreams) as gateway:
            for i in range(3):
                await asked(gateway, f"s{i}", "hi")
            await gateway.frames("call", 6)
            found = await asyncio.to_thread(said, "release", "tick")
            assert "not_evaluable  shadow_agreement (Platform): fewer than 30" in found
            assert "3 of 3 chosen sessions compared" in found and "hold: held by shadow_agreement" in found
            refused = await asyncio.to_thread(said, "release", "canary", "--by", "ada", code=4)
            assert "shadow_agreement (Platform) not_evaluable" in refused
            pin = {"authorization": f"Bearer {KEYS['OPERATOR_KEY']}", "x-flyball-pin": "stable"}
            await asked(gateway, "pinned", "hi", headers=pin)
            for i in range(3, 33):
                await asked(gateway, f"s{i}", "hi")
                await settled(gateway, same=i + 1)
            await gateway.frames("call", 67)

    go(test)
    found = said("release", "tick")
    assert "pass           shadow_agreement (Platform): +100.0 points, at least +89.6, n=33" in found
    assert "33 of 33 chosen sessions compared; 33 with a tool call; agreement 100.0 % [89.6, 100.0], n=33" in found
    assert "move:    stay: a named person begins the canary" in found
    said("release", "tick")
    assert shadows() == [("not_evaluable", 3), ("not_evaluable", 3), ("pass", 33)], "what is known is not told again"
    assert "canary at 5 %" in said("release", "canary", "--by", "ada")
    assert _watched(None, None, store.acts())["shadow_agreement"] == "pass"
    assert shadows()[3:] == [("pass", 33)], "the canary rests on the last look"
    assert said("verify", release.release_id).count("same") == 5


def test_copies_that_fail_count_against_the_candidate_until_the_owner_waives_it(
    tmp_path: Path, store, release, plan, owners, controller, said
) -> None:
    upstreams = {release.baseline: Mock(looking), release.candidate: Mock(failing)}

    async def test() -> None:
        async with running(tmp_path, upstreams, shadow={"concurrency": 64}) as gateway:
            for i in range(32):
                await asked(gateway, f"s{i}", "hi, please" if i % 4 == 0 else "hi", user=f"u{i // 2}")
            await settled(gateway, same=8, failed=24)
            assert len(upstreams[release.candidate].bodies) == 32

    go(test)
    found = said("release", "tick")
    assert "fail           shadow_agreement (Platform): +25.0 points" in found and "hold: held by" in found
    assert "agreement 25.0 %" in found and "32 with a tool call" in found
    comparison = shadowed_sessions(store, controller.table(), now=time.time()).comparison
    assert comparison is not None and (comparison.agreement.n, comparison.agreement.clusters) == (32, 16)
    waiver = owners.signs(release, plan, "Platform", gate="shadow_agreement", expires=FOREVER)
    record_approval(store, waiver, time.time())
    assert "stay: a named person begins" in said("release", "tick")
    controller.begin_canary(plan, by="ada", now=time.time())


def test_a_copy_without_a_record_is_awaited_and_then_a_failure(tmp_path: Path, store, release, controller) -> None:
    late = Mock(lambda asked: json_answer(text_answer("ok"), delay=30.0))

    async def test() -> None:
        async with running(tmp_path, {release.baseline: Mock(looking), release.candidate: late}) as gateway:
            await asked(gateway, "s1", "hi")
            await gateway.app._shadow.close()  # what a stop does first
            assert gateway.app._shadow.counts == {}, "the copy was dropped before anything could be said of it"

    go(test)
    for folder in (store.root / "spool").iterdir():
        store.ingest(folder)
    soon = shadowed_sessions(store, controller.table(), now=time.time())
    assert soon.pairs == () and soon.chosen == 1
    (pair,) = shadowed_sessions(store, controller.table(), now=time.time() + 2 * LATE_SECONDS).pairs
    assert not pair.shadow.ended


# --- which turns count -----------------------------------------------------------------------------------------------


def turn(release, name: str, i: int, said: str, stable: str = "", tools: str = "", **given: Any) -> list[Any]:
    """A call of a session and its copy (`said` of it; what is no word of an answer: why it was not sent)."""
    about = {"release_id": release.release_id, "at": time.time() + 1.0, "upstream_seconds": 0.5}
    first = call(f"{name}{i}", name, arm="stable", version=release.baseline, **about, shadow="sent")
    if said in ("busy", "budget", "no upstream", "after divergence"):
        return [("call", {**first, "shadow": said, **given})]
    check = {"kind": "shadow", "name": "agreement", "said": said, "stable": stable.split(), "tools": tools.split()}
    copy = {**first, "call_id": f"{name}{i}s", "arm": "shadow", "version": release.candidate, "shadow": None}
    return [("call", {**first, **given}), ("call", {**copy, "shadow_of": f"{name}{i}", "checks": [check]})]


def pairs_of(store, controller, *frames: Any) -> dict[str, Any]:
    store.ingest(spooled(store.root / "spool" / "0", *frames, arm="stable"))
    found = shadowed_sessions(store, controller.table(), now=time.time() + 100.0)
    return {"chosen": found.chosen, **{pair.key: (pair.stable, pair.shadow) for pair in found.pairs}}


def test_a_session_is_compared_from_its_first_turn_until_the_two_act_otherwise(store, release, controller) -> None:
    agree = [*turn(release, "a", 1, "text"), *turn(release, "a", 2, "same", "look", "look", user="ann")]
    agree[0][1]["user"] = "ann"
    otherwise = [
        *turn(release, "b", 1, "number", "look", "look refund"),
        *turn(release, "b", 2, "same", "pay", "pay"),  # another worker did not know
        *turn(release, "b", 3, "after divergence"),
    ]
    broken = [*turn(release, "c", 1, "same"), *turn(release, "c", 2, "failed", "look")]
    found = pairs_of(store, controller, *agree, *otherwise, *broken)
    assert found == {
        "chosen": 3,
        "ann": (ShadowAnswer(("look",), 1.0), ShadowAnswer(("look",), 1.0)),
        "shop~b": (ShadowAnswer(("look",), 0.5), ShadowAnswer(("look", "refund"), 0.5)),
        "shop~c": (ShadowAnswer(("look",), 0.5), ShadowAnswer((), 0.5, ended=False)),
    }


def test_a_session_without_a_tool_call_counts_when_it_has_been_silent(store, release, controller) -> None:
    """It may call its first tool yet; one whose copy failed is decided."""
    silent, broken = turn(release, "a", 1, "same"), turn(release, "b", 1, "failed")
    assert set(pairs_of(store, controller, *silent, *broken)) == {"chosen", "shop~b"}
    found = shadowed_sessions(store, controller.table(), now=time.time() + 2 * LATE_SECONDS)
    assert {pair.key: pair.shadow.ended for pair in found.pairs} == {"shop~a": True, "shop~b": False}


def test_what_was_not_sent_is_nobodys_and_leaves_out_a_session_without_a_tool_call(store, release, controller) -> None:
    unknown = [*turn(release, "a", 1, "text"), *turn(release, "a", 2, "busy"), *turn(release, "a", 3, "same", "x", "x")]
    known = [*turn(release, "b", 1, "same", "look", "look"), *turn(release, "b", 2, "budget")]
    unread = turn(release, "c", 1, "failed", problem="the stream ended before its answer did")
    elsewhere = turn(release, "d", 1, "same", "look", "look", version="fallback")
    found = pairs_of(store, controller, *unknown, *known, *unread, *elsewhere)
    assert set(found) == {"chosen", "shop~b"} and found["chosen"] == 4


def test_other_releases_later_stages_and_old_rows_are_not_counted(store, release, plan, controller) -> None:
    other = [("call", {**frame, "release_id": "another"}) for _, frame in turn(release, "a", 1, "same", "x", "x")]
    old = [("call", {k: v for k, v in f.items() if k != "shadow"}) for _, f in turn(release, "b", 1, "same", "x", "x")]
    del old[1][1]["checks"][0]["tools"]
    canary = [("call", {**frame, "arm": "canary"}) for _, frame in turn(release, "c", 1, "busy")]
    assert pairs_of(store, controller, *other, *old, *canary) == {"chosen": 0}
    controller.begin_canary(plan, by="ada", now=time.time())
    late = turn(release, "d", 1, "same", "x", "x")  # a worker that still went by the table before
    store.ingest(spooled(store.root / "spool" / "1", *late, arm="stable"))
    assert shadowed_sessions(store, controller.table(), now=time.time() + 100.0).chosen == 0


def test_a_tick_needs_no_file_at_any_stage(tmp_path: Path, store, plan, controller, said) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text('{"session_id": "s", "key": "s", "arm": "canary", "assigned_at": 0, "ended_at": 3}')
    assert "leave SESSIONS.jsonl out" in said("release", "tick", str(file), code=2)
    quiet = said("release", "tick")
    assert "0 of 0 chosen sessions compared" in quiet and "stay: a named person" in quiet and not store.acts("shadow")
    controller.begin_canary(plan, by="ada", now=time.time())
    assert "0 units in 0 blocks" in said("release", "tick"), "no gateway served anything"
    assert "not_evaluable  shadow_agreement" in said("release", "tick", str(file))
