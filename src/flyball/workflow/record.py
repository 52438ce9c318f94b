"""What the store knows about one run, read back as evidence: the same for the gates, the pages and `flyball show`.

Nothing here needs the user's files, so a run can be reported long after they changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flyball.errors import EvalError
from flyball.evals.compare import Verdict, compare
from flyball.evals.fresh import FRESH
from flyball.evals.slices import compare_slices, decisive, verdict_with
from flyball.release.evidence import Evidence, TokenSpeed
from flyball.release.rollback import Drill, DrillStep
from flyball.rl.guards import Alarm
from flyball.store.runs import Run
from flyball.store.store import Store
from flyball.types import Comparison, EvalRun, PolicyVersion, Release

GUARD_SPOKE = "guard"
"""Kind of the event that an alarm leaves."""

STAGE_DONE = "stage"
"""Kind of the event that a finished stage leaves."""

BASELINE, CANDIDATE = "baseline", "candidate"


def finished_stages(store: Store, run_id: str) -> dict[str, dict[str, Any]]:
    """Return the results of the stages that are done, by name."""
    return {event.payload["name"]: event.payload["result"] for event in store.events(run_id, STAGE_DONE)}


@dataclass(frozen=True)
class Record:
    """One run in the store."""

    store: Store
    run: Run

    @classmethod
    def of(cls, store: Store, run_id: str) -> Record:
        """Read a run by its id or the beginning of it. Raises StoreError."""
        return cls(store, store.run(run_id))

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """What each finished stage left, by name."""
        return finished_stages(self.store, self.run.run_id)

    @cached_property
    def arms(self) -> dict[str, PolicyVersion]:
        """The versions that were evaluated: baseline, controls, candidate. Empty before that stage is done."""
        ids = self.results.get("evaluate", {}).get("arms", {})
        return {arm: self.store.version(version_id) for arm, version_id in ids.items()}

    @cached_property
    def evals(self) -> dict[str, dict[str, EvalRun]]:
        """The evaluations of this run by arm and suite, suites in the order of the settings."""
        order = [*self.run.config["settings"]["evaluation"]["suites"], FRESH]
        found: dict[str, dict[str, EvalRun]] = {}
        for arm, version in self.arms.items():
            runs = {run.suite: run for run in self.store.evals(version.version_id, run_id=self.run.run_id)}
            found[arm] = {suite: runs[suite] for suite in order if suite in runs}
        return found

    @cached_property
    def suite_uses(self) -> dict[str, int]:
        """Versions that each frozen suite has judged so far, in all runs of the store.

        The more of them were picked by the same tasks, the more the best owes to luck with those tasks.
        """
        one = next(iter(self.evals.values()), {})
        return {suite: self.store.num_judged(run.suite_digest) for suite, run in one.items()}

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Success of the candidate against the baseline, suite by suite."""
        before, after = self.evals[BASELINE], self.evals[CANDIDATE]
        if before.keys() != after.keys():
            raise EvalError(f"suites {sorted(before.keys() ^ after.keys())} were run by one version only")
        margin = self.run.config["settings"]["evaluation"]["margin"]
        return tuple(compare(before[suite], after[suite], "success", margin) for suite in before)

    @cached_property
    def slice_margins(self) -> dict[str, float]:
        """The protected slices, with the loss borne on each."""
        written = self.run.config["settings"]["evaluation"].get("slices", {})
        return {name: one["margin"] for name, one in written.items()}

    @cached_property
    def slices(self) -> dict[str, tuple[Comparison, ...]]:
        """Success on the protected slices of each suite."""
        before, after = self.evals[BASELINE], self.evals[CANDIDATE]
        return {suite: compare_slices(before[suite], after[suite], self.slice_margins) for suite in before}

    @cached_property
    def verdict(self) -> Verdict:
        """What `eval --against` exits by: the first suite, and the protected slices."""
        return verdict_with(self.comparisons[0], decisive(self.slices))

    @cached_property
    def alarms(self) -> tuple[Alarm, ...]:
        """What guards said while it learned, in order."""
        return tuple(Alarm(**event.payload) for event in self.store.events(self.run.run_id, GUARD_SPOKE))

    @cached_property
    def token_speed(self) -> TokenSpeed | None:
        """The calibrated seconds per token; None before the evaluation is done."""
        measured = self.results.get("evaluate", {}).get("token_speed")
        return TokenSpeed(**measured) if measured else None

    @cached_property
    def drill(self) -> Drill | None:
        """The rehearsed rollback; None before that stage is done."""
        left = self.results.get("drill", {}).get("drill")
        return Drill(**{**left, "steps": tuple(DrillStep(**step) for step in left["steps"])}) if left else None

    @cached_property
    def evidence(self) -> Evidence:
        """Everything the gates may look at."""
        return Evidence.from_runs(
            self.evals[BASELINE].values(),
            self.evals[CANDIDATE].values(),
            comparisons=self.comparisons,
            token_speed=self.token_speed,
            drill=self.drill,
            primary=self.run.config["settings"]["evaluation"]["suites"][0],
            slice_margins=self.slice_margins,
        )

    @cached_property
    def release(self) -> Release | None:
        """The release that the gates opened; None before that stage is done."""
        left = self.results.get("gates")
        return self.store.release(left["release"]) if left else None
