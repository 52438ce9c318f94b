"""The schedule in every order of completion: bounded, complete, without a deadlock, followed to the letter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import ConfigError
from flyball.rollout.schedule import Admitted, Event, Schedule, Taken, in_step


@dataclass
class World:
    """Drives a schedule by drawn choices until nothing is left to do; `events` is what it decided."""

    schedule: Schedule
    draw: Random
    events: list[Event] = field(default_factory=list)
    training: bool = False
    most_outstanding: int = 0
    most_versions: int = 0

    def run(self, until: int | None = None) -> World:
        steps = self.schedule.num_steps
        while self.schedule.version < steps and (until is None or len(self.events) < until):
            assert self.move(), "no deadlock: something can always happen"
        return self

    def move(self) -> bool:
        moves = [self.admit, self.finish, self.take, self.trained]
        self.draw.shuffle(moves)
        moved = any(move() for move in moves)
        self.most_outstanding = max(self.most_outstanding, self.schedule.num_outstanding)
        self.most_versions = max(self.most_versions, len(set(self.schedule.open.values())))
        return moved

    def admit(self) -> bool:
        return self.note(self.schedule.admit())

    def take(self) -> bool:
        if self.training or not self.note(self.schedule.take()):
            return False
        self.training = True
        return True

    def finish(self) -> bool:
        if not self.schedule.open:
            return False
        self.schedule.finish(self.draw.choice(sorted(self.schedule.open)))
        return True

    def trained(self) -> bool:
        if not self.training or not self.schedule.may_advance:
            return False
        self.training = False
        self.schedule.trained()
        return True

    def note(self, event: Event | None) -> bool:
        if event is None:
            return False
        self.events.append(event)
        return True


plans = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3))
windows = st.none() | st.integers(1, 3)
seeds = st.integers(0, 2**32)


def begun_on(events: list[Event]) -> dict[int, int]:
    return {event.group: event.version for event in events if isinstance(event, Admitted)}


def batches(events: list[Event]) -> list[Taken]:
    return [event for event in events if isinstance(event, Taken)]


@given(plan=plans, window=windows, seed=seeds)
def test_in_every_order_all_is_trained_once_and_no_more_is_outstanding_than_k_plus_one_batches(plan, window, seed):
    num_steps, batch_size, k = plan
    world = World(Schedule(*plan, max_versions=window), Random(seed)).run()
    trained = Counter(group for batch in batches(world.events) for group in batch.groups)
    assert trained == Counter(range(num_steps * batch_size))
    assert world.most_outstanding <= (k + 1) * batch_size
    assert [batch.version for batch in batches(world.events)] == list(range(num_steps))
    assert all(len(batch.groups) == batch_size for batch in batches(world.events))
    assert world.most_versions <= (window or num_steps)
    assert world.schedule.num_outstanding == 0
    for group, version in begun_on(world.events).items():
        assert group // batch_size - version <= k, "by admission no group begins more than k batches ahead"


@given(plan=plans.map(lambda p: (*p[:2], 0)), seed=seeds)
def test_without_staleness_each_batch_is_its_own_tasks_by_the_weights_before_it(plan, seed):
    world = World(Schedule(*plan), Random(seed)).run()
    assert world.events == list(in_step(*plan))


@given(plan=plans, window=windows, seed=seeds, other=seeds)
def test_a_log_is_followed_in_any_order_of_completion(plan, window, seed, other):
    log = World(Schedule(*plan, max_versions=window), Random(seed)).run().events
    again = World(Schedule(*plan, max_versions=window, events=log), Random(other)).run()
    assert again.events == log


@given(plan=plans, window=windows, seed=seeds, other=seeds, cut=st.integers(0, 40), data=st.data())
def test_cut_anywhere_and_taken_up_at_any_version_it_ends_with_the_log_kept_and_all_trained_once(
    plan, window, seed, other, cut, data
):
    """Groups that began before the version it is taken up at are finished first, as kept attempts are."""
    log = World(Schedule(*plan, max_versions=window), Random(seed)).run(until=cut).events
    version = data.draw(st.integers(0, len(batches(log))))
    schedule = Schedule(*plan, max_versions=window, events=log, version=version)
    for group in sorted(schedule.open):
        schedule.finish(group)
    rest = World(schedule, Random(other)).run().events
    done = [event for event in log if event.version < version]
    whole = done + rest
    assert whole[: len(log)] == log
    assert Counter(g for b in batches(whole) for g in b.groups) == Counter(range(plan[0] * plan[1]))


@given(plan=plans, seed=seeds)
def test_in_step_is_a_schedule_that_can_be_followed_with_k_plus_one_versions(plan, seed):
    events = list(in_step(*plan))
    world = World(Schedule(*plan, max_versions=plan[2] + 1, events=events), Random(seed)).run()
    assert world.events == events
    assert all(begun_on(events)[g] == max(0, b.version - plan[2]) for b in batches(events) for g in b.groups)


def test_by_hand_a_slow_group_is_trained_late_and_nothing_waits_for_it():
    schedule = Schedule(3, 2, 1)
    assert [schedule.admit() for _ in range(5)] == [*(Admitted(g, 0) for g in range(4)), None]
    for group in (3, 1):
        schedule.finish(group)
    assert schedule.take() == Taken((1, 3), 0), "the first that finished, in the order of the plan"
    assert schedule.take() is None and schedule.admit() is None
    schedule.trained()
    assert [schedule.admit(), schedule.admit(), schedule.admit()] == [Admitted(4, 1), Admitted(5, 1), None]
    for group in (5, 2):
        schedule.finish(group)
    assert schedule.take() == Taken((2, 5), 1)
    schedule.trained()
    for group in (0, 4):
        schedule.finish(group)
    assert schedule.take() == Taken((0, 4), 2), "group 0 began on version 0: two versions old, not thrown away"


def test_when_every_version_is_in_use_the_next_waits_for_the_last_group_of_one():
    schedule = Schedule(4, 1, 3, max_versions=1)
    assert [schedule.admit() for _ in range(2)] == [Admitted(0, 0), Admitted(1, 0)]
    schedule.finish(0)
    schedule.take()
    schedule.trained()
    assert schedule.admit() is None, "group 1 holds version 0"
    schedule.finish(1)
    assert schedule.admit() == Admitted(2, 1)


def test_a_log_of_another_plan_is_refused():
    with pytest.raises(ConfigError, match="admits group 3 where group 0 is next"):
        Schedule(2, 2, events=[Admitted(3, 0)]).admit()
    with pytest.raises(ConfigError, match="trains group 1, which it never began"):
        Schedule(2, 2, events=[Admitted(0, 0), Taken((0, 1), 0)], version=1)
    with pytest.raises(ConfigError, match="max_off_policy_steps -1"):
        Schedule(2, 2, -1)
