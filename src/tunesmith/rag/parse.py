"""The text of HTML, PDF and DOCX files, read in a process of its own that may not take much time, memory or disk.

    python -P parse.py MEMORY_BYTES

reads one request a line from stdin, ``{"path": …, "kind": …, "seconds": …}``, and answers each with one line:
``{"text": …, "title": …}`` or ``{"refused": reason}``. Headings become Markdown's. Only ``documents.Parser`` starts it;
it imports nothing of the package, so that it starts fast and can reach little.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser

TEXT_LIMIT = 64 * 2**20  # characters of one document
NOTHING = "it holds no text"


class Unreadable(Exception):
    """Why a file gives no text, in words."""


class _HtmlText(HTMLParser):
    """Collects what a reader of the page sees, with ``#`` before headings and a blank line between blocks."""

    HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "head", "iframe", "object"})
    BLOCKS = re.compile(
        "address|article|aside|blockquote|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|header|hr|li|"
        "main|nav|ol|p|pre|section|table|tr|ul"
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.title: list[str] = []
        self.hidden: list[str] = []
        self.in_title = False
        self.literal = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "title" and not self.title:
            self.in_title = True
        elif tag == "body":
            self.hidden.clear()  # a head that was never closed
        elif tag in self.HIDDEN:
            self.hidden.append(tag)
        elif tag == "br":
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" ")
        elif self.BLOCKS.fullmatch(tag):
            self.pieces.append("\n\n")
            self.literal += tag == "pre"
            if re.fullmatch("h[1-6]", tag):
                self.pieces.append("#" * int(tag[1]) + " ")
            elif tag == "li":
                self.pieces.append("- ")

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        if tag == "br" or self.BLOCKS.fullmatch(tag):
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self.in_title = False
        elif tag in self.hidden:
            while self.hidden.pop() != tag:
                pass
        elif self.BLOCKS.fullmatch(tag):
            self.pieces.append("\n\n")
            self.literal = max(0, self.literal - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self.in_title:
            self.title.append(data)
        elif not self.hidden:
            self.pieces.append(data if self.literal else re.sub(r"\s+", " ", data))


def read_html(path: str) -> tuple[str, str]:
    """Text and title of an HTML page; what a browser does not show is left out."""
    with open(path, "rb") as file:
        data = file.read()
    declared = re.search(rb"<meta[^>]{0,200}?charset=[\"']?([\w-]+)", data[:4096], re.IGNORECASE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if declared is None:
            raise Unreadable(f"not UTF-8 at byte {error.start + 1}, and no other charset is declared") from error
        try:
            text = data.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError) as wrong:
            raise Unreadable(
                f"it declares charset {declared[1].decode('ascii')}, in which it is not written"
            ) from wrong
    page = _HtmlText()
    page.feed(text)
    page.close()
    lines = [line.strip(" \t") for line in "".join(page.pieces).splitlines()]
    tidy = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return re.sub(r"^(#{1,6}|-)\n+", r"\1 ", tidy, flags=re.MULTILINE), " ".join("".join(page.title).split())


def read_pdf(path: str) -> tuple[str, str]:
    """Text and title of a PDF, its pages joined by a blank line."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

    locked = "encrypted; save it without a password"
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(locked)
        pages = [page.extract_text() for page in reader.pages]
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except (DependencyError, FileNotDecryptedError) as error:
        raise Unreadable(locked) from error
    except PyPdfError as error:
        raise Unreadable(f"a broken PDF ({_first_line(error)}); save it anew") from error
    if not any(page.strip() for page in pages):
        raise Unreadable(f"{NOTHING} on its {len(pages)} pages; if they are scanned, run OCR on them first")
    text = "\n\n".join(page.strip() for page in pages)
    return re.sub(r"(?<=[^\W\d_])-\n(?=[a-zà-ÿ])", "", text), " ".join(title.split())


def read_docx(path: str) -> tuple[str, str]:
    """Text and title of a Word document: its paragraphs, headings and tables in their order."""
    import docx
    from docx.opc.exceptions import PackageNotFoundError
    from docx.table import Table

    with open(path, "rb") as file:
        if file.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
            raise Unreadable("encrypted, or in the format of Word before 2007; save it as .docx without a password")
    try:
        document = docx.Document(path)
    except (PackageNotFoundError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise Unreadable(f"a broken DOCX ({_first_line(error)}); save it anew") from error
    blocks = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            blocks.append("\n".join(" | ".join(cell.text for cell in row.cells) for row in block.rows))
            continue
        style = (block.style.name or "") if block.style is not None else ""
        level = 1 if style == "Title" else int(match[1]) if (match := re.fullmatch(r"Heading ([1-6])", style)) else 0
        marks = f"{'#' * level} " if level else "- " if style.startswith("List") else ""
        blocks.append(marks + block.text if block.text.strip() else "")
    return "\n\n".join(block for block in blocks if block), " ".join((document.core_properties.title or "").split())


READERS: dict[str, Callable[[str], tuple[str, str]]] = {"html": read_html, "pdf": read_pdf, "docx": read_docx}


def answer(path: str, kind: str) -> dict[str, str]:
    """What is said of one file; whatever damage does to a reader, it is one sentence."""
    try:
        text, title = READERS[kind](path)
    except Unreadable as error:
        return {"refused": str(error)}
    except ImportError as error:
        return {"refused": f"reading it needs the package {error.name}. Run: pip install 'tunesmith[rag]'"}
    except MemoryError:
        return {"refused": "reading it takes more memory than a document may"}
    except OSError as error:
        return {"refused": f"cannot be read ({error.strerror or error})"}
    except Exception as error:  # readers of damaged files stumble in many ways
        return {"refused": f"broken ({type(error).__name__}: {_first_line(error)}); save it anew"}
    if len(text) > TEXT_LIMIT:
        return {"refused": f"its text has {len(text):,} characters; up to {TEXT_LIMIT:,} are read. Split it"}
    return {"text": text, "title": title} if text.strip() else {"refused": NOTHING}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def main() -> None:
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        allowed = int(time.process_time() + request["seconds"]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))
        answers.write(json.dumps(answer(request["path"], request["kind"])) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
