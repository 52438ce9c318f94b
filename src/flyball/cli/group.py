"""How every group of commands lists them, and what it says to a name it does not know."""

from __future__ import annotations

import inspect

import click

from flyball.errors import nearest


class Group(click.Group):
    """A group that shows the whole first sentence of a command's help, and the nearest name to one it has not."""

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Return name and one-line help of every command."""
        names = self.list_commands(ctx)
        return [(name, first_sentence(self.get_command(ctx, name))) for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries(ctx))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(f"no command {name!r}{nearest(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


def first_sentence(command: click.Command | None) -> str:
    """Return the first paragraph of a command's help up to its first full stop, on one line."""
    paragraph = inspect.cleandoc(command.help or "").split("\n\n")[0] if command else ""
    sentence, stop, _ = " ".join(paragraph.split()).partition(". ")
    return sentence + "." if stop else sentence
