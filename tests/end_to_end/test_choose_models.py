"""``tunesmith choose``: filters, scores and the choice, on two tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from end_to_end.projects import TINY, call, write_project
from tunesmith.model.embed import layer_means
from tunesmith.search.choose import judge


def test_models_are_ranked_and_the_rejected_have_a_reason(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    other = tmp_path / "another"
    shutil.copytree(TINY, other)
    before = sorted(tmp_path.rglob("*"))
    asked = ("choose", config, "--models", f"{TINY},{other},dinov2-small,{tmp_path / 'absent'}")
    report = json.loads(call(*asked, "--json", "-q").out)
    assert sorted(tmp_path.rglob("*")) == before
    first, second = report["ranked"]
    assert {key: first[key] for key in ("probe", "h_score", "logme", "parameters")} == {
        key: second[key] for key in ("probe", "h_score", "logme", "parameters")
    }  # one model under two names
    assert first["zero_shot"]["n"] == 8
    assert first["zero_shot"]["nll"] > 0
    assert second["to_best"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    reasons = {row["name"]: row["reasons"] for row in report["rejected"]}
    assert reasons["dinov2-small"] == ["it reads image"]
    assert "pull" in reasons[str(tmp_path / "absent")][0]
    said = call(*asked, "-q")
    assert said.code == 0
    assert f"--set model={report['choice']}" in said.out
    assert "rejected  dinov2-small: it reads image" in said.out


def test_what_leaves_no_model_or_fits_no_task_is_refused(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    none = call("choose", config, "--models", str(TINY), "--licence", "MIT", "-q")
    assert none.code == 3
    assert "licence not known; asked for is MIT" in none.err
    assert call("choose", config, "--models", "minilm-l6", "--language", "de", "-q").code == 3
    (tmp_path / "data.csv").write_text("prompt,completion\n" + "".join(f"a {i},b {i}\n" for i in range(40)))
    other = call("choose", config, "--set", "task=generation", "-q")
    assert other.code == 3
    assert "task: generation cannot be scored" in other.err


def test_states_are_averaged_over_tokens_and_layers_whatever_the_padding() -> None:
    model, tokenizer = AutoModel.from_pretrained(TINY).eval(), AutoTokenizer.from_pretrained(TINY)
    texts = ["sunny", "the city is lovely and the weather is fine"]
    found = layer_means(model, tokenizer, texts, 100)
    for row, text in zip(found, texts, strict=True):
        with torch.no_grad():
            layers = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1:]
        np.testing.assert_allclose(row, torch.stack(layers).mean(dim=(0, 1, 2)).numpy(), atol=1e-5)


def row(name: str, parameters: int, score: float) -> dict[str, Any]:
    return {"name": name, "parameters": parameters, "h_score": 0.0, "probe": {"score": score, "loss": 0.0}}


@pytest.mark.parametrize(("wrong", "choice", "larger"), [(3, "small", "large"), (60, "large", None)])
def test_the_smallest_that_is_good_enough_is_chosen(wrong: int, choice: str, larger: str | None) -> None:
    """Of 400 items the larger model has 10 wrong, the smaller as many and ``wrong`` more."""
    large, small = np.ones(400), np.ones(400)
    large[:10], small[: 10 + wrong] = 0, 0
    rows = [row("small", 1, small.mean()), row("large", 2, large.mean())]
    found = judge(rows, {"small": small, "large": large}, "cross_entropy", 0)
    assert [r["name"] for r in found["ranked"]] == ["large", "small"]
    assert found["choice"] == choice
    assert (found["next_size"] or {}).get("name") == larger
    if larger:
        assert found["next_size"]["difference"] == pytest.approx(wrong / 400)
