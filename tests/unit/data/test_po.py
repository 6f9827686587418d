"""Translation catalogs: entries with their lines, and what the catalog sets aside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.data.read import BadRow, read_examples, read_rows
from tunesmith.data.read.rows import LeftOut
from tunesmith.errors import DataError

CATALOG = r"""# A comment
#, fuzzy
msgid ""
msgstr ""
"Language: fr\n"

#: a.py:1
msgid "Yes"
msgstr "Oui"

msgctxt "verb"
msgid ""
"Save \"%(name)s\"\n"
"now"
msgstr ""
"Enregistrer « %(name)s »\n"
"maintenant"
#, python-format
msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d fichier"
msgstr[1] "%d fichiers"

#, fuzzy, c-format
#| msgid "Nope"
msgid "No"
msgstr "Oui"

msgid "Later"
msgstr ""

#~ msgid "Old"
#~ msgstr "Vieux"

#~| msgid "Older"
#~ msgid "Oldest"
#~ msgstr "Ancien"
"""
ROWS = [
    (8, {"source": "Yes", "target": "Oui", "context": None}),
    (
        12,
        {
            "source": 'Save "%(name)s"\nnow',
            "target": "Enregistrer « %(name)s »\nmaintenant",
            "context": "verb",
        },
    ),
    (19, {"source": "%d file", "target": "%d fichier", "context": None}),
]


def write(folder: Path, text: str | bytes, name: str = "fr.po") -> Path:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_entries_are_rows_with_their_lines(tmp_path: Path, ends: str) -> None:
    found = list(read_rows(write(tmp_path, "\ufeff" + CATALOG.replace("\n", ends))))
    assert [row for row in found if not isinstance(row[1], BadRow)] == ROWS
    assert [row for _, row in found if isinstance(row, BadRow)] == [
        LeftOut(26, "fuzzy"),
        LeftOut(29, "untranslated"),
        LeftOut(32, "obsolete"),
        LeftOut(36, "obsolete"),
    ]


def test_what_is_set_aside_is_counted_and_no_bad_row(tmp_path: Path) -> None:
    result = read_examples(write(tmp_path, CATALOG), "translation")
    assert [e.answer for e in result.examples][:1] == ["Oui"]
    assert (result.rows, result.bad) == (3, ())
    (finding,) = result.findings
    assert (finding.check, finding.count, finding.rows) == ("entries_set_aside", 4, (26, 29, 32, 36))
    assert "1 fuzzy, 2 obsolete, 1 untranslated" in finding.message


def test_damage_is_reported_by_entry_and_the_others_are_read(tmp_path: Path) -> None:
    text = b'msgid "a"\nmsgstr "b\n\nmsgid "c"\n\nnonsense\n\nmsgid "\xff"\nmsgstr "e"\n\n'
    text += b'msgid "f"\nmsgid "g"\nmsgstr "h"\n\n'
    found = list(read_rows(write(tmp_path, text + b'msgid "ok"\nmsgstr "gut"\n')))
    assert {line: row.reason for line, row in found if isinstance(row, BadRow)} == {
        2: "'msgstr \"b'; expected msgid, msgstr or msgctxt, each with a text in quotes",
        4: "an entry without msgstr; expected msgid and msgstr",
        6: "'nonsense'; expected msgid, msgstr or msgctxt, each with a text in quotes",
        8: f"not UTF-8 at byte {text.index(0xFF) + 1} of the file; re-save the file as UTF-8",
        12: "msgid stands twice in one entry; an entry begins with msgctxt or msgid",
    }
    assert found[-1] == (15, {"source": "ok", "target": "gut", "context": None})


def test_several_catalogs_are_one_source_and_equal_pairs_are_no_error(tmp_path: Path) -> None:
    files = {f"{part}.po": write(tmp_path, CATALOG, f"{part}.po") for part in "ab"}
    result = read_examples(files, "translation", name="*.po")
    assert [e.source for e in result.examples] == [f"{p}.po:{line}" for p in "ab" for line in (8, 12, 19)]
    write(tmp_path, 'msgid "x"\n', "b.po")
    with pytest.raises(
        DataError, match=r"\*\.po: 1 of 4 rows cannot be used\.\n  b\.po line 1: an entry without msgstr"
    ):
        read_examples(files, "translation", name="*.po")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, len(CATALOG)), damage=st.binary(max_size=12), cut=st.integers(0, 60))
def test_whatever_the_damage_rows_add_up_or_one_data_error(tmp_path: Path, where: int, damage: bytes, cut: int) -> None:
    data = CATALOG.encode()
    path = write(tmp_path, data[:where] + damage + data[where + cut :])
    try:
        result = read_examples(path, "translation", policy="skip", part="test")
    except DataError:
        return
    assert result.rows == len(result.examples) + len(result.bad)
