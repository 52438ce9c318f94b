"""When groups of attempts begin and when batches of them are trained: a pure state machine, no clock, no I/O.

    admit() ──▶ open ──finish(group)──▶ finished ──take()──▶ a batch ──trained()──▶ version + 1

Groups are numbered in the order of the plan; a batch is `batch_size` of them. Staleness is bounded where groups are
admitted: with k = `max_off_policy_steps`, at most (version + 1 + k) batches of groups are admitted in all (AReaL,
arXiv 2505.24298), so at most k+1 batches are queued, in flight or in training, and what began is trained, however long
it took (invariant 4). k = 0 is synchronous training.

What was decided is a list of events. A schedule that is given such a list follows it: the same groups begin on the same
versions and are trained in the same batches, whatever order they finish in; where the list ends it decides for itself.
A resumed run follows its own log, a replay the log of another run, reference mode the list `in_step`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flyball.errors import ConfigError


@dataclass(frozen=True)
class Admitted:
    """Group `group` began on policy version `version`."""

    group: int
    version: int


@dataclass(frozen=True)
class Taken:
    """These groups were given to the trainer whose weights were version `version`."""

    groups: tuple[int, ...]
    version: int


Event = Admitted | Taken


class Schedule:
    """The decisions of one training run of `num_steps` batches. Not thread-safe.

    `max_versions` bounds how many versions open groups may be on (engines hold weights for each); None = no bound. When
    all are taken, nothing is admitted until the last group of one of them ends. `events` are followed; those before
    weights of `version` existed are taken as done. Raises ConfigError for events of another plan.
    """

    def __init__(
        self,
        num_steps: int,
        batch_size: int,
        max_off_policy_steps: int = 0,
        *,
        max_versions: int | None = None,
        events: Sequence[Event] = (),
        version: int = 0,
    ) -> None:
        if num_steps < 1 or batch_size < 1 or max_off_policy_steps < 0:
            raise ConfigError(
                f"num_steps {num_steps} and batch_size {batch_size} must be at least 1, "
                f"max_off_policy_steps {max_off_policy_steps} at least 0"
            )
        self.num_steps, self.batch_size, self.max_off_policy_steps = num_steps, batch_size, max_off_policy_steps
        self.version = version
        self._max_versions = max_versions
        self._num_admitted = 0
        self._open: dict[int, int] = {}
        self._finished: list[int] = []
        self._in_training: tuple[int, ...] = ()
        self._script = deque(event for event in events if event.version >= version)
        for event in events:
            if event.version < version:
                self._begin_from(event)

    @property
    def open(self) -> dict[int, int]:
        """Groups that began and are not finished, with the version each began on."""
        return dict(self._open)

    @property
    def num_outstanding(self) -> int:
        """Groups that began and are not trained; at most (k+1) x batch_size."""
        return len(self._open) + len(self._finished) + len(self._in_training)

    def admit(self) -> Admitted | None:
        """Begin the next group now, or return None when none may begin yet."""
        head = self._script[0] if self._script else self._next()
        if not isinstance(head, Admitted) or head.version != self.version or not self._has_room():
            return None
        if head.group != self._num_admitted:
            raise ConfigError(
                f"the schedule to follow admits group {head.group} where group {self._num_admitted} is next; "
                "follow the log of a run with the same plan"
            )
        if self._script:
            self._script.popleft()
        self._num_admitted += 1
        self._open[head.group] = head.version
        return head

    def finish(self, group: int) -> None:
        """All attempts of an open group are done. Raises KeyError for a group that is not open."""
        del self._open[group]
        self._finished.append(group)

    def take(self) -> Taken | None:
        """Take the batch that the trainer gets next, or return None: the first `batch_size` groups that finished."""
        if self._in_training:
            return None
        if self._script:
            head = self._script[0]
            if not isinstance(head, Taken) or not set(head.groups) <= set(self._finished):
                return None
            self._script.popleft()
        elif len(self._finished) < self.batch_size:
            return None
        else:
            head = Taken(tuple(sorted(self._finished[: self.batch_size])), self.version)
        taken = set(head.groups)
        self._finished = [group for group in self._finished if group not in taken]
        self._in_training = head.groups
        return head

    @property
    def may_advance(self) -> bool:
        """Whether the version may go up: False while groups that began on this one, in what is followed, have not."""
        return not self._script or self._script[0].version > self.version

    def trained(self) -> None:
        """The batch that was taken is in the weights: the version goes up by one, when it may advance."""
        self._in_training = ()
        self.version += 1

    def _next(self) -> Admitted | None:
        """The next group when nothing is followed: as many as the bound on staleness allows."""
        allowed = min(self.num_steps, self.version + 1 + self.max_off_policy_steps) * self.batch_size
        return Admitted(self._num_admitted, self.version) if self._num_admitted < allowed else None

    def _has_room(self) -> bool:
        held = set(self._open.values())
        return self._max_versions is None or self.version in held or len(held) < self._max_versions

    def _begin_from(self, event: Event) -> None:
        if isinstance(event, Admitted):
            self._num_admitted += 1
            self._open[event.group] = event.version
            return
        if strangers := [group for group in event.groups if group not in self._open]:
            raise ConfigError(f"the schedule trains group {strangers[0]}, which it never began; its log is damaged")
        for group in event.groups:
            del self._open[group]


def in_step(num_steps: int, batch_size: int, max_off_policy_steps: int) -> Iterator[Event]:
    """The events of a run in which nothing depends on time: batch b begins on version max(0, b-k), step b trains it."""
    num_batches = 0
    for version in range(num_steps):
        while num_batches <= min(version + max_off_policy_steps, num_steps - 1):
            first = num_batches * batch_size
            yield from (Admitted(group, version) for group in range(first, first + batch_size))
            num_batches += 1
        yield Taken(tuple(range(version * batch_size, (version + 1) * batch_size)), version)
