"""The documentation holds to the code: generated pages, examples, links, and pages for every table."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from tunesmith.candidates import FAMILIES
from tunesmith.config import Data, read_any_config
from tunesmith.tasks import TASKS
from tunesmith.train.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("benchmarks/*.md")]
)
EXAMPLES = sorted(ROOT.glob("examples/*.yaml"))
HEADINGS = (
    "What it changes",
    "When to prefer it",
    "What data it needs",
    "What it costs",
    "Source, and where we differ",
)


def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def data_settings(settings: Any) -> Iterator[Data]:
    """Every group of data settings in a project file, whatever its schedule."""
    if isinstance(settings, Data):
        yield settings
    elif isinstance(settings, BaseModel):
        for name in type(settings).model_fields:
            yield from data_settings(getattr(settings, name))
    elif isinstance(settings, dict | tuple):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from data_settings(value)


@pytest.mark.parametrize("name", ["config.md", "cli.md"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    stored = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert stored == build().PAGES[name](), "run: python docs/build.py"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_valid_and_mentioned(path: Path) -> None:
    for data in data_settings(read_any_config(path)):
        if ":" not in data.train:
            assert Path(data.train).is_file()
    others = [page.read_text(encoding="utf-8") for page in PAGES]
    assert any(f"examples/{path.name}" in text for text in others)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [t for t in targets if t and "://" not in t and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_in_pages_is_valid(page: Path, tmp_path: Path) -> None:
    """Blocks of YAML that name a task and data, or tasks, or stages, are whole project files."""
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        starts = set(re.findall(r"^(\w+):", block, re.MULTILINE))
        if starts & {"tasks", "stages"} or {"task", "data"} <= starts:
            file = tmp_path / "project.yaml"
            file.write_text(block, encoding="utf-8")
            read_any_config(file)


@pytest.mark.parametrize("kind", [*METHODS, "multi-task", "sequential"])
def test_method_has_a_page_with_the_five_headings(kind: str) -> None:
    text = (ROOT / "docs" / "methods" / f"{kind}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(HEADINGS)


@pytest.mark.parametrize("kind", TASKS)
def test_task_has_a_page(kind: str) -> None:
    assert (ROOT / "docs" / "tasks" / f"{kind}.md").is_file()


@pytest.mark.parametrize("name", FAMILIES)
def test_candidate_has_a_page(name: str) -> None:
    assert (ROOT / "docs" / "candidates" / f"{name}.md").is_file()


def test_commands_in_pages_exist() -> None:
    from tunesmith.cli.main import COMMANDS

    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?:^\s*|[`$] ?)tunesmith ([a-z][a-z-]*)", text, re.MULTILINE):
            assert name in COMMANDS, f"{page}: tunesmith {name}"


@pytest.mark.parametrize("name", ["sarcasm", "own-csv"])
def test_tutorial_shows_the_examples_as_they_are(name: str) -> None:
    lines = (ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    settings = "\n".join(line for line in lines if not line.startswith("#"))
    assert f"```yaml\n{settings}\n```" in (ROOT / "docs" / "tutorial" / "first-run.md").read_text(encoding="utf-8")
