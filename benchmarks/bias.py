"""Bias that a model adds to its data's, and what remedies take off again, on a task with an injected correlation.

    python benchmarks/bias.py [--seeds 10] [--tuned-seeds 5]

Made-up notes about who wrote in, to be passed on or not, which the topic decides but for 1 % of noise; in the labels,
the person's sex goes with it by ρ = 0.4 (70 % of what is passed on is of women, 30 % of the rest), in training and test
alike. Two models on MiniLM: logistic regression on its vectors, once fitted to the end (C = 100) and once
over-regularised (C = 0.1); and a head trained by Tunesmith's own loop, once until validation says stop and once for too
few steps. Each of the latter again with each remedy (the head without augment, by which all notes of one topic and
wording would have to stay in one split). Amplification is how much oftener a note is passed on for women than for men,
less the same of the right labels, on the same test notes. Differences to the model without remedy are paired by seed;
intervals are Student's over seeds, each of which draws sexes, noise and splits anew.

Exits with 1 unless the fitted models amplify by less than 2 points, by the mean; the others by more than 0, by the
interval; and for each of these some remedy at least halves it at a mean cost of at most one point of accuracy. Takes
about three minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from environment import write_result

RHO = 0.4
NOISE = 0.01  # of labels; who knows the topic alone has an amplification of −2·ρ·noise, here −0.8 points
PARTS = {"train": 400, "validation": 200, "test": 600}
LONG, SHORT = 100.0, 0.1  # C
TOO_FEW = {"epochs": 2, "learning_rate": 1e-3}  # of the head; left out, the passes are many more
NAMES = (("James", "Robert", "David", "Brian", "Kevin"), ("Mary", "Linda", "Susan", "Karen", "Emily"))
TOPICS = (
    ("opening hours", "a change of address", "a birthday gift", "a parking space", "the annual report",
     "a new catalogue", "a table for two", "the weather forecast", "a library card", "a recipe"),
    ("a broken heater", "a missing parcel", "a double charge", "a lost password", "noise at night",
     "a late train", "a cracked screen", "a wrong size", "an expired card", "a leaking pipe"),
)  # fmt: skip
NOTES = (
    "{0} wrote about {2} and {1} asked for a reply.", "A note from {0}: it is about {2}, {1} says.",
    "{0} called because of {2}; {1} will wait.", "We spoke with {0} about {2} and {1} was polite.",
    "Last week {0} mentioned {2} when {1} came in.", "From {0}, on {2}. {1} would like to hear from us.",
    "{0} has a question on {2}, which {1} sent today.", "It is about {2} again, says {0}, and {1} is here.",
    "{0} left a message on {2}; {1} can be called back.", "On {2}: {0} would like an answer, as {1} told us.",
    "Please look at what {0} sent on {2}; {1} is new here.", "{2} is what {0} asks about, and {1} was here before.",
)  # fmt: skip
LABELS, SEXES = ("no", "yes"), ("man", "woman")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tuned-seeds", type=int, default=5)
    wanted = parser.parse_args()
    result = {
        "rho": RHO,
        "logistic": _summary(_logistic(wanted.seeds)),
        "head": _summary(_heads(wanted.tuned_seeds)),
    }
    missed = [f"{name}: {text}" for name in ("logistic", "head") for text in _missed(result[name])]
    write_result("bias", {**result, "missed": missed})
    if missed:
        sys.exit("\n".join(missed))


# ── notes ────────────────────────────────────────────────────────────────────────────────────────────────
def _notes() -> tuple[list[tuple[str, str]], np.ndarray]:
    """Every note, of a man and of a woman, and the label that its topic asks for."""
    texts, labels = [], []
    for note, label, i in itertools.product(NOTES, (0, 1), range(len(NAMES[0]))):
        for topic in TOPICS[label]:
            texts.append((note.format(NAMES[0][i], "he", topic), note.format(NAMES[1][i], "she", topic)))
            labels.append(label)
    return texts, np.array(labels)


def _drawn(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order of the notes, their labels with noise, and whose they are (1: a woman's)."""
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(labels))
    right = np.where(rng.random(len(labels)) < NOISE, 1 - labels[order], labels[order])
    return order, right, (rng.random(len(labels)) < np.where(right == 1, 1 + RHO, 1 - RHO) / 2).astype(int)


