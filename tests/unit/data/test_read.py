from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.data.read import BadRow, ReadResult, read_examples, read_rows, rows
from tunesmith.errors import DataError, NotFoundError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def bad_rows(path: Path) -> dict[int, str]:
    return {line: row.reason for line, row in read_rows(path) if isinstance(row, BadRow)}


ROWS = [{"text": f"text {i}, “quoted”\nand broken", "label": "ab"[i % 2]} for i in range(6)]


def table(delimiter: str, end: str = "\n") -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["text", "label"], delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue()


def parquet_bytes(items: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(items), out)
    return out.getvalue()


KINDS = {
    ".jsonl": "\n".join(json.dumps(row) for row in ROWS).encode(),
    ".json": json.dumps(ROWS, indent=1).encode(),
    ".csv": table(",").encode(),
    ".tsv": table("\t").encode(),
    ".parquet": parquet_bytes(ROWS),
}


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_come_from_every_kind_of_file(tmp_path: Path, kind: str, zipped: str) -> None:
    path = write(tmp_path, f"data{kind}{zipped}", KINDS[kind])
    assert [row for _, row in read_rows(path)] == ROWS


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".json"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path, kind: str) -> None:
    if kind in (".csv", ".tsv"):
        text = table("," if kind == ".csv" else "\t", "\r\n").encode()
    else:
        text = KINDS[kind].replace(b"\n", b"\r\n")
    path = write(tmp_path, f"data{kind}", b"\xef\xbb\xbf" + text)
    assert [row for _, row in read_rows(path)] == ROWS


def test_every_bad_json_line_is_reported_with_its_place(tmp_path: Path) -> None:
    lines = [
        b'{"a": 1}',
        b'{"a": 1,',
        b"",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"a": "\xff"}',
        b"[1]",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"null",
        b'{"a": 2}',
    ]
    path = write(tmp_path, "x.jsonl", b"\n".join(lines))
    found = bad_rows(path)
    assert list(found) == [2, 4, 5, 6, 7, 8, 9, 10]
    assert "column 9" in found[2]
    assert "NaN" in found[4]
    assert "'a' stands twice" in found[5]
    assert "nested too deeply" in found[6]
    before = sum(len(line) + 1 for line in lines[:6])
    assert f"not UTF-8 at byte {before + 8} " in found[7]
    assert "list" in found[8]
    assert "null" in found[10]
    assert [row for _, row in read_rows(path) if not isinstance(row, BadRow)] == [{"a": 1}, {"a": 2}]


