from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.candidates import FAMILIES, Context
from tunesmith.config import parse_config
from tunesmith.records import Example, Message
from tunesmith.tasks import build_task
from tunesmith.workflow import silent


@pytest.mark.parametrize(("labels", "expected"), [("aabbb", "b"), ("bbaa", "a"), ("aabb", "a")])
def test_the_most_frequent_label_of_train_and_ties_do_not_depend_on_order(
    tmp_path: Path, labels: str, expected: str
) -> None:
    config = parse_config({"task": "classification", "data": {"train": "x"}})
    context = Context(config, build_task(config.task, ["a", "b"]), "m", {}, 64, silent)
    candidate = FAMILIES["baseline"].build(context, "baseline/majority", tmp_path)
    train = [Example(f"f:{i}", text=f"t{i}", label=label) for i, label in enumerate(labels)]
    fit = candidate.fit(train, [])
    assert fit.details["answer"] == expected
    assert fit.details["share_of_train"] == labels.count(expected) / len(labels)
    assert {p.prediction for p in candidate.predict(train)} == {expected}


def test_a_translation_is_compared_with_its_own_text(tmp_path: Path) -> None:
    config = parse_config({"task": "translation", "data": {"train": "x"}})
    assert FAMILIES["baseline"].ids(config, "m", "decoder") == ["baseline/copy"]
    context = Context(config, build_task(config.task, []), "m", {}, 64, silent)
    candidate = FAMILIES["baseline"].build(context, "baseline/copy", tmp_path)
    turns = (Message("system", "s"), Message("user", "Paris 2024"), Message("assistant", "à Paris 2024"))
    candidate.fit([Example("f:1", turns)], [])
    (found,) = candidate.predict([Example("f:2", turns)])
    assert (found.prediction, found.target) == ("Paris 2024", "à Paris 2024")
    assert 0 < found.score < 1


def test_each_family_names_its_candidates() -> None:
    classification = parse_config({"task": "classification", "data": {"train": "x"}, "method": ["lora", "full"]})
    generation = parse_config({"task": "generation", "data": {"train": "x"}})
    ids = {name: family.ids(classification, "m", "decoder") for name, family in FAMILIES.items()}
    assert ids == {
        "baseline": ["baseline/majority"],
        "boosting": [],
        "prompt": ["prompt/zero-shot", "prompt/few-shot", "prompt/nearest"],
        "embedding": ["embedding/minilm-l6"],
        "setfit": ["setfit/minilm-l6"],
        "rag": [],
        "tune": ["tune/m/lora", "tune/m/full"],
        "tune+rag": [],
    }
    assert FAMILIES["embedding"].ids(generation, "m", "decoder") == []
    documents = {"task": "generation", "data": {"train": "x"}, "rag": {"documents": "d"}}
    assert FAMILIES["rag"].ids(parse_config(documents), "m", "decoder")
    assert FAMILIES["tune+rag"].ids(parse_config(documents), "m", "decoder") == ["tune+rag/m/lora"]
    translation = parse_config({"task": "translation", "data": {"train": "x"}})
    assert FAMILIES["prompt"].ids(translation, "m", "encoder-decoder") == ["prompt/zero-shot"]
    assert FAMILIES["prompt"].ids(translation, "m", "decoder") == ["prompt/zero-shot", "prompt/few-shot"]
    assert FAMILIES["prompt"].ids(generation, "m", "encoder") == []
    few = parse_config({"task": "classification", "data": {"train": "x"}, "candidates": ["prompt"]})
    assert FAMILIES["prompt"].ids(few, "m", "decoder") == ["prompt/zero-shot", "prompt/few-shot"]
    pairs = parse_config({"task": "preference", "data": {"train": "x"}})
    ids = {name: family.ids(pairs, "m", "decoder") for name, family in FAMILIES.items()}
    assert ids == {
        "baseline": [],
        "boosting": [],
        "prompt": ["prompt/zero-shot"],
        "embedding": [],
        "setfit": [],
        "rag": [],
        "tune": ["tune/m/lora"],
        "tune+rag": [],
    }
    assert [name for name, family in FAMILIES.items() if not family.baseline] == ["setfit", "tune", "tune+rag"]
