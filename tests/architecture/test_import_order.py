"""A folder imports only folders before it, and torch stays in its rooms (docs/design/design.md, section 4)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

FILES = ("errors", "types", "section", "settings_file", "rl_settings", "config", "rng", "metrics")
FOLDERS = """
    stats store rl models engine capture sandbox tools tasks graders agent rollout evals train release reports
    workflow gateway api console cli
"""
ORDER = [*FILES, *FOLDERS.split()]
RANK = {room: rank for rank, room in enumerate(ORDER)}

# The front door imports names of many rooms when they are first asked for; nothing in the package imports it.
FRONT = ("__init__.py", "__main__.py")

# Imports against the order, each with the reason it has to be. Empty is the wish.
EXCEPTIONS: dict[tuple[str, str], str] = {}

TORCH_ROOMS = (
    "models/load.py",
    "models/planted.py",
    "models/lora.py",
    "models/heads.py",
    "models/reward_head.py",
    "engine/local*",
    "train/*",
)
# The rest of the extra `train` reads and writes model files and tokenizers, and does so without torch.
MODEL_ROOMS = ("models/*", "engine/local*", "train/*")
OTHERS = ("transformers", "tokenizers", "safetensors", "gguf", "peft", "accelerate", "huggingface_hub", "llguidance")
PACKAGES = {"torch": TORCH_ROOMS, **dict.fromkeys(OTHERS, MODEL_ROOMS)}


def imported(tree: ast.AST, typing_too: bool = True) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything imported: at the top, inside functions, and by `import_module("...")`."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if not typing_too and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


READ = """
import a.b
from . import c
def f():
    from flyball.train import x
    importlib.import_module("flyball.cli")
if TYPE_CHECKING:
    import torch
"""


def test_reading_of_imports() -> None:
    tree = ast.parse(READ)
    assert {name for _, name in imported(tree)} == {"a.b", "..c", "flyball.train.x", "flyball.cli", "torch"}
    assert "torch" not in {name for _, name in imported(tree, typing_too=False)}


def test_every_room_is_in_the_design(sources, root) -> None:
    design = (root / "docs" / "design" / "design.md").read_text(encoding="utf-8")
    house = re.search(r"src/flyball/\n(.*?)\nexamples/", design, re.S)
    assert house is not None
    rooms = re.findall(r"(\w+)\.py\b", house[1].splitlines()[0]) + re.findall(r"^  (\w+)/", house[1], re.M)
    assert rooms == ORDER, "the order checked here and the house of docs/design/design.md section 4 differ"
    strangers = {source.room for source in sources if source.place not in FRONT} - set(ORDER)
    assert not strangers, f"not in the house of docs/design/design.md section 4: {sorted(strangers)}"


def test_imports_go_one_way(sources) -> None:
    offenders = []
    for source in sources:
        if source.place in FRONT:
            continue
        for line, name in imported(source.tree):
            parts = name.split(".")
            if parts[0] != "flyball":
                continue
            room = parts[1] if len(parts) > 1 else ""
            if room not in RANK:
                offenders.append(f"{source.place}:{line} imports {name}: name the room, not the front door")
            elif RANK[room] > RANK[source.room] and (source.place, room) not in EXCEPTIONS:
                offenders.append(f"{source.place}:{line} imports {room}, which comes after {source.room}")
    assert not offenders, "\n".join(offenders)


def test_imports_are_absolute(sources) -> None:
    offenders = [f"{s.place}:{line} {name}" for s in sources for line, name in imported(s.tree) if name.startswith(".")]
    assert not offenders, "relative imports:\n" + "\n".join(offenders)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_of_the_train_extra_stay_in_their_rooms(sources, package: str) -> None:
    offenders = []
    for source in sources:
        if any(fnmatch(source.place, pattern) for pattern in PACKAGES[package]):
            continue
        typing_too = source.room != "rl"  # annotates tensors, uses only their methods
        for line, name in imported(source.tree, typing_too):
            if name.split(".")[0] == package:
                offenders.append(f"{source.place}:{line}")
    assert not offenders, f"{package} may be imported in {', '.join(PACKAGES[package])} only, not in:\n" + "\n".join(
        offenders
    )


def test_package_inits_hold_only_a_docstring(sources) -> None:
    inits = [s for s in sources if s.place.endswith("/__init__.py")]
    assert inits
    offenders = [s.place for s in inits if len(s.tree.body) != 1 or not ast.get_docstring(s.tree)]
    assert not offenders, (
        f"a package's __init__.py says in its docstring what the room is for, and nothing else: {offenders}"
    )


def test_rooms_have_names_that_say_something(sources) -> None:
    empty = {"core", "common", "base", "utils", "helpers", "services"}
    offenders = [s.place for s in sources if empty & set(s.place.removesuffix(".py").split("/"))]
    assert not offenders, f"names that say nothing: {offenders}"
