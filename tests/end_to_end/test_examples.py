"""Every project of examples/ runs to its report on a small slice of its own data, with its own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from end_to_end.projects import call, read_strictly

EXAMPLES = Path(__file__).parents[2] / "examples"
PROJECTS = sorted(EXAMPLES.glob("*.yaml"))
DATA = {"train_limit": 16, "validation_size": 6, "test_size": 6}
TABLE = {"train_limit": 200, "validation_size": 50, "test_size": 6}  # of fewer rows a head learns nothing that holds
WRITTEN = {"train_limit": 8, "validation_size": 5, "test_size": 5}  # answers that are written take the longest
TASK = {"max_new_tokens": 8}


def sliced(path: Path) -> dict[str, Any]:
    """The project file with small splits and short answers; one pass where the file says how many."""
    project: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    places = [project, *project.get("tasks", {}).values(), *project.get("stages", [])]
    for place in places:
        if "data" in place:
            place["data"] |= TABLE if place["data"].get("format") == "table" else DATA
            task = place.get("task", place)
            if isinstance(task, dict) and "max_new_tokens" in task:
                place["data"] |= WRITTEN
                task |= TASK
    if "rag" in project:
        project["rag"] |= {"retriever": ["hybrid"], "k": 1}
    if "remedies" in project:  # a few texts that the base writes are enough
        project["remedies"] = {"replay": 0.1, "scale": 0.7}
    if "epochs" in project.get("train", {}):  # heads need the passes they get
        project["train"]["epochs"] = 1
    return project | {"forgetting": "off"}


@pytest.mark.slow
@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.stem)
def test_a_small_slice_runs_to_its_report(tmp_path: Path, path: Path) -> None:
    if path.stem == "qlora":
        pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    for other in EXAMPLES.iterdir():
        if other.suffix != ".yaml":
            (tmp_path / other.name).symlink_to(other)
    config = tmp_path / path.name
    config.write_text(yaml.safe_dump(sliced(path), sort_keys=False), encoding="utf-8")
    result = call("run", config, "--out", tmp_path / "run", "-q")
    assert result.code == 0, result.err
    report = read_strictly(tmp_path / "run" / "report.json")
    candidates = report["candidates"]
    if "tune" in sliced(path).get("candidates", ["tune"]):
        assert "schedule" in report or any(c["id"].startswith("tune/") for c in candidates)
    assert [c for c in candidates if c["status"] != "ok"] == []
    assert report["verdict"]
    assert "<html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
