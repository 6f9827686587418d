"""Workbooks, written here as the zip files they are, and Arrow files: read as what was written, or refused in words."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.data.read import BadRow, read_rows
from tunesmith.errors import ConfigError, DataError, NotFoundError
from tunesmith.sources.files import resolve_files

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
TABLE = [["text", "label", "n"], ["Grüße & <b>", "a", 1.5], ["zweite", "b", 2]]
ROWS = [{"text": "Grüße & <b>", "label": "a", "n": 1.5}, {"text": "zweite", "label": "b", "n": 2}]


def _escaped(value: object) -> str:
    return str(value).replace("&", "&amp;").replace("<", "&lt;")


def xlsx(*sheets: list[list[object]]) -> bytes:
    def cell(value: object, row: int, column: int) -> str:
        at = f'r="{chr(65 + column)}{row}"'
        if isinstance(value, str):
            return f'<c {at} t="inlineStr"><is><t>{_escaped(value)}</t></is></c>' if value else ""
        return f"<c {at}><v>{value}</v></c>"

    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    parts = {
        "_rels/.rels": f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{RELATIONS}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheets>'
        + "".join(f'<sheet name="S{i}" sheetId="{i}" r:id="r{i}"/>' for i in range(1, len(sheets) + 1))
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}">'
        + "".join(
            f'<Relationship Id="r{i}" Type="{RELATIONS}/worksheet" Target="worksheets/sheet{i}.xml"/>'
            for i in range(1, len(sheets) + 1)
        )
        + "</Relationships>",
    }
    for i, sheet in enumerate(sheets, 1):
        rows = "".join(
            f'<row r="{n}">{"".join(cell(v, n, c) for c, v in enumerate(row))}</row>' for n, row in enumerate(sheet, 1)
        )
        parts[f"xl/worksheets/sheet{i}.xml"] = f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>'
    return _zipped(parts)


def ods(sheet: list[list[object]]) -> bytes:
    base = "urn:oasis:names:tc:opendocument:xmlns"

    def cell(value: object) -> str:
        if isinstance(value, str):
            text = _escaped(value)
            return f'<table:table-cell office:value-type="string"><text:p>{text}</text:p></table:table-cell>'
        return f'<table:table-cell office:value-type="float" office:value="{value}"/>'

    rows = "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in sheet)
    return _zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
            "META-INF/manifest.xml": f'<manifest:manifest xmlns:manifest="{base}:manifest:1.0"/>',
            "content.xml": f'<office:document-content xmlns:office="{base}:office:1.0" '
            f'xmlns:table="{base}:table:1.0" xmlns:text="{base}:text:1.0"><office:body><office:spreadsheet>'
            f'<table:table table:name="S1">{rows}</table:table></office:spreadsheet></office:body>'
            "</office:document-content>",
        }
    )


def _zipped(parts: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return out.getvalue()


def arrow(stream: bool) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return out.getvalue()


FILES = {"a.xlsx": xlsx(TABLE), "a.ods": ods(TABLE), "a.arrow": arrow(True), "b.arrow": arrow(False)}


@pytest.mark.parametrize("name", FILES)
def test_what_was_written_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    assert [row for _, row in read_rows(path)] == ROWS


def test_feather_is_read(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), str(tmp_path / "a.feather"))
    assert [row for _, row in read_rows(tmp_path / "a.feather")] == ROWS


def test_rows_keep_the_numbers_of_the_sheet_and_stray_values_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(xlsx([["", ""], ["text", "label"], ["one", "a"], ["", ""], ["two", "b", "stray"], ["three", ""]]))
    (three, one), (five, stray), (six, last) = list(read_rows(path))
    assert (three, one, five, six, last) == (3, {"text": "one", "label": "a"}, 5, 6, {"text": "three", "label": ""})
    assert isinstance(stray, BadRow) and "column 3" in stray.reason


@pytest.mark.parametrize(
    ("sheets", "said"),
    [
        ([TABLE, TABLE], r"2 sheets hold rows \(S1, S2\)"),
        ([[[""]]], "no sheet holds rows"),
        ([[["a", "a"], ["1", "2"]]], "columns a stand twice in row 1"),
    ],
)
def test_a_workbook_that_is_not_one_table_is_refused(sheets: list, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(xlsx(*sheets))
    with pytest.raises(DataError, match=said):
        list(read_rows(path))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(FILES)), data=st.data())
def test_damage_gives_rows_or_a_refusal_and_no_traceback(name: str, data: st.DataObject, tmp_path: Path) -> None:
    whole = bytearray(FILES[name])
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path / name
    path.write_bytes(bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    try:
        for number, row in read_rows(path):
            assert number >= 1 and isinstance(row, dict | BadRow)
    except DataError as error:
        assert name in str(error)


def test_a_folder_saved_by_datasets_is_its_files_in_their_order(tmp_path: Path) -> None:
    names = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    for name in names:
        (tmp_path / name).write_bytes(arrow(True))
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    files = resolve_files(str(tmp_path))
    assert files == {f"{tmp_path}/{name}": tmp_path / name for name in names}
    assert [row for path in files.values() for _, row in read_rows(path)] == ROWS + ROWS
    (tmp_path / names[1]).unlink()
    with pytest.raises(NotFoundError, match=names[1]):
        resolve_files(str(tmp_path))
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(ConfigError, match=r"\.\./x\.arrow"):
        resolve_files(str(tmp_path))


def test_a_damaged_length_is_refused_and_not_a_want_of_memory(tmp_path: Path) -> None:
    damaged = bytearray(FILES["a.arrow"])
    damaged[260] ^= 6
    damaged[108] ^= 1
    (tmp_path / "a.arrow").write_bytes(damaged[:488])
    with pytest.raises(DataError, match="not a whole Arrow file"):
        list(read_rows(tmp_path / "a.arrow"))
