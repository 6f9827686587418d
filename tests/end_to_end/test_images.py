"""From images and their questions or classes to a report."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tunesmith import load_model, parse_config, run


def table(folder: Path, drawn: list[str], columns: dict[str, Any], rounds: int = 1) -> Path:
    """A CSV with a row for each drawn image, so many times over."""
    file = folder / "images.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", *columns])
        for round_ in range(rounds):
            for i, path in enumerate(drawn):
                writer.writerow([path, *(make(i, round_) for make in columns.values())])
    return file


def test_questions_about_images(tmp_path: Path, drawn: list[str], tiny_llava_path: Path) -> None:
    columns = {"question": lambda i, r: f"{'is it ' * r}bright?", "answer": lambda i, r: "yes" if i < 8 else "no"}
    config = parse_config({
        "task": {"kind": "image_text", "max_new_tokens": 3}, "model": str(tiny_llava_path), "method": "lora",
        "data": {"train": str(table(tmp_path, drawn, columns, 5)), "image": "file", "text": "question",
                 "label": "answer", "test_size": 20, "validation_size": 10},
        "candidates": ["baseline", "tune"], "train": {"epochs": 4, "learning_rate": 0.01},
    })  # fmt: skip
    report = run(config, tmp_path / "run")
    tuned = next(c for c in report["candidates"] if not c["baseline"])
    assert tuned["status"] == "ok", tuned.get("reason")
    assert tuned["metrics"]["exact_match"]["n"] == report["data"]["test"]
    assert tuned["forgetting"]["status"] == "not_run"
    assert (tmp_path / "run" / "report.html").is_file()
    adapter = next((tmp_path / "run" / "candidates").rglob("adapter"))
    assert load_model(str(adapter)).interface == "image_text"


@pytest.mark.parametrize("method", ["head", "gradual"])
def test_classes_of_images(tmp_path: Path, drawn: list[str], tiny_dinov2_path: Path, method: str) -> None:
    distinct = {"label": lambda i, r: "low" if i < 8 else "high"}
    config = parse_config({
        "task": "classification", "model": str(tiny_dinov2_path), "method": method,
        "data": {"train": str(table(tmp_path, drawn, distinct)), "image": "file", "label": "label",
                 "test_size": 6, "validation_size": 4},
        "candidates": ["baseline", "tune"], "train": {"epochs": 4},
    })  # fmt: skip
    report = run(config, tmp_path / "run")
    tuned = next(c for c in report["candidates"] if not c["baseline"])
    assert tuned["status"] == "ok", tuned.get("reason")
    assert tuned["forgetting"]["status"] == "not_applicable"
