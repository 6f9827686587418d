"""Leaks from files to the report: found where the user brings a test file, with the scores with and without them."""

from __future__ import annotations

from pathlib import Path

from end_to_end.projects import call, read_strictly, sentences, write_project
from tunesmith.run import read_examples


def test_a_run_tells_what_leaked_and_what_it_gave(tmp_path: Path) -> None:
    rows = list(sentences(80))
    leaked = [(f"{text.replace('the ', 'The ')}!", label) for text, label in rows[:12]]
    near = [(f"{text} indeed", label) for text, label in rows[12:24]]
    fresh = [(f"was {i} words of other {i * i} kinds {i + 500}", "yes" if i % 3 else "no") for i in range(24)]
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in leaked + near + fresh))
    config = write_project(tmp_path, candidates=["baseline"], data={"test": "test.csv"})
    result = call("run", config, "--out", tmp_path / "run", "-q")
    assert result.code == 0, result.err
    report = read_strictly(tmp_path / "run" / "report.json")
    findings = [
        f for f in report["data"]["findings"] if f["check"] == "contamination" and "test examples" in f["message"]
    ]
    train = {int(e.source.rpartition(":")[2]) for e in read_examples(tmp_path / "run" / "splits" / "train.parquet")}
    expected = [[line for line in part if line in train] for part in (range(2, 14), range(14, 26))]  # others validate
    exact, close = findings
    assert (exact["severity"], exact["rows"]) == ("warning", expected[0])
    assert set(expected[1]) <= set(close["rows"]) <= {*expected[1], *range(2, 14)} - set(expected[0])
    assert exact["pairs"][0][1].split(":")[0].endswith("data.csv")
    leaks = report["data"]["contamination"]
    assert leaks["parts"]["test"]["leaked"] == exact["count"] + close["count"]
    assert leaks["parts"]["test"]["paraphrases"]["status"] == "not_run"
    effect = leaks["candidates"]["baseline/majority"]
    assert effect["status"] == "ok"
    assert effect["difference"]["value"] == effect["leaked"]["value"] - effect["clean"]["value"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h3>Contamination</h3>" in page
    assert "Mean score of answers to the test examples that were found" in page
