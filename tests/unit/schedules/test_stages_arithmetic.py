"""The arithmetic of stages: what is replayed, how a stage's tasks are mixed, and what the verdict says."""

import numpy as np
import pytest

from tunesmith.config import Stages
from tunesmith.data.render import Renderer
from tunesmith.model.load import load_model
from tunesmith.records import Example
from tunesmith.report.stages import SHADES, render_stages
from tunesmith.schedules.mixture import drawing_rates, joint_loop
from tunesmith.schedules.stages import _bounds, _mixed
from tunesmith.schedules.stages_report import _verdict
from tunesmith.train.remedies.replay import draw_examples, even_shares, write_texts
from tunesmith.workflow import silent


def examples(name, n):
    return [Example(f"{name}:{i}", text=f"{name} {i}", label="x") for i in range(n)]


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        (10, [100, 2, 100], [4, 2, 4]),
        (10, [3, 4], [3, 4]),
        (0, [5, 5], [0, 0]),
        (7, [50, 50, 50], [3, 2, 2]),
        (3, [0, 9], [0, 3]),
        (5, [], []),
    ],
)
def test_replay_is_shared_evenly_as_far_as_sizes_allow(count, sizes, expected):
    assert even_shares(count, sizes) == expected


def test_replay_draws_each_example_once_and_the_same_for_a_seed():
    earlier = {"a": examples("a", 30), "b": examples("b", 4)}
    drawn = draw_examples(earlier, 12, np.random.default_rng(3))
    assert {name: len(found) for name, found in drawn.items()} == {"a": 8, "b": 4}
    for name, found in drawn.items():
        ids = [e.id for e in found]
        assert len(set(ids)) == len(ids)
        assert set(ids) <= {e.id for e in earlier[name]}
    assert draw_examples(earlier, 12, np.random.default_rng(3)) == drawn
    assert draw_examples(earlier, 12, np.random.default_rng(4)) != drawn
    assert set(draw_examples(earlier, 1, np.random.default_rng(0))) == {"a"}


def test_texts_of_the_base_are_its_own_and_end_where_it_ended_them(tiny_model_path):
    lm = load_model(str(tiny_model_path))
    texts = write_texts(lm, 3, 7, silent)
    assert 0 < len(texts) <= 3
    renderer = Renderer(lm.tokenizer, 1024)
    for example in texts:
        assert [m.role for m in example.messages] == ["user", "assistant"]
        rendered = renderer.render(example.messages)
        assert rendered.input_ids[-1] == lm.tokenizer.eos_token_id
        assert rendered.units <= 130
    assert len({e.id for e in texts}) == len(texts)
    assert write_texts(lm, 3, 7, silent) == texts
    assert write_texts(lm, 3, 8, silent) != texts


def test_a_model_without_a_template_writes_from_the_beginning_of_a_text(tiny_model_path):
    lm = load_model(str(tiny_model_path))
    lm.tokenizer.chat_template = None
    (text,) = write_texts(lm, 1, 0, silent)
    assert [m.role for m in text.messages] == ["assistant"]


def stages(**second):
    data = {"train": "x.csv"}
    one = {"name": "one", "task": "classification", "data": data}
    return Stages(stages=[one, {"name": "two", **second}])


def test_a_stages_tasks_are_drawn_at_their_rates_and_replay_beside_them():
    tasks = {
        name: {"kind": "classification", "data": {"train": "x.csv"}, "weight": w} for name, w in (("a", 3), ("b", 1))
    }
    stage = stages(tasks=tasks).stages[1]
    assert drawing_rates(stage.tasks or {}, stage.mixing, [40, 40]) == [0.75, 0.25]
    order = _mixed([0.75, 0.25])([40, 40, 8])
    assert order.size == 88
    assert order.counts == [60, 20, 8]
    for part in tasks.values():
        del part["weight"]
    by_size = stages(tasks=tasks, mixing={"temperature": 2}).stages[1]
    assert drawing_rates(by_size.tasks or {}, by_size.mixing, [100, 400]) == pytest.approx([1 / 3, 2 / 3])


class Planned:
    """As much of a place as the loop's settings are read from."""

    def __init__(self, train, epochs, max_length=64, overlong="refuse"):
        self.plan = {
            "facts": {"train": train},
            "loop": {"lora": {"epochs": epochs, "seed": 0}},
            "max_length": max_length,
        }
        self.config = stages(task="classification", data={"train": "x.csv"}).with_task(
            {"kind": "classification"}, {"train": "x.csv", "overlong": overlong}
        )


def test_settings_of_several_tasks_at_once():
    assert joint_loop([Planned(100, 1.5).plan], "lora") == {"epochs": 1.5, "seed": 0}
    assert joint_loop([Planned(300, 1).plan, Planned(100, 4).plan], "lora")["epochs"] == 2.0
    assert joint_loop([Planned(300, 0.5).plan, Planned(100, 0.5).plan], "lora")["epochs"] == 0.5
    assert _bounds([Planned(1, 1), Planned(1, 1, 128, "drop")]) == (128, "drop")
    assert _bounds([Planned(1, 1)]) == (64, "refuse")


def interval(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 100}


def difference(value, low, high, p):
    return {"difference": value, "low": low, "high": high, "metric": "accuracy", "adjusted_p_value": p, "n": 100}


def test_the_verdict_says_no_more_than_the_intervals_show():
    held = {"metric": {"a": "accuracy", "b": "accuracy"}, "reason": "", "average_forgetting": interval(0.2, 0.1, 0.3)}
    joint = {
        "status": "ok",
        "differences": {"a": difference(-0.1, -0.2, -0.01, 0.03), "b": difference(0.1, 0.01, 0.2, 0.06)},
    }
    found = _verdict(held, joint)
    assert found["forgot"] is True
    assert (
        "20.0 points below their best on average (95 % interval 10.0 to 30.0 points): they forgot" in (found["reason"])
    )
    assert found["against_joint"] == {"better": [], "worse": ["a"], "even": ["b"]}
    assert "the sequence is worse on a; not shown to differ on b." in found["reason"]
    unsure = _verdict(held | {"average_forgetting": interval(0.02, -0.01, 0.05)}, None)
    assert unsure["forgot"] is False
    assert "forgetting is not shown" in unsure["reason"]
    assert "was not asked for" in unsure["reason"]
    none = _verdict(held | {"average_forgetting": None, "reason": "Different units."}, None)
    assert none["forgot"] is None
    assert "no single number: Different units." in none["reason"]


def test_the_page_shades_by_how_good_a_score_is():
    cells = [interval(0.0, 0, 0.1), interval(1.0, 0.9, 1), interval(0.55, 0.5, 0.6)]
    report = {
        "name": "<run>",
        "created": "",
        "model": "base",
        "command": "",
        "versions": {},
        "hardware": {},
        "findings": [],
        "joint": None,
        "stages": [],
        "tasks": {"a": {"stage": 0, "folder": "stages/1-a"}},
        "verdict": {"reason": "Because.", "forgot": None},
        "retention": {
            "metric": {"a": "accuracy"},
            "reason": "",
            "matrix": [{"after": name, "cells": {"a": cell}} for name, cell in zip("xyz", cells, strict=True)],
            **dict.fromkeys(
                ("average_accuracy", "backward_transfer", "forward_transfer", "average_forgetting"),
            ),
        },
    }
    page = render_stages(report)
    for shade in (0, SHADES - 1, SHADES // 2):
        assert f'class="number shade-{shade}' in page
    assert f'shade-{SHADES - 1} own"' in page
    assert "&lt;run&gt;" in page
