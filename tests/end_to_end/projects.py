"""Small projects that a random two-layer model can learn in a second, and how to call the command line on them."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tunesmith.cli.main import main

TINY = Path(__file__).parents[1] / "assets" / "tiny_llama"
GOOD, BAD = ["good", "great", "lovely", "sunny", "happy", "fine"], ["bad", "awful", "cold", "rainy", "sad", "grim"]
THINGS = ["day", "city", "report", "card", "money", "news", "weather"]


def sentences(n: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Texts with the label 'yes' or 'no', which one word decides; no two alike."""
    rng = random.Random(seed)
    for i in range(n):
        word = rng.choice(GOOD if i % 2 else BAD)
        yield f"the {rng.choice(THINGS)} is {word} number {i}", "yes" if i % 2 else "no"


def write_labelled(path: Path, n: int = 80, seed: int = 0) -> Path:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in sentences(n, seed)))
    return path


def write_pairs(path: Path, n: int = 60) -> Path:
    """Prompts and what to say: the answer is one word of the question."""
    rows = [{"prompt": text, "completion": f"it is {label}"} for text, label in sentences(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(**changes: Any) -> dict[str, Any]:
    """A classification project on ``data.csv``; keys are replaced, ``data`` and ``train`` merged."""
    made: dict[str, Any] = {
        "task": "classification", "model": str(TINY), "candidates": ["baseline", "prompt", "tune"],
        "method": {"kind": "lora", "rank": 4}, "forgetting": "off", "data": {"train": "data.csv"},
        "train": {"epochs": 2, "learning_rate": 0.01, "global_batch_size": 8},
    }  # fmt: skip
    for key, value in changes.items():
        made[key] = made[key] | value if key in ("data", "train") else value
    return made


def write_project(folder: Path, **changes: Any) -> Path:
    """Write project.yaml with its data.csv; returns the config."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data.csv").exists():
        write_labelled(folder / "data.csv")
    config = folder / "project.yaml"
    config.write_text(yaml.safe_dump(settings(**changes)))
    return config


class Result(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: object) -> Result:
    """The command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
    return Result(0 if code is None else int(code), out.getvalue(), err.getvalue())


def read_strictly(path: Path) -> Any:
    """JSON without NaN and infinity, as any parser reads it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path} holds {name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def build_encoder(folder: Path, layers: int = 1) -> Path:
    """A small random BERT with the tiny model's tokenizer."""
    from transformers import BertModel

    return _build_bert(folder, BertModel, layers)


def build_cross_encoder(folder: Path, outputs: int = 1) -> Path:
    """The same with a head, which gives ``outputs`` numbers for a pair of texts."""
    from transformers import BertForSequenceClassification

    return _build_bert(folder, BertForSequenceClassification, 2, num_labels=outputs, initializer_range=0.5)


def _build_bert(folder: Path, kind: Any, layers: int, **more: Any) -> Path:
    import torch
    from transformers import AutoTokenizer, BertConfig

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64, **more,
    )  # fmt: skip
    kind(config).save_pretrained(folder)
    return folder
