"""Personal information and secrets in the training data: what a model that learns it may write to anybody.

Looked for by form, with checksums where there are some: e-mail addresses, telephone numbers, IBANs, card numbers,
public IP addresses, some national identity numbers, and keys (by known beginnings, or by how random they are). Names
and addresses of people have no form and are not looked for. What to do: leave out the rows, or replace the values by
made-up ones of the same form.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from tunesmith.records import Finding

if TYPE_CHECKING:
    from tunesmith.data.checks.material import Material

KEY_BITS, KEY_CHANGES = 3.8, 0.4  # entropy of a key's characters; how often two neighbours differ in kind
NAMED = 20  # rows named in a finding
WORDS = {
    "email": "e-mail addresses", "iban": "IBANs", "card": "card numbers", "phone": "telephone numbers",
    "ip": "IP addresses", "key": "keys", "id": "national identity numbers",
}  # fmt: skip


class Found(NamedTuple):
    """A value, what it is (a key of ``WORDS``), and where it stands in the text."""

    kind: str
    value: str
    start: int
    end: int


def find_personal(text: str) -> list[Found]:
    """Personal information in a text, in order; what fits two kinds counts as the first of ``WORDS``.

    Example:
        >>> [(found.kind, found.value) for found in find_personal("Write to ana@example.org, or +44 20 7946 0958.")]
        [('email', 'ana@example.org'), ('phone', '+44 20 7946 0958')]
    """
    if not re.search(r"\d|@|-----BEGIN", text):  # most texts, told quickly
        return []
    taken: list[Found] = []
    for kind, pattern, is_one in DETECTORS:
        for match in pattern.finditer(text):
            inside = any(found.start < match.end() and match.start() < found.end for found in taken)
            if not inside and is_one(match.group()):
                taken.append(Found(kind, match.group(), match.start(), match.end()))
    return sorted(taken, key=lambda found: found.start)


def bare(value: str) -> str:
    """A value without case and what merely groups its characters, so that two spellings are equal."""
    return re.sub(r"[\s()./-]", "", value).casefold() if "@" not in value else value.casefold()


def mask(found: Found) -> str:
    """What may be shown of a value: its first character and its length.

    Example:
        >>> mask(Found("email", "ana@example.org", 0, 15))
        'email a… (15 characters)'
    """
    return f"{found.kind} {found.value[0]}… ({len(found.value)} characters)"


def masked(text: str, replacement: Callable[[Found], str] = lambda found: f"[{found.kind}]") -> str:
    """A text with what is personal replaced, by default by its kind.

    Example:
        >>> masked("Write to ana@example.org!")
        'Write to [email]!'
    """
    for found in reversed(find_personal(text)):
        text = text[: found.start] + replacement(found) + text[found.end :]
    return text


def check(material: Material) -> list[Finding]:
    """Personal information in the examples, and keys apart (``secrets``); values are never shown whole."""
    rows: dict[str, list[tuple[str, Found]]] = {"personal_information": [], "secrets": []}
    for example in material.examples:
        parts = [example.text] if example.text is not None else [m.content for m in example.messages]
        for found in (found for part in parts for found in find_personal(part)):
            rows["secrets" if found.kind == "key" else "personal_information"].append((example.source, found))
    return [finding for name, found in rows.items() for finding in _finding(name, found)]


def _finding(name: str, found: list[tuple[str, Found]]) -> Iterator[Finding]:
    if not found:
        return
    sources = dict.fromkeys(source for source, _ in found)
    kinds = Counter(one.kind for _, one in found)
    named = ", ".join(f"{n:,} {WORDS[kind]}" for kind, n in sorted(kinds.items(), key=lambda item: -item[1]))
    lines = (source.rpartition(":")[2] for source in sources)
    yield Finding(
        name,
        "warning" if name == "secrets" else "info",
        len(sources),
        f"{len(sources):,} examples hold what looks like {named}.",
        rows=tuple(sorted(int(line) for line in lines if line.isdecimal())),
        examples=tuple(f"{source}: {mask(one)}" for source, one in found[:NAMED]),
        fix=f"tunesmith data clean DATA -o NEW --fix {name} masks them; --pseudonyms makes others up.",
    )


# ── what a value must be besides its form ────────────────────────────────────────────────────────────────
def is_iban(value: str) -> bool:
    """Whether the two check digits are right (ISO 13616: remainder 1 by 97)."""
    letters = re.sub(r"\s", "", value).upper()
    number = "".join(str(int(c, 36)) for c in letters[4:] + letters[:4])
    return 15 <= len(letters) <= 34 and int(number) % 97 == 1


def is_card(value: str) -> bool:
    """Whether the last digit is right (ISO/IEC 7812: Luhn's sum is a multiple of 10)."""
    digits = [int(c) for c in value if c.isdecimal()]
    doubled = [2 * d - 9 * (d > 4) if place % 2 else d for place, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def is_identity(value: str) -> bool:
    """Whether a number's check digits are right: Spain's DNI and NIE, Brazil's CPF, France's NIR; the US's has none."""
    plain = re.sub(r"[\s.-]", "", value).upper()
    if re.fullmatch(r"[XYZ\d]\d{7}[A-Z]", plain):  # DNI, NIE
        number = int(plain[:-1].translate(str.maketrans("XYZ", "012")))
        return plain[-1] == "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23]
    digits = [int(c) for c in plain]
    if len(digits) == 11:  # CPF: two check digits, remainders by 11
        sums = [sum(d * w for d, w in zip(digits, range(n + 1, 1, -1), strict=False)) * 10 % 11 % 10 for n in (9, 10)]
        return len(set(digits)) > 1 and digits[9:] == sums
    if len(digits) == 15:  # NIR
        return int(plain[13:]) == 97 - int(plain[:13]) % 97
    return plain[:3] not in ("000", "666") and plain[0] != "9" and plain[3:5] != "00" and plain[5:] != "0000"


def is_phone(value: str) -> bool:
    return 8 <= sum(c.isdecimal() for c in value) <= 15


def is_public_ip(value: str) -> bool:
    try:
        return ipaddress.ip_address(value).is_global
    except ValueError:
        return False


def is_key(value: str) -> bool:
    """Whether a run of characters has a key's beginning, or small and large letters and digits in random order."""
    if re.match(KNOWN_KEYS, value):
        return True
    kinds = [0 if c.islower() else 1 if c.isupper() else 2 if c.isdecimal() else 3 for c in value]
    changes = sum(a != b for a, b in itertools.pairwise(kinds)) / (len(kinds) - 1)
    return min(map(kinds.count, (0, 1, 2))) >= 2 and changes >= KEY_CHANGES and entropy(value) >= KEY_BITS


def entropy(text: str) -> float:
    """Bits of each character, from how often each stands in the text (Shannon).

    Example:
        >>> entropy("abab"), entropy("aaaa")
        (1.0, 0.0)
    """
    shares = [n / len(text) for n in Counter(text).values()]
    return sum(-share * math.log2(share) for share in shares) + 0.0


KNOWN_KEYS = r"AKIA[0-9A-Z]{16}$|gh[pousr]_\w{36}|sk-[\w-]{20}|xox[abprs]-|AIza[\w-]{35}|eyJ[\w-]+\.eyJ|-----BEGIN"
DETECTORS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", re.compile(r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}"), lambda value: True),
    ("iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), is_iban),
    ("card", re.compile(
        r"(?<![\w.-])(?:\d{13,19}|\d{4}(?:[ -]\d{4}){3}(?:[ -]\d{1,3})?|\d{4}[ -]\d{6}[ -]\d{5})(?![\w-])"
    ), is_card),
    ("id", re.compile(
        r"(?<![\w.,+-])(?:\d{3}-\d{2}-\d{4}|(?:\d{8}|[XYZ]-?\d{7})-?[A-Z]|\d{3}\.\d{3}\.\d{3}-\d{2}"
        r"|[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?\d{2} ?\d{3} ?\d{3} ?\d{2})(?![\w-])"
    ), is_identity),
    ("key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|(?<![\w/.-])[A-Za-z0-9_.-]{20,}"), is_key),
    ("ip", re.compile(
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4})(?![\w:]|\.\d)"
    ), is_public_ip),
    ("phone", re.compile(
        r"(?<![\w.,+-])(?:(?:\+|00)\d[\d ()./-]{6,18}\d|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}"
        r"|0\d{2,4}[ /-]\d[\d -]{4,10}\d)(?![\w-])"
    ), is_phone),
)  # fmt: skip