# ── logistic regression ──────────────────────────────────────────────────────────────────────────────────
def _logistic(seeds: int) -> dict[str, list[dict[str, float]]]:
    from sklearn.linear_model import LogisticRegression

    from tunesmith.measures.parity import group_thresholds, reweighing, uniform_sample
    from tunesmith.model.embed import embed, load_encoder
    from tunesmith.sources import resolve_model

    texts, labels = _notes()
    encoder = load_encoder(resolve_model("minilm-l6"))
    vectors = np.stack([embed(encoder, [pair[sex] for pair in texts])[0] for sex in (0, 1)])
    seen, held = PARTS["train"], PARTS["train"] + PARTS["validation"]
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        order, right, sexes = _drawn(labels, seed)
        x, swapped = vectors[sexes, order], vectors[1 - sexes, order]
        a, t = sexes[:seen], right[:seen]

        def fit(c: float, x: Any, t: Any, weights: Any = None) -> Any:
            return LogisticRegression(C=c, max_iter=2000).fit(x, t, weights)

        plain = fit(SHORT, x[:seen], t)
        scores = plain.predict_proba(x)[:, 1]
        rates = [right[:held][sexes[:held] == sex].mean() for sex in (0, 1)]
        limits, _ = group_thresholds(scores[seen:held], right[seen:held], sexes[seen:held], rates)
        drawn = uniform_sample(a, t, np.random.default_rng([seed, 2]))
        models = {
            "fitted": fit(LONG, x[:seen], t),
            "short": plain,
            "short+reweigh": fit(SHORT, x[:seen], t, reweighing(a, t)),
            "short+balance": fit(SHORT, x[drawn], t[drawn]),
            "short+augment": fit(SHORT, np.concatenate([x[:seen], swapped[:seen]]), np.concatenate([t, t])),
        }
        answers = {name: model.predict(x[held:]) for name, model in models.items()}
        answers["short+threshold"] = (scores[held:] > limits[sexes[held:]]).astype(int)
        for name, said in answers.items():
            rows.setdefault(name, []).append(_measured(said, right[held:], sexes[held:]))
    return rows


def _measured(said: np.ndarray, right: np.ndarray, sexes: np.ndarray) -> dict[str, float]:
    gap = [float(of[sexes == 1].mean() - of[sexes == 0].mean()) for of in (said, right)]
    return {"amplification": gap[0] - gap[1], "label_gap": gap[1], "accuracy": float((said == right).mean())}


# ── a head, trained by the product ───────────────────────────────────────────────────────────────────────
def _heads(seeds: int) -> dict[str, list[dict[str, float]]]:
    from tunesmith import parse_config, run

    rows: dict[str, list[dict[str, float]]] = {}
    remedies = ["reweigh", "balance", "threshold"]
    for seed in range(seeds):
        for name, train, asked in (("fitted", {}, []), ("short", TOO_FEW, remedies)):
            with tempfile.TemporaryDirectory() as scratch:
                for part, some in _splits(seed).items():
                    with Path(scratch, f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
                        csv.writer(file).writerows([("text", "label", "sex"), *some])
                config = parse_config({
                    "task": "classification", "model": "minilm-l6", "method": "head", "candidates": "tune",
                    "data": {"sensitive": "sex", "text": "text", "label": "label"}
                    | {part: f"{scratch}/{part}.csv" for part in PARTS},
                    "train": train, "seed": seed, "memorization": "off",
                    "fairness": {"remedies": asked},
                })  # fmt: skip
                report = run(config, Path(scratch) / "run")
                for entry in report["candidates"]:
                    if entry["status"] != "ok":
                        sys.exit(f"{entry['id']} failed: {entry['reason']}")
                    part = entry["bias"]["columns"]["sex"]["labels"]["yes"]
                    _, plus, remedy = entry["id"].partition("+")
                    rows.setdefault(name + plus + remedy, []).append({
                        "amplification": part["amplification"]["value"], "label_gap": part["label_gap"]["value"],
                        "accuracy": entry["metrics"]["accuracy"]["value"],
                    })  # fmt: skip
        print("head, seed", seed, {name: found[-1] for name, found in rows.items()}, file=sys.stderr)
    return rows


def _splits(seed: int) -> dict[str, list[tuple[str, str, str]]]:
    """Text, label and sex, by part."""
    texts, labels = _notes()
    rows = [(texts[i][sex], LABELS[label], SEXES[sex]) for i, label, sex in zip(*_drawn(labels, seed), strict=True)]
    ends = np.cumsum([*PARTS.values()])
    return {part: rows[end - n : end] for (part, n), end in zip(PARTS.items(), ends, strict=True)}


# ── over seeds ───────────────────────────────────────────────────────────────────────────────────────────
def _summary(rows: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, seeds in rows.items():
        entry = {key: _interval([seed[key] for seed in seeds]) for key in ("amplification", "label_gap", "accuracy")}
        if "+" in name:
            plain = rows[name.partition("+")[0]]
            for key in ("amplification", "accuracy"):
                entry[f"{key}_change"] = _interval([a[key] - b[key] for a, b in zip(seeds, plain, strict=True)])
        found[name] = entry
        print(name, {key: [round(100 * v, 1) for v in x.values()] for key, x in entry.items()}, file=sys.stderr)
    return found


def _interval(values: list[float]) -> dict[str, float]:
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    mean = float(np.mean(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _missed(found: dict[str, Any]) -> list[str]:
    missed = []
    if abs(found["fitted"]["amplification"]["mean"]) > 0.02:
        missed.append(f"the fitted model amplifies by {100 * found['fitted']['amplification']['mean']:.1f} points")
    before = found["short"]["amplification"]
    if before["low"] <= 0:
        missed.append(f"the under-trained model is not shown to amplify: {before}")
    halved = [
        name for name, part in found.items()
        if "+" in name and abs(part["amplification"]["mean"]) <= before["mean"] / 2
        and part["accuracy_change"]["mean"] >= -0.01
    ]  # fmt: skip
    return missed if halved else [*missed, "no remedy halves it at a cost of one point"]


if __name__ == "__main__":
    main()
