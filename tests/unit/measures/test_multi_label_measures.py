"""Sets of labels: values worked out by hand, and the edges."""

import numpy as np
import pytest

from tunesmith.measures import multi_label


@pytest.mark.parametrize(
    ("predictions", "targets", "micro", "macro", "subset"),
    [
        (["a", "b"], ["a", "b"], 1.0, 1.0, 1.0),
        (["a|b", ""], ["a", "b"], 0.5, 0.5, 0.0),
        (["", ""], ["a", ""], 0.0, 0.0, 0.5),
        (["", ""], ["", ""], 0.0, 0.0, 1.0),
        (["a|c", "a"], ["a", "a|b"], 2 / 3, 1 / 3, 0.0),
    ],
)
def test_by_hand(predictions, targets, micro, macro, subset):
    assert multi_label.micro_f1(predictions, targets) == pytest.approx(micro)
    assert multi_label.macro_f1_labels(predictions, targets) == pytest.approx(macro)
    assert multi_label.subset_accuracy(predictions, targets) == subset


@pytest.mark.parametrize(
    ("measure", "take", "statistic"),
    [
        (multi_label.micro_f1, multi_label.set_overlaps, multi_label.micro_f1_statistic),
        (multi_label.macro_f1_labels, multi_label.label_overlaps, multi_label.macro_f1_labels_statistic),
    ],
)
def test_a_resample_s_score_is_that_of_the_drawn_items(measure, take, statistic):
    rng = np.random.default_rng(0)
    predictions, targets = (["|".join(x for x in "abcd" if rng.random() < 0.4) for _ in range(30)] for _ in range(2))
    drawn = rng.integers(0, 30, (20, 30))
    counts = np.array([np.bincount(row, minlength=30) for row in drawn], dtype=float)
    expected = [measure([predictions[i] for i in row], [targets[i] for i in row]) for row in drawn]
    assert statistic(take(predictions, targets), counts) == pytest.approx(expected)


def test_one_answer_s_overlap_and_unequal_lengths():
    assert multi_label.set_f1("", "") == 1.0
    assert multi_label.set_f1("a", "") == 0.0
    with pytest.raises(ValueError, match="1 and 2 items"):
        multi_label.micro_f1(["a"], ["a", "b"])
