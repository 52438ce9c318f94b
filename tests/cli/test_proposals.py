"""`flyball proposals`: a diff, a reviewer and a regression result; without them a change of what judges is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from flyball.cli.main import invoke
from flyball.release.proposals import unreviewed
from flyball.release.registry import Registry, new_version
from flyball.stats.written import NO_VALUE
from flyball.store.store import Store


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `flyball proposals ...` in a store with the versions `old` and `new`, which binds another grader."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLYBALL_HOME", str(tmp_path / "home"))
    (tmp_path / "old.txt").write_text("be kind\n")
    (tmp_path / "new.txt").write_text("be kind\nand brief\n")
    with Store(tmp_path / "home") as store:
        for name in ("old", "new"):
            Registry(store).register(new_version(name=name, weights="w", base="b", graders={"tone": f"{name}-digest"}))
    scores(tmp_path / "before.jsonl", 160, grader="v1")

    def run(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        assert invoke(["proposals", *map(str, arguments)]) == code
        found = capsys.readouterr()
        return found.out + found.err

    return run


def scores(path: Path, solved: int, grader: str) -> Path:
    """200 tasks of which the first `solved` are solved."""
    rows = [{"task_id": f"t{i}", "success": i < solved, "grader": grader} for i in range(200)]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


PROPOSE = ("propose", "grader", "tone", "new.txt", "--before", "old.txt", "--version", "new", "--by", "mia")


def held(home: Path) -> tuple[str, ...]:
    with Store(home) as store:
        old, new = (Registry(store).named(name) for name in ("old", "new"))
        return unreviewed(store, old, new)


def test_a_change_is_proposed_reviewed_and_accepted(said, tmp_path: Path) -> None:
    assert "no proposal is open" in said("list")
    proposal_id = said(*PROPOSE).split()[0]
    assert said("list").splitlines()[1].split() == [proposal_id, "open", "grader", "tone", "mia", NO_VALUE]
    shown = said("show", proposal_id)
    assert "+and brief" in shown and "binds:   new-digest" in shown and "no regression result yet" in shown
    assert held(tmp_path / "home") == ("grader 'tone' changed to new-digest without an accepted proposal",)
    after = scores(tmp_path / "after.jsonl", 160, grader="v2")
    accepted = said("accept", proposal_id, "before.jsonl", after, "--by", "pat")
    assert "accepted by pat" in accepted and "n=200 at margin 0.03" in accepted
    assert held(tmp_path / "home") == ()
    assert "n=200" in said("show", proposal_id) and "accepted" in said("list", "--state", "all")
    assert "was accepted by pat" in said("reject", proposal_id, "--by", "noa", "--reason", "late", code=4)
    assert "it is accepted" in said(*PROPOSE, code=4)


@pytest.mark.parametrize(
    ("solved", "says"),
    [(120, "-20.0 points ["), (200, "+20.0 points ["), (None, "only on a regression result")],
)
def test_a_regression_that_is_absent_or_moves_the_verdict_is_refused(said, tmp_path: Path, solved, says) -> None:
    """A grader that is milder on what is known is no better than one that is harsher."""
    proposal_id = said(*PROPOSE).split()[0]
    files = () if solved is None else ("before.jsonl", scores(tmp_path / "after.jsonl", solved, grader="v2"))
    refused = said("accept", proposal_id, *files, "--by", "pat", code=4)
    assert says in refused and "fault: what was given" in refused
    assert held(tmp_path / "home")


def test_under_a_wider_tool_scope_success_may_rise(said, tmp_path: Path) -> None:
    proposal_id = said("propose", "tool_scope", "refunds", "new.txt", "--by", "mia").split()[0]
    after = scores(tmp_path / "after.jsonl", 200, grader="v1")
    assert "accepted by pat" in said("accept", proposal_id, "before.jsonl", after, "--by", "pat")


def test_a_rejected_change_may_be_proposed_again(said) -> None:
    proposal_id = said(*PROPOSE).split()[0]
    assert "it is open" in said(*PROPOSE, code=4)
    assert "rejected by mia: a typo" in said("reject", proposal_id, "--by", "mia", "--reason", "a typo")
    assert "was rejected by mia" in said("accept", proposal_id, "before.jsonl", "before.jsonl", "--by", "pat", code=4)
    assert ": open" in said(*PROPOSE)


def test_what_cannot_be_decided(said) -> None:
    proposal_id = said(*PROPOSE).split()[0]
    same = ("before.jsonl", "before.jsonl")
    for arguments, code, says in (
        (("show", "nothing"), 4, "there is no proposal 'nothing'"),
        (("show", ""), 4, "there is no proposal ''"),
        (("accept", "nothing", *same, "--by", "pat"), 4, "there is no proposal"),
        (("accept", proposal_id, *same, "--by", "mia"), 4, "ask somebody else"),
        (("accept", proposal_id, *same, "--by", " "), 4, "named reviewer"),
        (("accept", proposal_id, *same), 2, "--by"),
        (("accept", proposal_id, same[0], "--by", "pat"), 2, "give two files"),
        (("accept", proposal_id, "absent.jsonl", same[0], "--by", "pat"), 4, "cannot be read"),
        (("reject", proposal_id, "--by", "pat", "--reason", " "), 4, "for a reason"),
        (("propose", "judge", "tone", "new.txt", "--by", "mia"), 2, "'judge' is not one of"),
        (("propose", "suite", "s", "new.txt", "--before", "new.txt", "--by", "mia"), 4, "a difference"),
        (("propose", "suite", "s", "absent.txt", "--by", "mia"), 4, "cannot be read"),
        (("propose", "grader", "tome", "new.txt", "--version", "new", "--by", "mia"), 4, "did you mean 'tone'"),
    ):
        assert says in said(*arguments, code=code), arguments
    assert proposal_id in said("list")
