"""Monitors on a store: token ids scored again once, alarms become incidents, what went wrong becomes tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from flyball.cli.main import invoke
from flyball.gateway.rescoring import Rescored, distance, rescore
from flyball.gateway.watching import live_sessions, refreshed_tasks
from flyball.release.incidents import incidents
from flyball.store.records import to_json
from flyball.store.store import Store
from flyball.types import Call, TrainingSample
from tests.store.served import ANSWERED, call, report, session, spooled

DAY = 24 * 3600.0
NOW = 30 * DAY
SAMPLED = Call(
    "c1", None, "main", (1, 2, 3), (4, 5), (-1.0, -2.0), (7, 7), {"temperature": 1.0}, "stop", dict(ANSWERED)
)
GREEDY = Call("c2", None, "main", (1,), (4,), (-1.0,), (7,), {"temperature": 0.0}, "stop", dict(ANSWERED))


def stored(folder: Path, *frames: tuple[str, dict[str, Any]]) -> Store:
    spool = spooled(folder / "spool" / "0", *frames, arm="stable")  # type: ignore[arg-type]
    with Store(folder) as store:
        assert store.ingest(spool).quarantined == 0
    return Store(folder)


def exact(sampled: Call) -> Any:
    return orjson.loads(to_json(sampled))


def test_k3_by_hand() -> None:
    """log q/p = ln 2 and 0: k3 = 2 - 1 - ln 2 = 0.3069 and 0, and the token that was given is left out."""
    sample = TrainingSample(
        np.array([1, 4, 5]), np.array([False, True, True]), np.array([0.0, -1.0, -2.0], np.float32), *[np.zeros(3)] * 2
    )
    k3, tokens = distance([sample], [np.array([-9.0, -1.0 + np.log(2.0), -2.0], np.float32)])
    assert (k3, tokens) == (pytest.approx(1.0 - np.log(2.0), abs=1e-6), 2)


def test_live_tokens_are_scored_once_and_those_that_cannot_be_are_counted(tmp_path: Path) -> None:
    asked: list[int] = []

    def score(samples: Sequence[TrainingSample]) -> list[Any]:
        asked.append(len(samples))
        return [one.sampling_logprobs - np.float32(0.5) for one in samples]

    frames = [("call", call("c1", "s1", tokens=exact(SAMPLED), exactness="exact", arm="stable")),
              ("call", call("c2", "s2", tokens=exact(GREEDY), exactness="exact", arm="stable")),
              ("call", call("c3", "s3", arm="stable"))]  # fmt: skip
    frames += [("session", session(f"c{i}", f"s{i}", arm="stable")) for i in (1, 2, 3)]
    with stored(tmp_path, *frames) as store:
        shares = {"stable": 1.0}
        assert rescore(store, score, reference="ref", shares=shares) == Rescored(3, 1, 2)
        assert rescore(store, score, reference="ref", shares=shares) == Rescored(3, 0, 2)
        assert asked == [1]
        first, second, third = live_sessions(store)
        assert first.kl == (pytest.approx(2 * (np.exp(-0.5) - 1 + 0.5), rel=1e-6), 2.0)
        assert (second.kl, third.kl) == (None, None)
        assert live_sessions(store, reference="another")[0].kl is None
        assert (first.answer, first.tools) == ("On its way.", frozenset())


def home(tmp_path: Path, *, wrong: bool) -> Path:
    """Two weeks of 60 sessions of one version; in the second, if `wrong`, half of them fail and are corrected."""
    frames: list[tuple[str, dict[str, Any]]] = []
    for i in range(120):
        at, bad = (DAY + i, False) if i < 60 else (NOW - 3 * DAY + i, wrong and i % 2 == 0)
        name, asked = f"s{i}", ({"role": "user", "content": f"Order {i % 3}? a@b.example"},)
        frames.append(("call", call(f"c{i}", name, at=at, arm="stable", messages=asked)))
        frames.append(("session", session(f"c{i}", name, at=at, arm="stable", release_channel="general")))
        more = {"override": {"kind": "edit", "reason": "wrong order"}} if bad else {}
        context = {"context": {"intent": "status"}}
        told = report(f"r{i}", name, call_id=f"c{i}", at=at, outcome=not bad, score=0.9 - 0.5 * bad, **more, **context)
        frames.append(("feedback", told))
    stored(tmp_path, *frames).close()
    return tmp_path


def test_an_alarm_opens_an_incident_and_writes_tasks_for_review(tmp_path: Path, capsys: Any) -> None:
    folder = home(tmp_path / "home", wrong=True)
    tasks = tmp_path / "tasks.jsonl"
    watch = ["monitors", "watch", "--now", str(NOW), "--home", str(folder), "--refresh", str(tasks)]
    assert invoke(watch) == 3
    out = capsys.readouterr().out
    assert "policy_kl_drift: " in out and "token ids" in out
    with Store(folder) as store:
        found = {one.name.split(".")[0]: one for one in incidents(store)}
        assert set(found) == {"human_override_rate", "task_completion_quality", "cost_per_success_usd"}
        assert found["human_override_rate"].source == "alarm" and store.route() is None
    lines = [json.loads(line) for line in tasks.read_text().splitlines()]
    assert {line["ticket"] for line in lines} == {f"Order {i}? [email]" for i in range(3)}
    assert {line["family"] for line in lines} == {"status"} and lines[0]["hidden"]["override"]["kind"] == "edit"
    assert invoke(watch) == 4, "the proposal is there and was not reviewed yet"
    assert "name a new file" in capsys.readouterr().err
    assert invoke([*watch[:2], "--now", str(NOW + DAY), "--home", str(folder)]) == 3, "the incident stays open"
    with Store(folder) as store:
        assert len(incidents(store)) == 3
        known = refreshed_tasks(store, project=None, since=0.0, field="ticket")
        assert refreshed_tasks(store, project=None, since=0.0, field="ticket", known=known) == []


def test_what_the_file_sets_decides_and_stays_with_the_alarm(tmp_path: Path, capsys: Any) -> None:
    """Half of the sessions were corrected: no alarm past 60 points; one past 10 says what was set, and for whom."""
    folder, file = home(tmp_path / "home", wrong=True), tmp_path / "w.yaml"
    watch = ["monitors", "watch", str(file), "--now", str(NOW), "--home", str(folder)]
    file.write_text("monitoring:\n- {metric: human_override_rate, margin: 0.6}\n- policy_kl_drift\n")
    assert invoke(watch) == 0
    out = capsys.readouterr().out
    assert "human_override_rate: set in the file: margin 0.6 instead of 0.03" in out
    assert "not watched, the file does not list them: cost_per_success_usd, " in out
    file.write_text("monitoring: [{metric: human_override_rate, margin: 0.1, window_days: 5, owner: Platform}]\n")
    assert invoke(watch) == 3
    assert "rises by more than 10 points" in capsys.readouterr().out
    with Store(folder) as store:
        (found,) = incidents(store)
    told = "(margin 0.1 instead of 0.03, window_days 5 instead of 7, owner Platform instead of Product)"
    assert found.reason.endswith(f"rises by more than 10 points {told}")
    detail = found.timeline[0].detail
    assert detail["changed"] == {"margin": 0.1, "window_days": 5, "owner": "Platform"}
    assert (detail["owner"], detail["window"]) == ("Platform", "5 days")
    file.write_text("monitoring:\n- metric: human_override_rate\n  margin: -0.3\n")
    assert invoke(watch) == 4
    assert "w.yaml:2: monitor 'human_override_rate': margin -0.3 is not a number above 0" in capsys.readouterr().err
    file.write_text("monitoring: [{metric: missing_rate, window_days: 14}]\n")
    assert invoke(["monitors", "list", str(file)]) == 0
    assert "14 days, the newest 2 left out" in capsys.readouterr().out


def test_no_change_is_quiet_and_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    folder = home(tmp_path / "home", wrong=False)
    tasks = tmp_path / "tasks.jsonl"
    assert invoke(["monitors", "watch", "--now", str(NOW), "--home", str(folder), "--refresh", str(tasks)]) == 0
    out = capsys.readouterr().out
    assert "incident:" not in out and "set in the file" not in out and not tasks.exists()
    file = tmp_path / "w.yaml"
    file.write_text("monitoring: [human_overide_rate]\n")
    assert invoke(["monitors", "watch", str(file), "--home", str(folder)]) == 4
    assert "did you mean 'human_override_rate'" in capsys.readouterr().err
    assert invoke(["monitors", "rescore", "--reference", "v9", "--home", str(folder)]) == 4
    assert "fault: what was given" in capsys.readouterr().err
