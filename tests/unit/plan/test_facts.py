from __future__ import annotations

from pathlib import Path

from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.hardware import detect
from tunesmith.model.load import load_model
from tunesmith.plan.facts import count_parameters, gather_facts
from tunesmith.sources import resolve_model


def test_parameters_are_counted_without_loading(tiny_model_path: Path) -> None:
    folder = resolve_model(str(tiny_model_path))
    assert count_parameters(folder) == load_model(str(tiny_model_path)).parameters


def test_facts_of_data_model_and_machine(tiny_model_path: Path) -> None:
    rendered = [
        Rendered([1, 2, 3, 4, 5], [IGNORE_INDEX] * 4 + [5], 4),
        Rendered([1, 2, 3, 9, 8, 7, 6], [IGNORE_INDEX] * 5 + [7, 6], 5),
    ]
    counts = {"train": 10, "validation": 3, "test": 5}
    facts = gather_facts(counts, 2, rendered, 3, resolve_model(str(tiny_model_path)), "decoder", detect(), 1e10)
    assert (facts.train, facts.validation, facts.test, facts.labels) == (10, 3, 5, 2)
    assert (facts.tokens_per_example, facts.longest_example, facts.supervised_per_example) == (6.0, 7, 1.5)
    assert facts.prefix_tokens == 3
    assert (facts.hidden_size, facts.intermediate_size, facts.layers) == (64, 96, 2)
    assert (facts.vocabulary, facts.context_length, facts.model_type) == (384, 1024, "llama")
    assert facts.to_json()["flops_per_second"] == 1e10
