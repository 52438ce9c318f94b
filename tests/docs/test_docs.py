"""The documentation runs: what a page shows as code is executed, in a folder of its own, as CONTRIBUTING.md explains.

Marks after a fence's language: ```` ```python file=shop.py ```` writes the block to that file; ```` ```python test ````
is executed; of ```` ```console run ```` every `$ flyball ...` line must exit 0. Files are written first, then all
Python of the page runs as one script (line numbers in tracebacks are those of the page), then the commands in order.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES_WITH_MARKS = {"python", "console", "yaml", "json", "jsonl"}


@dataclass(frozen=True)
class Block:
    """One fenced block: the words after the fence, its text and the line its text starts on (1-based)."""

    language: str
    marks: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        return next((mark.removeprefix("file=") for mark in self.marks if mark.startswith("file=")), None)


def blocks_of(page: str) -> list[Block]:
    blocks, opened, lines = [], None, page.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
        else:
            language, *marks = lines[opened - 1].removeprefix("```").split() or [""]
            text = "".join(f"{inner}\n" for inner in lines[opened : number - 1])
            blocks.append(Block(language, tuple(marks), text, opened + 1))
            opened = None
    assert opened is None, f"line {opened}: the fence is not closed"
    return blocks


def script_of(blocks: list[Block]) -> str:
    """All executed Python of a page, each block on the lines it has there."""
    script = ""
    for block in blocks:
        if "test" in block.marks:
            script += "\n" * (block.line - 1 - script.count("\n")) + block.text
    return script


def commands_of(blocks: list[Block]) -> list[list[str]]:
    run = [block for block in blocks if "run" in block.marks]
    return [shlex.split(line[2:]) for block in run for line in block.text.splitlines() if line.startswith("$ ")]


def run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{shlex.join(command)} exits {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page(page: Path, tmp_path: Path) -> None:
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    for block in blocks:
        unknown = [mark for mark in block.marks if mark not in {"test", "run"} and not mark.startswith("file=")]
        assert not unknown, f"{page.name}:{block.line - 1}: unknown marks {unknown}; known: test, run, file=NAME"
        if block.file:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    if script := script_of(blocks):
        (tmp_path / "page.py").write_text(script, encoding="utf-8")
        run([sys.executable, "page.py"], tmp_path)
    for command in commands_of(blocks):
        assert command[0] == "flyball", f"only flyball is run, not {command[0]}"
        run([str(Path(sys.executable).with_name("flyball")), *command[1:]], tmp_path)


def test_links_lead_somewhere() -> None:
    offenders = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                offenders.append(f"{page.relative_to(ROOT)}: {target}")
    assert not offenders, "links to nothing:\n" + "\n".join(offenders)


def test_the_python_form_is_the_one_of_the_design() -> None:
    """Section 2 of the design is real API: docs/authoring.md executes it word for word."""
    design = (ROOT / "docs" / "design" / "design.md").read_text(encoding="utf-8")
    (printed,) = [block for block in blocks_of(design) if "import flyball as fb" in block.text]
    authoring = (ROOT / "docs" / "authoring.md").read_text(encoding="utf-8")
    (executed,) = [block for block in blocks_of(authoring) if block.file == "desk.py"]
    assert executed.text == printed.text


EXAMPLE = """\
```python file=shop.py
answer = 42
```
```python test
from shop import answer
```
```console run
$ flyball --help
Usage: ...
```
```python test
assert answer == 42
```
"""


def test_reading_of_a_page() -> None:
    blocks = blocks_of(EXAMPLE)
    assert [block.file for block in blocks] == ["shop.py", None, None, None]
    assert script_of(blocks) == "\n" * 4 + "from shop import answer\n" + "\n" * 6 + "assert answer == 42\n"
    assert commands_of(blocks) == [["flyball", "--help"]]
