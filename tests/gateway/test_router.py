"""Who answers a session: sticky by the table, and everything that can only make it more careful."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.capture.openai_form import BadRequest
from flyball.errors import StoreError
from flyball.gateway import serve
from flyball.gateway.request import Caller
from flyball.gateway.router import Router, SessionCut
from flyball.gateway.settings import RoutingSettings
from flyball.release.routing import RoutingTable
from flyball.store.audit import Act
from flyball.store.store import Store

AGENT, OPERATOR = Caller("shop", "agent", frozenset()), Caller("shop", "operator", frozenset())
TABLE = RoutingTable(
    version=1,
    release_id="r1",
    stage="canary",
    stable="old",
    candidate="new",
    share=0.5,
    salt="00ff",
    unit="session",
    plan="p",
    since=0.0,
)


def canary_key(table: RoutingTable = TABLE) -> str:
    return next(f"s{i}" for i in range(1000) if table.arm(f"s{i}") == "canary")


class Tables:
    """A source of tables; None = it cannot be reached."""

    def __init__(self, table: RoutingTable | None = TABLE) -> None:
        self.table = table
        self.down = False

    def __call__(self) -> RoutingTable | None:
        if self.down:
            raise StoreError("the database cannot be reached")
        return self.table


def router(tables: Tables | None, tmp_path: Path | None = None, **more: float) -> Router:
    kill = str((tmp_path or Path("/nonexistent")) / "KILL")
    made = Router(RoutingSettings(kill_file=kill, **more), tables)
    asyncio.run(made.look())
    return made


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20), st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_a_ramp_moves_no_session_that_began(session: str, before: float, after: float) -> None:
    tables = Tables(replace(TABLE, share=before))
    made = router(tables)
    first = made.assign(AGENT, session, "", "")
    assert first.arm == tables.table.arm(session) and first.version == tables.table.serves(session)
    tables.table = replace(TABLE, version=2, share=max(before, after))
    asyncio.run(made.look())
    assert made.assign(AGENT, session, "", "").arm == first.arm
    if first.arm != "stable":  # nor does another worker, which does not know the session
        assert router(tables).assign(AGENT, session, "", "").arm == first.arm


def test_arms_are_in_the_statistics_and_the_rest_is_not() -> None:
    made = router(Tables(replace(TABLE, share=0.25)))
    given_ = [made.assign(AGENT, f"s{i}", "", "") for i in range(400)]
    arms = Counter(each.arm for each in given_)
    assert 60 < arms["canary"] < 140 and 60 < arms["holdback"] < 140
    assert {(each.arm, each.in_experiment) for each in given_} == {
        ("stable", False),
        ("holdback", True),
        ("canary", True),
    }


def test_the_kill_switch_needs_no_table_and_goes_first(tmp_path: Path) -> None:
    tables, session = Tables(), canary_key()
    made = router(tables, tmp_path)
    assert made.assign(AGENT, session, "", "").version == "new"
    tables.down = True
    (tmp_path / "KILL").touch()
    killed = made.assign(AGENT, session, "", "")
    assert (killed.arm, killed.version, killed.reason) == ("stable", "old", "kill")
    assert made.assign(OPERATOR, session, "", "canary").version == "old"
    (tmp_path / "KILL").unlink()
    made.killed_by_signal = True
    assert made.assign(AGENT, session, "", "").reason == "kill"
    made.killed_by_signal = False
    assert made.assign(AGENT, session, "", "").version == "new"


def test_without_a_look_for_the_lease_everybody_gets_the_version_in_force() -> None:
    tables, now = Tables(), [0.0]
    made = Router(RoutingSettings(kill_file="/nonexistent/KILL", lease_seconds=60), tables, lambda: now[0])
    asyncio.run(made.look())
    tables.down = True
    now[0] = 60.0
    asyncio.run(made.look())
    assert made.failures == 1 and not made.stale
    assert made.assign(AGENT, canary_key(), "", "").version == "new"
    now[0] = 60.1
    given_ = made.assign(AGENT, canary_key(), "", "")
    assert (given_.arm, given_.version, given_.reason) == ("stable", "old", "lease")
    tables.down = False
    asyncio.run(made.look())
    assert made.assign(AGENT, canary_key(), "", "").version == "new"


def test_an_older_table_is_not_taken() -> None:
    tables = Tables(replace(TABLE, version=5))
    made = router(tables)
    tables.table = replace(TABLE, version=4, share=0.0)
    asyncio.run(made.look())
    assert made.table.version == 5


@pytest.mark.parametrize("policy", ["finish", "switch", "cut"])
def test_a_release_taken_back_ends_sessions_as_its_policy_says(policy: str) -> None:
    tables, session = Tables(), canary_key()
    made = router(tables)
    made.assign(AGENT, session, "", "")
    tables.table = replace(TABLE, version=2, stage="rolled_back", share=0.0, sessions=policy)
    asyncio.run(made.look())
    fresh = made.assign(AGENT, "another", "", "")
    assert (fresh.arm, fresh.version) == ("stable", "old")
    if policy == "cut":
        with pytest.raises(SessionCut, match="r1 was taken back"):
            made.assign(AGENT, session, "", "")
    else:
        after = made.assign(AGENT, session, "", "")
        # It stays in the canary arm, whoever answers: that is where its outcome counts.
        assert (after.arm, after.version) == ("canary", "new" if policy == "finish" else "old")


def test_after_promotion_everybody_gets_the_candidate() -> None:
    made = router(Tables(replace(TABLE, stage="general", share=0.0)))
    assert made.assign(AGENT, "s", "", "").version == "new"
    made.killed_by_signal = True  # the experiment is over: there is nothing to take back to
    assert made.assign(AGENT, "s", "", "").version == "new"


def test_taken_back_after_the_promotion_everybody_gets_the_old_version() -> None:
    tables, began_in_canary = Tables(), canary_key()
    made = router(tables)
    made.assign(AGENT, began_in_canary, "", "")
    tables.table = replace(TABLE, version=2, stage="general", share=0.0)
    asyncio.run(made.look())
    assert made.assign(AGENT, "began later", "", "").version == "new"
    tables.table = replace(TABLE, version=3, stage="rolled_back", share=0.0, sessions="switch")
    asyncio.run(made.look())
    served = {made.assign(AGENT, name, "", "").version for name in (began_in_canary, "began later", "begins now")}
    assert served == {"old"}


def test_pins_are_for_operators_and_out_of_the_statistics() -> None:
    made = router(Tables())
    pinned = made.assign(OPERATOR, "s", "", "canary")
    assert (pinned.arm, pinned.version, pinned.in_experiment) == ("canary", "new", False)
    for caller, pin, code in ((AGENT, "canary", "pin_not_allowed"), (OPERATOR, "shadow", "unknown_arm")):
        with pytest.raises(BadRequest) as refused:
            made.assign(caller, "s", "", pin)
        assert refused.value.code == code


def test_by_user_all_sessions_of_a_user_are_on_one_arm() -> None:
    made = router(Tables(replace(TABLE, unit="user")))
    for user in map(str, range(40)):
        assert len({made.assign(AGENT, f"{user}-{i}", user, "").arm for i in range(4)}) == 1
    nobody = made.assign(AGENT, "s", "", "")
    assert (nobody.arm, nobody.reason, nobody.in_experiment) == ("stable", "no_key", False)


def test_without_releases_the_default_serves() -> None:
    for made in (router(None), router(Tables(None))):
        assert made.assign(AGENT, "s", "", "").version == ""


def test_the_table_comes_from_the_store(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        look = serve.Tables(str(tmp_path))
        assert look() is None
        store.add_route(1, TABLE.release_id, TABLE.to_json(), Act(action="route", actor="ada", at=0.0, subject="r1"))
        assert look() == TABLE
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):  # which the router counts: it serves what is in force
        serve.Tables(str(tmp_path / "file"))()
