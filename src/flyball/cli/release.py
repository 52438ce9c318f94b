"""`flyball release`: from two versions and their scores to everybody, or back. Needs no torch.

The store is the state: each command reads it, does one durable step and prints where the release is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from flyball.cli.canary import plan_argument, print_detection
from flyball.cli.group import Group
from flyball.cli.options import FINITE, home_option, open_store, slice_option, take_in
from flyball.cli.output import print_release, table
from flyball.cli.release_pages import brief, decision
from flyball.cli.release_state import (
    by_option,
    live_of,
    moment,
    now_option,
    plan_under_way,
    print_holds,
    print_status,
    sessions_argument,
    sessions_of,
    under_way,
)
from flyball.cli.release_tick import tick
from flyball.errors import ReleaseError
from flyball.evals.compare import compare
from flyball.evals.imported import read_scores
from flyball.evals.slices import Slice
from flyball.gateway.running import RunningGateway
from flyball.gateway.settings import read_gateway_file
from flyball.gateway.shadow_facts import shadowed_sessions
from flyball.release.approvals import (
    DUTIES,
    ROLES,
    Approval,
    Person,
    approval_digest,
    name_owner,
    owner_leaves,
    record_approval,
)
from flyball.release.canary.read import read_plan
from flyball.release.controller import Controller, Restored
from flyball.release.evidence import Evidence
from flyball.release.gates import DEFAULT_GATES
from flyball.release.gates import gate as gate_named
from flyball.release.online import ONLINE_GATES
from flyball.release.registry import PRODUCTION, Registry
from flyball.release.rollback import Drill, DrillStep
from flyball.release.slices import SLICES_GATE, with_slices
from flyball.release.verdict import is_ready, judge_release
from flyball.store.signing import SigningKey

DAY = 24 * 3600.0
IMPORTED_GATES = ("no_safety_regression", "success_not_worse", "cost_per_success_not_worse", "missing_rate")
"""Those that imported scores can answer."""
REJECTED, NOT_KNOWN = 1, 3
RESTORE_SECONDS = 300.0
"""Within which `rollback --gateway` must have seen users back."""

gateway_option = click.option(
    "--gateway", metavar="GATEWAY.yaml", type=click.Path(path_type=Path), help="File of the gateway that is running."
)


@click.group(cls=Group)
def release() -> None:
    """Judge a candidate, and bring it to users in steps that go back by themselves."""


release.add_command(brief)
release.add_command(decision)
release.add_command(tick)


@release.command("gates")
def list_gates() -> None:
    """Print every gate with owner, margin and what it is judged on."""
    more = ("tool_errors_not_worse", "over_refusal_not_worse", "no_reward_hacking", SLICES_GATE)
    found = [gate_named(name) for name in (*DEFAULT_GATES, *more)] + list(ONLINE_GATES)
    table(["gate", "owner", "evidence", "passes"], [[one.name, one.owner, one.evidence, one.rule] for one in found])


@release.command("judge")
@click.argument("candidate")
@click.argument("suites", nargs=-1, required=True, metavar="SUITE=BASELINE.jsonl,CANDIDATE.jsonl...")
@click.option("--gate", "names", multiple=True, help="A gate to ask; default: those that imported scores can answer.")
@slice_option
@home_option
@click.pass_context
def judge(
    context: click.Context,
    candidate: str,
    suites: Sequence[str],
    names: Sequence[str],
    slices: Sequence[Slice],
    home: Path,
) -> None:
    """Judge CANDIDATE (a name, or the beginning of an id) against what is in production, and open its release.

    Exit codes: 0 ready for shadow, 1 a gate fails, 3 a gate is not known yet, 4 an error.
    """
    margins = {one.name: one.margin for one in slices}
    with open_store(home) as store:
        serving = store.alias(PRODUCTION)
        if serving is None:
            raise ReleaseError(
                "nothing is in production yet: `flyball register ... --production` says what serves users"
            )
        arms = (serving, Registry(store).named(candidate).version_id)
        files = [_suite(written) for written in suites]
        runs = [[read_scores(paths[i], name, arm, slices) for name, *paths in files] for i, arm in enumerate(arms)]
        for run in (*runs[0], *runs[1]):
            store.put_eval(run)
        found = judge_release(
            Evidence.from_runs(
                *runs,
                comparisons=[compare(old, new, "success", 0.0) for old, new in zip(*runs, strict=True)],
                primary=runs[0][0].suite,
                slice_margins=margins,
            ),
            with_slices(names or IMPORTED_GATES, margins),
        )
        if not (launched := store.routes(found.release_id)):  # the same evidence again is the same release
            store.put_release(found)
    print_release(found)
    if launched:
        click.echo("next:    flyball release status: it was launched before, and is where it is")
    elif is_ready(found.verdict):
        click.echo(
            f"next:    flyball release launch {found.release_id[:12]} PLAN.yaml --base SUCCESS --per-day SESSIONS"
        )
    click.echo(f"release: {found.release_id}")
    if not is_ready(found.verdict):
        context.exit(REJECTED if any(one.state == "fail" for one in found.gates) else NOT_KNOWN)


def _suite(written: str) -> tuple[str, Path, Path]:
    name, _, files = written.partition("=")
    before, _, after = files.partition(",")
    if not (name and before and after):
        raise click.UsageError(f"{written!r}: write SUITE=BASELINE.jsonl,CANDIDATE.jsonl")
    return name, Path(before), Path(after)


# --- who answers -----------------------------------------------------------------------------------------------------


@release.command()
@click.argument("role", type=click.Choice(ROLES))
@click.argument("name")
@click.argument("public")
@by_option
@now_option
@home_option
def owner(role: str, name: str, public: str, by: str, now: float | None, home: Path) -> None:
    """Make NAME, known by the PUBLIC key, the owner of a role (`flyball log key` makes keys)."""
    with open_store(home) as store:
        name_owner(store, Person(role, name, public), by=by, at=moment(now))
    click.echo(f"owner:   {name} answers for {role}: {DUTIES[role]}")


@release.command("owner-left")
@click.argument("role", type=click.Choice(ROLES))
@by_option
@now_option
@home_option
def owner_left(role: str, by: str, now: float | None, home: Path) -> None:
    """A role has no owner any more: what they signed counts no longer."""
    with open_store(home) as store:
        owner_leaves(store, role, by=by, at=moment(now))


@release.command()
@click.argument("release_id", metavar="RELEASE")
@plan_argument
@click.option("--role", type=click.Choice(ROLES), required=True)
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Your private key.")
@click.option("--days", type=FINITE, default=30.0, show_default=True, help="Until it expires.")
@click.option("--waive", default="", metavar="GATE", help="Waive one gate of your role instead of approving.")
@click.option("--reason", default="", help="Why; a waiver needs one.")
@by_option
@now_option
@home_option
def approve(
    release_id: str,
    plan_file: Path,
    role: str,
    key: Path,
    days: float,
    waive: str,
    reason: str,
    by: str,
    now: float | None,
    home: Path,
) -> None:
    """Sign a release under a plan with your own key, or waive a gate of it, until it expires."""
    at = int(moment(now))
    with open_store(home) as store:
        asked = store.release(release_id)
        approval = Approval(
            release=asked.release_id,
            digest=approval_digest(asked.release_id, read_plan(plan_file).digest),
            role=role,
            approver=by,
            signed_at=at,
            expires_at=at + int(days * DAY),
            gate=waive,
            reason=reason,
        )
        record_approval(store, approval.signed(SigningKey.read(key)), at)
        click.echo(f"signed:  {f'waiver of {waive}' if waive else 'approval'} by {by} ({role}) for {days:g} days")
        print_holds(store, at)


# --- the way ---------------------------------------------------------------------------------------------------------


@release.command()
@click.argument("release_id", metavar="RELEASE")
@plan_argument
@click.option("--base", type=float, required=True, help="Share of success of the version in force.")
@click.option("--per-day", type=float, required=True, help="Sessions a day (users a day, if the plan's unit is user).")
@now_option
@home_option
def launch(release_id: str, plan_file: Path, base: float, per_day: float, now: float | None, home: Path) -> None:
    """Begin the shadow of a release under a plan, if its canary will be able to see the harm in time.

    What it will see, and when, is printed and kept in the record; the Reliability Brief has it.
    """
    plan, at = read_plan(plan_file), moment(now)
    if len(plan.stages) > 1 and not plan.signed_by:
        raise ReleaseError(
            f"{plan_file}: nobody signed the plan, so its canary would stay at {100 * plan.stages[0]:g} % until it "
            "goes back at the horizon: add `signed_by` with the owner who lets it follow the stages, or plan one stage"
        )
    with open_store(home) as store:
        found = store.release(release_id)
        seen = Controller(store).launch(found, plan, base=base, units_per_day=per_day, now=at)
        click.echo(f"canary:  {100 * seen.share:g} % of {seen.units_per_day:g} {seen.unit}s a day will see")
        print_detection(seen.rows, seen.unit)
        print_status(store)
        print_holds(store, at)


@release.command()
@gateway_option
@click.option("--seconds", type=click.FloatRange(min=0), help="Done by hand: from the decision until users were back.")
@by_option
@now_option
@home_option
@click.pass_context
def drill(
    context: click.Context, gateway: Path | None, seconds: float | None, by: str, now: float | None, home: Path
) -> None:
    """Rehearse the way back through a running gateway, or record a rehearsal that was done by hand.

    Exit codes: 0 verified, 1 not verified, 4 an error.
    """
    if (gateway is None) == (seconds is None):
        raise click.UsageError("give --gateway GATEWAY.yaml to rehearse, or --seconds for what was done by hand")
    with open_store(home) as store:
        table = under_way(store)
        if gateway is not None:
            with RunningGateway.of(read_gateway_file(gateway)) as running:
                running.check_answers()
                done = Controller(store, by).drill(running, clock=time.time, wait=time.sleep)
            told = f"in {done.seconds:.1f} s" if done.verified else f"not verified: {done.problem}"
            click.echo(f"drill:   {told}")
        else:
            steps = (DrillStep("by hand", seconds or 0.0, True),)
            done = Drill(table.stable, table.candidate, steps, True)
            Controller(store).record_drill(done, now=moment(now), by=by)
        print_holds(store, moment(now))
    context.exit(0 if done.verified else REJECTED)


@release.command()
@by_option
@now_option
@home_option
def canary(by: str, now: float | None, home: Path) -> None:
    """End the shadow and begin the canary, if nothing holds it: what was shadowed is looked at, and recorded."""
    at = moment(now)
    with open_store(home) as store:
        take_in(store, home)
        shadow = shadowed_sessions(store, under_way(store), now=at)
        Controller(store).begin_canary(plan_under_way(store), by=by, now=at, shadow=shadow)
        print_status(store)


@release.command()
@sessions_argument
@by_option
@now_option
@home_option
def promote(sessions_file: Path | None, by: str, now: float | None, home: Path) -> None:
    """Give the candidate to everybody, as its owner, at the end of the ramp, on the same sessions as `tick`."""
    with open_store(home) as store:
        sessions = sessions_of(store, home, sessions_file)
        at, plan = moment(now), plan_under_way(store)
        live = live_of(store, sessions, at)[0] if under_way(store).stage == "canary" else None
        Controller(store).promote(plan, sessions, by=by, now=at, live=live)
        print_status(store)


@release.command()
@click.option("--reason", required=True)
@gateway_option
@by_option
@now_option
@home_option
def rollback(reason: str, gateway: Path | None, by: str, now: float | None, home: Path) -> None:
    """Give everybody the version from before the release again, now, even if the release was promoted.

    With --gateway wait until users were seen to have it.
    """
    with open_store(home) as store:
        controller = Controller(store)
        controller.roll_back(by=by, reason=reason, now=moment(now))
        print_status(store)
        if gateway is not None:
            with RunningGateway.of(read_gateway_file(gateway)) as running:
                restored = _restored(controller, running)
            click.echo(f"users:   on the version in force after {restored.restore_seconds:.1f} s")


@release.command()
@now_option
@home_option
def status(now: float | None, home: Path) -> None:
    """Print where the release is and what holds it."""
    with open_store(home) as store:
        print_status(store)
        print_holds(store, moment(now))


def _restored(controller: Controller, running: RunningGateway) -> Restored:
    """Wait for the confirmation. Raises ReleaseError when none comes."""
    ends = time.monotonic() + RESTORE_SECONDS
    while time.monotonic() < ends:
        if (found := controller.confirm_restored(running, time.time())) is not None:
            return found
        time.sleep(0.2)
    raise ReleaseError(
        f"within {RESTORE_SECONDS:g} s users were not seen on the version in force: a worker serves by an older table, "
        "the candidate still answers (sessions that may finish), or nobody asked. The rollback itself is in force"
    )
