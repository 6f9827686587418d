from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.read import read_examples
from tunesmith.data.split import find_overlaps, limit_train, same_text_key, split_examples
from tunesmith.errors import DataError
from tunesmith.records import Example, Message, Split


def examples(n: int, labels: str = "ab", start: int = 0) -> list[Example]:
    return [Example(f"x:{i + 2}", text=f"text {i}", label=labels[i % len(labels)]) for i in range(start, start + n)]


def where(split: Split) -> dict[str, str]:
    return {e.source: part for part in ("train", "validation", "test") for e in getattr(split, part)}


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.integers(0, 150), min_size=120, max_size=200),
    groups=st.lists(st.sampled_from([None, None, None, *"123456789"]), min_size=200, max_size=200),
    seed=st.integers(0, 5),
    stratify=st.booleans(),
    sizes=st.sampled_from([(None, None), (0.2, 0.3), (20, 30)]),
)
def test_no_text_and_no_group_straddles_and_order_does_not_matter(
    texts: list[int],
    groups: list[str | None],
    seed: int,
    stratify: bool,
    sizes: tuple[float | None, float | None],
) -> None:
    items = [
        Example(f"x:{i}", text=f"Text  {t}" if i % 3 else f"text {t} ", label="abc"[t % 3], group=groups[i])
        for i, t in enumerate(texts)
    ]
    shuffled = random.Random(seed).sample(items, len(items))
    try:
        split = split_examples(items, seed=seed, validation_size=sizes[0], test_size=sizes[1], stratify=stratify)
    except DataError:  # one large group can leave a part empty
        with pytest.raises(DataError):
            split_examples(shuffled, seed=seed, validation_size=sizes[0], test_size=sizes[1], stratify=stratify)
        return
    again = split_examples(shuffled, seed=seed, validation_size=sizes[0], test_size=sizes[1], stratify=stratify)
    assert split == again
    assert Counter(where(split).keys()) == Counter(e.source for e in items)
    part = where(split)
    for key in (same_text_key, lambda e: e.group):
        parts: dict[str, set[str]] = {}
        for example in items:
            if key(example) is not None:
                parts.setdefault(str(key(example)), set()).add(part[example.source])
        assert all(len(p) == 1 for p in parts.values())


@pytest.mark.parametrize(("validation", "test"), [(None, None), (0.15, 0.25), (33, 77)])
def test_stratified_parts_have_exact_sizes_and_each_label_its_share(
    validation: float | None, test: float | None
) -> None:
    items = examples(400, "aaaabbbccd")
    split = split_examples(items, seed=1, validation_size=validation, test_size=test, stratify=True)
    for part, size in ((split.validation, validation or 0.1), (split.test, test or 0.2)):
        count = size if size >= 1 else round(size * 400)
        assert len(part) == count
        share = Counter(e.label for e in part)
        for label, n in Counter(e.label for e in items).items():
            assert abs(share[label] - count * n / 400) < 1


def test_every_label_keeps_an_example_in_train() -> None:
    items = examples(200) + [Example(f"x:{900 + i}", text=f"rare {i}", label=f"r{i // 2}") for i in range(60)]
    split = split_examples(items, seed=0, validation_size=0.3, test_size=0.4, stratify=True)
    assert {e.label for e in split.train} == {e.label for e in items}


def test_appended_rows_move_no_other_row_when_sizes_are_shares() -> None:
    before = where(split_examples(examples(300), seed=0, stratify=False))
    after = where(split_examples(examples(400), seed=0, stratify=False))
    assert {source: after[source] for source in before} == before


def test_appended_rows_move_few_others_when_stratified() -> None:
    before = where(split_examples(examples(1000), seed=0, stratify=True))
    after = where(split_examples(examples(1100), seed=0, stratify=True))
    moved = sum(after[source] != part for source, part in before.items())
    assert moved <= 20  # about the square root of 100 at each of two borders


def test_a_larger_test_keeps_the_smaller_one() -> None:
    small = split_examples(examples(300), seed=0, test_size=30, stratify=True)
    large = split_examples(examples(300), seed=0, test_size=90, stratify=True)
    assert {e.source for e in small.test} < {e.source for e in large.test}


def test_another_seed_is_another_split() -> None:
    a, b = (where(split_examples(examples(200), seed=s, stratify=False)) for s in (0, 1))
    assert a != b


def test_given_parts_push_their_rows_out_of_train() -> None:
    train = [*examples(40), Example("x:90", text="q", label="a", group="g")]
    test = [replace(e, source=f"t:{i + 1}", text=(e.text or "").upper() + " ") for i, e in enumerate(train[:6])]
    test.append(Example("t:9", text="other", label="a", group="g"))
    validation = [replace(test[0], source="v:1"), *(replace(e, source=f"v{e.source}") for e in train[6:12])]
    split = split_examples(train, seed=0, validation=validation, test=test, stratify=True)
    assert len(split.test) == 7
    assert len(split.validation) == 6
    assert {e.source for e in split.train} == {e.source for e in train[12:40]}
    leaks = [(f.count, f.rows) for f in split.findings if f.check == "split_leakage"]
    assert leaks == [(1, (1,)), (13, (*range(2, 14), 90))]


def test_equal_prompts_with_different_answers_are_no_contradiction_in_generation() -> None:
    def item(i: int, answer: str) -> Example:
        return Example(f"x:{i}", messages=(Message("user", f"q{i % 50}"), Message("assistant", answer)))

    split = split_examples([item(i, f"a{i}") for i in range(100)], seed=0, test_size=20, stratify=False)
    assert not {e.prompt_key for e in split.train} & {e.prompt_key for e in split.test}


