"""The Python API: what __all__ names exists, is documented, and costs nothing to import."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tunesmith

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"


def documented() -> set[str]:
    cells = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


def test_the_reference_page_describes_exactly_what_is_public() -> None:
    assert documented() == set(tunesmith.__all__)


@pytest.mark.parametrize("name", tunesmith.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(tunesmith, name))
    assert name in dir(tunesmith)


def test_the_page_gives_each_functions_own_parameters() -> None:
    text = PAGE.read_text()
    for name in ("read_config", "parse_config", "plan", "run", "train", "evaluate", "recheck", "compare", "load_model"):
        shown = re.search(rf"`{name}\((.*?)\)`", text)
        assert shown, name
        named = [part.split("=")[0].strip() for part in shown[1].split(",") if part.strip() != "*"]
        accepted = [
            p for p in inspect.signature(getattr(tunesmith, name)).parameters if p not in ("listener", "command")
        ]
        assert named == accepted, name


def test_verbs_stay_functions_when_modules_of_their_name_are_imported() -> None:
    for name in ("run", "plan", "train", "evaluate"):
        importlib.import_module(f"tunesmith.{name}")
        assert inspect.isfunction(getattr(tunesmith, name)), name
    from tunesmith.run import Run

    assert Run is tunesmith.Run


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        tunesmith.fine_tune  # noqa: B018


HEAVY = ("torch", "transformers", "sklearn", "pyarrow", "peft", "accelerate")
LIGHT = {
    "import tunesmith": "import tunesmith",
    "tunesmith --help": "from tunesmith.cli.main import cli; cli.main(['--help'], standalone_mode=False)",
    "a command's --help": "from tunesmith.cli.main import cli; cli.main(['run', '--help'], standalone_mode=False)",
    "reading a config": "import tunesmith; tunesmith.parse_config({'task': 'generation', 'data': {'train': 'x'}})",
    "reading and splitting data": (
        "import tunesmith; from tunesmith.data.prepare import prepare_data; "
        "config = tunesmith.parse_config({'task': 'classification', 'data': {'train': sys.argv[1]}}); "
        "assert len(prepare_data(config.data, 'classification', 0).split.test) == 8"
    ),
}


@pytest.mark.parametrize("what", LIGHT)
def test_nothing_heavy_is_imported_before_it_is_needed(what: str, tmp_path: Path) -> None:
    from end_to_end.projects import write_labelled

    data = write_labelled(tmp_path / "data.csv", 40)
    script = f"import sys\n{LIGHT[what]}\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(data)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[]"
