"""Tampering with an audit log: is every kind of it found by the verifier, which imports nothing of ours?

    python -m benchmarks.audit --logs 200        # about a minute on one core

An honest log of a random length is written by a store; then somebody changes a copy of it. `HANDS` says what they hold:
the files only, or the log's own signing key as well, against which only an anchor (a checkpoint kept elsewhere) or the
approvers' own keys help. Honest copies are verified too: nothing may be found in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import click
import orjson

from benchmarks.result import RESULTS, Finding, append_row, publish, read_rows, rows_file
from flyball.release.approvals import Approval, Person, name_owner, record_approval
from flyball.stats.binomial import exact_upper
from flyball.store.audit import Act, canonical, log_origin
from flyball.store.merkle import Tree, leaf_hash
from flyball.store.signing import SigningKey, checkpoint_note
from flyball.store.store import Store
from verifier.flyball_verify import Report, verify

NAME = "audit"
HOUR = 3600.0


@dataclass(frozen=True)
class Log:
    """A copy of a log: lines, checkpoints, what the verifier was told beforehand, and the keys behind it."""

    lines: tuple[bytes, ...]
    notes: tuple[str, ...]
    key: SigningKey
    approver: SigningKey
    anchors: tuple[str, ...] = ()
    max_age: float | None = None
    now: float = 0.0

    def check(self, folder: Path) -> Report:
        """What the verifier says, told the public key of the honest log."""
        (folder / "entries.jsonl").write_bytes(b"".join(line + b"\n" for line in self.lines))
        (folder / "checkpoints.jsonl").write_bytes(b"".join(orjson.dumps(note) + b"\n" for note in self.notes))
        public = bytes.fromhex(self.key.public)
        return verify(folder, public, anchors=list(self.anchors), max_age=self.max_age, now=self.now)


def honest_log(folder: Path, rng: Random) -> Log:
    """A store with an owner, an approval and 3 to 40 other acts."""
    approver = SigningKey.create(folder / "ada.key")
    with Store(folder / "store") as store:
        name_owner(store, Person("Product", "ada", approver.public), by="root", at=1.0)
        for i in range(rng.randint(3, 40)):
            detail = {"share": rng.random(), "text": "é€" * rng.randint(0, 9)}
            store.add_act(Act(action="route", actor="flyball", at=i * HOUR, subject="r1", detail=detail))
        approval = Approval(
            release="r1", digest="d" * 64, role="Product", approver="ada", signed_at=0, expires_at=10**6
        ).signed(approver)
        record_approval(store, approval, 100.0)
        store.add_act(Act(action="route", actor="flyball", at=41 * HOUR, subject="r1"))
        store.export_audit(folder / "log")
        lines = (folder / "log" / "entries.jsonl").read_bytes().splitlines()
        notes = [orjson.loads(line) for line in (folder / "log" / "checkpoints.jsonl").read_bytes().splitlines()]
        return Log(tuple(lines), tuple(notes), store.audit_key, approver)


# --- tampering -------------------------------------------------------------------------------------------------------


def _rechained(lines: list[bytes]) -> tuple[bytes, ...]:
    """The same entries, numbered and chained again as an honest log would be."""
    previous, found = "", []
    for seq, line in enumerate(lines):
        found.append(canonical({**orjson.loads(line), "seq": seq, "previous": previous}))
        previous = leaf_hash(found[-1]).hex()
    return tuple(found)


def _resigned(log: Log, lines: tuple[bytes, ...], key: SigningKey) -> Log:
    """A log of these entries with checkpoints by `key`."""
    tree, notes = Tree(), []
    for line in lines:
        tree.append(leaf_hash(line))
        notes.append(checkpoint_note(key, log_origin(key.public), tree.size, tree.root(), orjson.loads(line)["at"]))
    return replace(log, lines=lines, notes=tuple(notes))


def _edited(line: bytes, **changes: Any) -> bytes:
    return canonical({**orjson.loads(line), **changes})


def _with_edit(log: Log, rng: Random) -> list[bytes]:
    at = rng.randrange(1, len(log.lines) - 2)
    return [_edited(line, reason="nothing to see") if i == at else line for i, line in enumerate(log.lines)]


def drop(log: Log, rng: Random) -> Log:
    at = rng.randrange(len(log.lines))
    return replace(log, lines=log.lines[:at] + log.lines[at + 1 :])


def drop_and_rechain(log: Log, rng: Random) -> Log:
    """Any but the last: without its end a log is a shorter log, see `cut_end`."""
    at = rng.randrange(1, len(log.lines) - 1)
    return replace(log, lines=_rechained([*log.lines[:at], *log.lines[at + 1 :]]), notes=log.notes[:-1])


def reorder(log: Log, rng: Random) -> Log:
    at = rng.randrange(len(log.lines) - 1)
    return replace(log, lines=(*log.lines[:at], log.lines[at + 1], log.lines[at], *log.lines[at + 2 :]))


def reorder_and_rechain(log: Log, rng: Random) -> Log:
    return replace(log, lines=_rechained(list(reorder(log, rng).lines)))


def edit(log: Log, rng: Random) -> Log:
    return replace(log, lines=tuple(_with_edit(log, rng)))


def edit_and_rechain(log: Log, rng: Random) -> Log:
    return replace(log, lines=_rechained(_with_edit(log, rng)))


def wrong_key(log: Log, rng: Random) -> Log:
    with tempfile.TemporaryDirectory() as folder:
        return _resigned(log, _rechained(_with_edit(log, rng)), SigningKey.create(Path(folder) / "other.key"))


def stale_checkpoint(log: Log, rng: Random) -> Log:
    return replace(log, notes=log.notes[: rng.randrange(1, len(log.notes))])


def old_checkpoint(log: Log, rng: Random) -> Log:
    return replace(log, max_age=HOUR, now=60 * HOUR)


def cut_end(log: Log, rng: Random) -> Log:
    """A shorter log is a log: only who kept a checkpoint of the longer one sees it."""
    left = rng.randrange(1, len(log.lines))
    return replace(log, lines=log.lines[:left], notes=log.notes[:left], anchors=(log.notes[-1],))


def fork(log: Log, rng: Random) -> Log:
    """Two histories under one key, one shown to each reader, who compare checkpoints."""
    other = _resigned(log, _rechained(_with_edit(log, rng)), log.key)
    return replace(other, anchors=(log.notes[-1],))


def fork_in_one_log(log: Log, rng: Random) -> Log:
    other = _resigned(log, _rechained(_with_edit(log, rng)), log.key)
    return replace(log, notes=(*log.notes, other.notes[-1]))


def _with_approval(log: Log, **changes: Any) -> Log:
    """The approval changed by somebody who holds the log's key and not the approver's."""
    lines = []
    for line in log.lines:
        entry = orjson.loads(line)
        is_approval = entry["action"] == "approval"
        lines.append(_edited(line, detail={**entry["detail"], **changes}) if is_approval else line)
    return _resigned(log, _rechained(lines), log.key)


def forged_approval(log: Log, rng: Random) -> Log:
    return _with_approval(log, digest="e" * 64)


def longer_approval(log: Log, rng: Random) -> Log:
    return _with_approval(log, expires_at=10**9)


def approval_by_the_log(log: Log, rng: Random) -> Log:
    """The operator names themselves the owner and signs with the log's key."""
    entry = next(orjson.loads(line) for line in log.lines if orjson.loads(line)["action"] == "approval")
    signed = Approval(**{**entry["detail"], "signature": ""}).signed(log.key)
    lines = [
        _edited(line, detail={"name": "ada", "public": log.key.public})
        if orjson.loads(line)["action"] == "owner"
        else line
        for line in _with_approval(log, **asdict(signed)).lines
    ]
    return _resigned(log, _rechained(lines), log.key)


