"""Options that several commands share."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from flyball.config import EconomicsSettings, LocaleName, read_settings
from flyball.errors import ConfigError
from flyball.evals.slices import Slice
from flyball.store.store import Store
from flyball.workflow.remote_engines import EndpointTrainer
from flyball.workflow.trainer import Trainer
from flyball.workflow.workflow import Workflow

F = TypeVar("F", bound=Callable[..., Any])

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".flyball"),
    envvar="FLYBALL_HOME",
    show_default=True,
    help="Folder of the store (also FLYBALL_HOME).",
)

policy_option = click.option(
    "--policy",
    metavar="NAME_OR_FOLDER",
    help="A Hugging Face causal-LM folder or a known name such as smollm2-135m. Default: as the workflow says.",
)

locale_option = click.option(
    "--locale",
    type=click.Choice(get_args(LocaleName)),
    help="Language, numbers and dates of the brief, and the evidence expected there. Default: brief.locale of the "
    "workflow file, or en-US.",
)


def _economics(context: click.Context, parameter: click.Parameter, file: Path | None) -> EconomicsSettings:
    """What a workflow file says of money; without a file nothing was said."""
    return read_settings(file)[0].economics if file else EconomicsSettings()


budget_option = click.option(
    "--workflow",
    "budget",
    type=click.Path(path_type=Path),
    callback=_economics,
    metavar="FILE",
    help="Workflow file whose `economics` hold the value of a success, the margin rule and the budget.",
)

SWITCH_SECONDS = 0.0005
"""How long a Python thread may keep the others waiting. The engine comes back for the interpreter after every operation
of torch; at Python's 5 ms it would wait for the event loop longer than it computes."""


def read_slice(written: str) -> Slice:
    """`FIELD=VALUE[,VALUE...]:MARGIN`, for example language=fr:0.05. Raises BadParameter for anything else."""
    where, _, number = written.rpartition(":")
    field, _, values = where.partition("=")
    try:
        margin = float(number)
    except ValueError:
        margin = 0.0
    if not (field and values and 0.0 < margin < 1.0):
        raise click.BadParameter(
            f"{written!r}: write FIELD=VALUE:MARGIN with a margin between 0 and 1, such as language=fr:0.05"
        )
    return Slice(where, {field: tuple(values.split(","))}, margin)


slice_option = click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="FIELD=VALUE:MARGIN",
    callback=lambda context, option, written: [read_slice(one) for one in written],
    help="Protect a group of tasks (its `groups`, or family): it may lose at most MARGIN. May be given again.",
)


class FiniteFloat(click.types.FloatParamType):
    """A number that can be computed with and written down: nan and inf, which float() reads, are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


FINITE = FiniteFloat()

file_argument = click.argument("file", type=click.Path(path_type=Path))


def open_store(home: Path, *, must_exist: bool = True) -> Store:
    """Open the store of a home folder, its rows in PostgreSQL where FLYBALL_DATABASE says so.

    Reading commands do not make a store where there is none.
    """
    if address := os.environ.get("FLYBALL_DATABASE"):
        return Store(home, database=address)
    if must_exist and not (home / "flyball.db").is_file():
        raise click.UsageError(f"no store in {home}: `flyball run FILE` makes one, `--home` names another folder")
    return Store(home)


def open_store_if_any(home: Path) -> Store | None:
    """Open the store of a home folder, None where there is none yet."""
    there = os.environ.get("FLYBALL_DATABASE") or (home / "flyball.db").is_file()
    return open_store(home) if there else None


def make_trainer(workflow: Workflow | None = None) -> Trainer:
    """Return the trainer of this machine, or of the endpoint that the workflow names.

    Torch comes in here, so only commands that need a model pay for it; an endpoint needs none. Raises ConfigError where
    the extra that brings torch is not installed.
    """
    if workflow is not None and workflow.settings.engine.kind == "http":
        return EndpointTrainer(workflow.settings.engine)
    try:
        from flyball.workflow.local_trainer import LocalTrainer
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.split(".")[0] == "flyball":
            raise
        raise ConfigError(f"{exc.name} is not installed; models need the extra: pip install 'flyball[train]'") from exc
    sys.setswitchinterval(SWITCH_SECONDS)
    return LocalTrainer()
