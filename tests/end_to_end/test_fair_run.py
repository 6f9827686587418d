"""Swaps and remedies in a run: every candidate is asked swapped texts, remedies stand beside what they change."""

from __future__ import annotations

import json
import random
from pathlib import Path

from end_to_end.projects import build_encoder, call, read_strictly, sentences, write_project


def write_people(path: Path, n: int) -> None:
    rng = random.Random(0)
    rows = []
    for text, label in sentences(n):
        woman = rng.random() < (0.75 if label == "yes" else 0.25)
        who = rng.choice(("Mary", "Linda", "Susan") if woman else ("James", "John", "Robert"))
        rows.append(f"{who} says {text},{label},{'woman' if woman else 'man'}\n")
    path.write_text("text,label,gender\n" + "".join(rows))


def test_remedies_and_swaps_run_to_the_report_and_are_computed_again(tmp_path: Path) -> None:
    write_people(tmp_path / "data.csv", 280)
    config = write_project(
        tmp_path, data={"sensitive": "gender", "test_size": 80, "validation_size": 80},
        candidates=["baseline", "prompt", "embedding", "tune"], encoder=[str(build_encoder(tmp_path / "encoder"))],
        fairness={"swaps": ["names"], "remedies": ["reweigh", "augment", "threshold"]},
        train={"epochs": 1}, memorization="off",
    )  # fmt: skip
    run = tmp_path / "run"
    result = call("run", config, "--out", run, "-q")
    assert result.code == 0, result.err
    report = read_strictly(run / "report.json")
    entries = {c["id"]: c for c in report["candidates"]}
    assert {name: c["reason"] for name, c in entries.items() if c["status"] != "ok"} == {}
    plain = ("embedding/encoder", "tune/tiny_llama/lora")
    for name, entry in entries.items():
        part = entry["bias"]["swaps"]["lexica"]["names"]
        assert (part["status"], part["n"], part["placebo"]["n"], part["excess"]["n"]) == ("ok", 80, 80, 80), name
        assert part["against_base"].get("n") == (80 if name.startswith("tune/") else None)
    assert entries["baseline/majority"]["bias"]["swaps"]["lexica"]["names"]["flips"]["value"] == 0
    for name in plain:
        assert "remedy" not in entries[name]["bias"]
        for remedy in ("reweigh", "augment", "threshold"):
            entry = entries[f"{name}+{remedy}"]
            assert entry["details"]["remedy"]["name"] == remedy
            assert entry["bias"]["remedy"]["candidate"] == name
            assert entry["bias"]["columns"]["gender"]["against_plain"]["status"] == "ok"
            difference = entry["metrics"]["accuracy"]["value"] - entries[name]["metrics"]["accuracy"]["value"]
            assert abs(entry["bias"]["remedy"]["accuracy"]["value"] - difference) < 1e-9
    limits = entries["embedding/encoder+threshold"]["details"]["remedy"]
    assert set(limits["thresholds"]) == {"man", "woman"}
    assert entries[f"{plain[1]}+threshold"]["overfitting"] == entries[plain[1]]["overfitting"]
    page = (run / "report.html").read_text()
    assert "Texts with the group swapped" in page
    assert "What remedies changed" in page
    again = call("evaluate", run, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["equal"], json.loads(again.out)["differences"][:3]
