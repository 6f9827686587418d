"""``data clean``: what goes, what changes, and a log that leads back byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunesmith.cli.data import command
from tunesmith.data.clean import USUAL, clean, replay
from tunesmith.errors import DataError

ROWS = [
    *({"text": f"where is card number {i * 7919}", "label": "bank"} for i in range(30)),
    *({"text": f"will it rain in town {i * 104729}", "label": "weather"} for i in range(30)),
    {"text": "write to ana@example.org or +44 20 7946 0958", "label": "bank"},  # line 61
    {"text": "ANA@example.org wrote again", "label": "bank"},
    {"text": "the cafÃ©'s weather", "label": "weather"},
    {"text": "where is card number 7919", "label": "bank"},
    {"text": "Where is card number 7919?", "label": "bank"},
    {"text": "", "label": "bank"},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "x.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) + ("\r\n" if i % 7 == 0 else "\n") for i, row in enumerate(ROWS)]
    path.write_bytes("".join(lines).rstrip("\n").encode())  # no end of line at the end
    return path


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_usual_fixes_are_certain_and_undone_byte_for_byte(source: Path) -> None:
    before, new = source.read_bytes(), source.with_name("new.jsonl")
    told = clean(source, new)
    assert source.read_bytes() == before
    assert (told["dropped"], told["edited"]) == (2, 1)
    assert told["by_check"] == {"encoding": 1, "exact_duplicates": 1, "empty_text": 1}
    assert [row["text"] for row in rows(new)[62:]] == ["the café's weather", "Where is card number 7919?"]
    back, again = source.with_name("back.jsonl"), source.with_name("again.jsonl")
    replay(Path(told["log"]), new, back, undo=True)
    assert back.read_bytes() == before
    replay(Path(told["log"]), source, again)
    assert again.read_bytes() == new.read_bytes()
    assert Path(told["log"]).stat().st_mode & 0o077 == 0
    with pytest.raises(DataError, match="not the cleaned file"):
        replay(Path(told["log"]), source, source.with_name("z.jsonl"), undo=True)
    with pytest.raises(DataError, match="is there already"):
        clean(source, new)


def test_personal_information_is_masked_or_has_one_pseudonym(source: Path) -> None:
    masks, names = source.with_name("masks.jsonl"), source.with_name("names.jsonl")
    clean(source, masks, ["personal_information"])
    assert rows(masks)[60]["text"] == "write to [email] or [phone]"
    clean(source, names, ["personal_information"], pseudonyms=True)
    first, second = rows(names)[60]["text"].split(), rows(names)[61]["text"].split()
    assert first[2] == second[0] != "ana@example.org"
    assert first[2].startswith("person")
    assert len(" ".join(first[4:])) == len("+44 20 7946 0958")
    assert "7946" not in " ".join(first[4:])
    assert rows(names)[:60] == ROWS[:60]


def test_what_was_decided_is_done_and_nothing_else(source: Path) -> None:
    review, new = source.with_name("review.jsonl"), source.with_name("new.jsonl")
    review.write_text('{"row": 1, "label": "weather"}\n{"row": 2, "drop": true}\n')
    told = clean(source, new, [], review=review)
    assert (told["dropped"], told["edited"], told["by_check"]) == (1, 1, {"review": 2})
    assert rows(new) == [{**ROWS[0], "label": "weather"}, *ROWS[2:]]
    review.write_text('{"row": 1}\n{"row": 2, "drop": true, "label": "x"}\n{"row": "3", "drop": true}\n')
    with pytest.raises(DataError) as caught:
        clean(source, source.with_name("other.jsonl"), [], review=review)
    assert str(caught.value).count("expected") == 3
    review.write_text('{"row": 99, "drop": true}\n')
    with pytest.raises(DataError, match="row 99 is not in"):
        clean(source, source.with_name("other.jsonl"), [], review=review)


def test_rows_of_the_test_file_go_and_suspicion_is_no_fix(source: Path) -> None:
    test, new = source.with_name("test.jsonl"), source.with_name("new.jsonl")
    test.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:5], *ROWS[30:35]]), encoding="utf-8")
    done = CliRunner().invoke(command, ["clean", str(source), "-o", str(new), "--test", str(test)])
    assert done.exit_code == 0, done.output
    assert "split_leakage 11" in done.stdout
    assert not {row["text"] for row in rows(new)} & {row["text"] for row in rows(test)}
    assert "label_errors" not in USUAL
    done = CliRunner().invoke(command, ["clean", str(source), "-o", str(new), "--fix", "label_errors"])
    assert done.exit_code == 2
    assert "cannot be mended without you" in done.output
    table = source.with_suffix(".csv")
    table.write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="only JSON Lines"):
        clean(table, new)
