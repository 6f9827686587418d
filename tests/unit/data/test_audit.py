"""Sensitive columns: how they are read and kept from models, and what goes together with them in the data."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tunesmith.data.audit import audit_findings, audit_groups
from tunesmith.data.read import read_examples
from tunesmith.errors import DataError
from tunesmith.records import Example

ROWS = [
    {"text": f"text {i}", "label": "yn"[i % 2], "gender": ["f", "m", None, " "][i % 4], "age": i % 3} for i in range(12)
]


def read(tmp_path, rows=ROWS, task="classification", **settings):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_examples(path, task, **settings)


def examples(groups, labels, clusters=None):
    return [
        Example(f"f:{i}", text=str(i), label=label, group=None if clusters is None else f"{clusters[i]}",
                sensitive=() if group is None else (("gender", group),))
        for i, (group, label) in enumerate(zip(groups, labels, strict=True))
    ]  # fmt: skip


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────
def test_groups_are_read_and_none_is_guessed(tmp_path):
    found = read(tmp_path, sensitive=("gender", "age")).examples
    assert [e.sensitive for e in found[:3]] == [
        (("gender", "f"), ("age", "0")), (("gender", "m"), ("age", "1")), (("age", "2"),),
    ]  # fmt: skip
    assert found[3].sensitive == (("age", "0"),)
    assert all(e.text == f"text {i}" for i, e in enumerate(found))


def test_of_a_table_a_sensitive_column_is_shown_only_by_a_template_that_names_it(tmp_path):
    settings = {"format": "table", "label": "label", "sensitive": ("gender",)}
    for template in ("names", "sentence"):
        for example in read(tmp_path, template=template, **settings).examples:
            assert "gender" not in example.text
            assert "gender" not in dict(example.columns)
    shown = read(tmp_path, template="{gender} of {age}", **settings).examples[0]
    assert (shown.text, shown.sensitive) == ("f of 0", (("gender", "f"),))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sensitive": ("gendre",)}, "data.sensitive is 'gendre'.*Did you mean 'gender'"),
        ({"sensitive": ("label",), "label": "label"}, "'label', which holds the label"),
        ({"sensitive": ("gender",), "group": "gender"}, "never straddle"),
        ({"sensitive": ("gender",), "task": "regression", "label": "age"}, "for classification"),
    ],
)
def test_a_column_that_cannot_be_one_is_refused_in_words(tmp_path, settings, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, **settings)


def test_a_column_without_two_groups_is_refused(tmp_path):
    rows = [row | {"gender": "f", "age": None} for row in ROWS]
    with pytest.raises(DataError, match="'gender' holds the one group 'f'") as error:
        read(tmp_path, rows, sensitive=("gender", "age"))
    assert "'age' holds no group in any row" in str(error.value)


# ── the audit ────────────────────────────────────────────────────────────────────────────────────────────
def test_shares_and_lift():
    groups = ["f"] * 200 + ["m"] * 200
    labels = ["y"] * 140 + ["n"] * 60 + ["y"] * 60 + ["n"] * 140
    audit = audit_groups(examples(groups, labels), ["gender"])
    cell = audit["columns"]["gender"]["groups"]["f"]["labels"]["y"]
    assert (cell["n"], cell["share"], cell["lift"]["value"]) == (140, 0.7, pytest.approx(1.4))
    # the delta method by hand: 1/n_at − 1/n_a − 1/n_t + (2·lift − 1)/n, and n − 1 for n
    half = 1.959964 * np.sqrt((1 / 140 - 1 / 200 - 1 / 200 + 1.8 / 400) * 400 / 399)
    assert np.log(cell["lift"]["high"] / 1.4) == pytest.approx(half, rel=1e-5)
    (finding,) = audit_findings(audit)
    assert finding.check == "group_and_label"
    assert "'y' with f (1.4 times)" in finding.message


def test_the_interval_of_the_lift_covers_it():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        women = rng.random(500) < 0.5
        labels = np.where(rng.random(500) < np.where(women, 0.6, 0.3), "y", "n")
        audit = audit_groups(examples(np.where(women, "f", "m").tolist(), labels.tolist()), ["gender"])
        lift = audit["columns"]["gender"]["groups"]["f"]["labels"]["y"]["lift"]
        inside += lift["low"] <= 0.6 / 0.45 <= lift["high"]
    assert 0.92 <= inside / 400 <= 0.98


def test_copies_in_one_cluster_make_nothing_surer():
    rng = np.random.default_rng(1)
    groups = ["fm"[i] for i in rng.integers(0, 2, 200)]
    labels = ["yn"[i] for i in rng.integers(0, 2, 200)]
    spread = []
    for copies, clusters in ((1, None), (4, None), (4, [i for i in range(200) for _ in range(4)])):
        data = examples(
            [g for g in groups for _ in range(copies)], [x for x in labels for _ in range(copies)], clusters
        )
        lift = audit_groups(data, ["gender"])["columns"]["gender"]["groups"]["f"]["labels"]["y"]["lift"]
        spread.append(np.log(lift["high"] / lift["low"]))
    assert spread[1] < 0.6 * spread[0]
    assert spread[2] == pytest.approx(spread[0], rel=0.01)


def test_small_cells_and_groups_say_nothing():
    groups = ["f"] * 60 + ["m"] * 60 + ["x"] * 4 + [None] * 2
    labels = ["y"] * 31 + ["n"] * 29 + ["y", "n"] * 33
    audit = audit_groups(examples(groups, labels), ["gender"])
    column = audit["columns"]["gender"]
    assert column["groups"]["f"]["labels"]["n"] == {"n": 29, "share": None, "lift": None, "reason": "not enough data"}
    assert column["groups"]["f"]["labels"]["y"]["share"] == pytest.approx(31 / 60)
    assert column["small_groups"] == {"groups": 1, "examples": 4}
    assert {f.check: f.count for f in audit_findings(audit)} == {"group_unknown": 2, "group_too_small": 4}


def test_without_groups_there_is_no_audit_and_it_says_so():
    assert audit_groups([], []) == {"status": "not_run", "reason": "no data.sensitive"}
    few = audit_groups(examples(["f", "m"] * 20, ["y", "n"] * 20), ["gender"])
    assert few["status"] == "not_run"
    assert "not enough data" in few["reason"]
