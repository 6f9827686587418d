"""Leaks planted between train and test, and how many of them are found: equal texts, near copies, paraphrases.

    python benchmarks/contamination.py

Texts of CLINC150 (short questions, CC BY 3.0), film reviews' sentences (nltk_sentence_polarity, CC BY 4.0) and GSM8K
(long problems, MIT) are split into 4 parts train, 1 part test. For each of five seeds, 1 % of the test texts (at least
20) are planted in train, in capitals and without full stops, commas, question marks and quotes; as many others, of 5
words or more, with 10 % of their words (at least one) replaced, left out or followed by another. Precision is that of
test texts which hold no near copy before anything is planted; beside it stand how many do, and how many of those pairs
are copies by another measure, an edit distance of at most a fifth of the words.

Paraphrases are pairs of sentences that people rated as equivalent (STS-B, rating 5, in
instruction_induction/sentence_similarity, Apache-2.0), among pairs that share their subject but not what they say
(rating 2 or less): one sentence of each pair in test, the other in train. A test sentence found by the partner of
another pair, which nobody rated, is counted apart, and not in precision. Half of the pairs chose the cosine, the other
half is scored. Last, 200,000 short rows against 5,000: rows a minute, and by how much memory grew. Exits with 1 if a
target is missed; takes about 3 minutes.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import resource
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from environment import test_data, write_result

SEEDS = 5
DATA_SETS = ("clinc150", "polarity", "gsm8k")
TARGETS = {"exact": 0.99, "near": 0.95, "precision": 0.95, "paraphrase_recall": 0.7, "rows_a_minute": 100_000}
FEWEST_PLANTED, FEWEST_WORDS = 20, 5


def main() -> None:
    from tunesmith.measures.uncertainty import wilson_interval

    result: dict[str, Any] = {"targets": TARGETS}
    missed = []
    for name, read in zip(DATA_SETS, (_clinc150, _polarity, _gsm8k), strict=True):
        total = sum((_planted(read(), seed) for seed in range(SEEDS)), Counter())
        right = total["exact"] + total["near"]
        result[name] = {
            "exact": wilson_interval(total["exact"], total["planted"]).to_json(),
            "near": wilson_interval(total["near"], total["planted"]).to_json(),
            "precision": wilson_interval(right, right + total["false"]).to_json(),
            "own_copies": wilson_interval(total["own"], total["test"]).to_json(),
            "own_copies_by_edits": wilson_interval(total["own_by_edits"], total["own"]).to_json(),
        }  # fmt: skip
        print(name, {key: round(value["value"], 4) for key, value in result[name].items()}, file=sys.stderr)
        missed += [
            f"{name} {key}" for key in ("exact", "near", "precision") if result[name][key]["value"] < TARGETS[key]
        ]
    result["paraphrases"] = paraphrases = _paraphrases()
    result["speed"] = _speed()
    missed += ["paraphrase recall"] * (paraphrases["recall"]["value"] < TARGETS["paraphrase_recall"])
    missed += ["paraphrase precision"] * (paraphrases["precision"]["value"] < TARGETS["precision"])
    missed += ["rows a minute"] * (result["speed"]["rows_a_minute"] < TARGETS["rows_a_minute"])
    write_result("contamination", {**result, "missed": missed})
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


# ── equal texts and near copies ──────────────────────────────────────────────────────────────────────────
def _planted(texts: Sequence[str], seed: int) -> Counter[str]:
    """How many planted copies were found, how many others, and how many there were before."""
    from tunesmith.data.checks.copies import find_copies, plain_words

    rng = random.Random(seed)
    texts = sorted({"".join(plain_words(text)): text for text in texts}.values())
    rng.shuffle(texts)
    test, train = texts[: len(texts) // 5], texts[len(texts) // 5 :]
    vocabulary = [word for text in train[:2000] for word in text.split()]
    planted = max(FEWEST_PLANTED, len(test) // 100)
    own = {copy.held_out: copy.train for copy in find_copies(train, test)}
    free = [i for i in range(len(test)) if i not in own]
    exact = rng.sample(free, planted)
    long_enough = [i for i in set(free) - set(exact) if len(test[i].split()) >= FEWEST_WORDS]
    near = rng.sample(sorted(long_enough), planted)
    leaked = [re.sub(r"[?!,;\"]|\.(?!\d)", "", test[i]).upper() for i in exact]
    leaked += [_edited(test[i], vocabulary, rng) for i in near]
    mixed = train + leaked
    rng.shuffle(mixed)
    found = {copy.held_out: copy.kind for copy in find_copies(mixed, test)}
    return Counter({
        "planted": planted, "test": len(test), "own": len(own),
        "own_by_edits": sum(_close(plain_words(test[i]), plain_words(train[j])) for i, j in own.items()),
        "exact": sum(found.get(i) == "exact" for i in exact), "near": sum(i in found for i in near),
        "false": len(found.keys() - own.keys() - set(exact) - set(near)),
    })  # fmt: skip


def _edited(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    """10 % of the words, at least one, replaced, left out, or followed by another."""
    words = text.split()
    for place in rng.sample(range(len(words)), max(1, round(0.1 * len(words)))):
        other = rng.choice(vocabulary)
        words[place] = rng.choice([other, "", f"{words[place]} {other}"])
    return " ".join(word for word in words if word)


def _close(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether a fifth of the words of the longer text, put in, left out or replaced, makes one of the other."""
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1] <= max(len(a), len(b)) / 5


