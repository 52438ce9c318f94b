"""Files and functions one can read at a sitting, each with a docstring, none with a promise left open."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

FILE_LINES = 600
FUNCTION_LINES = 80
# A public method that long needs words; shorter ones are read as fast as a docstring.
LONG_METHOD_LINES = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


def length(node: Function | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def public_definitions(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    """Public functions and classes of a module, and the long public methods of these classes."""
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
            continue
        yield node
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, Function) and not inner.name.startswith("_") and length(inner) > LONG_METHOD_LINES:
                yield inner


def test_files_are_short(sources) -> None:
    offenders = [f"{s.place}: {n} lines" for s in sources if (n := s.text.count("\n") + 1) > FILE_LINES]
    assert not offenders, f"files over {FILE_LINES} lines:\n" + "\n".join(offenders)


def test_functions_are_short(sources) -> None:
    offenders = [
        f"{s.place}:{node.lineno} {node.name}: {length(node)} lines"
        for s in sources
        for node in ast.walk(s.tree)
        if isinstance(node, Function) and length(node) > FUNCTION_LINES
    ]
    assert not offenders, f"functions over {FUNCTION_LINES} lines:\n" + "\n".join(offenders)


def test_every_module_says_what_it_is(sources) -> None:
    offenders = [s.place for s in sources if not ast.get_docstring(s.tree)]
    assert not offenders, f"modules without a docstring: {offenders}"


def test_public_things_say_what_they_are(sources) -> None:
    offenders = [
        f"{s.place}:{node.lineno} {node.name}"
        for s in sources
        if s.place != "errors.py"  # its classes are told by the tree in the module's docstring
        for node in public_definitions(s.tree)
        if not ast.get_docstring(node)
    ]
    assert not offenders, "public without a docstring:\n" + "\n".join(offenders)


def test_errors_are_told_by_the_tree(sources) -> None:
    (errors,) = [s for s in sources if s.place == "errors.py"]
    told = ast.get_docstring(errors.tree) or ""
    classes = [node.name for node in errors.tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Error")]
    assert [name for name in classes if not re.search(rf"\b{name}\b", told)] == []


def test_no_open_promises(root) -> None:
    promise = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "HA" + "CK", "X" * 3)) + r")\b")
    offenders = []
    for folder in ("src", "tests", "docs", "examples", "benchmarks"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in {".py", ".md", ".yaml", ".html", ".j2"}:
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                    if promise.search(line):
                        offenders.append(f"{path.relative_to(root)}:{number} {line.strip()[:80]}")
    assert not offenders, "\n".join(offenders)
