"""The drill counts only the way back, believes only tokens, and leaves the old version in the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from flyball.engine.fake import FakeEngine
from flyball.errors import EngineError, ReleaseError
from flyball.release.registry import PRODUCTION, Registry, new_version, weights_digest
from flyball.release.rollback import DRILL_ALIAS, drill_rollback, loader
from flyball.store.store import Store
from flyball.types import Attempt, Call, PolicyVersion, StopReason, Task, Trajectory


@dataclass
class Bench:
    """An engine, a probe and a clock that advance only when told: loading takes 2 s, probing 1 s."""

    now: float = 0.0
    loaded: list[str] = field(default_factory=list)
    number: int = 0
    probes: int = 0
    stop: StopReason = StopReason.ANSWERED
    broken: frozenset[int] = frozenset()  # loads that fail, counted from 0
    stuck: bool = False  # the engine goes on answering with its first version
    same_number: bool = False

    def clock(self) -> float:
        return self.now

    async def load(self, version: PolicyVersion) -> int:
        self.loaded.append(version.name)
        if len(self.loaded) - 1 in self.broken:
            raise EngineError("out of memory")
        self.now += 2.0
        self.number = 1 if self.same_number else self.number + 1
        return self.number

    async def probe(self) -> Attempt:
        self.now += 1.0
        self.probes += 1
        number = 1 if self.stuck else self.number
        call = Call("c", None, "main", (1,), (2, 3), (0.0, 0.0), (number, number), {}, "stop", {"role": "assistant"})
        return Attempt(f"probe-{self.probes}", Task("t", {}), Trajectory((call,), self.stop), ())


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def versions(store, tmp_path):
    made = []
    for name in ("old", "new"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model").write_text(name)
        made.append(new_version(name=name, weights=weights_digest(folder), base="b", path=str(folder)))
        Registry(store).register(made[-1])
    return made


def drill(store, versions, bench, **changes):
    old, new = versions
    run = drill_rollback(
        Registry(store), baseline=old, candidate=new, load=bench.load, probe=bench.probe, clock=bench.clock, **changes
    )
    return asyncio.run(run)


def test_only_the_way_back_is_timed_and_the_old_version_answers(store, versions):
    bench = Bench()
    found = drill(store, versions, bench)
    assert found.verified and found.seconds == 3.0 and found.probe_attempt == "probe-2"
    assert sum(step.seconds for step in found.steps) == 6.0
    assert [step.name for step in found.steps if step.counts] == [
        "alias to old",
        "check weights of old",
        "load weights of old",
        "probe answered by old",
    ]
    old, new = versions
    assert [move.version_id for move in store.alias_history(DRILL_ALIAS)] == [
        old.version_id,
        new.version_id,
        old.version_id,
    ]
    assert store.alias(PRODUCTION) is None


def test_an_engine_that_goes_on_with_other_weights_is_caught(store, versions):
    found = drill(store, versions, Bench(stuck=True))
    assert not found.verified and "answered by engine versions [1]" in found.problem


def test_two_versions_under_one_number_cannot_be_told_apart(store, versions):
    assert "cannot be told apart" in drill(store, versions, Bench(same_number=True)).problem


@pytest.mark.parametrize(("stop", "verified"), [(StopReason.MAX_TURNS, True), (StopReason.ENGINE_ERROR, False)])
def test_a_probe_must_be_answered_but_not_well(store, versions, stop, verified):
    assert drill(store, versions, Bench(stop=stop)).verified is verified


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failed_load_is_a_failed_drill_and_the_old_weights_are_back(store, versions, failing):
    bench = Bench(broken=frozenset({failing}))
    found = drill(store, versions, bench)
    assert not found.verified and "out of memory" in found.problem and found.probe_attempt == ""
    assert bench.loaded[-1] == "old" and store.alias(DRILL_ALIAS) == versions[0].version_id


def test_weights_that_changed_on_disk_fail_the_drill(store, versions, tmp_path):
    (tmp_path / "old" / "model").write_text("other")
    assert "not those that were evaluated" in drill(store, versions, Bench()).problem


def test_a_load_that_hangs_ends_the_drill(store, versions):
    bench = Bench()
    load = bench.load

    async def hang_on_new(version: PolicyVersion) -> int:
        if version.name == "new":
            await asyncio.Event().wait()
        return await load(version)

    bench.load = hang_on_new
    found = drill(store, versions, bench, step_seconds=0.05)
    assert not found.verified and "longer than 0.05 s" in found.problem


def test_old_weights_that_cannot_be_put_back_are_an_error(store, versions):
    with pytest.raises(ReleaseError, match="must not serve"):
        drill(store, versions, Bench(broken=frozenset({0, 1})))


def test_a_drill_never_touches_production(store, versions):
    with pytest.raises(ReleaseError, match="unproven candidate"):
        drill(store, versions, Bench(), alias=PRODUCTION)


def test_a_version_is_not_rolled_back_to_itself(store, versions):
    with pytest.raises(ReleaseError, match="nothing to roll back"):
        drill(store, [versions[0], versions[0]], Bench())


def test_a_probe_that_is_not_run_anew_proves_nothing(store, versions):
    bench = Bench()
    probe = bench.probe

    async def remembered() -> Attempt:
        bench.probes = 0
        return await probe()

    bench.probe = remembered
    assert "run anew" in drill(store, versions, bench).problem


def test_a_loader_gives_each_version_a_number_of_its_own(store, versions):
    old, new = versions
    engine = FakeEngine(["done"], version=4)
    load = loader(engine)
    assert [asyncio.run(load(version)) for version in (new, old)] == [5, 6] and engine.version == 6
