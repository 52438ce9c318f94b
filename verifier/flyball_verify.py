"""Verifies an audit log of Flyball without Flyball: the standard library and `cryptography`, one file to read through.

    python flyball_verify.py LOG --key HEX [--anchor NOTE]... [--artifacts FOLDER] [--max-age SECONDS]

LOG is the folder that `flyball log export` writes. The public key must come from a place that the operator of the log
cannot change, and so must anchors: copies of checkpoints that you kept (`flyball log checkpoint`). Exit codes: 0 every
check holds, 1 something was found, 2 the log or the command cannot be read.

Formats: entries are JSON, one a line, hashed as the bytes that are there; Merkle tree RFC 6962 section 2.1 (SHA-256);
checkpoints C2SP tlog-checkpoint as C2SP signed notes (Ed25519); approvals Ed25519 over "flyball approval v1\\n" and the
canonical JSON of their fields.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NOT_PROVED = (
    "that what was logged is true: it shows what was said, by which key, and that nobody changed it since",
    "that everything was logged: an act that bypassed the store left no entry",
    "that the operator did not write another log from the start, unless an anchor you kept lies in this one",
    "that an approver read what they signed, or that nobody else held their key",
    "that times are right: they are those of the clocks of the actors",
    "that a statistic is right: `flyball verify RELEASE` works it out again from the stored sessions",
)


@dataclass
class Report:
    """What was found wrong, and what was looked at."""

    problems: list[str] = field(default_factory=list)
    entries: int = 0
    checkpoints: int = 0
    anchors: int = 0
    approvals: int = 0
    artifacts: int = 0
    root: str = ""


class Unreadable(Exception):
    """The log cannot be read at all."""


# --- hashes and signatures -------------------------------------------------------------------------------------------


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def tree_roots(leaves: list[bytes]) -> list[bytes]:
    """The Merkle root (RFC 6962, section 2.1) of the first 0, 1, ... n leaves.

    `full` holds the roots of the full subtrees from left to right, as (leaves, root): two of equal size become one, and
    the root of the whole is their fold from the right.
    """
    roots = [hashlib.sha256(b"").digest()]
    full: list[tuple[int, bytes]] = []
    for leaf in leaves:
        full.append((1, leaf))
        while len(full) > 1 and full[-1][0] == full[-2][0]:
            (size, right), (_, left) = full.pop(), full.pop()
            full.append((2 * size, hashlib.sha256(b"\x01" + left + right).digest()))
        root = full[-1][1]
        for _, left in reversed(full[:-1]):
            root = hashlib.sha256(b"\x01" + left + root).digest()
        roots.append(root)
    return roots


def signature_holds(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def canonical(value: Any) -> bytes:
    """RFC 8785 for what approvals hold: ASCII keys, text and integers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# --- reading ---------------------------------------------------------------------------------------------------------


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


def read_lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error}") from error
    return [line for line in content.split(b"\n") if line]


@dataclass(frozen=True)
class Checkpoint:
    """A note taken apart. `text` is what was signed."""

    text: str
    origin: str
    size: int
    root: bytes
    at: float
    signature: bytes


def parse_note(note: str) -> Checkpoint:
    """Raises ValueError for a note of another form."""
    text, _, signed = note.partition("\n\n")
    origin, size, root, at = text.split("\n")
    mark, name, encoded = signed.strip("\n").split(" ")
    blob = base64.b64decode(encoded, validate=True)
    if mark != "—" or name != origin or len(blob) != 68:
        raise ValueError("no signature line of this log")
    return Checkpoint(text + "\n", origin, int(size), base64.b64decode(root, validate=True), float(at), blob[4:])


# --- checks ----------------------------------------------------------------------------------------------------------


def check_entries(lines: list[bytes], report: Report) -> list[dict[str, Any]]:
    """Numbers without a gap, and each entry names the hash of the one before it."""
    previous, entries = "", []
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line, object_pairs_hook=no_duplicates)
            seq, before = entry["seq"], entry["previous"]
        except (ValueError, KeyError, TypeError) as error:
            report.problems.append(f"entry {number}: no entry ({error})")
            entry, seq, before = {}, None, None
        if seq != number:
            report.problems.append(f"entry {number} calls itself {seq}: one was dropped, added or moved")
        if before != previous:
            report.problems.append(f"entry {number} does not follow the entry before it: one of the two was changed")
        previous = leaf_hash(line).hex()
        entries.append(entry)
    report.entries = len(entries)
    return entries


def check_note(note: str, what: str, key: bytes, roots: list[bytes], report: Report) -> Checkpoint | None:
    """A signature by the key, over a root that the entries have at that size."""
    try:
        found = parse_note(note)
    except (ValueError, binascii.Error) as error:
        report.problems.append(f"{what}: no checkpoint ({error})")
        return None
    if not signature_holds(key, found.text.encode(), found.signature):
        report.problems.append(f"{what} of {found.size} entries is not signed by this key")
    elif found.size >= len(roots):
        report.problems.append(f"{what} signs {found.size} entries and the log has {len(roots) - 1}: its end was cut")
    elif roots[found.size] != found.root:
        report.problems.append(f"{what} signs other entries than the first {found.size} of this log: a fork or an edit")
    return found


