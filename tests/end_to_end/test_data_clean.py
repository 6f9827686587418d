"""``tunesmith data clean`` as it is called: what it writes, says, refuses and undoes."""

from __future__ import annotations

import json
from pathlib import Path

from end_to_end.projects import call


def test_a_file_is_cleaned_and_given_back(tmp_path: Path) -> None:
    rows = [{"text": f"the parcel number {i} came on a rainy day", "label": "ab"[i % 2]} for i in range(6)]
    source, clean, back = (tmp_path / name for name in ("a.jsonl", "clean.jsonl", "back.jsonl"))
    source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    before = source.read_bytes()
    result = call("data", "clean", source, "-o", clean, "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert (told["rows"], told["dropped"], told["by_check"]) == (7, 1, {"exact_duplicates": 1})
    assert [json.loads(line) for line in clean.read_text().splitlines()] == rows
    assert call("data", "clean", source, "-o", clean).code == 3  # it is there already
    result = call("data", "clean", clean, "-o", back, "--undo", told["log"])
    assert (result.code, result.out) == (0, f"{back}: restored, as the log says.\n")
    assert back.read_bytes() == source.read_bytes() == before
    assert call("data", "clean", source, "-o", tmp_path / "b.jsonl", "--fix", "label_errors").code == 2
