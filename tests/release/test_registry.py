"""Versions are named by their content and aliases move by compare-and-set."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from flyball.errors import ReleaseError, StoreError
from flyball.release.registry import Registry, content_digest, new_version, weights_digest
from flyball.store.store import Store
from flyball.types import PolicyVersion


def version(**changes) -> PolicyVersion:
    made = {"name": "tiny", "weights": "w1", "base": "b1", "graders": {"success": "g1"}, "path": "/here"}
    return new_version(**{**made, **changes})


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.mark.parametrize("name", [f.name for f in fields(PolicyVersion) if f.name not in ("version_id", "path")])
def test_everything_that_makes_a_version_is_in_its_id(name):
    other = {"k": "v2"} if name in ("graders", "suites", "tools") else "changed"
    assert version(**{name: other}).version_id != version().version_id


def test_where_the_bytes_lie_is_not_what_they_are():
    assert version(path="/there").version_id == version().version_id


def test_the_order_of_graders_does_not_matter():
    assert version(graders={"a": "1", "b": "2"}).version_id == version(graders={"b": "2", "a": "1"}).version_id


def test_an_edited_entry_is_refused(store):
    edited = replace(version(), weights="w2")
    assert edited.version_id != content_digest(edited)
    with pytest.raises(ReleaseError, match="never edit"):
        Registry(store).register(edited)


def test_an_entry_comes_back_as_it_went_and_again_is_no_error(store):
    registry, made = Registry(store), version(parent="p", reward_model="r", tools={"find": "t1"})
    registry.register(made)
    registry.register(replace(made, path="/moved"))
    assert registry.version(made.version_id) == made


def test_an_alias_moves_only_from_where_it_was_expected(store):
    registry, old, new = Registry(store, "ana"), version(), version(weights="w2")
    registry.register(old)
    registry.register(new)
    assert registry.alias("production") is None
    registry.move_alias("production", expected=None, to=old.version_id, reason="first")
    registry.move_alias("production", expected=old.version_id, to=new.version_id, reason="better")
    with pytest.raises(StoreError, match="expected"):
        registry.move_alias("production", expected=old.version_id, to=old.version_id, reason="late")
    assert registry.alias("production") == new
    assert [(move.actor, move.reason) for move in store.alias_history("production")] == [
        ("ana", "first"),
        ("ana", "better"),
    ]


def test_an_alias_does_not_point_at_what_was_never_registered(store):
    with pytest.raises(StoreError):
        Registry(store).move_alias("production", expected=None, to=version().version_id, reason="no")


def test_weights_digest_is_of_names_and_bytes_and_is_that_of_the_store(store, tmp_path):
    folder = tmp_path / "weights"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"one")
    (folder / "sub" / "config.json").write_bytes(b"two")
    first = weights_digest(folder)
    assert first == store.artifacts.put_tree(folder) == weights_digest(folder)
    (folder / "sub" / "config.json").rename(folder / "config.json")
    renamed = weights_digest(folder)
    (folder / "config.json").write_bytes(b"tw0")
    assert len({first, renamed, weights_digest(folder)}) == 3


def test_no_folder_and_an_empty_folder_have_no_digest(tmp_path):
    with pytest.raises(ReleaseError, match="no such folder"):
        weights_digest(tmp_path / "absent")
    with pytest.raises(ReleaseError, match="empty"):
        weights_digest(tmp_path)
