"""Files by their content: weights, tokenizers, exported states, reports.

    artifacts/objects/ab/cdef...   one file, named by the sha256 of its bytes, never written again
    artifacts/trees/<digest>/      a folder put together from objects by hard links, made when first asked for
    artifacts/incoming/            files being written; whatever a crash leaves there is not an artifact

A file is complete on disk (fsync) before its name appears (rename), so a name that exists is whole. What is read is
verified: a flipped bit is an error, never a wrong weight. A tree is a manifest, itself an object, and its digest is the
digest of the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from flyball.errors import StoreError
from flyball.store import failures

_CHUNK = 1 << 20


class Artifacts:
    """Content-addressed files under one folder. Digests are sha256 in hex. Safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects, self._trees, self._incoming = root / "objects", root / "trees", root / "incoming"
        with _translated(root):
            for folder in (self._objects, self._trees, self._incoming):
                folder.mkdir(parents=True, exist_ok=True)

    def put_bytes(self, data: bytes) -> str:
        """Store `data` and return its digest; on disk when this returns. Raises StoreError."""
        digest = hashlib.sha256(data).hexdigest()
        if self._whole(digest):
            return digest
        with self._new_file() as (file, temporary):
            file.write(data)
            self._publish(file, temporary, digest)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a copy of the file at `path` and return its digest. Raises StoreError."""
        with _translated(path):
            source = path.open("rb")
        with source, self._new_file() as (file, temporary):
            sha = hashlib.sha256()
            while chunk := source.read(_CHUNK):
                sha.update(chunk)
                file.write(chunk)
            if not self._whole(digest := sha.hexdigest()):
                self._publish(file, temporary, digest)
        return digest

    def put_tree(self, folder: Path) -> str:
        """Store every file under `folder` and return the digest of the manifest.

        Links to files are followed (model hubs keep folders of links); empty folders are not kept. Raises StoreError
        for a folder that is absent, holds no file, or holds a link to a folder or something that is not a file.
        """
        manifest = {name: self.put_file(path) for name, path in _files(folder)}
        if not manifest:
            raise StoreError(f"{folder} holds no file; put_tree stores a folder such as a saved model")
        return self.put_bytes(_manifest_bytes(manifest))

    def get_bytes(self, digest: str) -> bytes:
        """Return the content of one artifact, verified. Raises StoreError when it is absent or damaged."""
        path = self.path(digest)
        with _translated(path):
            return path.read_bytes()

    def path(self, digest: str) -> Path:
        """Return where one artifact lies, verified; read it, never write it. Raises StoreError."""
        path = self._object(digest)
        if not path.is_file():
            raise StoreError(f"{path} is not there: no artifact {digest}. Restore the store folder from a copy")
        with _translated(path):
            found = _sha256(path)
        if found != digest:
            raise StoreError(
                f"{path} is damaged: its content has sha256 {found}. Put the original file again to repair it, or "
                "restore the store folder from a copy"
            )
        return path

    def tree(self, digest: str) -> Path:
        """Return a folder with the files of `put_tree`, all verified; read it, never write it. Raises StoreError."""
        manifest = self._manifest(digest)
        folder = self._trees / digest
        if not folder.is_dir():
            self._build_tree(manifest, folder)
        with _translated(folder):
            found = {name: _sha256(path) for name, path in _files(folder)}
        if changed := sorted(name for name, _ in manifest.items() ^ found.items()):
            raise StoreError(
                f"{folder / changed[0]} is not as it was stored. Remove the folder {folder} to have it built again, "
                "and restore the store folder from a copy if that fails too"
            )
        return folder

    def __contains__(self, digest: str) -> bool:
        return self._object(digest).is_file()

    def _manifest(self, digest: str) -> dict[str, str]:
        try:
            content = json.loads(self.get_bytes(digest))
            files: dict[str, str] = content["files"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"artifact {digest} is a file, not a folder; read it with get_bytes") from error
        return files

    def _build_tree(self, manifest: dict[str, str], folder: Path) -> None:
        """Link the objects into a folder beside its place and rename it there, so that it appears whole."""
        with _translated(folder):
            building = Path(tempfile.mkdtemp(dir=self._incoming))
            try:
                for name, digest in manifest.items():
                    target = building / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link_or_copy(self.path(digest), target)
                building.chmod(0o755)
                building.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process built the same tree first
                    raise
            finally:
                shutil.rmtree(building, ignore_errors=True)

    def _object(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise StoreError(f"{digest!r} is not the digest of an artifact; it is 64 characters of lower-case hex")
        return self._objects / digest[:2] / digest[2:]

    def _whole(self, digest: str) -> bool:
        """True when the object is there and sound; a damaged one is written again."""
        path = self._object(digest)
        with _translated(path):
            return path.is_file() and _sha256(path) == digest

    @contextlib.contextmanager
    def _new_file(self) -> Iterator[tuple[BinaryIO, Path]]:
        with _translated(self._incoming):
            descriptor, name = tempfile.mkstemp(dir=self._incoming)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file, temporary
            finally:
                temporary.unlink(missing_ok=True)

    def _publish(self, file: BinaryIO, temporary: Path, digest: str) -> None:
        """Everything to disk, then the name, then the folder that holds the name."""
        target = self._object(digest)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        made = not target.parent.exists()
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)
        _sync_folder(target.parent)
        if made:
            _sync_folder(self._objects)


def tree_digest(folder: Path) -> str:
    """The digest that `put_tree` gives a folder, without storing it. Raises StoreError as `put_tree` does."""
    with _translated(folder):
        manifest = {name: _sha256(path) for name, path in _files(folder)}
    if not manifest:
        raise StoreError(f"{folder} holds no file, so it has no digest")
    return hashlib.sha256(_manifest_bytes(manifest)).hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (path with slashes, relative to `folder`; path) of each file, sorted by name."""
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder; put_tree stores a folder such as a saved model")
    with _translated(folder):
        paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            continue
        if not path.is_file():
            raise StoreError(f"{path} is neither a file nor a folder, or is a link to a folder; replace it by a copy")
        yield PurePosixPath(path.relative_to(folder)).as_posix(), path


def _manifest_bytes(files: dict[str, str]) -> bytes:
    return json.dumps({"files": files}, sort_keys=True, indent=0).encode("ascii")


def _link_or_copy(source: Path, target: Path) -> None:
    """Share the bytes where the file system can, copy where it cannot (another device, no hard links)."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failures.from_os(Path(error.filename) if isinstance(error.filename, str) else path, error) from error
