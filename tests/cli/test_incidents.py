"""`flyball incidents` from opening to close."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flyball.store.store import Store


def test_an_incident_on_the_command_line(flyball: Callable[..., Any], tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "home"))
    Store(tmp_path / "home").close()

    def run(*arguments: str) -> Any:
        return flyball("incidents", *arguments, *home)

    assert run("open", "i1", "--reason", "wrong refunds", "--began", "40", "--by", "bob", "--now", "100").code == 0
    assert run("note", "i1", "set back", "--restored", "--by", "bob", "--now", "130").code == 0
    refused = run("close", "i1", "--by", "bob")
    assert refused.code == 4 and "no cause from ML, Platform, Product" in refused.err
    for role, name in (("ML", "mia"), ("Platform", "pat"), ("Product", "ada")):
        assert flyball("release", "owner", role, name, "ab" * 32, "--by", "root", *home).code == 0
        assert run("cause", "i1", "the tool changed", "--role", role, "--by", name).code == 0
    assert run("close", "i1", "--by", "bob").code == 0
    told = run("show", "i1").out
    assert "detected after 60 s, restored after 30 s" in told and "cause, ML: the tool changed" in told
    (_, row) = run("list").out.splitlines()
    assert row.split()[:3] == ["i1", "closed", "person"]
