"""Mojibake and signs that are no text: UTF-8 read in another encoding, replacement signs, control characters.

A model learns broken letters as if they were words, and asks for more tokens to read them. Broken UTF-8 is told by its
form and can be undone; what was replaced by a sign is lost.
"""

from __future__ import annotations

import re

from tunesmith.data.checks.material import Material, finding, parts
from tunesmith.records import Finding

_CP1252 = {ord(bytes([b]).decode("cp1252")): b for b in range(0x80, 0xA0) if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
_NEXT = "[\x80-\xbf]"
# UTF-8 of two bytes begins like a capital with an accent: only Â and Ã are told alone, and not in a word of capitals
_BROKEN = re.compile(f"(?<![A-ZÀ-Þ])[\xc2\xc3]{_NEXT}|[\xe0-\xef]{_NEXT}{{2}}|[\xf0-\xf4]{_NEXT}{{3}}")
_ANY = re.compile(f"[\xc2-\xdf]{_NEXT}|[\xe0-\xef]{_NEXT}{{2}}|[\xf0-\xf4]{_NEXT}{{3}}")
_LOST = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ufffe\uffff]")
ENOUGH = 3  # broken characters of other letters in one text, and at least half of all that are not ASCII


def check(material: Material) -> list[Finding]:
    """Texts with broken characters."""
    broken = [e for e in material.examples if any(is_broken(text) for text in parts(e))]
    message = f"{len(broken):,} rows hold broken characters: text read in another encoding, or signs that are no text."
    return finding(
        "encoding", "warning", broken, message,
        "tunesmith data clean DATA -o NEW --fix encoding undoes what can be undone; better, read the source as UTF-8.",
    )  # fmt: skip


def is_broken(text: str) -> bool:
    """Whether a text holds UTF-8 that was read as Latin-1 or Windows-1252, or signs that stand for no text."""
    return bool(_LOST.search(text)) or repair(text) != text


def repair(text: str) -> str:
    """A text with its mojibake undone, also where it was broken twice; any other text as it is.

    Example:
        >>> repair("whatâ€™s the cafÃ©'s address")
        "what’s the café's address"
    """
    for _ in range(3):
        if text.isascii():
            return text
        by_byte = text.translate(_CP1252)  # one character for each byte, where the text has such
        every = _ANY.findall(by_byte)
        foreign = sum(0x80 <= ord(c) < 0x100 for c in by_byte)
        usual = len(every) >= ENOUGH and sum(map(len, every)) * 2 >= foreign
        fixed, at = [], 0
        for match in (_ANY if usual else _BROKEN).finditer(by_byte):
            try:
                read = match.group().encode("latin-1").decode("utf-8")
            except UnicodeDecodeError:
                continue
            fixed += [text[at : match.start()], read]
            at = match.end()
        if not fixed:
            return text
        text = "".join([*fixed, text[at:]])
    return text
