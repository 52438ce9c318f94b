"""Power before the run, worked by hand: z at 95 % and 80 % are 1.959964 and 0.841621, their sum squared 7.848879."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyball.evals.power import power_of
from tests.evals.desk import result, run, tasks


def test_without_a_past_the_worst_case_is_assumed() -> None:
    """sqrt(7.848879 x 0.5 / 100) = 0.1981; to show 0.05 takes 7.848879 x 0.5 / 0.0025 = 1569.8 tasks."""
    found = power_of("test", tasks(100), 0.05)
    assert (found.tasks, found.clusters, found.needed, found.basis) == (100, 100, 1570, "worst case")
    assert found.detectable == pytest.approx(0.19810, abs=1e-5) and not found.enough


def test_tasks_of_a_cluster_count_as_one_in_the_worst_case() -> None:
    pairs = [replace(task, cluster=f"c{i // 2}") for i, task in enumerate(tasks(100))]
    found = power_of("test", pairs, 0.05)
    assert (found.clusters, found.needed) == (50, 3140)
    assert found.detectable == pytest.approx(0.19810 * 2**0.5, abs=1e-4)


def test_the_past_says_how_much_two_versions_differ() -> None:
    """One task in ten differs: differences 0.1 in the mean, variance 0.09 x 100 / 99 with n - 1; 0.0909 of the worst
    case's 0.5, so 286 tasks show 5 points."""
    before = run([result(f"test-{i}", i % 10 > 0, family="f") for i in range(100)], "a")
    after = run([result(f"test-{i}", True, family="f") for i in range(100)], "b")
    found = power_of("test", tasks(100, families=1), 0.05, [before, after])
    assert (found.needed, found.basis) == (286, "as the last two versions differed")
    assert found.detectable == pytest.approx((7.848879 * 0.09 / 99) ** 0.5, abs=1e-5)
    assert power_of("test", tasks(100), 0.05, [after, after]).basis == "worst case", "no difference is no variance"
