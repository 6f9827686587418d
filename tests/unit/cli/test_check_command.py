"""``tunesmith check``: every row in its finding, a gate that says what a run would do, and no torch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunesmith.cli.check import command
from tunesmith.data.check import check

PARTS = (("where is", "how do i freeze", "i lost"), ("my card", "my new card", "the bank card", "my old pin"))
WEATHER = (("is it", "will it be", "was it"), ("sunny today", "raining in oslo", "cold at night", "warm tomorrow"))


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    rng = random.Random(0)
    rows = []
    for i in range(240):
        label, (starts, ends) = ("bank", PARTS) if i % 2 else ("weather", WEATHER)
        rows.append({"text": f"{rng.choice(starts)} {rng.choice(ends)} {rng.randrange(10**6)}", "label": label})
    for i in (7, 61, 120, 200):
        rows[i]["label"] = "weather" if rows[i]["label"] == "bank" else "bank"
    rows += [rows[3], {"text": "", "label": "bank"}, {"text": "mail ana@example.org now", "label": "bank"}]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_findings_name_all_rows_and_wrong_labels_come_first(noisy: Path) -> None:
    done = CliRunner().invoke(command, [str(noisy), "--json", "-q"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["rows"], report["gate"]) == (243, "warnings")
    found = {finding["check"]: finding for finding in report["findings"]}
    assert found["exact_duplicates"]["rows"] == [241]
    assert found["empty_text"]["rows"] == [242]
    assert found["personal_information"]["rows"] == [243]
    suspects = found["label_errors"]["rows"]
    assert len({8, 62, 121, 201}.intersection(suspects)) >= 3
    assert len(suspects) <= 6
    assert "out_of_domain" in report["not_run"]
    text = CliRunner().invoke(command, [str(noisy), "-q"]).stdout
    assert "ready, with warnings to read first" in text
    assert "weather → bank?" in text
    assert "ana@example.org" not in text


def test_the_gate_says_what_a_run_would_refuse(noisy: Path) -> None:
    project = noisy.parent / "project.yaml"
    project.write_text("task: classification\ndata: {train: train.jsonl}\n")
    done = CliRunner().invoke(command, [str(project), "--json", "-q"])
    assert done.exit_code == 3
    (error,) = [f for f in json.loads(done.stdout)["findings"] if f["severity"] == "error"]
    assert (error["check"], error["rows"]) == ("empty_text", [242])
    project.write_text("task: classification\ndata: {train: train.jsonl, policy: skip}\n")
    assert check(str(project))["gate"] == "warnings"
    project.write_text("task: classification\ndata: {train: train.jsonl, policy: skip, test_size: 1000}\n")
    report = check(str(project))
    assert report["gate"] == "not_ready"
    assert {"refused", "exact_duplicates"} <= {f["check"] for f in report["findings"]}


def test_leaks_into_a_test_file_are_found(noisy: Path) -> None:
    lines = noisy.read_text(encoding="utf-8").splitlines()
    test = noisy.parent / "test.jsonl"
    test.write_text("\n".join(lines[10:16]).upper().replace("TEXT", "text").replace("LABEL", "label").replace(
        '"BANK"', '"bank"').replace('"WEATHER"', '"weather"'), encoding="utf-8")  # fmt: skip
    report = check(str(noisy), str(test))
    leaks = [f for f in report["findings"] if f["check"] == "split_leakage"]
    assert [f["rows"] for f in leaks] == [(11, 12, 13, 14, 15, 16)]


def test_checking_needs_no_torch(noisy: Path) -> None:
    code = (
        f"import sys; from tunesmith.data.check import check; check({str(noisy)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
