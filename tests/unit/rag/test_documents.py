from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tunesmith.rag import documents
from tunesmith.rag.documents import Document, Limits, Parser, Refused, document_name, list_entries, read_documents


def read(path: Path, base: Path, limits: Limits | None = None) -> tuple[dict[str, Document], dict[str, str]]:
    found = list(read_documents(path, limits, base))
    texts = {item.entry.name: item for item in found if isinstance(item, Document)}
    refused = {item.name: item.reason for item in found if isinstance(item, Refused)}
    assert len(texts) + len(refused) == len(found)
    return texts, refused


def pdf(text: str, pages: int = 1) -> bytes:
    """A PDF with one line of text on each page."""
    content = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode() if text else b""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(pages))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i in range(pages):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            + f"/Contents {5 + 2 * i} 0 R >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return out + end % (len(objects) + 1, table, len(objects) + 1, len(out))


def encrypted(path: Path) -> None:
    from pypdf import PdfWriter

    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(path)


def docx(path: Path) -> None:
    from docx import Document as Docx

    made = Docx()
    made.core_properties.title = "The manual"
    made.add_heading("Install", level=1)
    made.add_paragraph("Use pip.")
    table = made.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    made.add_heading("Use", level=2)
    made.add_paragraph("Call it.")
    made.save(str(path))


HTML = """<!doctype html><html><head><title>A  page</title><style>p {}</style></head><body>
<h1><a href="#">Top</a></h1><p>First &amp; second
line.</p><script>alert("no")</script><ul><li>one</li><li><p>two</p></li></ul><pre>a
  b</pre></body></html>"""


def test_a_folder_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfPlain text.")
    (tmp_path / "b.MD").write_text("# Head\n\nMarked.")
    (tmp_path / "deep" / "c.html").write_text(HTML)
    (tmp_path / "d.pdf").write_bytes(pdf("Printed text", 2))
    docx(tmp_path / "e.docx")
    (tmp_path / ".hidden.txt").write_text("hidden")
    texts, refused = read(tmp_path, tmp_path)
    assert refused == {}
    assert {name: (item.text, dict(item.metadata)) for name, item in texts.items()} == {
        "a.txt": ("Plain text.", {"file": "a.txt", "kind": "text"}),
        "b.MD": ("# Head\n\nMarked.", {"file": "b.MD", "kind": "markdown"}),
        "d.pdf": ("Printed text\n\nPrinted text", {"file": "d.pdf", "kind": "pdf"}),
        "e.docx": (
            "# Install\n\nUse pip.\n\nleft | right\n\n## Use\n\nCall it.",
            {"file": "e.docx", "kind": "docx", "title": "The manual"},
        ),
        "deep/c.html": (
            "# Top\n\nFirst & second line.\n\n- one\n\n- two\n\na\n  b".replace("  b", "b"),
            {"file": "deep/c.html", "kind": "html", "title": "A page"},
        ),
    }
    assert texts["a.txt"].entry.size == 14
    assert texts["a.txt"].entry.source == str(tmp_path / "a.txt")


def test_rows_are_documents_and_short_columns_their_metadata(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer,lang\nWhy?,Because.,en\n,,\n")
    (tmp_path / "pages.jsonl").write_text(
        '{"title": "One", "text": "Body.", "year": 2020, "draft": false, "more": [1], "long": "%s"}\n'
        'broken\n{"name": "x", "price": 2.5}\n{"text": "half \\ud800 pair"}\n' % ("y" * 201)
    )
    texts, refused = read(tmp_path, tmp_path)
    assert refused == {
        "faq.csv#3": "no text in any column",
        "pages.jsonl#2": "broken JSON at column 1: Expecting value",
    }
    assert texts["faq.csv#2"].text == "Why?\n\nBecause."
    assert texts["faq.csv#2"].metadata == {"file": "faq.csv", "kind": "row", "lang": "en"}
    assert texts["pages.jsonl#1"].text == "# One\n\nBody."
    assert texts["pages.jsonl#1"].metadata == {
        "file": "pages.jsonl", "kind": "row", "title": "One", "year": "2020", "draft": "false",
    }  # fmt: skip
    assert texts["pages.jsonl#3"].text == "name: x\nprice: 2.5"
    assert texts["pages.jsonl#4"].text == "half \ufffd pair"


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    encrypted(tmp_path / "locked.pdf")
    (tmp_path / "broken.pdf").write_bytes(pdf("x")[:40])
    (tmp_path / "scan.pdf").write_bytes(pdf("", 3))
    (tmp_path / "broken.docx").write_bytes(b"PK no zip")
    with zipfile.ZipFile(tmp_path / "other.docx", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 rest")
    (tmp_path / "empty.html").write_text("<script>x</script>")
    (tmp_path / "latin.html").write_bytes(b"caf\xe9")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "wide.txt").write_text("wide", encoding="utf-16")
    (tmp_path / "blank.md").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "picture.png").write_bytes(b"x")
    (tmp_path / "none.csv").write_text("")
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "link.txt").symlink_to("/etc/hostname")
    (tmp_path / "good.txt").write_text("good")
    texts, refused = read(tmp_path, tmp_path)
    assert list(texts) == ["good.txt"]
    parts = {
        "locked.pdf": "encrypted",
        "broken.pdf": "broken PDF",
        "scan.pdf": "no text on its 3 pages; if they are scanned, run OCR",
        "broken.docx": "broken DOCX",
        "other.docx": "broken DOCX",
        "old.docx": "encrypted",
        "empty.html": "no text",
        "latin.html": "not UTF-8 at byte 4",
        "latin.txt": "not UTF-8 at byte 4",
        "wide.txt": "UTF-16",
        "blank.md": "no text",
        "binary.txt": "NUL",
        "picture.png": "'.png' is not known",
        "none.csv": "empty",
        "link.txt": "leaves its folder",
    }
    assert refused.keys() == parts.keys()
    for name, part in parts.items():
        assert part in refused[name], (name, refused[name])


