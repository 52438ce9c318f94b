"""The audit log: what is written is in it, in one transaction, canonical, chained and signed; nobody changes it."""

from __future__ import annotations

import base64
import hashlib
import stat
from dataclasses import asdict

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import StoreError
from flyball.store.audit import Act, canonical
from flyball.store.merkle import Tree, leaf_hash, node_hash
from flyball.store.signing import SigningKey, is_signed
from flyball.store.store import Store
from flyball.types import PolicyVersion, Release

DID = Act(action="looked", actor="ada", at=1.5, subject="r1", detail={"share": 0.05, "naïve": None})


def plain_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(plain_root(leaves[:split]), plain_root(leaves[split:]))


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_the_growing_tree_has_the_root_of_the_rfc(entries: list[bytes]) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    assert Tree(leaves).root() == plain_root(leaves)


def test_known_roots() -> None:
    """Test vectors of the Certificate Transparency reference: "", then 0x00, 0x10."""
    assert Tree().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    two = Tree([leaf_hash(b""), leaf_hash(b"\x00")])
    assert two.root().hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"


def test_canonical_json_is_that_of_the_rfc() -> None:
    assert canonical({"b": 1.0, "a": [1e-7, 1e21, "€\u000f"]}) == b'{"a":[1e-7,1e+21,"\xe2\x82\xac\\u000f"],"b":1}'
    with pytest.raises(StoreError, match="no canonical JSON"):
        canonical({"cost": float("nan")})


def test_entries_are_chained_and_read_back(store: Store) -> None:
    first, second = store.add_act(DID), store.add_act(DID)
    assert (first.seq, first.previous, second.seq) == (0, "", 1)
    assert second.previous == leaf_hash(canonical(asdict(first))).hex()
    assert store.acts() == [first, second] and store.acts(subject="r2") == []
    assert store.checkpoint().splitlines()[1] == "2"


def test_the_checkpoint_is_signed_by_the_key_of_the_store(store: Store) -> None:
    store.add_act(DID)
    text, _, signed = store.checkpoint().partition("\n\n")
    signature = base64.b64decode(signed.split(" ")[2])[4:]
    encoded = base64.b64encode(signature).decode()
    assert is_signed(store.audit_key.public, f"{text}\n".encode(), encoded)
    assert not is_signed(store.audit_key.public, f"{text} \n".encode(), encoded)
    assert stat.S_IMODE((store.root / "audit.key").stat().st_mode) == 0o600


def test_a_lost_key_is_not_replaced(store: Store) -> None:
    store.add_act(DID)
    (store.root / "audit.key").unlink()
    with pytest.raises(StoreError, match="restore it"):
        store.add_act(DID)
    assert len(store.acts()) == 1


def test_what_moves_a_release_is_an_entry(store: Store) -> None:
    store.put_version(PolicyVersion("v1", "one", "w", "b"))
    store.set_alias("production", "v1", expected=None, actor="ada", reason="the first")
    store.put_release(Release("r1", "v1", "v2", "offline", (), "ready for shadow"))
    store.add_route(1, "r1", "{}", Act(action="route", actor="flyball", at=2.0, subject="r1"))
    assert [(e.action, e.subject) for e in store.acts()] == [
        ("alias", "production"),
        ("release", "r1"),
        ("route", "r1"),
    ]


def test_a_move_without_its_entry_does_not_happen(store: Store) -> None:
    bad = Act(action="route", actor="flyball", at=2.0, detail={"share": float("nan")})
    with pytest.raises(StoreError, match="no canonical JSON"):
        store.add_route(1, "r1", "{}", bad)
    assert store.route() is None and store.acts() == []


def test_writes_together_are_all_there_or_none(store: Store) -> None:
    with pytest.raises(RuntimeError, match="power"), store.together():
        store.add_act(DID)
        store.add_route(1, "r1", "{}", DID)
        raise RuntimeError("power")
    assert store.acts() == [] and store.route() is None
    with store.together():
        store.add_act(DID)
        store.add_act(DID)
    assert len(store.acts()) == 2


@pytest.mark.parametrize(
    "sql", ["UPDATE audit SET subject = 'x'", "DELETE FROM audit", "DELETE FROM audit_checkpoints"]
)
def test_the_database_refuses_to_change_it(store: Store, sql: str) -> None:
    store.add_act(DID)
    with pytest.raises(StoreError, match="append-only"), store.together() as db:
        db.execute(sql)  # type: ignore[attr-defined]


def test_keys_are_written_once_and_read_back(tmp_path) -> None:
    key = SigningKey.create(tmp_path / "ada.key")
    assert SigningKey.read(tmp_path / "ada.key").public == key.public
    with pytest.raises(StoreError, match="never overwritten"):
        SigningKey.create(tmp_path / "ada.key")
    (tmp_path / "no.key").write_text("nothing")
    with pytest.raises(StoreError, match="no private key"):
        SigningKey.read(tmp_path / "no.key")


def test_an_exported_log_is_what_is_stored(store: Store, tmp_path) -> None:
    entry = store.add_act(DID)
    store.export_audit(tmp_path / "log")
    assert (tmp_path / "log" / "entries.jsonl").read_bytes() == canonical(asdict(entry)) + b"\n"
    assert orjson.loads((tmp_path / "log" / "checkpoints.jsonl").read_bytes()) == store.checkpoint()
