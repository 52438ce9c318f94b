"""`flyball`: the group of all commands, and the one place where an error becomes a line and an exit code.

Commands are imported when they are used, so `flyball --help` starts fast and without torch; their one-line help stands
here for that reason, and a test holds it equal to the command's own.

Exit codes: 0 done or yes, 1 a check that said no, 2 wrong usage, 3 not known yet or somebody is needed, 4 an error that
names its boundary, 130 stopped by Ctrl-C with everything saved. The help of a command that judges says which apply.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from flyball.cli.group import Group
from flyball.errors import (
    ConfigError,
    DatasetError,
    EvalError,
    FlyballError,
    ModelError,
    RefusedError,
    ReleaseError,
    UnknownIdError,
)

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("flyball.cli.init:init", "Write a working example or skeleton into a new folder."),
    "config": ("flyball.cli.config:config", "Show what a workflow file asks for, and the keys it may have."),
    "doctor": (
        "flyball.cli.doctor:doctor",
        "Check world, tasks and graders before training: go, fix first, or do not use RL here.",
    ),
    "run": ("flyball.cli.run:run", "Train, prove and judge: the whole flow of a workflow file."),
    "train": ("flyball.cli.run:train", "Train only: the stages of `run` up to the candidate."),
    "eval": ("flyball.cli.eval:evaluate", "Evaluate a policy on the frozen suites, alone or against a baseline."),
    "gateway": ("flyball.cli.gateway:gateway", "Serve agents over OpenAI's interface: captured, routed, checked."),
    "grade-live": (
        "flyball.cli.grade_live:grade_live_sessions",
        "Judge a sample of what was served by the graders of training.",
    ),
    "canary": ("flyball.cli.canary:canary", "Say what a canary can see before it starts, and judge its sessions."),
    "compare": ("flyball.cli.compare:compare", "Compare two files of imported scores, paired by task."),
    "trend": ("flyball.cli.trend:trend", "Show a frozen suite over all versions that it judged, the oldest first."),
    "register": (
        "flyball.cli.register:register",
        "Register a checkpoint trained anywhere, a prompt, or a hosted model.",
    ),
    "release": (
        "flyball.cli.release:release",
        "Judge a candidate, and bring it to users in steps that go back by themselves.",
    ),
    "verify": (
        "flyball.cli.verify:verify",
        "Work out every decision of a release again from its stored sessions, to the last bit.",
    ),
    "log": ("flyball.cli.log:log", "Show the audit log, export it for the verifier, make signing keys."),
    "grade": ("flyball.cli.grade:grade", "Grade stored attempts again and print what changed."),
    "best-of": (
        "flyball.cli.best_of:best_of",
        "Show the success of the best of n stored attempts by a score, and what no choice can exceed.",
    ),
    "approvals": ("flyball.cli.approvals:approvals", "List the calls that wait for a person, approve or deny them."),
    "audits": (
        "flyball.cli.audits:audits",
        "Look at attempts for reward hacking: draw one, mark it, and report on a run.",
    ),
    "redteam": (
        "flyball.cli.redteam:redteam",
        "Attack a policy by what it is shown, and propose what worked for the adversarial suite.",
    ),
    "runs": ("flyball.cli.runs:runs", "List the runs of this home, the newest first."),
    "show": ("flyball.cli.runs:show", "Show a run, or one attempt of it in full."),
    "report": ("flyball.cli.runs:report", "Write the HTML report of a run and print where it lies."),
    "reviews": (
        "flyball.cli.reviews:reviews",
        "Review what was served: the week's reliability, cost, overrides and rollbacks.",
    ),
    "workflow": (
        "flyball.cli.workflow:workflow",
        "Start an adjacent workflow, once the one that runs pays for it and stands still.",
    ),
    "monitors": (
        "flyball.cli.monitors:monitors",
        "Watch the version in force: definitions, distance from a frozen reference, alarms.",
    ),
    "incidents": (
        "flyball.cli.incidents:incidents",
        "Open an incident, tell what happened, and close it with a cause from each role.",
    ),
    "proposals": (
        "flyball.cli.proposals:proposals",
        "Propose a change of graders, rubrics, tool scopes or suites, and decide on its regression result.",
    ),
    "traces": ("flyball.cli.traces:traces", "Search, follow, export and import what was served."),
}

GIVEN = (ConfigError, DatasetError, EvalError, ModelError, RefusedError, ReleaseError, UnknownIdError)
"""Errors about what the user handed in or asked for: files, settings, models, comparisons and releases that
are refused, ids that nothing has, acts that do not fit how things stand. Every other error knows its own fault."""


class LazyGroup(Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        return [(name, summary) for name, (_, summary) in COMMANDS.items()]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="flyball")
def flyball(debug: bool) -> None:
    """Train the policy of a tool-using agent from graded attempts, and release it only on evidence.

    \b
    A first tour:
      flyball init helpdesk          a support desk with a real database
      flyball doctor helpdesk/workflow.py
      flyball run helpdesk/workflow.py
    """


def main() -> None:
    """Entry point of the `flyball` command."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors of ours are printed as lines, never as tracebacks."""
    debug = "--debug" in arguments
    try:
        code = flyball.main(args=arguments, prog_name="flyball", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except FlyballError as exc:
        if debug:
            raise
        whose = "what was given" if isinstance(exc, GIVEN) else exc.fault.value
        click.echo(f"error: {exc}\nfault: {whose}", err=True)
        return exc.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`flyball runs | head`); the interpreter must not try to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    main()
