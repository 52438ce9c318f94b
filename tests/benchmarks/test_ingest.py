"""The accounting of `benchmarks.ingest` sees what is lost, and is not alarmed by what was never promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ingest
from flyball.store.spool import Spool


def spooled(root: Path, *names: str) -> None:
    with Spool(root / "0") as spool:
        for name in names:
            spool.append("call", ingest.call(name), arm="canary")


def test_a_lost_row_is_seen_and_one_never_promised_is_not_counted(tmp_path: Path) -> None:
    ledger = ingest.Ledger()
    ledger.accepted, ledger.declared = ["a", "b"], ["c"]
    spooled(tmp_path / "spool", "a", "never told")
    row = ledger.row("case", tmp_path / "spool", tmp_path / "store")
    assert (row["accepted"], row["stored"], row["declared"], row["lost"], row["doubled"]) == (3, 1, 1, 1, 0)


def test_a_declared_loss_that_is_there_is_told(tmp_path: Path) -> None:
    ledger = ingest.Ledger()
    ledger.declared = ["a"]
    spooled(tmp_path / "spool", "a")
    assert ledger.row("case", tmp_path / "spool", tmp_path / "store")["stored_though_declared"] == 1


@pytest.mark.parametrize("case", [ingest.disk_full, ingest.clock_jump])
def test_the_cases_add_up(case) -> None:
    row = case()
    assert row["accepted"] == row["stored"] + row["declared"] > 0
    assert row["lost"] == row["doubled"] == row["unreconciled"] == 0