def test_a_very_long_line_is_one_bad_row_and_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LINE_LIMIT_BYTES", 1 << 16)
    path = write(tmp_path, "x.jsonl", b'{"a": "' + b"x" * (100 << 20) + b'"}\n{"a": 1}\n')
    tracemalloc.start()
    found = list(read_rows(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line for line, _ in found] == [1, 2]
    assert isinstance(found[0][1], BadRow)
    assert found[1][1] == {"a": 1}
    assert peak < 16 << 20


def test_json_list_items_know_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", '[\n {"a": 1},\n\n {"b":\n 2}, 3\n]')
    assert [(line, row if isinstance(row, dict) else "bad") for line, row in read_rows(path)] == [
        (2, {"a": 1}),
        (4, {"b": 2}),
        (5, "bad"),
    ]


@pytest.mark.parametrize("text", ['[{"a": 1}', '[{"a": 1} {"b": 2}]', '[{"a": }]', "[" * 100_000, '[{"a": NaN}]'])
def test_a_broken_json_list_is_refused_whole(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="broken JSON"):
        list(read_rows(write(tmp_path, "x.json", text)))


def test_csv_damage_is_reported_at_the_line_where_the_row_starts(tmp_path: Path) -> None:
    text = b'text,label\r\n"a\r\nb",x\r\nc,d,e\r\n\r\nf\xff,g\r\n"q"r,s\r\nok,1\r\n"never,2\r\nlast,3\r\n'
    found = bad_rows(write(tmp_path, "x.csv", text))
    assert list(found) == [4, 6, 7, 9]
    assert found[4] == "3 fields; the header has 2"
    assert f"byte {text.index(0xFF) + 1} " in found[6]
    assert "never closed" in found[9]


def test_a_csv_of_a_continental_spreadsheet(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "text;label\n1,5 kg;a\n")
    assert list(read_rows(path)) == [(2, {"text": "1,5 kg", "label": "a"})]


def test_lists_and_files_without_a_header_get_names(tmp_path: Path) -> None:
    expected = [{"question": "q", "answer": "a"}, {"question": "r", "answer": "b"}]
    names = ("question", "answer")
    for name, text in (
        ("x.json", '[["q", "a"],\n ["r", "b"]]'),
        ("x.jsonl", '["q", "a"]\n{"question": "r", "answer": "b"}'),
        ("x.csv", "q,a\nr,b\n"),
        ("y.csv", "question,answer\nq,a\nr,b\n"),
        ("x.tsv.gz", "q\ta\nr\tb"),
    ):
        assert [row for _, row in read_rows(write(tmp_path, name, text), names)] == expected
    found = bad_rows(write(tmp_path, "x.jsonl", '["q", "a"]\n3'))
    assert found[1] == "a JSON list; expected an object, or names for the list's values in data.columns"
    assert "a JSON number" in found[2]
    for name, text in (("z.jsonl", '["q"]'), ("z.json", '[["q"]]')):
        assert [row for _, row in read_rows(write(tmp_path, name, text), names)] == [
            BadRow(1, "a list of 1 values; data.columns names 2")
        ]
    assert list(read_rows(write(tmp_path, "z.csv", "q\n"), names)) == [(1, BadRow(1, "1 fields; data.columns has 2"))]
    with pytest.raises(DataError, match=r"a \.parquet file names its own"):
        read_rows(write(tmp_path, "x.parquet", KINDS[".parquet"]), names)


def test_quotes_of_a_tsv_that_do_not_pair_are_quotes(tmp_path: Path) -> None:
    literal = 'text\tlabel\n"To be\tx\n"a" and "b"\ty\n"whole"\tz\n'
    assert [row["text"] for _, row in read_rows(write(tmp_path, "x.tsv", literal)) if isinstance(row, dict)] == [
        '"To be',
        '"a" and "b"',
        '"whole"',
    ]
    quoted = 'text\tlabel\n"a ""b"" c"\tx\n"broken\nline"\ty\n'
    assert [row["text"] for _, row in read_rows(write(tmp_path, "y.tsv", quoted)) if isinstance(row, dict)] == [
        'a "b" c',
        "broken\nline",
    ]


@pytest.mark.parametrize("header", ["a,,b", "a,b,a"])
def test_a_header_that_names_no_columns_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match="line 1"):
        list(read_rows(write(tmp_path, "x.csv", f"{header}\n1,2,3\n")))


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.csv"):
        read_rows(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="folder"):
        read_rows(tmp_path)
    with pytest.raises(DataError, match=r"'\.docx' is not known.*\.jsonl"):
        read_rows(write(tmp_path, "x.docx", "x"))
    with pytest.raises(DataError, match="empty"):
        read_rows(write(tmp_path, "x.jsonl", ""))
    with pytest.raises(DataError, match="no rows"):
        read_examples(write(tmp_path, "y.csv", "text,label\n"), "classification")
    with pytest.raises(DataError, match="UTF-16"):
        list(read_rows(write(tmp_path, "x.csv", "a,b\n1,2\n".encode("utf-16"))))
    with pytest.raises(DataError, match="Parquet"):
        list(read_rows(write(tmp_path, "x.parquet", KINDS[".parquet"][:-10])))
    cut = gzip.compress(KINDS[".jsonl"])[:-12]
    (tmp_path / "cut.jsonl.gz").write_bytes(cut)
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_rows(tmp_path / "cut.jsonl.gz"))


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "EXPANSION_FREE_BYTES", 1 << 20)
    path = write(tmp_path, "x.jsonl.gz", b"\n" * (8 << 20))
    with pytest.raises(DataError, match="200 times"):
        list(read_rows(path))


