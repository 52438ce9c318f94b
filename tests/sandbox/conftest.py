"""Every rung that this host has."""

from __future__ import annotations

import pytest

from flyball.sandbox.sandbox import RUNGS, Rung, Sandbox, lack


@pytest.fixture(params=RUNGS, ids=lambda rung: rung.name)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    rung: Rung = request.param
    if (why := lack(rung)) is not None:
        pytest.skip(f"{rung.name}: {why}")
    return Sandbox(rung)
