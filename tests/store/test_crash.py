"""What was acknowledged survives kill -9, a full disk and a folder that cannot be written (invariant 10)."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flyball.errors import StoreError
from flyball.store.store import Store
from flyball.types import GradedAttempt

WRITER = Path(__file__).with_name("writer.py")
NOBODY = 65534


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(WRITER), *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def run_until_refused(*arguments: object) -> tuple[list[str], str]:
    """Return the ids that were acknowledged and what the store said in the end."""
    output, _ = start(*arguments).communicate(timeout=60)
    *acknowledged, last = output.splitlines()
    assert last.startswith("refused: ")
    return " ".join(acknowledged).split(), last


def written(store: Store, run_id: str) -> list[str]:
    return [one.attempt.attempt_id for one in store.attempts(run_id)]


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Killed at random moments; then everything printed is there, batches are whole, and the next writer goes on."""
    with Store(tmp_path) as store:
        run_id = store.new_run("train", {})
    acknowledged: set[str] = set()
    moments = random.Random(7)
    for life in range(5):
        writer = start(tmp_path, run_id, f"life{life}")
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.25))
        writer.kill()
        rest, _ = writer.communicate(timeout=60)
        assert writer.returncode == -9
        whole_lines = (first + rest).rpartition("\n")[0]
        acknowledged |= set(whole_lines.split())
        with Store(tmp_path) as store:
            assert store._db.rows("PRAGMA integrity_check")[0][0] == "ok"
            found = written(store, run_id)
            assert acknowledged <= set(found)
            assert len(found) % 3 == 0 and len(set(found)) == len(found)
            for name in (line.split()[0].encode() for line in whole_lines.splitlines()):
                assert store.artifacts.get_bytes(hashlib.sha256(name).hexdigest()) == name
    assert len(acknowledged) >= 15


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, graded: Callable[..., GradedAttempt]) -> None:
    """The operating system refuses to let a file grow, in the middle of writing."""
    with Store(tmp_path) as store:
        run_id = store.new_run("train", {})
    acknowledged, said = run_until_refused(tmp_path, run_id, "full", 300_000)
    assert len(acknowledged) >= 3
    assert "[store]" in said and "flyball.db" in said
    assert "Everything acknowledged is kept" in said
    with Store(tmp_path) as store:
        assert written(store, run_id) == acknowledged
        store.add_attempt(run_id, "rl", 0, graded("after"))
        assert written(store, run_id)[-1] == "after"


def test_a_database_that_cannot_grow_undoes_the_batch(sqlite: Store, graded: Callable[..., GradedAttempt]) -> None:
    run_id = sqlite.new_run("train", {})
    sqlite.add_attempt(run_id, "rl", 0, graded("before"))
    pages = sqlite._db.rows("PRAGMA page_count")[0][0]
    sqlite._db.rows(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match=r"flyball\.db cannot grow: the disk.*free space.*then resume"):
        sqlite.add_attempts(run_id, "rl", 1, [graded(f"a{i}") for i in range(50)])
    assert written(sqlite, run_id) == ["before"]
    sqlite._db.rows("PRAGMA max_page_count = 1000000")
    sqlite.add_attempt(run_id, "rl", 1, graded("after"))
    assert written(sqlite, run_id) == ["before", "after"]


def test_an_artifact_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    program = f"""
import resource
from pathlib import Path
from flyball.errors import StoreError
from flyball.store.artifacts import Artifacts
artifacts = Artifacts(Path({str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    artifacts.put_bytes(b"x" * 200_000)
except StoreError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert f"[store] {tmp_path}" in said and "cannot grow" in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture
def read_only() -> Iterator[tuple[Path, str]]:
    """A store in a folder that the writer may enter and read, not change, and a run in it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with Store(root) as store:
            run_id = store.new_run("train", {})
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for path in root.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        root.chmod(0o555)
        yield root, run_id
        for folder in folders:
            folder.chmod(0o755)


def test_a_read_only_folder_is_told(read_only: tuple[Path, str]) -> None:
    root, run_id = read_only
    user = NOBODY if os.getuid() == 0 else 0  # root may write anywhere, so the writer becomes somebody else
    acknowledged, said = run_until_refused(root, run_id, "ro", 0, user)
    assert acknowledged == []
    assert f"[store] {root}" in said and "cannot be" in said and "folder" in said


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/store cannot be opened or made\. Check that the path exists"):
        Store(tmp_path / "file" / "store")
