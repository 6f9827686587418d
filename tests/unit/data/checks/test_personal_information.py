"""Forms of personal information, told by checksums and by what must not be taken for them."""

from __future__ import annotations

import time

import pytest

from tunesmith.config import Data
from tunesmith.data.checks.duplicates import find_duplicates
from tunesmith.data.checks.material import Material
from tunesmith.data.checks.personal_information import bare, check, entropy, find_personal, is_card, is_iban, mask
from tunesmith.records import Example, Message, Split


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("mail ana.b+x@mail.example.org.", "email", "ana.b+x@mail.example.org"),
        ("IBAN GB82 WEST 1234 5698 7654 32 please", "iban", "GB82 WEST 1234 5698 7654 32"),
        ("DE89370400440532013000", "iban", "DE89370400440532013000"),
        ("card 4111 1111 1111 1111, thanks", "card", "4111 1111 1111 1111"),
        ("5500-0000-0000-0004", "card", "5500-0000-0000-0004"),
        ("3782 822463 10005", "card", "3782 822463 10005"),
        ("ring +44 20 7946 0958.", "phone", "+44 20 7946 0958"),
        ("call (212) 555-0147 now", "phone", "(212) 555-0147"),
        ("Tel. 030 1234567", "phone", "030 1234567"),
        ("my DNI is 12345678Z ok", "id", "12345678Z"),
        ("NIE X1234567L", "id", "X1234567L"),
        ("CPF 529.982.247-25.", "id", "529.982.247-25"),
        ("NIR 2 55 08 14 168 025 38", "id", "2 55 08 14 168 025 38"),
        ("SSN 219-09-9999", "id", "219-09-9999"),
        ("from 8.8.8.8, I think", "ip", "8.8.8.8"),
        ("at 2001:4860:4860::8888 there", "ip", "2001:4860:4860::8888"),
        ("use AKIAIOSFODNN7EXAMPLE for it", "key", "AKIAIOSFODNN7EXAMPLE"),
        ("token: q8Zr2LmX0vKc7TnB4wYdJ1sG", "key", "q8Zr2LmX0vKc7TnB4wYdJ1sG"),
    ],
)
def test_each_form_is_found(text: str, kind: str, value: str) -> None:
    assert [(found.kind, found.value) for found in find_personal(text)] == [(kind, value)]
    (found,) = find_personal(text)
    assert text[found.start : found.end] == value


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the last digit is wrong
        "GB82 WEST 1234 5698 7654 33",
        "on 2024-01-15 at 10:30:00",
        "version 1.2.3 of 10.0.0.1, 127.0.0.1 and 192.168.1.1",  # not public
        "internationalisation-of-everything and /usr/local/lib/python3/site-packages",
        "0000000000000000",
        "12345678A, 529.982.247-24 and 2 55 08 14 168 025 39",
        "19 300 15 21 325 16 23 350",
        "www.Ldew.com1win150ppmx3age16 and DATEBox1282EssexCM61XN",
        "between 1,000,000 and 12345678901 people, 3.14159265358979",
        "https://example.org/some/long/path/to/a/page.html",
        "a @ b, @someone",
        "std::vector::iterator",
    ],
)
def test_what_only_looks_alike_is_not(text: str) -> None:
    assert find_personal(text) == []


def test_one_wrong_digit_in_any_place_is_seen() -> None:
    card, iban = "4111111111111111", "DE89370400440532013000"
    assert is_card(card)
    assert is_iban(iban)
    for place in range(len(card)):
        assert not is_card(card[:place] + str((int(card[place]) + 3) % 10) + card[place + 1 :])
    for place in range(4, len(iban)):
        assert not is_iban(iban[:place] + str((int(iban[place]) + 3) % 10) + iban[place + 1 :])


def test_entropy_is_that_of_equal_shares() -> None:
    assert entropy("abcdefgh") == pytest.approx(3)
    assert entropy("aaaa") == 0


def test_spellings_of_one_value_are_equal() -> None:
    assert bare("+44 20-7946 (0958)") == bare("+442079460958")
    assert bare("Ana@Example.org") == bare("ana@example.org") != bare("ana@exampleorg")


def test_findings_count_rows_and_never_show_a_value() -> None:
    train = (
        Example("a.csv:2", text="write to ana@example.org or bob@example.org", label="x"),
        Example("b.jsonl:7", (Message("user", "hi"), Message("assistant", "use q8Zr2LmX0vKc7TnB4wYdJ1sG"))),
        Example("a.csv:3", text="nothing", label="x"),
    )
    personal, secrets = check(
        Material(Data(train="a.csv"), "classification", train, Split(train, (), ()), find_duplicates(train))
    )
    assert (personal.check, personal.count, personal.rows) == ("personal_information", 1, (2,))
    assert "2 e-mail addresses" in personal.message
    assert (secrets.check, secrets.severity, secrets.rows) == ("secrets", "warning", (7,))
    for finding in (personal, secrets):
        shown = " ".join((finding.message, *finding.examples))
        assert "example.org" not in shown
        assert "q8Zr" not in shown
    assert mask(find_personal("ana@example.org")[0]) == "email a… (15 characters)"


def test_long_texts_take_no_more_than_linear_time() -> None:
    begun = time.process_time()
    for text in ("1 " * 50_000, "a." * 50_000, "a@" * 50_000, "AB12 " * 20_000, ":" * 50_000, "+1" + " (" * 50_000):
        find_personal(text)
    assert time.process_time() - begun < 5