# ── whole files ──────────────────────────────────────────────────────────────────────────────────────────
def labelled(lines: list[str]) -> str:
    return "text,label\n" + "\n".join(lines) + "\n"


def test_strict_lists_every_bad_row_and_skip_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", labelled(["a,x", ",x", "b,y", "c,", "d,y", "e,x", "f,alone"]))
    with pytest.raises(DataError) as caught:
        read_examples(path, "classification")
    message = str(caught.value)
    assert "3 of 7 rows" in message
    assert "x.csv line 3: 'text' is empty" in message
    assert "x.csv line 5: 'label' is empty" in message
    assert "x.csv line 8: the label 'alone' occurs once" in message
    result = read_examples(path, "classification", policy="skip")
    assert [e.text for e in result.examples] == ["a", "b", "d", "e"]
    assert result.examples[0].source == "x.csv:2"
    found = [(finding.check, finding.count, finding.rows) for finding in result.findings]
    assert found == [("empty_text", 1, (3,)), ("bad_rows", 2, (5, 8))]


def test_a_long_list_of_bad_rows_is_cut_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", labelled(["a,x", "b,y"] * 2 + [",x"] * 80))
    with pytest.raises(DataError) as caught:
        read_examples(path, "classification")
    assert "80 of 84 rows" in str(caught.value)
    assert str(caught.value).count("is empty") == 50
    assert "30 more" in str(caught.value)


def test_one_label_is_no_classification_but_a_test_file_may_hold_anything(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", labelled(["a,x", "b,x", "c,x"]))
    with pytest.raises(DataError, match="every row has the label 'x'"):
        read_examples(path, "classification")
    assert len(read_examples(path, "classification", part="test").examples) == 3


def test_no_usable_row_is_refused_under_both_policies(tmp_path: Path) -> None:
    path = write(tmp_path, "x.jsonl", "{\n[\n")
    for policy in ("strict", "skip"):
        with pytest.raises(DataError, match="2 of 2 rows"):
            read_examples(path, "generation", policy=policy)


def test_bad_rows_at_the_start_do_not_hide_the_layout(tmp_path: Path) -> None:
    good = "\n".join(json.dumps({"prompt": f"p{i}", "completion": "c"}) for i in range(3))
    path = write(tmp_path, "x.jsonl", "{\n" * 150 + good)
    result = read_examples(path, "generation", policy="skip")
    assert (result.format, result.rows, len(result.bad), len(result.examples)) == (
        "prompt_completion",
        153,
        150,
        3,
    )


def adds_up(result: ReadResult) -> None:
    assert result.rows == len(result.examples) + len(result.bad)
    skipped = sum(f.count for f in result.findings if f.check == "bad_rows")
    assert skipped == len(result.bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "weight", "from", "value", "type", "text"]), inner)
    ),
    max_leaves=6,
)
ROLE_VALUES = st.sampled_from(["system", "user", "assistant", "tool", "bot", "human", "gpt", None, 3])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": ROLE_VALUES, "content": st.sampled_from(["a", "", "b c"]) | JSON}),
    max_size=4,
)
KEYS = [
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "ideal",
    "text",
    "label",
    "chosen",
    "rejected",
]
OBJECTS = st.dictionaries(st.sampled_from(KEYS), JSON | MESSAGES, max_size=4)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(OBJECTS, min_size=1, max_size=6),
    damage=st.binary(max_size=12),
    where=st.integers(0, 400),
    kind=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz"]),
    task=st.sampled_from(["classification", "generation", "multi_label", "regression", "translation", "preference"]),
    layout=st.sampled_from(["auto", "auto", "table"]),
)
def test_whatever_the_damage_rows_add_up_or_one_data_error(
    tmp_path: Path, items: list[dict[str, Any]], damage: bytes, where: int, kind: str, task: str, layout: str
) -> None:
    if kind in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, KEYS, delimiter="," if kind == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(items)
        data = out.getvalue().encode("utf-8", "surrogatepass")
    else:
        lines = [json.dumps(item) for item in items]
        data = ("[" + ",\n".join(lines) + "]" if kind == ".json" else "\n".join(lines)).encode()
    data = data[:where] + damage + data[where + len(damage) // 2 :]
    path = write(tmp_path, f"x{kind}", data)
    try:
        adds_up(read_examples(path, task, format=layout, policy="skip", part="test"))
    except DataError:
        return


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 3000), damage=st.binary(min_size=1, max_size=40))
def test_damaged_parquet_and_gzip_raise_data_errors_only(tmp_path: Path, where: int, damage: bytes) -> None:
    for name, data in ((".parquet", KINDS[".parquet"]), (".csv.gz", gzip.compress(KINDS[".csv"], mtime=0))):
        broken = data[: where % len(data)] + damage + data[where % len(data) + len(damage) :]
        path = tmp_path / f"x{name}"
        path.write_bytes(broken)
        try:
            adds_up(read_examples(path, "classification", policy="skip", part="test"))
        except DataError:
            continue


