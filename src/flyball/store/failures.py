"""What the disk or SQLite refused, said with the path and the way out."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from flyball.errors import StoreError

BUSY_SECONDS = 30.0
"""How long a writer waits for another process before it gives up."""

_FULL = (
    "cannot grow: the disk, quota or file-size limit is reached. Everything acknowledged is kept; free space or move "
    "the store to a larger disk, then resume"
)
_READ_ONLY = "cannot be written. Make the folder writable for this user, or choose another folder for the store"
_BUSY = (
    f"is held by another process for more than {BUSY_SECONDS:.0f} s. Wait for that run to end, or give this one a "
    "store folder of its own"
)
_DAMAGED = (
    "is damaged. Restore the store folder from a copy, save what can be read with `sqlite3 {path} .recover`, or move "
    "it aside: a new store is made when the folder is empty"
)
_OPEN = "cannot be opened or made. Check that the path exists and that this user may read it and create files there"
_IO = (
    "failed while reading or writing. Everything acknowledged is kept; check the disk, its free space and limits, then "
    "resume"
)

_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: _OPEN,
    sqlite3.SQLITE_IOERR: _IO,
}
_BY_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EIO: _IO,
}


def from_sqlite(path: Path, error: sqlite3.Error) -> StoreError:
    """Translate what SQLite said about the database at `path`."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    cure = _BY_SQLITE_CODE.get(code, "refused the statement")
    return StoreError(f"{path} {cure.format(path=path)} ({error})")


def from_os(path: Path, error: OSError) -> StoreError:
    """Translate what the operating system said about a file or folder of the store."""
    return StoreError(f"{path} {_BY_ERRNO.get(error.errno or 0, _OPEN)} ({error.strerror or error})")
