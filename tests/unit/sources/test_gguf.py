"""GGUF files that must not be converted, and the tokenizer rules that are put right."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tunesmith.errors import ModelError
from tunesmith.sources import gguf


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a GGUF file"),
        (b"PK\3\4" + bytes(40), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1) + bytes(90), "of version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1) + bytes(90), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60) + bytes(90), "damaged"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=text):
        gguf.convert_gguf(tmp_path / "a.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def tokenizer() -> Any:
    """What transformers makes of a rule it does not know: cut as GPT-2 does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return SimpleNamespace(backend_tokenizer=backend)


def header(path: Path, rule: str) -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_string("tokenizer.ggml.pre", rule)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pieces(made: Any, text: str) -> list[str]:
    return [piece for piece, _ in made.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def test_digits_are_cut_one_by_one_where_the_vocabulary_was_learned_so(tmp_path: Path) -> None:
    made = tokenizer()
    assert pieces(made, "in  1999") == ["in", "Ġ", "Ġ1999"]
    gguf._restore_digit_split(made, header(tmp_path / "a.gguf", "smollm"))
    assert pieces(made, "in  1999") == ["in", "ĠĠ", "1", "9", "9", "9"]


def test_a_rule_that_transformers_follows_is_left_alone(tmp_path: Path) -> None:
    made = tokenizer()
    gguf._restore_digit_split(made, header(tmp_path / "a.gguf", "gpt-2"))
    assert pieces(made, "in 1999") == ["in", "Ġ1999"]


def test_a_rule_that_would_be_followed_wrongly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cuts text by the rule 'chameleon'"):
        gguf._restore_digit_split(tokenizer(), header(tmp_path / "a.gguf", "chameleon"))
