"""The registry: immutable policy versions named by their content, and aliases that only this room moves.

A version's id is the digest of everything that made it (weights, base, parent, reward model, dataset, graders,
suites, tools, config, code), so an edited entry no longer matches its own name. `path` stays outside the digest: it
says where the bytes lie today, not what they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from flyball.errors import ReleaseError
from flyball.store.artifacts import tree_digest
from flyball.store.store import Store
from flyball.types import PolicyVersion

PRODUCTION = "production"
"""The alias that users are served from."""


def weights_digest(folder: Path) -> str:
    """sha256 over the sorted files of a folder, as relative name and sha256 of the content of each.

    It is the digest that the store gives the same folder (`put_tree`), so a version's weights can be fetched by it.
    Raises ReleaseError for a folder that is absent or holds no file, StoreError for one that cannot be read.
    """
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: no such folder; a version needs the folder its weights were saved to")
    if not any(path.is_file() for path in folder.rglob("*")):
        raise ReleaseError(f"{folder}: the folder is empty; save the weights before registering them")
    return tree_digest(folder)


def new_version(
    *,
    name: str,
    weights: str,
    base: str,
    parent: str | None = None,
    reward_model: str | None = None,
    dataset: str = "",
    graders: Mapping[str, str] | None = None,
    suites: Mapping[str, str] | None = None,
    tools: Mapping[str, str] | None = None,
    config: str = "",
    code: str = "",
    path: str = "",
) -> PolicyVersion:
    """Build an entry and name it by its content. `weights` is a weights or prompt digest; mappings are name to digest.

    `parent` is the version id this one was trained from, `base` the digest of the base model, `config` and `code`
    digests, `path` the folder of the weights.
    """
    unnamed = PolicyVersion(
        version_id="",
        name=name,
        weights=weights,
        base=base,
        parent=parent,
        reward_model=reward_model,
        dataset=dataset,
        graders=dict(graders or {}),
        suites=dict(suites or {}),
        tools=dict(tools or {}),
        config=config,
        code=code,
        path=path,
    )
    return replace(unnamed, version_id=content_digest(unnamed))


def content_digest(version: PolicyVersion) -> str:
    """sha256 of all fields but `version_id` and `path`, as JSON with sorted keys."""
    fields = {name: value for name, value in asdict(version).items() if name not in ("version_id", "path")}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


class Registry:
    """Registers versions in a store and moves its aliases. `actor` is who the moves are recorded for."""

    def __init__(self, store: Store, actor: str = "flyball") -> None:
        self._store = store
        self._actor = actor

    def register(self, version: PolicyVersion) -> None:
        """Store an entry; one that is there already stays as it is, wherever its bytes lay at the time.

        Raises ReleaseError when its id is not the digest of its content.
        """
        check_version(version)
        if all(known.version_id != version.version_id for known in self._store.versions(version.name)):
            self._store.put_version(version)

    def version(self, version_id: str) -> PolicyVersion:
        """Read an entry back and check it. Raises StoreError if unknown, ReleaseError if it was edited."""
        version = self._store.version(version_id)
        check_version(version)
        return version

    def named(self, said: str) -> PolicyVersion:
        """The version that people call so: by its name, by its id or by a beginning of its id.

        Raises ReleaseError for a name that several versions have, UnknownIdError for one that none has.
        """
        called = self._store.versions(said)
        if len(called) > 1:
            ids = ", ".join(version.version_id[:12] for version in called)
            raise ReleaseError(f"{len(called)} versions are called {said!r}; give the beginning of an id: {ids}")
        return self.version(called[0].version_id if called else said)

    def alias(self, alias: str) -> PolicyVersion | None:
        """The version an alias points at, or None for an alias that was never placed."""
        version_id = self._store.alias(alias)
        return None if version_id is None else self.version(version_id)

    def move_alias(self, alias: str, *, expected: str | None, to: str, reason: str) -> None:
        """Compare-and-set: move only if the alias is still at version id `expected` (None: not placed yet).

        Raises StoreError when somebody else moved it first, or for an unknown version.
        """
        self.version(to)
        self._store.set_alias(alias, to, expected=expected, actor=self._actor, reason=reason)

    def place_alias(self, alias: str, to: str, reason: str) -> None:
        """Move an alias from wherever it is now; a no-op when it is already there."""
        found = self._store.alias(alias)
        if found != to:
            self.move_alias(alias, expected=found, to=to, reason=reason)


def check_version(version: PolicyVersion) -> None:
    """Raise ReleaseError unless `version_id` is the digest of the rest."""
    if version.version_id != (found := content_digest(version)):
        raise ReleaseError(
            f"version {version.name!r} calls itself {version.version_id or 'nothing'} but its content has digest "
            f"{found}; build entries with new_version and never edit them"
        )
