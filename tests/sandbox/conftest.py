"""Every rung that this host has."""

from __future__ import annotations

import pytest

from flyball.sandbox.sandbox import RUNGS, Rung, Sandbox, lack

PARAMS = [
    pytest.param(rung, marks=[pytest.mark.podman] if rung.name == "podman" else [], id=rung.name) for rung in RUNGS
]


@pytest.fixture(params=PARAMS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    rung: Rung = request.param
    if (why := lack(rung)) is not None:
        pytest.skip(f"{rung.name}: {why}")
    return Sandbox(rung)
