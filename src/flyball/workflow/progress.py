"""What a person sees while a run works: the plan, a bar with the time left, live success and the curve of rewards.

`LiveProgress` draws on a terminal; `PlainProgress` writes a line now and then, for logs and pipes; `Silent` is for
callers that look at the store instead.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

from flyball.metrics import part

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE = "reward_mean"
SHOWN = {
    "success": "success",
    "success_rate": "success",
    "validation_success": "validation",
    "sft_loss": "loss",
    "sft_validation_loss": "validation loss",
    "kl": "kl",
}


class Progress(Protocol):
    """Told what happens; never asked."""

    def plan(self, lines: Sequence[str]) -> None:
        """The stages that will be run, before the first starts."""

    def begin(self, title: str) -> None:
        """A stage begins."""

    def begin_part(self, title: str, total: int) -> None:
        """A part of the stage begins, of so many steps."""

    def advance(self, done: int, values: Mapping[str, float], total: int | None = None) -> None:
        """`done` steps are done, of `total` where no part said it; `values` are the metrics of the last one."""

    def say(self, line: str) -> None:
        """Something a person should know now. May be called from any thread."""

    def end_part(self, summary: str) -> None:
        """The part is over; the stage goes on."""

    def end(self, summary: str) -> None:
        """The stage is over."""

    def close(self) -> None:
        """Nothing more will be shown."""


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Return the last values as a line of blocks, scaled to their own range; '' for none. NaN shows as a blank.

    More values than `width` are averaged in equal runs, so the line always spans the whole curve.
    """
    points = list(values)
    if len(points) > width:
        edges = [round(i * len(points) / width) for i in range(width + 1)]
        points = [sum(points[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    known = [p for p in points if p == p]
    if not known:
        return " " * len(points)
    low, span = min(known), max(known) - min(known)
    levels = len(BLOCKS) - 1
    return "".join(" " if p != p else BLOCKS[round((p - low) / span * levels) if span else 0] for p in points)


def describe(values: Mapping[str, float], curve: Sequence[float] = ()) -> str:
    """Return the metrics a person wants to see as one short text."""
    parts = [f"{label} {_shown(name, values)}" for name, label in SHOWN.items() if name in values]
    return "  ".join([*parts, *([f"reward {sparkline(curve)} {curve[-1]:.3g}"] if curve else [])])


def _shown(name: str, values: Mapping[str, float]) -> str:
    """`0.64 [0.55, 0.72] n=192`, as far as it is known."""
    low, high, n = (values.get(part(name, of)) for of in ("low", "high", "n"))
    interval = f" [{low:.3g}, {high:.3g}]" if low is not None and high is not None else ""
    return f"{values[name]:.3g}{interval}" + (f" n={n:.0f}" if n is not None else "")


class Silent:
    """Shows nothing."""

    def plan(self, lines: Sequence[str]) -> None: ...

    def begin(self, title: str) -> None: ...

    def begin_part(self, title: str, total: int) -> None: ...

    def advance(self, done: int, values: Mapping[str, float], total: int | None = None) -> None: ...

    def say(self, line: str) -> None: ...

    def end_part(self, summary: str) -> None: ...

    def end(self, summary: str) -> None: ...

    def close(self) -> None: ...


class PlainProgress:
    """One line when a stage begins and ends, and one every `every_seconds` in between."""

    def __init__(
        self,
        write: Callable[[str], None],
        every_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._every, self._clock = write, every_seconds, clock
        self._stage = self._title = ""
        self._total: int | None = None
        self._stage_began = self._began = self._told = self._seen = 0.0
        self._skipped = self._done = 0
        self._curve: list[float] = []

    def plan(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._write(line)

    def begin(self, title: str) -> None:
        self._stage, self._stage_began = title, self._clock()
        self._start(title, None)

    def begin_part(self, title: str, total: int) -> None:
        self._start(title, total)

    def advance(self, done: int, values: Mapping[str, float], total: int | None = None) -> None:
        """Write a line if none was written for a while."""
        now = self._clock()
        if total is not None:
            self._total = total
        if not self._done or done <= self._done:  # the first step, perhaps of a resumed run, or steps begin anew
            self._skipped, self._began, self._curve = done - 1, self._seen, []
        self._done, self._seen = done, now
        if CURVE in values:
            self._curve.append(values[CURVE])
        if now - self._told < self._every:
            return
        self._told = now
        of = f"/{self._total}" if self._total else ""
        self._write(f"{self._title} {done}{of}  {self._left(now)}{describe(values, self._curve)}")

    def say(self, line: str) -> None:
        self._write(line)

    def end_part(self, summary: str) -> None:
        self._write(f"{self._title}: {summary} ({minutes(self._clock() - self._began)})")

    def end(self, summary: str) -> None:
        self._write(f"{self._stage}: {summary} ({minutes(self._clock() - self._stage_began)})")

    def close(self) -> None:
        """Nothing is held."""

    def _start(self, title: str, total: int | None) -> None:
        self._title, self._total, self._curve, self._done = title, total, [], 0
        self._began = self._told = self._seen = self._clock()
        self._write(f"{title} ...")

    def _left(self, now: float) -> str:
        if not self._total:
            return ""
        seconds = (now - self._began) / (self._done - self._skipped) * (self._total - self._done)
        return f"{minutes(seconds)} left  "


class LiveProgress:
    """A bar that is redrawn in place, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = RichProgress(
            TextColumn("[bold]{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._stage = self._title = ""
        self._stage_began = self._began = 0.0
        self._curve: list[float] = []

    def plan(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._console.print(line, markup=False, highlight=False)

    def begin(self, title: str) -> None:
        self._stage, self._stage_began = title, time.monotonic()
        self._start(title, None)

    def begin_part(self, title: str, total: int) -> None:
        self._start(title, total)

    def advance(self, done: int, values: Mapping[str, float], total: int | None = None) -> None:
        if CURVE in values:
            self._curve.append(values[CURVE])
        if self._bar is not None:
            self._bars.update(self._bar, completed=done, total=total, text=describe(values, self._curve))

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def end_part(self, summary: str) -> None:
        self._over(self._title, summary, self._began)

    def end(self, summary: str) -> None:
        self._over(self._stage, summary, self._stage_began)

    def close(self) -> None:
        self._drop()
        self._bars.stop()

    def _start(self, title: str, total: int | None) -> None:
        self._drop()
        self._title, self._curve, self._began = title, [], time.monotonic()
        self._bars.start()
        self._bar = self._bars.add_task(title, total=total, text="")

    def _over(self, title: str, summary: str, began: float) -> None:
        self._drop()
        self._console.print(f"{title}: {summary} ({minutes(time.monotonic() - began)})", markup=False, highlight=False)

    def _drop(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None


def minutes(seconds: float) -> str:
    """Return a duration for people: 8 s, 2 min 05 s, 1 h 03 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
