"""`flyball release brief` and `decision`: pages that owners sign, refuse or decide by, from the store alone."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flyball.cli.options import FINITE, budget_option, home_option, locale_option, open_store
from flyball.config import EconomicsSettings
from flyball.errors import StoreError
from flyball.reports.brief import brief_html, brief_markdown
from flyball.reports.decision import HOLDS, SPEAKS, decide_on, decision_html
from flyball.reports.release_brief import brief_of_release
from flyball.reports.words import LOCALES

folder_option = click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), help="Folder to write into; default: in the store's."
)


@click.command()
@click.argument("release_id", metavar="RELEASE")
@locale_option
@budget_option
@folder_option
@home_option
def brief(release_id: str, locale: str | None, budget: EconomicsSettings, to: Path | None, home: Path) -> None:
    """Write the Reliability Brief of a release as it stands, as HTML and Markdown.

    RELEASE may be the beginning of its id. The numbers are those of the record; nothing is judged anew.
    """
    with open_store(home) as store:
        found = brief_of_release(store, release_id, budget)
        folder = to or home / "releases" / found.release.release_id[:12]
    language = locale or LOCALES[0]
    write(folder / "brief.html", brief_html(found, language))
    write(folder / "brief.md", brief_markdown(found, language))
    click.echo(f"brief:   {folder / 'brief.html'}")


@click.command()
@click.option("--weeks", type=click.IntRange(min=1), default=4, show_default=True, help="Whole weeks of sessions.")
@click.option("--project", help="Only sessions of this project.")
@click.option("--now", type=FINITE, help="Seconds since 1970; the last week ends here. Default: now.")
@budget_option
@folder_option
@home_option
def decision(
    weeks: int, project: str | None, now: float | None, budget: EconomicsSettings, to: Path | None, home: Path
) -> None:
    """Write the decision page: economics, quality, velocity, credibility, and the phase with its stop rules.

    The phases are validation, reliability and expansion; each rule is read from the record.
    """
    with open_store(home) as store:
        until = time.time() if now is None else now
        found = decide_on(store, weeks=weeks, now=until, budget=budget, project=project)
    path = (to or home) / "decision.html"
    write(path, decision_html(found))
    click.echo(f"phase:   {found.here.name}: {'stopped' if found.stopped else 'go on'}")
    for rules, words in ((found.stopped, SPEAKS), (found.open, HOLDS)):
        for rule in rules:
            click.echo(f"{words[rule.state]:<11}{rule.text}: {rule.found}")
    click.echo(f"page:    {path}")


def write(path: Path, page: str) -> None:
    """Write a page. Raises StoreError when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as exc:
        raise StoreError(f"{path}: the page cannot be written: {exc.strerror}; name another folder with --to") from exc
