"""`flyball doctor` says which rung holds code in, and why the rungs before it do not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flyball.evals import sandbox_checks
from flyball.evals.sandbox_checks import check_rungs, check_sandbox
from flyball.sandbox import sandbox
from flyball.sandbox.sandbox import CHOICE, NAMED, RUNGS, SNIPPETS


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(CHOICE, raising=False)
    sandbox._find.cache_clear()
    yield
    sandbox._find.cache_clear()


def holds(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(sandbox, "lack", lambda rung: None if rung.name in names else f"{rung.name} is not allowed")


def test_the_rung_in_force_and_why_not_a_higher_one(monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, *(rung.name for rung in RUNGS))
    assert (check_sandbox().level, check_sandbox().text) == ("ok", "bubblewrap")
    sandbox._find.cache_clear()
    holds(monkeypatch, "landlock")
    found = check_sandbox()
    assert (found.level, found.text) == ("ok", "landlock; not bubblewrap: bubblewrap is not allowed")


def test_what_runs_snippets_alone_or_nothing_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, SNIPPETS.name)
    found = check_sandbox()
    assert found.level == "warn" and found.text.startswith("monty, for snippets of Python alone: no sandbox holds")
    assert "landlock: landlock is not allowed" in found.text
    sandbox._find.cache_clear()
    holds(monkeypatch)
    assert check_sandbox().text.startswith("none, so graders and tools that run code are refused")
    monkeypatch.setenv(CHOICE, "unsafe")
    assert check_sandbox().level == "warn" and "can do what you can" in check_sandbox().text
    monkeypatch.setenv(CHOICE, "bublewrap")
    assert "did you mean 'bubblewrap'" in check_sandbox().text


def test_every_rung_is_told_of_and_an_untested_one_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tested, untested = (next(rung.name for rung in NAMED if rung.tested is kind) for kind in (True, False))
    for module in (sandbox, sandbox_checks):
        monkeypatch.setattr(
            module, "lack", lambda rung: None if rung.name in ("landlock", tested, untested) else "not allowed"
        )
    told = {finding.name: finding for finding in check_rungs()}
    assert list(told) == [f"rung {rung.name}" for rung in (*RUNGS, SNIPPETS, *NAMED)] + ["sandbox"]
    assert told["rung landlock"].text == "holds" and told["rung bubblewrap"].text == "not here: not allowed"
    assert told[f"rung {tested}"].text == f"holds: used only with FLYBALL_SANDBOX={tested}"
    assert "untested: used only with FLYBALL_SANDBOX=" in told[f"rung {untested}"].text
    assert told["sandbox"].text.startswith("landlock")
    monkeypatch.setenv(CHOICE, untested)
    assert check_sandbox().level == "warn" and "never ran on it" in check_sandbox().text
    monkeypatch.setenv(CHOICE, "wasm")
    assert check_sandbox().level == "warn" and "Python alone" in check_sandbox().text
