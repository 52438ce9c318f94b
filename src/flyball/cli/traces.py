"""`flyball traces`: what was served, searched, followed, taken out and taken in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from flyball.cli.group import Group
from flyball.cli.options import home_option, open_store
from flyball.cli.output import table
from flyball.errors import StoreError
from flyball.store.bodies import DAYS
from flyball.store.expiry import ROW_DAYS
from flyball.store.formats import atif, jsonl, langfuse, otel
from flyball.store.formats.trace import Trace, add_traces, leaves, traces_of
from flyball.store.served import ServedCall
from flyball.store.store import Store

WRITERS = {"jsonl": jsonl.write, "atif": atif.write}
READERS = {"jsonl": jsonl.read, "atif": atif.read, "otel": otel.read, "langfuse": langfuse.read}
POLL_SECONDS = 1.0

project_option = click.option("--project", help="Only of this project.")
since_option = click.option("--since", type=click.DateTime(), help="Only from this time on, UTC.")


@click.group(cls=Group)
def traces() -> None:
    """Search, follow, export and import what was served."""


@traces.command()
@click.argument("text", default="")
@project_option
@click.option("--session", help="Only of this session.")
@click.option("--arm", type=click.Choice(["stable", "holdback", "canary", "shadow"]))
@click.option("--version", "version_id", help="Only of this policy version.")
@click.option("--failed", is_flag=True, help="Only calls without an answer.")
@since_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@home_option
def search(
    text: str,
    project: str | None,
    session: str | None,
    arm: str | None,
    version_id: str | None,
    failed: bool,
    since: datetime | None,
    limit: int,
    home: Path,
) -> None:
    """List calls, those in which TEXT was said or all."""
    with open_store(home) as store:
        found = store.calls(project=project, session=session, arm=arm, version_id=version_id, since=_seconds(since))
        rows = []
        for call in found:
            if (failed and call.ok) or (text and text.casefold() not in _said(store, call).casefold()):
                continue
            rows.append(_row(store, call))
            if len(rows) == limit:
                break
    table(_HEAD, rows)


@traces.command()
@project_option
@click.option("--once", is_flag=True, help="Print what is there and end.")
@home_option
def tail(project: str | None, once: bool, home: Path) -> None:
    """Print calls as they come in, beginning with the last ten."""
    with open_store(home) as store:
        calls = list(store.calls(project=project))[-10:]
        after = calls[-1].seq if calls else 0
        while True:
            for call in calls:
                click.echo("  ".join(_row(store, call)))
                after = call.seq
            if once:
                return
            time.sleep(POLL_SECONDS)
            calls = list(store.calls(project=project, after=after))


@traces.command()
@click.option("--spools", type=click.Path(path_type=Path, file_okay=False), help="Default: HOME/spool.")
@click.option("--follow", is_flag=True, help="Go on as long as gateways write.")
@home_option
def ingest(spools: Path | None, follow: bool, home: Path) -> None:
    """Read what gateways have spooled into the store."""
    root = spools or home / "spool"
    if not follow and not _spools(root):
        raise click.UsageError(f"no gateway has spooled anything in {root}; `--spools` names another folder")
    with open_store(home, must_exist=False) as store:
        while True:
            for folder in _spools(root):
                done = store.ingest(folder)
                if done.stored or done.quarantined:
                    click.echo(
                        f"{folder}: {done.stored} stored, {done.repeated} repeated, {done.quarantined} in quarantine"
                    )
            for arm, number in store.missing_by_arm().items():
                if number:
                    click.echo(f"{number} frames of {arm or 'no arm'} are missing and were not declared lost", err=True)
            if not follow:
                return
            time.sleep(POLL_SECONDS)


@traces.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["parquet", *WRITERS]), default="parquet", show_default=True)
@project_option
@since_option
@home_option
def export(target: Path, form: str, project: str | None, since: datetime | None, home: Path) -> None:
    """Write everything served to TARGET: a folder of Parquet files by day, or a file of traces."""
    if target.exists() and target.is_dir() != (form == "parquet"):
        wanted = "a folder" if form == "parquet" else "a file"
        raise click.BadParameter(f"{target} is there already and {form} is written to {wanted}", param_hint="TARGET")
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_store(home) as store:
        if form == "parquet":
            from flyball.store.analysis import export_parquet  # an extra

            counts = export_parquet(store, target, project=project, since=_seconds(since))
            click.echo(f"{target}: " + ", ".join(f"{count} {subject}" for subject, count in counts.items()))
            return
        written = 0

        def counted(found: Iterator[Trace]) -> Iterator[Trace]:
            nonlocal written
            for trace in found:
                written += 1
                yield trace

        with target.open("wb") as file:
            file.writelines(WRITERS[form](counted(traces_of(store, project=project, since=_seconds(since)))))
    click.echo(f"{target}: {written} traces")


@traces.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("sql")
def query(folder: Path, sql: str) -> None:
    """Run SQL over the tables calls, sessions and feedback of a Parquet export."""
    from flyball.store.analysis import query as run  # an extra

    columns, rows = run(folder, sql)
    table(columns, [[_cell(value) for value in row] for row in rows])


@traces.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--format", "form", type=click.Choice(list(READERS)), required=True)
@click.option("--project", default="imported", show_default=True, help="The project they are stored under.")
@home_option
def import_(file: Path, form: str, project: str, home: Path) -> None:
    """Read the traces of another system from FILE into the store; the same trace again is no other one."""
    found = [one for one in leaves(READERS[form](file.read_bytes())) if one.messages]
    ended = [one for one in found if one.messages[-1].get("role") == "assistant"]
    with open_store(home, must_exist=False) as store:
        new = add_traces(store, project, ended)
    click.echo(f"{len(ended)} traces, {new} new; {len(found) - len(ended)} without an answer left out")


@traces.command()
@click.option("--project", required=True)
@click.option("--session", required=True)
@click.option("--actor", required=True, help="Who decided it.")
@click.option("--reason", required=True, help="Stands in the tombstones.")
@home_option
def erase(project: str, session: str, actor: str, reason: str, home: Path) -> None:
    """Erase what was said in a session; that it was served, and the digests, stay.

    Words that another session said in exactly the same way are kept once, so they are gone there too.
    """
    with open_store(home) as store:
        calls = list(store.calls(project=project, session=session))
        if not calls:
            raise click.UsageError(
                f"project {project!r} has no session {session!r} in {home}; `flyball traces search` lists them"
            )
        digests = [call.body for call in calls if call.body]
        click.echo(f"{store.erase_bodies(digests, actor, reason)} of {len(set(digests))} bodies erased")


@traces.command()
@click.option("--body-days", type=click.FloatRange(min=0), default=DAYS["body"], show_default=True)
@click.option("--evidence-days", type=click.FloatRange(min=0), default=DAYS["evidence"], show_default=True)
@click.option("--row-days", type=click.FloatRange(min=0), default=ROW_DAYS, show_default=True)
@home_option
def expire(body_days: float, evidence_days: float, row_days: float, home: Path) -> None:
    """Erase what was said longer ago than its class of retention allows, then that it was served at all.

    Sessions of which a body is held as evidence stay.
    """
    with open_store(home) as store:
        bodies = store.expire_bodies({"body": body_days, "evidence": evidence_days})
        click.echo(f"{bodies} bodies erased, {store.expire_rows(row_days)} rows expired")


def _spools(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*") if (path / "lock").exists())


_HEAD = ("time", "session", "agent", "arm", "version", "status", "tokens", "seconds", "said")


def _row(store: Store, call: ServedCall) -> list[str]:
    tokens = f"{_cell(call.tokens_in)}+{_cell(call.tokens_out)}"
    when = f"{datetime.fromtimestamp(call.at, UTC):%Y-%m-%d %H:%M:%S}"
    status = str(call.status) if call.ok else f"{call.status} {call.problem or ''}".strip()
    said = " ".join(_answer(store, call).split())[:60]
    return [when, call.session, call.agent, call.arm, call.version_id[:12], status, tokens, f"{call.seconds:.2f}", said]


def _answer(store: Store, call: ServedCall) -> str:
    try:
        message = store.said(call).message or {}
    except StoreError:
        return "(erased or never kept)" if call.ok else ""
    names = [part["function"]["name"] for part in message.get("tool_calls") or ()]
    return " ".join(filter(None, (str(message.get("content") or ""), ", ".join(names))))


def _said(store: Store, call: ServedCall) -> str:
    try:
        said = store.said(call)
    except StoreError:
        return ""
    return " ".join(str(part) for message in (*said.messages, said.message or {}) for part in message.values())


def _seconds(when: datetime | None) -> float:
    return when.replace(tzinfo=UTC).timestamp() if when else 0.0


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