NESTED = """{"version": {"of": [1]}, "tags": ["a"],
 "data": [
  {"a": 1},

  {"b":
   2}, 3
 ]%s}"""


def test_rows_under_one_key_keep_their_lines(tmp_path: Path) -> None:
    found = list(read_rows(write(tmp_path, "x.json", NESTED % ', "n": 3')))
    assert [line for line, _ in found] == [3, 5, 6]
    assert [row for _, row in found][:2] == [{"a": 1}, {"b": 2}]
    assert isinstance(found[2][1], BadRow)
    assert [row for _, row in read_rows(write(tmp_path, "y.json", json.dumps({"rows": ROWS})))] == ROWS
    lists = write(tmp_path, "z.json", '{"data": [["q", "a"]]}')
    assert [row for _, row in read_rows(lists, ["question", "answer"])] == [{"question": "q", "answer": "a"}]


def test_several_lists_of_rows_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "x.json", json.dumps({"train": ROWS, "n": 1, "test": ROWS[:1]}))
    with pytest.raises(DataError, match=rf"several keys.*'train' \({len(ROWS)}\), 'test' \(1\); expected one\. Write"):
        list(read_rows(path))


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a", "label": "b"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_row_in_a_json_file_stays_one_row(tmp_path: Path, row: dict[str, object], indent: int | None) -> None:
    assert list(read_rows(write(tmp_path, "x.json", json.dumps(row, indent=indent)))) == [(1, row)]


def test_json_lines_named_json_are_lines(tmp_path: Path) -> None:
    lines = ['{"data": [{"a": 1}]}', "", '{"broken": }', '{"data": [{"a": 2}]}']
    found = list(read_rows(write(tmp_path, "x.json", "\n".join(lines))))
    assert [line for line, _ in found] == [1, 3, 4]
    assert found[2][1] == {"data": [{"a": 2}]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (NESTED[:-5], "line 8 column 1: .*expected ',' or '}'|line 7"),
        ('{"data":\n [{"a": 1,}]}', "line 2 column"),
        ('{"data"\n [{"a": 1}]}', "line 2 column 2: broken JSON: expected ':'"),
        ('{"data": [],\n b}', "line 2 column 2: broken JSON: expected a key"),
        ('{"data": [{"a": 1}\n]} x', "line 2 column 4: broken JSON: more after"),
        ('{"data":\n [{"a": 1, "a": 2}]}', "the key 'a' stands twice"),
    ],
)
def test_a_broken_object_around_rows_is_refused_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        list(read_rows(write(tmp_path, "x.json", text)))
