"""Every room imports only from floors below it, or from its own: no import runs back up."""

from __future__ import annotations

import ast
from pathlib import Path

import tunesmith

PACKAGE = Path(tunesmith.__file__).parent
FLOORS = {
    "errors": 1, "records": 1, "measures": 1,
    "config": 2, "hardware": 2, "sources": 2,
    "run": 3, "data": 3, "model": 3,
    "tasks": 4, "evaluate": 4, "rag": 4,
    "train": 5, "report": 5,
    "plan": 6, "candidates": 6,
    "workflow": 7, "judge": 7,
    "schedules": 8, "search": 8,
    "cli": 9,
}  # fmt: skip


def imports(file: Path) -> set[str]:
    """Rooms of the package that a file imports, wherever in the file, but for types only."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tunesmith":
            if node.module == "tunesmith":
                names += [f"tunesmith.{alias.name}" for alias in node.names]
            else:
                names.append(str(node.module))
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("tunesmith.")]
    return {name.split(".")[1] for name in names}


def test_no_import_runs_back_up() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for imported in imports(file):
            if FLOORS[imported] > FLOORS[room]:
                wrong.append(
                    f"{file.relative_to(PACKAGE)} (floor {FLOORS[room]}) imports {imported} ({FLOORS[imported]})"
                )
    assert wrong == []
