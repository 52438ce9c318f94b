"""Artifacts are whole, verified and shared by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flyball.errors import StoreError
from flyball.store.artifacts import Artifacts


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 9000)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(artifacts: Artifacts) -> list[Path]:
    return [path for path in (artifacts.root / "objects").rglob("*") if path.is_file()]


def test_bytes_come_back_under_their_sha256(artifacts: Artifacts) -> None:
    digest = artifacts.put_bytes(b"weights")
    assert digest == hashlib.sha256(b"weights").hexdigest() == artifacts.put_bytes(b"weights")
    assert artifacts.get_bytes(digest) == artifacts.path(digest).read_bytes() == b"weights"
    assert digest in artifacts
    assert "0" * 64 not in artifacts
    assert len(objects(artifacts)) == 1
    assert not list((artifacts.root / "incoming").iterdir())


def test_a_folder_comes_back_and_equal_files_are_kept_once(artifacts: Artifacts, model: Path) -> None:
    digest = artifacts.put_tree(model)
    assert contents(artifacts.tree(digest)) == contents(model)
    assert artifacts.put_tree(model) == digest
    assert len(objects(artifacts)) == 3  # weights, the two equal `{}` files, the manifest
    tree = artifacts.tree(digest)
    assert tree.stat().st_mode & 0o777 == 0o755
    assert (tree / "config.json").stat().st_ino == artifacts.path(hashlib.sha256(b"{}").hexdigest()).stat().st_ino


def test_the_digest_of_a_folder_knows_names_and_contents(artifacts: Artifacts, model: Path) -> None:
    seen = {artifacts.put_tree(model)}
    (model / "config.json").write_text("{} ")
    seen.add(artifacts.put_tree(model))
    (model / "config.json").rename(model / "renamed.json")
    seen.add(artifacts.put_tree(model))
    assert len(seen) == 3


def test_changing_the_original_does_not_change_the_artifact(artifacts: Artifacts, model: Path) -> None:
    digest = artifacts.put_tree(model)
    before = contents(model)
    with (model / "weights.bin").open("r+b") as file:
        file.write(b"changed in place")
    assert contents(artifacts.tree(digest)) == before


def test_links_to_files_are_followed_and_links_to_folders_refused(artifacts: Artifacts, model: Path) -> None:
    linked = model.parent / "linked"
    linked.mkdir()
    (linked / "weights.bin").symlink_to(model / "weights.bin")
    assert contents(artifacts.tree(artifacts.put_tree(linked))) == {"weights.bin": (model / "weights.bin").read_bytes()}
    (linked / "tokenizer").symlink_to(model / "tokenizer")
    with pytest.raises(StoreError, match=r"linked/tokenizer is neither a file nor a folder"):
        artifacts.put_tree(linked)


def damage(path: Path, content: bytes = b"not what was stored") -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_damaged_artifact_is_refused_and_repaired_by_the_original(artifacts: Artifacts) -> None:
    digest = artifacts.put_bytes(b"weights")
    damage(artifacts.path(digest))
    with pytest.raises(StoreError, match=r"objects/.* is damaged"):
        artifacts.get_bytes(digest)
    assert artifacts.put_bytes(b"weights") == digest
    assert artifacts.get_bytes(digest) == b"weights"


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_a_folder_that_was_tampered_with_is_refused(artifacts: Artifacts, model: Path, change: str) -> None:
    digest = artifacts.put_tree(model)
    tree = artifacts.tree(digest)
    if change == "changed":
        (tree / "config.json").unlink()
        (tree / "config.json").write_text('{"temperature": 9}')
    elif change == "added":
        (tree / "generation_config.json").write_text("{}")
    else:
        (tree / "config.json").unlink()
    with pytest.raises(StoreError, match=r"config\.json is not as it was stored"):
        artifacts.tree(digest)


def test_what_is_not_there_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no artifact 000"):
        artifacts.get_bytes("0" * 64)
    with pytest.raises(StoreError, match="etc' is not the digest"):
        artifacts.get_bytes("../../etc")
    with pytest.raises(StoreError, match="is a file, not a folder"):
        artifacts.tree(artifacts.put_bytes(b"\xff"))
    with pytest.raises(StoreError, match="absent"):
        artifacts.put_file(tmp_path / "absent")
    with pytest.raises(StoreError, match="absent is not a folder"):
        artifacts.put_tree(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="empty holds no file"):
        artifacts.put_tree(tmp_path / "empty")