def test_copies_that_are_given_stay_together() -> None:
    items = examples(300)
    copies = [(i, i + 100) for i in range(0, 60)]
    placed = where(split_examples(items, seed=0, stratify=True, copies=copies))
    assert all(placed[items[a].source] == placed[items[b].source] for a, b in copies)
    alone = where(split_examples(items, seed=0, stratify=False))
    joined = where(split_examples(items, seed=0, stratify=False, copies=copies))
    linked = {items[place].source for pair in copies for place in pair}
    assert all(alone[source] == joined[source] for source in alone.keys() - linked)  # moves no other row


def test_too_few_examples_are_refused_with_the_minimum() -> None:
    with pytest.raises(DataError, match=r"test has 2 examples; at least 5"):
        split_examples(examples(10), seed=0, stratify=True)
    with pytest.raises(DataError, match="share below 1 or a whole number"):
        split_examples(examples(100), seed=0, test_size=1.5, stratify=True)


def test_a_label_that_train_does_not_have_is_refused() -> None:
    test = [Example(f"t:{i}", text=f"t{i}", label="new") for i in range(6)]
    with pytest.raises(DataError, match=r"test has labels that train does not have: 'new' \(6\)"):
        split_examples(examples(50), seed=0, test=test, stratify=True)


def test_a_limited_train_keeps_every_label_and_the_shares() -> None:
    split = split_examples(examples(1000, "aaaaaaab"), seed=0, stratify=True)
    kept = limit_train(split.train, 80, stratify=True)
    assert Counter(e.label for e in kept) == {"a": 70, "b": 10}
    assert set(limit_train(split.train, 40, stratify=True)) <= set(kept)
    assert {e.label for e in limit_train(split.train, 2, stratify=True)} == {"a", "b"}
    assert limit_train(split.train, 5, stratify=False) == split.train[:5]
    assert limit_train(split.train, 10_000, stratify=True) == split.train


def test_limits_of_questions_keep_whole_images() -> None:
    train = [Example(f"f:{i}", image=f"{i % 5}.png", image_hash=f"{i % 5}") for i in range(20)]
    kept = limit_train(train, 10, stratify=False, task_kind="image_text")
    assert [e.image_hash for e in kept] == [*"0000", *"1111", *"22"]
    assert [e.source for e in kept[:4]] == ["f:0", "f:5", "f:10", "f:15"]
    assert set(limit_train(train, 6, stratify=False, task_kind="image_text")) <= set(kept)


def test_known_overlaps_of_banking77_are_found(shared_data: Path) -> None:
    train = read_examples(shared_data / "banking77" / "train.csv", "classification").examples
    test = read_examples(shared_data / "banking77" / "test.csv", "classification", part="test").examples
    pairs = find_overlaps(train, test)
    # Six agree once white space around them is stripped; a seventh differs in a double space inside.
    assert sum((a.text or "").strip() == (b.text or "").strip() for a, b in pairs) == 6
    assert len(pairs) == 7
    split = split_examples(train, seed=0, test=test, stratify=True)
    assert not find_overlaps(split.train, split.test)
    assert not find_overlaps(split.validation, split.test)


# ── strata that are no single label ──────────────────────────────────────────────────────────────────────
def test_a_regression_keeps_the_shares_of_its_targets_tenths() -> None:
    items = [Example(f"x:{i}", text=f"text {i}", label=str(i * i)) for i in range(400)]
    split = split_examples(items, seed=0, stratify=True, task_kind="regression")
    for part, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        tenths = Counter(int(float(e.label or 0) ** 0.5) // 40 for e in getattr(split, part))
        assert tenths == dict.fromkeys(range(10), round(40 * share)), part
    kept = limit_train(split.train, 20, stratify=True, task_kind="regression")
    assert Counter(int(float(e.label or 0) ** 0.5) // 40 for e in kept) == dict.fromkeys(range(10), 2)


def test_rare_labels_among_several_reach_train() -> None:
    items = [
        Example(f"x:{i}", text=f"text {i}", label="|".join(["common"] * (i % 2) + ["rare"] * (i % 50 == 0)))
        for i in range(150)
    ]
    for seed in range(20):
        split = split_examples(items, seed=seed, stratify=True, task_kind="multi_label")
        assert any("rare" in (e.label or "") for e in split.train)
        shares = [sum("common" in (e.label or "") for e in part) / len(part) for part in (split.train, split.test)]
        assert shares == pytest.approx([0.5, 0.5], abs=0.04)
    test = [Example(f"t:{i}", text=f"test {i}", label="common|new") for i in range(6)]
    with pytest.raises(DataError, match=r"test has labels that train does not have: 'new' \(6\)"):
        split_examples(items, seed=0, test=test, stratify=True, task_kind="multi_label")


def test_pairs_that_differ_in_the_worse_answer_only_are_no_duplicates() -> None:
    turns = (Message("user", "hi"), Message("assistant", "hello"))
    items = [Example(f"x:{i}", turns, rejected=(Message("assistant", f"no {i % 15}"),)) for i in range(30)]
    others = [replace(e, messages=(Message("user", f"hi {i}"), turns[1])) for i, e in enumerate(items)]
    split = split_examples([*items, *others], seed=0, stratify=False, task_kind="preference")
    together = [
        part for part in (split.train, split.validation, split.test) if any(e.prompt == turns[:1] for e in part)
    ]
    assert len(together) == 1
