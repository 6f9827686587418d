from __future__ import annotations

import numpy as np
import pytest

from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.train.batches import Mixed, micro_batches, shared_prefix, steps_in, supervised


def example(ids: list[int], trained: int) -> Rendered:
    return Rendered(ids, [IGNORE_INDEX] * (len(ids) - trained) + ids[-trained:], len(ids) - trained)


@pytest.mark.parametrize(
    ("examples", "epochs", "batch", "steps"),
    [(10, 1, 4, 3), (10, 2, 4, 6), (8, 1, 4, 2), (10, 0.5, 4, 2), (10, 1.34, 4, 4), (1, 0.01, 4, 1)],
)
def test_steps(examples: int, epochs: float, batch: int, steps: int) -> None:
    assert steps_in(examples, epochs, batch) == steps


def test_the_first_token_is_never_trained_for_nothing_predicts_it() -> None:
    whole = Rendered([5, 6, 7], [5, 6, 7], 0)
    assert supervised(whole) == [1, 2]


def test_what_is_shared_leaves_each_example_the_token_that_predicts() -> None:
    alike = [example([1, 2, 3, 4, 9], 1), example([1, 2, 3, 4, 8], 1)]
    assert shared_prefix(alike) == 3
    assert shared_prefix(alike[:1]) == 0
    assert shared_prefix([example([1, 2, 3], 1), example([9, 2, 3], 1)]) == 0
    assert shared_prefix([Rendered([1, 2, 3], [IGNORE_INDEX, 2, 3], 1)] * 2) == 0


@pytest.mark.parametrize("budget", [1, 12, 10_000])
@pytest.mark.parametrize("share", [True, False])
def test_every_target_stands_in_one_micro_batch_with_its_place(budget: int, share: bool) -> None:
    made = [example([1, 2, 3, *range(10 * i, 10 * i + 2 + i % 4), 99], 2) for i in range(1, 9)]
    seen: list[int] = []
    for micro in micro_batches(made, budget, share, "cpu"):
        own = sum(len(made[i].input_ids) for i in micro.order) - (3 * len(micro.order) if share else 0)
        assert len(micro.order) == 1 or own + (3 if share else 0) <= budget
        seen += micro.order
        assert micro.counts == tuple(2 for _ in micro.order)
        expected = [label for i in micro.order for label in made[i].labels if label != IGNORE_INDEX]
        assert micro.targets.tolist() == expected
        assert len(micro.rows) == len(expected)
    assert sorted(seen) == list(range(8))


def test_a_mixture_draws_each_data_set_at_its_rate_and_its_items_equally_often() -> None:
    order = Mixed(sizes=(10, 40, 3), rates=(2.0, 1.0, 1.0), size=41)
    assert sum(order.counts) == 41
    assert all(abs(n - 41 * r) < 1 for n, r in zip(order.counts, (0.5, 0.25, 0.25), strict=True))
    for batch in (1, 8, 100):
        per_epoch = -(-41 // batch)
        steps = [order.step(batch, 3, step) for step in range(4 * per_epoch)]
        drawn = np.concatenate(steps)
        assert len(drawn) == 4 * 41
        for first, size, count in zip((0, 10, 50), order.sizes, order.counts, strict=True):
            times = np.bincount(drawn[(drawn >= first) & (drawn < first + size)] - first, minlength=size)
            assert times.sum() == 4 * count
            assert times.max() - times.min() <= 1
    assert order.step(8, 3, 2).tolist() == order.step(8, 3, 2).tolist() != order.step(8, 4, 2).tolist()
    first_step = set(np.searchsorted([10, 50], order.step(24, 3, 0), side="right"))
    assert first_step == {0, 1, 2}  # steps mix