def _clinc150() -> list[str]:
    with gzip.open(test_data("clinc150") / "data_full.json.gz", "rt", encoding="utf-8") as file:
        parts = json.load(file)
    return [text for part in ("train", "val", "test") for text, _ in parts[part]]


def _polarity() -> list[str]:
    with zipfile.ZipFile(test_data("nltk_sentence_polarity") / "sentence_polarity.zip") as archive:
        members = [name for name in archive.namelist() if "rt-polarity" in name]
        return [line for name in members for line in archive.read(name).decode("latin-1").splitlines() if line.strip()]


def _gsm8k() -> list[str]:
    with gzip.open(test_data("gsm8k") / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["question"] for line in file]


# ── paraphrases ──────────────────────────────────────────────────────────────────────────────────────────
def _paraphrases() -> dict[str, Any]:
    """Recall and precision of the second half of the pairs at the shipped cosine, and how the first half chose it."""
    from tunesmith.data.checks.contamination import ENCODER, SAME_MEANING, nearest_by_meaning
    from tunesmith.measures.uncertainty import wilson_interval
    from tunesmith.model.embed import load_encoder
    from tunesmith.sources import resolve_model

    encoder = load_encoder(resolve_model(ENCODER))
    halves = []
    for half in (_sts()[0::2], _sts()[1::2]):
        test, train, same = zip(*half, strict=True)
        places, cosines = nearest_by_meaning(encoder, train, test)
        halves.append((cosines, np.array(same), places == np.arange(len(test))))

    def at(half: int, threshold: float) -> dict[str, Any]:
        cosines, same, rated = halves[half]
        found = cosines >= threshold
        right, wrong = int((found & same & rated).sum()), int((found & ~same & rated).sum())
        return {
            "recall": wilson_interval(int((found & same).sum()), int(same.sum())).to_json(),
            "precision": wilson_interval(right, max(1, right + wrong)).to_json(),
            "without_rating": int((found & ~rated).sum()),
        }  # fmt: skip

    grid = [round(0.01 * hundredth, 2) for hundredth in range(70, 99)]
    curve = {f"{t:.2f}": [round(at(0, t)[key]["value"], 3) for key in ("recall", "precision")] for t in grid}
    return {"threshold": SAME_MEANING, **at(1, SAME_MEANING), "first_half_recall_and_precision": curve}


def _sts() -> list[tuple[str, str, bool]]:
    """Sentence, its partner, and whether people found them equivalent; no sentence twice, in a fixed order."""
    path = test_data("instruction_induction") / "induce" / "sentence_similarity.json.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = json.load(file)["examples"].values()
    seen: set[str] = set()
    pairs = []
    for row in sorted(rows, key=lambda row: -int(row["output"][0])):
        match = re.fullmatch(r"Sentence 1: (.*) Sentence 2: (.*)", row["input"].strip(), re.DOTALL)
        if match and row["output"][0] in "5210" and not seen & set(match.groups()) and match[1] != match[2]:
            seen |= set(match.groups())
            pairs.append((match[1], match[2], row["output"][0] == "5"))
    random.Random(0).shuffle(pairs)
    return pairs


# ── speed ────────────────────────────────────────────────────────────────────────────────────────────────
def _speed(rows: int = 200_000) -> dict[str, Any]:
    """Rows a minute, and by how much memory grew between the first tenth and the end."""
    from tunesmith.data.checks.copies import find_copies

    texts = _clinc150()
    held_out, rest = texts[:5000], texts[5000:]
    early: list[int] = []

    def stream(note: Callable[[int], None]) -> Iterator[str]:
        rng = random.Random(1)
        for i in range(rows):
            if i == rows // 10:
                note(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            yield f"{rng.choice(rest)} {rng.choice(rest)}"[:60]

    begun = time.perf_counter()
    find_copies(stream(early.append), held_out)
    seconds = time.perf_counter() - begun
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early[0]
    return {"rows": rows, "rows_a_minute": round(rows / seconds * 60), "memory_grown_mib": round(grown / 1024, 1)}


if __name__ == "__main__":
    main()
