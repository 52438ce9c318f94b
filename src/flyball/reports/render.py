"""Templates to text. HTML is escaped by default and allowed nothing but its own styles, by their hash."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flyball.reports.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, lay_out
from flyball.stats.written import shown, with_minus


def render(template: str, **values: object) -> str:
    """Fill `templates/<template>`. Autoescape follows the name: on for .html and .svg, off for .md."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flyball.reports"),
        autoescape=lambda name: name is not None and not name.endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(styles=_styles, lay_out=lay_out)
    environment.globals["frame"] = {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
    }
    environment.filters.update(shown=shown, minus=with_minus, clip=_clip, cell=_cell, capital=_capital)
    return environment


def _styles(*names: str) -> Markup:
    """A content security policy that allows exactly this style sheet, and the sheet itself."""
    loader = _environment().loader
    assert loader is not None
    css = "\n".join(loader.get_source(_environment(), name)[0] for name in names)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{css}</style>')


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip(" .,;:") + "…"


def _capital(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    """Text inside a Markdown table: one line, bars escaped."""
    return re.sub(r"[ \t\r\n]+", " ", text.strip()).replace("|", "\\|")
