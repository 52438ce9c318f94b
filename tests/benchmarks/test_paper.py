"""The miniatures: the page and the results are those of the rows, and an interrupted row goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import page, tool_budget
from benchmarks.paper.greso import groups_to_request
from benchmarks.paper.mini import Check, Curve, Draws, complete, findings
from benchmarks.paper.run import ROWS
from benchmarks.paper.table import Table, softmax
from benchmarks.result import append_row, read_rows, rows_file
from flyball.errors import TrainError

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


def test_the_page_is_that_of_the_results() -> None:
    assert PAGE.read_text() == page.markdown(page.results()), "run `python -m benchmarks.paper.page > docs/results.md`"


@pytest.mark.parametrize("name", ROWS)
def test_the_results_are_those_of_the_rows(name: str) -> None:
    """Whatever code made them: the lines on disk give the published numbers."""
    row = ROWS[name]
    lines = read_rows(rows_file(name, page.FOLDER))
    assert {(line["arm"], line["seed"]) for line in lines} == {(a, s) for a in row.arms for s in row.seed_range}
    for finding, published in zip(findings(row, lines), page.results()[name], strict=True):
        assert (finding.id, finding.claim, finding.holds) == (published["id"], published["claim"], published["holds"])
        assert [finding.value, *finding.interval] == pytest.approx([published["value"], *published["interval"]])


def test_a_row_goes_on_where_it_stopped_and_forgets_other_code(tmp_path: Path) -> None:
    ran: list[tuple[str, tuple[int, ...]]] = []

    def run(arm: str, draws: Draws) -> list[dict[str, float]]:
        ran.append((arm, draws.seeds))
        return [{"x": float(u)} for u in draws.uniform()]

    row = replace(
        tool_budget.ROW, name="mini", arms=("a", "b"), run=run, seeds=3, checks=(Check("c", "c", "x", "a", "b"),)
    )
    first = complete(row, tmp_path)
    every = tuple(row.seed_range)
    assert ran == [("a", every), ("b", every)] and len(first) == 6
    file = rows_file("mini", tmp_path)
    kept = [line for line in first if (line["arm"], line["seed"]) != ("b", every[1])]
    file.unlink()
    for line in [*kept, first[4] | {"code": "older"}]:
        append_row(file, line)
    again = complete(row, tmp_path)
    assert ran[2:] == [("b", every[1:2])]
    assert sorted((line["arm"], line["seed"], line["x"]) for line in again) == sorted(
        (line["arm"], line["seed"], line["x"]) for line in first
    ), "a seed draws the same alone as among others"
    assert findings(row, again)[0].value == 0.0


def test_greso_asks_for_as_many_groups_as_will_fill_the_batch() -> None:
    assert groups_to_request(128, 0.5) == 320 and groups_to_request(256, 0.5) == 384 and groups_to_request(1, 0) == 64
    assert groups_to_request(10, 1.0) == 384
    with pytest.raises(TrainError, match="between 0 and 1"):
        groups_to_request(1, 1.5)


def test_a_curve_is_read_inside_the_budget() -> None:
    curve = Curve()
    curve.add(10, np.array([5.0, 50.0]), np.array([0.1, 0.2]))
    curve.add(20, np.array([9.0, 90.0]), np.array([0.3, 0.4]))
    assert curve.at(samples=19).tolist() == [0.1, 0.2] and curve.at(cost=9).tolist()[0] == 0.3
    with pytest.raises(ValueError, match="run it longer"):
        curve.at(cost=60)


def test_checks_read_their_side_of_the_interval() -> None:
    row = replace(tool_budget.ROW, arms=("a", "b"))
    lines = [
        {"arm": arm, "seed": s, "cpu_seconds": 0.0, "x": x + s / 100}
        for arm, x in (("a", 2.0), ("b", 1.0))
        for s in range(4)
    ]
    lines[0]["x"] += 0.01
    cases = [
        ("higher", "a", "b", True),
        ("lower", "a", "b", False),
        ("lower", "b", "a", True),
        ("kept", "b", "a", False),
    ]
    for wanted, candidate, baseline, holds in cases:
        check = Check("c", "c", "x", candidate, baseline, wanted=wanted, margin=0.5)
        assert findings(replace(row, checks=(check,)), lines)[0].holds is holds, wanted
    times = findings(replace(row, checks=(Check("c", "c", "x", "a", "b", times=True),)), lines)[0]
    assert times.unit == "times" and 1.9 < times.value < 2.1 and times.holds


def test_a_table_climbs_the_exact_gradient() -> None:
    """One state, three actions, each drawn once: logits move by rate x (push - p sum of pushes)."""
    policy = Table(np.array([[[0.5, -0.2, 0.1]]]))
    p = softmax(policy.logits)[0, 0]
    pushes = np.array([[0.4, -0.1, 0.2]])
    policy.ascend(np.zeros((1, 3), np.int64), np.array([[0, 1, 2]]), pushes, 0.5)
    assert policy.logits[0, 0] == pytest.approx(np.array([0.5, -0.2, 0.1]) + 0.5 * (pushes[0] - p * pushes.sum()))
