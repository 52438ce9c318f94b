"""`flyball proposals`: what judges or permits changes by a proposal, a regression result and a reviewer. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from flyball.cli.group import Group
from flyball.cli.options import home_option, open_store
from flyball.cli.output import table
from flyball.cli.release_state import by_option, moment, now_option
from flyball.errors import ReleaseError, nearest
from flyball.evals.compare import compare
from flyball.evals.imported import read_scores
from flyball.release.proposals import BOUND, Kind, Proposal, State, accept, proposal, regression_of, reject
from flyball.release.proposals import proposals as all_proposals
from flyball.release.proposals import propose as propose_change
from flyball.release.registry import Registry
from flyball.stats.written import NO_VALUE, format_estimate
from flyball.store.store import Store
from flyball.types import Comparison

id_argument = click.argument("proposal_id", metavar="ID")


@click.group(cls=Group)
def proposals() -> None:
    """Propose a change of graders, rubrics, tool scopes or suites, and decide on its regression result."""


@proposals.command("list")
@click.option("--state", type=click.Choice([*get_args(State), "all"]), default="open", show_default=True)
@home_option
def list_proposals(state: str, home: Path) -> None:
    """List proposals, the first proposed first."""
    with open_store(home) as store:
        found = [one for one in all_proposals(store) if state in (one.state, "all")]
    if not found:
        click.echo("no proposal" if state == "all" else f"no proposal is {state}")
        return
    head = ["id", "state", "kind", "name", "by", "reviewer"]
    rows = [[one.proposal_id[:12], one.state, one.kind, one.name, one.by, one.reviewer or NO_VALUE] for one in found]
    table(head, rows)


@proposals.command()
@id_argument
@home_option
def show(proposal_id: str, home: Path) -> None:
    """Print the diff of a proposal, who proposed and reviewed it, and its regression result."""
    with open_store(home) as store:
        found = proposal(store, proposal_id)
        regression = regression_of(store, found)
        diff = store.artifacts.get_bytes(found.diff).decode()
    _say(found)
    click.echo(f"binds:   {found.binds}")
    click.echo(f"result:  {_result(regression) if regression else 'no regression result yet'}")
    click.echo(diff)


@proposals.command()
@click.argument("kind", type=click.Choice(get_args(Kind)))
@click.argument("name")
@click.argument("after", metavar="AFTER", type=click.Path(path_type=Path))
@click.option("--before", type=click.Path(path_type=Path), help="Text in force; left out, there was none.")
@click.option(
    "--version",
    "version",
    help="Candidate that binds the change: its digest under NAME is what gets accepted. Default: the digest of AFTER.",
)
@by_option
@now_option
@home_option
def propose(
    kind: Kind, name: str, after: Path, before: Path | None, version: str | None, by: str, now: float | None, home: Path
) -> None:
    """Propose that the grader, rubric, tool scope or suite called NAME becomes the text AFTER."""
    old, new = b"" if before is None else _bytes(before), _bytes(after)
    with open_store(home) as store:
        binds = _bound(store, version, kind, name) if version else ""
        _say(propose_change(store, kind, name, old, new, by=by, at=moment(now), binds=binds))


@proposals.command("accept")
@id_argument
@click.argument("scores", metavar="[BEFORE.jsonl AFTER.jsonl]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--margin", type=click.FloatRange(0, 1), default=0.03, show_default=True, help="Change that is accepted.")
@by_option
@now_option
@home_option
def accept_one(
    proposal_id: str, scores: tuple[Path, ...], margin: float, by: str, now: float | None, home: Path
) -> None:
    """Accept a proposal on its regression result: a known policy judged by the old, and by the new.

    The files are as `flyball compare` reads them, over the same tasks. Graders, rubrics and suites must judge alike:
    the whole interval of the change lies within the margin; under a tool scope success must not fall beyond it.
    Whoever proposed a change cannot accept it.
    """
    if len(scores) not in (0, 2):
        raise click.UsageError("give two files: a known policy's scores by the old, and by the new")
    with open_store(home) as store:
        found = _regression(scores[0], scores[1], margin) if scores else None
        _say(accept(store, proposal_id, found, by=by, at=moment(now)))
    if found:
        click.echo(f"result:  {_result(found)}")


@proposals.command("reject")
@id_argument
@click.option("--reason", required=True)
@by_option
@now_option
@home_option
def reject_one(proposal_id: str, reason: str, by: str, now: float | None, home: Path) -> None:
    """Reject a proposal, also one's own; the same change may be proposed again."""
    with open_store(home) as store:
        _say(reject(store, proposal_id, by=by, reason=reason, at=moment(now)))


def _regression(before: Path, after: Path, margin: float) -> Comparison:
    """The same policy, judged twice: that the graders differ is the change itself."""
    old, new = (read_scores(path, "regression") for path in (before, after))
    return compare(old, replace(new, grader_version=old.grader_version), "success", margin)


def _bound(store: Store, said: str, kind: Kind, name: str) -> str:
    version = Registry(store).named(said)
    bound: dict[str, str] = dict(getattr(version, BOUND[kind]))
    if name not in bound:
        known = ", ".join(sorted(bound)) or "none"
        raise ReleaseError(f"{version.name} binds no {kind} {name!r}{nearest(name, bound)}; it has {known}")
    return bound[name]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read: {error.strerror}") from error


def _say(one: Proposal) -> None:
    decided = f" by {one.reviewer}" if one.reviewer else ""
    why = f": {one.reason}" if one.reason else ""
    click.echo(f"{one.proposal_id[:12]} {one.kind} {one.name}, proposed by {one.by}: {one.state}{decided}{why}")


def _result(found: Comparison) -> str:
    said = format_estimate(found.difference, signed=True)
    return f"{found.baseline} -> {found.candidate}: {said} at margin {found.margin:g}"
