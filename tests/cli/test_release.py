"""`flyball register`, `compare`, `release`, `verify`, `log`: from files to everybody, without a workflow."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import orjson
import pytest

from flyball.cli.main import invoke
from flyball.release.registry import PRODUCTION
from flyball.store.store import Store
from tests.release.canary.conftest import traffic

PLAN = """owner: ada
signed_by: ada
promote_by_plan: true
label_deadline: 3600
stage_seconds: 600
cost_cap: 0.15
"""


def scores(path: Path, n: int, success: float, **more: object) -> Path:
    lines = [{"task_id": f"t{i}", "success": i < n * success, "safe": True, "cost_usd": 0.04, **more} for i in range(n)]
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert invoke([str(one) for one in arguments]) == code
    found = capsys.readouterr()
    return found.out + found.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLYBALL_HOME", str(tmp_path / "home"))
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def test_imported_scores_are_compared(here: Path, capsys) -> None:
    old, new = scores(here / "old.jsonl", 200, 0.5), scores(here / "new.jsonl", 200, 0.7)
    assert "accept" in said(capsys, "compare", old, new)
    assert "reject" in said(capsys, "compare", new, old, code=1)
    assert "inconclusive" in said(capsys, "compare", old, old, code=3)
    assert "accept" in said(capsys, "compare", old, old, "--margin", 0.03)


def test_a_protected_slice_takes_part_in_the_verdict(here: Path, capsys) -> None:
    """The mean gains 15 points; the 30 French tasks of 200 all fall."""
    for name, english, french in (("old", 0.7, 1.0), ("new", 1.0, 0.0)):
        lines = [
            {
                "task_id": f"t{i}",
                "success": i < 30 * french or 30 <= i < 30 + 170 * english,
                "groups": {"language": tongue},
            }
            for i in range(200)
            for tongue in ["fr" if i < 30 else "en"]
        ]
        (here / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    pair = here / "old.jsonl", here / "new.jsonl"
    assert "accept" in said(capsys, "compare", *pair)
    found = said(capsys, "compare", *pair, "--slice", "language=fr:0.05", "--slice", "language=en:0.05", code=1)
    assert "test/language=fr: −100.0 points [" in found and "test/language=en: +30.0 points [" in found
    assert "test and its protected slices (2): reject" in found
    assert "trials with an outcome: baseline 100.0 % [98.1, 100.0], n=200" in found
    assert "did you mean 'fr'" in said(capsys, "compare", *pair, "--slice", "language=frr:0.05", code=4)
    assert "write FIELD=VALUE:MARGIN" in said(capsys, "compare", *pair, "--slice", "language=fr", code=2)


def test_more_than_the_policy_changed(here: Path, capsys) -> None:
    old = scores(here / "old.jsonl", 20, 0.5, conditions={"agent": "v1", "temperature": "0"})
    new = scores(here / "new.jsonl", 20, 1.0, conditions={"agent": "v2", "temperature": "0"})
    assert "agent is v1 (baseline) and v2 (candidate): more than the policy" in said(
        capsys, "compare", old, new, code=4
    )
    new.write_bytes(new.read_bytes() + b'\n{"task_id": "other", "success": true}')
    assert "mixes conditions" in said(capsys, "compare", new, new, code=4)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"task_id": "t0"}', "new.jsonl:1: success"),
        ('{"task_id": "t0", "success": true, "cost_usd": NaN}', "new.jsonl:1: cost_usd"),
        ('{"task_id": "t0", "success": "yes"}', "new.jsonl:1: success"),
        ('{"task_id": "", "success": true}', "new.jsonl:1: task_id"),
        ('{"task_id": "t0", "success": true, "cost_usd": -1}', "new.jsonl:1: cost_usd"),
        ('{"task_id": "t0", "success": true, "trial": -1}', "new.jsonl:1: trial"),
        ('{"task_id": "t0", "success": true, "cost": 1}', "did you mean 'cost_usd'?"),
        ('{"task_id": "t0", "success": true}\n' * 2, "new.jsonl:2: trial 0 of task 't0' is there already"),
        ('{"task_id": "t0", "success": true}\n{"task_id": "t1", "success": true, "grader": "b"}', "mixes graders"),
        ('{"task_id": "t0", "success": true}\n{"task_id": "t1", "success": true, "trial": 1}', "4 lines, there are 2"),
        ("\n", "holds no score"),
    ],
)
def test_scores_that_cannot_be_compared(here: Path, capsys, line: str, says: str) -> None:
    (here / "new.jsonl").write_text(line)
    assert says in said(capsys, "compare", here / "new.jsonl", here / "new.jsonl", code=4)


@pytest.mark.parametrize("margin", ["nan", "inf"])
def test_a_margin_that_is_no_number_is_refused(here: Path, capsys, margin: str) -> None:
    old = scores(here / "old.jsonl", 4, 0.5)
    assert f"margin {margin}" in said(capsys, "compare", old, old, "--margin", margin, code=4)


def test_a_version_without_a_name_is_refused(here: Path, capsys) -> None:
    (here / "prompt.txt").write_text("Be brief.")
    assert "--name" in said(capsys, "register", "prompt.txt", "--base", "m", "--name", " ", code=4)


def test_a_release_from_files_to_everybody(here: Path, capsys) -> None:
    (here / "weights").mkdir()
    (here / "weights" / "model.bin").write_bytes(b"123")
    (here / "prompt.txt").write_text("Be brief.")
    said(capsys, "register", "https://example.test/v1", "--model", "m", "--name", "hosted", "--production")
    candidate = said(capsys, "register", "prompt.txt", "--base", "m", "--name", "brief").strip()
    assert len(said(capsys, "register", "weights", "--name", "ours").strip()) == 64
    files = {name: scores(here / f"{name}.jsonl", 240, 0.8) for name in ("old", "new")}
    suites = [f"{suite}={files['old']},{files['new']}" for suite in ("test", "adversarial", "safety")]
    judged = said(capsys, "release", "judge", candidate, *suites)
    assert "verdict: ready for shadow" in judged
    release = judged.split("release: ")[1].strip()

    assert "**OFF** canary: none is planned: what harm it would show is not known" in brief_of(
        capsys, here, release, "en-US"
    )
    launched = said(capsys, "release", "launch", release, "plan.yaml", "--base", 0.8, "--per-day", 8640, "--now", 0)
    assert "canary:  5 % of 8640 sessions a day will see" in launched and "extra failures" in launched
    seen = re.search(r"^10 +([\d,]+) +([\d,]+) +([\d.]+) ", launched, re.MULTILINE)
    assert seen is not None
    assert "Product has no owner" in said(capsys, "release", "canary", "--by", "ada", "--now", 0, code=4)
    for role, name in (("ML", "mia"), ("Platform", "pat"), ("Product", "ada")):
        public = said(capsys, "log", "key", f"{role}.key").strip()
        said(capsys, "release", "owner", role, name, public, "--by", "root", "--now", 0)
        who = ("--role", role, "--key", f"{role}.key", "--by", name, "--now", 0)
        said(capsys, "release", "approve", release, "plan.yaml", *who)
    assert "rehearsed" in said(capsys, "release", "status", "--now", 0)
    page = brief_of(capsys, here, release, "en-GB")
    assert "In shadow" in page and "5% of 8,640 sessions a day, success 80%; median [9 of 10] of 400" in page
    assert f"by 10 points, {seen[3]} d, {seen[1]} [{seen[2]}]; by 15 points, " in page
    drilled = said(capsys, "release", "drill", "--seconds", 40, "--by", "pat", "--now", 0)
    assert "held" not in drilled and "next:    flyball release canary --by NAME" in drilled
    assert "canary at 5 %" in said(capsys, "release", "canary", "--by", "ada", "--now", 0)

    lines = [orjson.dumps(dataclasses.asdict(one)) for one in traffic(12_000)]
    (here / "sessions.jsonl").write_bytes(b"\n".join(lines))
    for now, move in ((5e4, "advance"), (1e5, "advance"), (1.5e5, "promote")):
        assert f"move:    {move}" in said(capsys, "release", "tick", "sessions.jsonl", "--now", now)
    with Store(here / "home") as store:
        assert store.alias(PRODUCTION) == candidate
    page = brief_of(capsys, here, release, "fr-FR")
    assert "Ce que peut voir le canari" in page and f"de 10 points, {seen[3].replace('.', ',')} j, {seen[1]} [" in page
    assert "Sert tout le monde" in page and "sessions d’utilisateurs l’ont rencontrée" in page
    assert "| sessions manquées | " in page and "préjudice exclu" in page and "ML, Platform, Product" in page
    assert said(capsys, "verify", release).count("same") == 4
    decided = said(capsys, "release", "decision", "--now", 2e5, "--to", here / "pages")
    assert "phase:   reliability: go on" in decided and "serves everybody" not in decided
    assert "not known  at least 80 % of the newest week's sessions have a label: no session was served" in decided
    (here / "w.yaml").write_text("economics: {value_of_success_usd: 2.5, least_margin_usd: 1}\n")
    given = ("--workflow", "w.yaml", "--now", 2e5, "--to", here / "pages")
    said(capsys, "release", "decision", *given)
    page = (here / "pages" / "decision.html").read_text(encoding="utf-8")
    assert "$2.5" in page and "optimistic by default" in page and "margin per success is above $1" in page
    assert "no such file" in said(capsys, "release", "decision", "--workflow", "none.yaml", code=4).lower()
    assert "1 of 1: 100.0 %" in page and "4 of 4: 100.0 %" in page and "days from shadow to everybody" in page
    assert "approval" in said(capsys, "log", "show", "--release", release)
    assert len(said(capsys, "log", "export", "log").strip()) == 64
    assert (here / "log" / "entries.jsonl").is_file() and "flyball/" in said(capsys, "log", "checkpoint")


def test_a_verdict_is_told_by_the_exit_code_and_by_what_comes_next(here: Path, capsys) -> None:
    assert "`flyball release judge` opens one" in said(capsys, "release", "status", "--home", fresh(here), code=4)
    said(capsys, "register", "https://example.test/v1", "--model", "m", "--name", "hosted", "--production")
    (here / "prompt.txt").write_text("Be brief.")
    said(capsys, "register", "prompt.txt", "--base", "m", "--name", "brief")
    good, bad = scores(here / "good.jsonl", 240, 0.8), scores(here / "bad.jsonl", 240, 0.5)
    suites = ("test", "adversarial", "safety")
    judged = said(capsys, "release", "judge", "brief", *(f"{suite}={good},{good}" for suite in suites))
    assert "next:    flyball release launch " in judged
    assert "next:" not in said(capsys, "release", "judge", "brief", *(f"{s}={good},{bad}" for s in suites), code=1)
    assert "adversarial" in said(capsys, "release", "judge", "brief", f"test={good},{good}", code=3)

    release = judged.split("release: ")[1].strip()
    (here / "unsigned.yaml").write_text("owner: ada\nlabel_deadline: 3600\ncost_cap: 0.15\n")
    traffic_of = ("--base", 0.8, "--per-day", 8640, "--now", 0)
    assert "add `signed_by`" in said(capsys, "release", "launch", release, "unsigned.yaml", *traffic_of, code=4)
    assert "held:    the way back was not" in said(capsys, "release", "launch", release, "plan.yaml", *traffic_of)
    again = said(capsys, "release", "judge", "brief", *(f"{suite}={good},{good}" for suite in suites))
    assert "it was launched before" in again and "next:    flyball release launch" not in again
    with Store(here / "home") as store:
        assert store.release(release).stage == "shadow", "judged again it stays where it is"


def fresh(here: Path) -> Path:
    """A store in which nothing happened."""
    with Store(here / "fresh"):
        return here / "fresh"


def test_what_is_refused_leaves_nothing_and_is_the_callers_fault(here: Path, capsys) -> None:
    hosted = ("register", "https://example.test/v1", "--name", "hosted", "--production", "--model")
    said(capsys, *hosted, "m")
    assert "is in production, and only a release changes that" in said(capsys, *hosted, "other", code=4)
    with Store(here / "home") as store:
        assert [version.base for version in store.versions()] == ["m"]
    said(capsys, "log", "key", "ada.key")
    for arguments, says in (
        (("log", "key", "ada.key"), "ada.key: it is there already, and a key is never overwritten"),
        (("release", "approve", "r", "plan.yaml", "--role", "ML", "--key", "no.key", "--by", "mia"), "no release 'r'"),
    ):
        found = said(capsys, *arguments, code=4)
        assert says in found and "fault: what was given" in found


def brief_of(capsys: pytest.CaptureFixture[str], here: Path, release: str, locale: str) -> str:
    found = said(capsys, "release", "brief", release, "--locale", locale, "--to", here / "pages")
    assert found == f"brief:   {here / 'pages' / 'brief.html'}\n"
    return (here / "pages" / "brief.md").read_text(encoding="utf-8")


def test_a_brief_needs_a_release_a_locale_and_a_place(here: Path, capsys) -> None:
    said(capsys, "register", "https://example.test/v1", "--model", "m", "--name", "hosted", "--production")
    assert "no release 'nothing'" in said(capsys, "release", "brief", "nothing", code=4)
    assert "'fr-BE' is not one of" in said(capsys, "release", "brief", "nothing", "--locale", "fr-BE", code=2)


def test_what_cannot_be_registered(here: Path, capsys) -> None:
    (here / "prompt.txt").write_text("Be brief.")
    assert "neither a folder" in said(capsys, "register", "nothing", "--name", "x", code=4)
    assert "--base" in said(capsys, "register", "prompt.txt", "--name", "x", code=4)
    assert "--model" in said(capsys, "register", "https://example.test/v1", "--name", "x", code=4)
    said(capsys, "register", "prompt.txt", "--base", "m", "--name", "x", "--production")
    again = ("register", "prompt.txt", "--base", "other", "--name", "y", "--production")
    refused = said(capsys, *again, code=4)
    assert "x (" in refused and "is in production" in refused and "flyball release judge" in refused
    said(capsys, "register", "prompt.txt", "--base", "m", "--name", "x", "--production")  # it is there already


def test_versions_go_by_their_names_and_unknown_ones_are_the_callers_fault(here: Path, capsys) -> None:
    (here / "prompt.txt").write_text("Be brief.")
    said(capsys, "register", "prompt.txt", "--base", "m", "--name", "first", "--production")
    said(capsys, "register", "prompt.txt", "--base", "n", "--name", "second")
    scored = scores(here / "s.jsonl", 240, 0.8)
    suites = [f"{suite}={scored},{scored}" for suite in ("test", "adversarial", "safety")]
    judged = said(capsys, "release", "judge", "second", *suites)
    release = judged.split("release: ")[1].strip()
    assert "same" in said(capsys, "verify", release[:8])
    assert release[:12] in said(capsys, "log", "show", "--release", release[:8])
    unknown = said(capsys, "release", "judge", "secnd", *suites, code=4)
    assert "did you mean 'second'" in unknown and "fault: what was given" in unknown
    assert "fault: what was given" in said(capsys, "verify", "nothing", code=4)
    said(capsys, "register", "prompt.txt", "--base", "other", "--name", "second")
    assert "2 versions are called 'second'" in said(capsys, "release", "judge", "second", *suites, code=4)


def test_every_gate_is_printed_with_its_margin(here: Path, capsys) -> None:
    listed = said(capsys, "release", "gates")
    assert "below +15 %" in listed and "telemetry_loss" in listed and "below 300 s" in listed


def test_a_rollback_by_hand(here: Path, capsys) -> None:
    said(capsys, "register", "https://example.test/v1", "--model", "m", "--name", "hosted", "--production")
    refused = said(capsys, "release", "rollback", "--by", "bob", "--reason", "a complaint", code=4)
    assert "no release is under way" in refused