def test_a_page_in_its_declared_charset_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes('<meta charset="iso-8859-1"><p>café'.encode("latin-1"))
    assert read(tmp_path, tmp_path)[0]["a.html"].text == "café"


def test_a_line_of_100_megabytes_is_refused_by_its_number(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl"):
        with (tmp_path / name).open("wb") as file:
            file.write(b'{"text": "ok"}\n')
            file.writelines([b"x" * 2**20] * 100)
            file.write(b'\n{"text": "fine"}\n')
    texts, refused = read(tmp_path, tmp_path)
    assert sorted(texts) == ["b.jsonl#1", "b.jsonl#3"]
    assert refused["a.txt"].startswith("line 2: longer than 16 MiB")
    assert refused["b.jsonl#2"].startswith("longer than 16 MiB")


def test_a_large_file_is_refused_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 2**20 + "y")
    assert read(tmp_path, tmp_path, Limits(file_bytes=2**20))[1]["a.txt"].startswith("1 MiB; files up to 1 MiB")


def fake_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let every file whose name holds "bad" run ``body`` in the process that reads documents."""
    script = tmp_path / "fake.py"
    source = Path(documents.parse.__file__).read_text()
    script.write_text(source.replace(
        'def read_html(path: str) -> tuple[str, str]:\n',
        f'def read_html(path: str) -> tuple[str, str]:\n    if "bad" in path:\n        {body}\n',
    ))  # fmt: skip
    monkeypatch.setattr(documents.parse, "__file__", str(script))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("while True: pass", "takes longer than 0.5 s"),
        ("time.sleep(60)", "takes longer than 0.5 s"),
        ("return 'x' * 10**10, ''", "takes more memory"),
        ("import os; os._exit(7)", "exit code 7"),
        ("raise KeyError('/Root')", "broken (KeyError"),
        ("__import__('pathlib').Path('made').write_text('x')", "cannot be read (File too large)"),
        ("return 'x' * (TEXT_LIMIT + 1), ''", "its text has 67,108,865 characters"),
    ],
)
def test_a_reader_that_misbehaves_is_stopped_and_the_next_file_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
) -> None:
    fake_reader(tmp_path, monkeypatch, body)
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a-bad", "b-good", "c-bad", "d-good"):
        (folder / f"{name}.html").write_text(f"<p>{name}")
    monkeypatch.chdir(tmp_path)
    texts, refused = read(folder, folder, Limits(seconds=0.5, memory_bytes=2**30))
    assert [item.text for item in texts.values()] == ["b-good", "d-good"]
    assert sorted(refused) == ["a-bad.html", "c-bad.html"]
    assert all(reason in said for said in refused.values()), refused


def test_the_reading_process_ends_with_its_parser(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>a")
    with Parser() as parser:
        assert parser.read(tmp_path / "a.html", "html") == ("a", "")
        process = parser._process
        assert process is not None and process.poll() is None
    assert process.returncode == 0


def test_missing_paths_are_refused(tmp_path: Path) -> None:
    assert read(tmp_path / "none", tmp_path) == ({}, {"none": "no such file or folder"})


def test_names_are_relative_to_the_base_or_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert document_name(Path("a/../b.txt"), tmp_path) == "b.txt"
    assert document_name(Path("/else/b.txt"), tmp_path) == "/else/b.txt"
    assert document_name(tmp_path, tmp_path) == "."
    assert document_name(Path(f"{tmp_path}2/b.txt"), tmp_path) == f"{tmp_path.as_posix()}2/b.txt"
    assert document_name(Path("/b.txt"), Path("/")) == "b.txt"


def test_entries_of_unchanged_files_come_without_reading(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    (entry,) = list_entries(file, tmp_path, {})
    assert isinstance(entry, documents.Entry)
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as only a copy that keeps times could do
    assert list(list_entries(file, tmp_path, {"a.txt": entry})) == [entry]
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    (changed,) = list_entries(file, tmp_path, {"a.txt": entry})
    assert isinstance(changed, documents.Entry) and changed.digest != entry.digest


def test_a_damaged_document_reaches_nothing_of_the_package() -> None:
    source = Path(documents.parse.__file__).read_text()
    assert "tunesmith." not in source.replace("tunesmith[rag]", "")
