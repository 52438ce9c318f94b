"""Which engine answers for which version of the policy while attempts run ahead of the learner.

`OwnVersion`: a trajectory ends on the version that began it. An engine holds one version; there are as many engines as
versions in use, one of them for validation. `InFlight`: one engine, always the newest weights; every token carries
the version that sampled it.

Versions are the steps of training: version 0 are the weights that training began with, version n those of step n. The
number that an engine stamps on its tokens is the learner's, which also counts several updates on one batch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from flyball.engine.protocol import Engine
from flyball.errors import TrainError
from flyball.models.threads import in_thread
from flyball.types import WeightsRef


@dataclass(frozen=True)
class Weights:
    """What an engine is given: the state and the number it stamps on tokens."""

    state: Mapping[str, Any]
    stamp: int


class MemoryEngine(Engine, Protocol):
    """An engine that takes weights from memory."""

    def use_weights(self, state: Any, version: int) -> None:
        """Use these weights from now on."""
        ...


class Follower(Protocol):
    """An engine that can be brought to the learner's weights."""

    @property
    def engine(self) -> Engine: ...

    async def follow(self) -> None:
        """Give the engine the learner's weights of this moment. Raises EngineError where it does not take them."""
        ...


class FromMemory:
    """`weights()` returns the learner's weights of this moment; the engine copies them, between two decode steps."""

    def __init__(self, engine: MemoryEngine, weights: Callable[[], Weights]) -> None:
        self.engine, self._weights = engine, weights

    async def follow(self) -> None:
        """See Follower. In a thread: the event loop goes on."""
        weights = self._weights()
        await in_thread(self.engine.use_weights, weights.state, weights.stamp)


class FromFolder:
    """For an engine that reads weights from a disk. `publish(path)` writes the learner's weights of this moment.

    The folder of a version is removed when the next one is loaded. Weights that are loaded are not written again:
    `version()` says which the learner has.
    """

    def __init__(
        self, engine: Engine, publish: Callable[[Path], WeightsRef], version: Callable[[], int], folder: Path
    ) -> None:
        self.engine, self._publish, self._version, self._folder = engine, publish, version, folder
        self._loaded: Path | None = None

    async def follow(self) -> None:
        """See Follower."""
        path = self._folder / f"version-{self._version()}"
        if path == self._loaded:
            return
        shutil.rmtree(path, ignore_errors=True)  # left by a process that was killed here
        ref = await in_thread(self._publish, path)
        await self.engine.load_weights(replace(ref, path=str(path.resolve())))
        before, self._loaded = self._loaded, path
        if before is not None:
            shutil.rmtree(before)


class Serving(Protocol):
    """`in_use` are the versions of the groups that are open."""

    @property
    def needs_old_weights(self) -> bool:
        """Whether an attempt must end on the version that began its group."""
        ...

    @property
    def max_versions(self) -> int | None:
        """How many versions open groups may be on; None = any number."""
        ...

    async def publish(self, version: int) -> None:
        """The learner's weights of this moment are `version`, the newest."""
        ...

    def hold(self, version: int, in_use: Collection[int]) -> None:
        """A group begins on the newest version and needs it until its end."""
        ...

    def engine(self, version: int) -> Engine:
        """Return the engine for an attempt of a group that began on `version`."""
        ...

    async def judge(self) -> Engine:
        """Return an engine with the newest weights, for validation."""
        ...

    async def close(self) -> None: ...


@dataclass
class _Holder:
    engine: MemoryEngine
    version: int


class OwnVersion:
    """See above. `weights()` returns a copy of the learner's weights of this moment.

    A version that no group uses any more gives its engine to the next. At most `max_versions` engines serve groups.
    """

    needs_old_weights = True

    def __init__(
        self, new_engine: Callable[[], MemoryEngine], weights: Callable[[], Weights], max_versions: int
    ) -> None:
        self._new_engine, self._weights, self.max_versions = new_engine, weights, max_versions
        self._holders: list[_Holder] = []
        self._judge: MemoryEngine | None = None
        self._newest = -1
        self._published = Weights({}, 0)

    async def publish(self, version: int) -> None:
        """See Serving."""
        self._newest, self._published = version, await in_thread(self._weights)

    def hold(self, version: int, in_use: Collection[int]) -> None:
        """See Serving. Raises TrainError for a version that no engine holds and that is not the newest."""
        if any(holder.version == version for holder in self._holders):
            return
        if version != self._newest:
            raise TrainError(
                f"a group needs weights of version {version}, and the newest are {self._newest}; "
                "resume from a checkpoint that is not after it"
            )
        free = next((holder for holder in self._holders if holder.version not in in_use), None)
        if free is None:
            free = _Holder(self._new_engine(), version)
            self._holders.append(free)
        free.engine.use_weights(self._published.state, self._published.stamp)
        free.version = version

    def engine(self, version: int) -> Engine:
        """See Serving."""
        return next(holder.engine for holder in self._holders if holder.version == version)

    async def judge(self) -> Engine:
        """See Serving. It is an engine that no group uses: their arithmetic must not depend on validation."""
        self._judge = self._judge or self._new_engine()
        self._judge.use_weights(self._published.state, self._published.stamp)
        return self._judge

    @property
    def num_engines(self) -> int:
        """Engines that serve groups, so far."""
        return len(self._holders)

    async def close(self) -> None:
        for engine in [*(holder.engine for holder in self._holders), *([self._judge] if self._judge else [])]:
            await engine.close()


class InFlight:
    """See above."""

    needs_old_weights = False
    max_versions = None

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def publish(self, version: int) -> None:
        """See Serving."""
        await self._follower.follow()

    def hold(self, version: int, in_use: Collection[int]) -> None:
        """Nothing to hold: every group goes on with the newest weights."""

    def engine(self, version: int) -> Engine:
        """See Serving."""
        return self._follower.engine

    async def judge(self) -> Engine:
        """See Serving."""
        return self._follower.engine

    async def close(self) -> None:
        await self._follower.engine.close()
