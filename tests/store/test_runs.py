"""Runs, events and metrics: written, read back, and refused where they make no sense."""

from __future__ import annotations

import math

import pytest

from flyball.errors import ConfigError, RefusedError, StoreError
from flyball.store.store import Store


def test_a_run_lives_and_ends(store: Store) -> None:
    run_id = store.new_run("train", {"steps": 3, "betas": (0.9, 0.95)}, name="first")
    store.add_event(run_id, "checkpoint", {"step": 2})
    store.set_run_status(run_id, "failed", "grad_norm is NaN")
    run = store.run(run_id)
    assert (run.kind, run.name, run.status, run.reason) == ("train", "first", "failed", "grad_norm is NaN")
    assert run.config == {"steps": 3, "betas": (0.9, 0.95)}
    assert [(e.kind, e.payload) for e in store.events(run_id)] == [
        ("checkpoint", {"step": 2}),
        ("status", {"status": "failed", "reason": "grad_norm is NaN"}),
    ]
    assert [e.payload for e in store.events(run_id, "checkpoint")] == [{"step": 2}]


def test_a_run_whose_process_let_go_of_it_reads_interrupted(store: Store) -> None:
    run_id = store.new_run("train", {})
    assert store.run(run_id).status == "running", "none of this folder held it, which proves nothing"
    with store.doing(run_id):
        assert [run.status for run in store.runs()] == ["running"]
        with pytest.raises(RefusedError, match=f"run {run_id} is being done by another process"), store.doing(run_id):
            pass
    assert (store.run(run_id).status, store.run(run_id).reason) == ("interrupted", "the process that did it is gone")
    with store.doing(run_id):
        assert store.run(run_id).status == "running"
        store.set_run_status(run_id, "finished")
    assert store.run(run_id).status == "finished"
    with pytest.raises(StoreError, match="'interrupted' is not one"):
        store.set_run_status(run_id, "interrupted")  # type: ignore[arg-type]


def test_runs_are_found_by_kind_newest_first(store: Store) -> None:
    train, evaluation, again = (store.new_run(kind, {}) for kind in ("train", "eval", "train"))
    assert [run.run_id for run in store.runs()] == [again, evaluation, train]
    assert [run.run_id for run in store.runs("train")] == [again, train]


def test_a_run_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    first, second = store.new_run("train", {}), store.new_run("train", {})
    assert store.run(first[:-1] if first[:-1] != second[:-1] else first).run_id == first
    with pytest.raises(StoreError, match=r"2 runs '2"):
        store.run(first[:1])
    with pytest.raises(StoreError, match="no run 'yesterday'"):
        store.run("yesterday")
    with pytest.raises(StoreError, match="no run '%'"):
        store.run("%")


def test_curves_come_back_by_step_and_the_latest_value_wins(store: Store) -> None:
    run_id = store.new_run("train", {})
    store.add_metrics(run_id, 2, {"kl": 0.5, "success_rate": 0.25})
    store.add_metrics(run_id, 1, {"kl": 0.125})
    store.add_metrics(run_id, 2, {"kl": 0.75, "success_rate/refund": 0.5})
    assert store.metrics(run_id) == {
        "kl": [(1, 0.125), (2, 0.75)],
        "success_rate": [(2, 0.25)],
        "success_rate/refund": [(2, 0.5)],
    }


def test_instability_is_kept(store: Store) -> None:
    run_id = store.new_run("train", {})
    store.add_metrics(run_id, 0, {"grad_norm": math.inf, "loss": math.nan})
    curves = store.metrics(run_id)
    assert curves["grad_norm"] == [(0, math.inf)]
    assert math.isnan(curves["loss"][0][1])


def test_an_undeclared_metric_is_refused_and_nothing_of_the_step_is_written(store: Store) -> None:
    run_id = store.new_run("train", {})
    with pytest.raises(ConfigError, match="did you mean 'grad_norm'"):
        store.add_metrics(run_id, 0, {"kl": 0.1, "gradnorm": 1.0})
    assert store.metrics(run_id) == {}


def test_an_unknown_run_or_status_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no run 'r9'"):
        store.add_metrics("r9", 0, {"kl": 0.1})
    with pytest.raises(StoreError, match="no run 'r9'"):
        store.add_event("r9", "note")
    with pytest.raises(StoreError, match="no run 'r9'"):
        store.set_run_status("r9", "finished")
    with pytest.raises(StoreError, match="did you mean 'finished'"):
        store.set_run_status(store.new_run("train", {}), "finish")  # type: ignore[arg-type]
