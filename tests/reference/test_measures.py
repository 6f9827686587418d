"""Correlations, sets of labels and translation scores against scipy, scikit-learn and sacrebleu."""

import numpy as np
import pytest

from tunesmith.measures import multi_label, regression, translation
from tunesmith.measures.uncertainty import bootstrap_interval

WORDS = ["le", "la", "chat", "chien", "dort", "mange", "sur", "tapis", "porte", "grand", "petit", "et", "ne", "pas"]
ENDS = [".", " .", "!", "", " ?", "…", ", (ici)."]


def sentences(rng, n, longest=14):
    """Sentences with punctuation of every kind, some of them empty or of one word."""
    return [(" ".join(rng.choice(WORDS, rng.integers(0, longest))) + str(rng.choice(ENDS))).strip() for _ in range(n)]


def garbled(rng, targets):
    """Translations that keep most words of their target."""
    return [" ".join(w if rng.random() < 0.7 else str(rng.choice(WORDS)) for w in t.split()) for t in targets]


@pytest.mark.parametrize("seed", range(6))
def test_correlations(seed):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=80) * 10.0**seed + 5
    y = 0.4 * x + rng.normal(size=80) * 10.0**seed
    if seed % 2:
        x, y = np.round(x / 10.0**seed), np.round(y / 10.0**seed)  # many ties
    assert regression.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert regression.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_ranks_within_each_resample():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(7)
    values = rng.integers(0, 6, (40, 2)).astype(float)
    drawn = rng.integers(0, 40, (50, 40))
    counts = np.array([np.bincount(row, minlength=40) for row in drawn], dtype=float)
    expected = [stats.spearmanr(values[row, 0], values[row, 1]).statistic for row in drawn]
    assert regression.spearman_statistic(values, counts) == pytest.approx(expected, abs=1e-12)


def test_mean_absolute_error():
    sklearn = pytest.importorskip("sklearn.metrics")
    x, y = np.random.default_rng(8).normal(size=(2, 50))
    assert regression.mean_absolute_error(x, y) == pytest.approx(sklearn.mean_absolute_error(y, x))


@pytest.mark.parametrize("seed", range(5))
def test_sets_of_labels(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = [f"label {i}" for i in range(3 + 4 * seed)]
    named, right = rng.random((2, 60, len(labels))) < 0.3
    predictions, targets = (["|".join(np.array(labels)[row]) for row in table] for table in (named, right))
    for average, ours in (("micro", multi_label.micro_f1), ("macro", multi_label.macro_f1_labels)):
        theirs = sklearn.f1_score(right, named, average=average, zero_division=0)
        assert ours(predictions, targets) == pytest.approx(theirs)
    assert multi_label.subset_accuracy(predictions, targets) == sklearn.accuracy_score(right, named)


@pytest.mark.parametrize("seed", range(8))
def test_translation_scores(seed):
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = np.random.default_rng(seed)
    targets = sentences(rng, 40, longest=3 if seed == 7 else 14)  # 7: almost no 4-grams
    predictions = garbled(rng, targets) if seed % 2 else sentences(rng, 40)
    assert translation.chrf(predictions, targets) == pytest.approx(
        sacrebleu.corpus_chrf(predictions, [targets]).score, abs=1e-9
    )
    assert translation.bleu(predictions, targets) == pytest.approx(
        sacrebleu.corpus_bleu(predictions, [targets], force=True).score, abs=1e-9
    )


@pytest.mark.parametrize(
    ("predictions", "targets"),
    [
        (["a b"], ["a b"]),
        ([""], ["a b c d e"]),
        (["a b c d e f"], [""]),
        (["a"], ["a b c d e f g"]),
        (["x y z w v"], ["a b c d e"]),
        (["a x b y c z d w"], ["a b c d e"]),
        (["你好世界"], ["你好，世界"]),
        (["", "the cat sat on the mat"], ["nothing", "the cat sat on a mat"]),
    ],
)
def test_translation_scores_at_the_edges(predictions, targets):
    sacrebleu = pytest.importorskip("sacrebleu")
    theirs = sacrebleu.corpus_chrf(predictions, [targets]).score, sacrebleu.corpus_bleu(predictions, [targets]).score
    ours = translation.chrf(predictions, targets), translation.bleu(predictions, targets)
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_translation_scores_of_resamples_are_those_of_the_drawn_sentences():
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = np.random.default_rng(9)
    targets = sentences(rng, 25)
    predictions = garbled(rng, targets)
    drawn = rng.integers(0, 25, (30, 25))
    counts = np.array([np.bincount(row, minlength=25) for row in drawn], dtype=float)
    for take, statistic, score in (
        (translation.chrf_counts, translation.chrf_statistic, sacrebleu.corpus_chrf),
        (translation.bleu_counts, translation.bleu_statistic, sacrebleu.corpus_bleu),
    ):
        expected = [score([predictions[i] for i in row], [[targets[i] for i in row]]).score for row in drawn]
        assert statistic(take(predictions, targets), counts) == pytest.approx(expected, abs=1e-9)


# ── simulated experiments ────────────────────────────────────────────────────────────────────────────────
EXPERIMENTS = 1000


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_intervals_of_correlation_cover_the_truth(rho):
    """Of 150 normal pairs each: the percentile interval is known to be slightly narrow."""
    rng = np.random.default_rng(10)
    held = {"pearson": 0, "spearman": 0}
    truth = {"pearson": rho, "spearman": 6 / np.pi * np.arcsin(rho / 2)}
    statistics = {"pearson": regression.pearson_statistic, "spearman": regression.spearman_statistic}
    for _ in range(EXPERIMENTS):
        x, noise = rng.normal(size=(2, 150))
        values = np.stack([x, rho * x + np.sqrt(1 - rho**2) * noise], axis=1)
        for name, statistic in statistics.items():
            interval = bootstrap_interval(values, statistic, rng=rng, resamples=500)
            held[name] += interval.low <= truth[name] <= interval.high
    assert all(0.92 <= n / EXPERIMENTS <= 0.97 for n in held.values()), held


@pytest.mark.slow
def test_intervals_of_bleu_cover_the_truth():
    """Samples of 200 sentences from 20,000 whose BLEU is the truth."""
    rng = np.random.default_rng(11)
    targets = [" ".join(rng.choice(WORDS, rng.integers(5, 15))) for _ in range(20_000)]
    values = translation.bleu_counts(garbled(rng, targets), targets)
    truth = float(translation.bleu_statistic(values, np.ones((1, len(values))))[0])
    assert 5 < truth < 95
    held = 0
    for _ in range(EXPERIMENTS):
        sample = values[rng.integers(0, len(values), 200)]
        interval = bootstrap_interval(sample, translation.bleu_statistic, rng=rng, resamples=500)
        held += interval.low <= truth <= interval.high
    assert 0.92 <= held / EXPERIMENTS <= 0.97, held