def expired_approval(log: Log, rng: Random) -> Log:
    lines = [_edited(line, at=10.0**7) if orjson.loads(line)["action"] == "approval" else line for line in log.lines]
    return _resigned(log, _rechained(lines), log.key)


HANDS: dict[str, dict[str, Callable[[Log, Random], Log]]] = {
    "the files": {
        "drop": drop,
        "drop_and_rechain": drop_and_rechain,
        "reorder": reorder,
        "reorder_and_rechain": reorder_and_rechain,
        "edit": edit,
        "edit_and_rechain": edit_and_rechain,
        "wrong_key": wrong_key,
        "stale_checkpoint": stale_checkpoint,
        "old_checkpoint": old_checkpoint,
        "cut_end": cut_end,
    },
    "the files and the key of the log": {
        "fork": fork,
        "fork_in_one_log": fork_in_one_log,
        "forged_approval": forged_approval,
        "longer_approval": longer_approval,
        "approval_by_the_log": approval_by_the_log,
        "expired_approval": expired_approval,
    },
}
TAMPERINGS = {name: change for kinds in HANDS.values() for name, change in kinds.items()}


# --- findings --------------------------------------------------------------------------------------------------------


def findings(rows: list[dict[str, Any]]) -> list[Finding]:
    """All tampering found, nothing found in honest logs: exact one-sided 95 % bounds."""
    found = []
    for hands, kinds in {**HANDS, "nothing": {"honest": lambda log, rng: log}}.items():
        wanted = hands != "nothing"
        of = [row for row in rows if row["case"] in kinds]
        wrong = sum(row["found"] is not wanted for row in of)
        claim = f"every tampered log is found by the verifier; who tampers holds {hands}: {', '.join(kinds)}"
        found.append(
            Finding(
                f"tampering.{hands.replace(' ', '_')}" if wanted else "honest",
                claim if wanted else "nothing is found in an honest log",
                "none wrong; interval: exact one-sided 95 % bound",
                100.0 * wrong / len(of),
                (0.0, 100.0 * exact_upper(wrong, len(of))),
                len(of),
                "% of logs",
                wrong == 0,
            )
        )
    return found


@click.command()
@click.option("--logs", type=click.IntRange(min=1), default=200, show_default=True, help="Logs per kind of tampering.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="Where results go.")
def main(logs: int, folder: Path) -> None:
    """Tamper and verify, then write the findings."""
    path = rows_file(NAME, folder)
    done = {(row["case"], row["seed"]) for row in read_rows(path)}
    cases = {"honest": lambda log, rng: log, **TAMPERINGS}
    for seed in range(logs):
        with tempfile.TemporaryDirectory() as name:
            log = honest_log(Path(name), Random(seed))
            for case, change in cases.items():
                if (case, seed) not in done:
                    report = change(log, Random(seed)).check(Path(name))
                    append_row(path, {"case": case, "seed": seed, "found": bool(report.problems)})
    found = findings(read_rows(path))
    for one in found:
        print(f"{'holds ' if one.holds else 'missed'} {one.id:<45} {one.value:.3g} {one.unit}, n={one.n}")
    publish(NAME, found, command=f"python -m benchmarks.audit --logs {logs}", reasons={}, folder=folder)


if __name__ == "__main__":
    main()