def check_checkpoints(
    notes: list[str], key: bytes, roots: list[bytes], report: Report, *, max_age: float | None, now: float
) -> None:
    """Every checkpoint fits, and the newest one covers everything and is not too old."""
    found = [check_note(note, f"checkpoint {i}", key, roots, report) for i, note in enumerate(notes)]
    newest = max((one for one in found if one is not None), key=lambda one: one.size, default=None)
    if newest is None:
        report.problems.append("no checkpoint: nothing of this log is signed")
        return
    if newest.size < len(roots) - 1:
        behind = len(roots) - 1 - newest.size
        report.problems.append(f"the newest checkpoint is stale: {behind} entries after it are not signed")
    if max_age is not None and now - newest.at > max_age:
        report.problems.append(f"the newest checkpoint is {now - newest.at:.0f} s old, {max_age:.0f} s are allowed")
    report.checkpoints = len(notes)


def check_approvals(entries: list[dict[str, Any]], key: bytes, report: Report) -> None:
    """Each approval and waiver: signed in time by the key of who owned that role then, which is not the log's own."""
    owners: dict[str, dict[str, Any]] = {}
    for entry in entries:
        detail = entry.get("detail", {})
        if entry.get("action") == "owner":
            owners[entry["subject"]] = detail
        elif entry.get("action") == "owner_left":
            owners.pop(entry["subject"], None)
        elif entry.get("action") in ("approval", "waiver"):
            report.approvals += 1
            what = f"entry {entry['seq']}, {entry['action']} by {detail.get('approver')}"
            owner = owners.get(str(detail.get("role")))
            if owner is None or owner["name"] != detail.get("approver"):
                report.problems.append(f"{what}: not the owner of {detail.get('role')} at the time")
                continue
            if not approval_is_signed(detail, str(owner["public"])):
                report.problems.append(f"{what}: not signed by the approver's key")
            if owner["public"] == key.hex():
                report.problems.append(f"{what}: signed by the key of the log itself, which proves no second person")
            if not float(entry["at"]) < float(detail["expires_at"]):
                report.problems.append(f"{what}: had expired when it was written down")


def approval_is_signed(detail: dict[str, Any], public: str) -> bool:
    signed = {name: value for name, value in detail.items() if name != "signature"}
    try:
        signature = base64.b64decode(str(detail.get("signature")), validate=True)
        return signature_holds(bytes.fromhex(public), b"flyball approval v1\n" + canonical(signed), signature)
    except (ValueError, binascii.Error):
        return False


def check_artifacts(entries: list[dict[str, Any]], folder: Path, report: Report) -> None:
    """What entries rest on is there and has the digest that they name."""
    for entry in entries:
        for name, digest in entry.get("evidence", {}).items():
            path = folder / "objects" / digest[:2] / digest[2:]
            if not path.is_file():
                report.problems.append(f"entry {entry['seq']}: its {name} {digest[:12]} is not in {folder}")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                report.problems.append(f"entry {entry['seq']}: its {name} {digest[:12]} was changed")
            report.artifacts += 1


def verify(
    log: Path,
    key: bytes,
    *,
    anchors: list[str] | None = None,
    artifacts: Path | None = None,
    max_age: float | None = None,
    now: float = 0.0,
) -> Report:
    """Every check. Raises Unreadable when there is no log to check."""
    report = Report()
    lines = read_lines(log / "entries.jsonl")
    notes = [str(json.loads(line)) for line in read_lines(log / "checkpoints.jsonl")]
    entries, roots = check_entries(lines, report), tree_roots([leaf_hash(line) for line in lines])
    check_checkpoints(notes, key, roots, report, max_age=max_age, now=now)
    for index, anchor in enumerate(anchors or []):
        check_note(anchor, f"anchor {index}", key, roots, report)
        report.anchors += 1
    check_approvals(entries, key, report)
    if artifacts is not None:
        check_artifacts(entries, artifacts, report)
    report.root = roots[-1].hex()
    return report


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Verify an audit log of Flyball, independently of Flyball.")
    parser.add_argument("log", type=Path, help="folder with entries.jsonl and checkpoints.jsonl")
    parser.add_argument("--key", required=True, help="public key of the log, 64 characters of hex, known beforehand")
    parser.add_argument("--anchor", type=Path, action="append", default=[], help="a checkpoint that you kept")
    parser.add_argument("--artifacts", type=Path, help="folder `artifacts` of the store, to check evidence by digest")
    parser.add_argument("--max-age", type=float, help="seconds that the newest checkpoint may be old")
    arguments = parser.parse_args()
    try:
        anchors = [path.read_text(encoding="utf-8") for path in arguments.anchor]
        report = verify(
            arguments.log,
            bytes.fromhex(arguments.key),
            anchors=anchors,
            artifacts=arguments.artifacts,
            max_age=arguments.max_age,
            now=time.time(),
        )
    except (Unreadable, OSError, ValueError) as error:
        sys.stderr.write(f"cannot verify: {error}\n")
        return 2
    say = [*(f"found: {problem}" for problem in report.problems)]
    say.append(
        f"{report.entries} entries, {report.checkpoints} checkpoints, {report.anchors} anchors, {report.approvals} "
        f"approvals, {report.artifacts} artifacts; root {report.root}"
    )
    say.append("does not verify" if report.problems else "verified")
    say.append("A pass does not prove:")
    say.extend(f"  - {limit}" for limit in NOT_PROVED)
    sys.stdout.write("\n".join(say) + "\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
