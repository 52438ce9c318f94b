"""The example of the first hour: captured, graded, and a change of the prompt evaluated, with nothing trained."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from examples.api_agent.first_hour import first_hour


def test_the_first_hour(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("SHOP_KEY", "FLYBALL_RECEIPT_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "example")
    found, graded = asyncio.run(first_hour(tmp_path, num_tickets=20))
    # Of 20 orders 8 are old and have a number: the old prompt refunds them, the new one does not.
    assert (found.baseline_estimate.value, found.candidate_estimate.value) == (0.6, 1.0)
    assert found.verdict == "accept" and 3 <= graded <= 17
