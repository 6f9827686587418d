"""Train, validation and test by content: what a row holds decides where it goes, never where it stands."""

from __future__ import annotations

import bisect
import hashlib
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import LABEL_SEPARATOR, Example, Finding, Split, content_hash

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2
MINIMUM = {"train": 4, "validation": 2, "test": 5}  # below this a part says nothing at all
QUANTILES = 10  # strata of a regression's targets
NAMED = 20  # examples named in a finding

TextKey = Callable[[Example], str]


def same_text_key(example: Example) -> str:
    """Hash of what the model is shown, blind to case, white space and Unicode spelling (NFKC).

    Examples that agree here are kept on one side of a split. Equal ``prompt_key`` implies equal keys here: an image
    counts by its content, and a table's columns by the text they are rendered to.
    """
    shown: Any = _plain(example.text) if example.text is not None else None
    if shown is None:
        shown = [[m.role, _plain(m.content)] for m in example.prompt]
    return content_hash([shown, example.image_hash or example.image] if example.image else shown)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def find_overlaps(train: Iterable[Example], test: Iterable[Example]) -> tuple[tuple[Example, Example], ...]:
    """Pairs (test example, a train example) with the same text, at most one for each test example."""
    known = {same_text_key(example): example for example in train}
    return tuple((example, known[key]) for example in test if (key := same_text_key(example)) in known)


def split_examples(
    examples: Sequence[Example],
    *,
    seed: int,
    validation_size: float | None = None,
    test_size: float | None = None,
    validation: Sequence[Example] | None = None,
    test: Sequence[Example] | None = None,
    stratify: bool,
    task_kind: str = "classification",
    text_key: TextKey = same_text_key,
    copies: Iterable[tuple[int, int]] = (),
) -> Split:
    """Split examples into train, validation and test. The result does not depend on their order.

    Examples with the same text or the same ``group``, and ``copies``, form a cluster, which is never divided. Each
    cluster has a place in [0, 1): a hash of the seed and of its content. Test takes the lowest places,
    validation the next, train the rest. How exactly the sizes are met is a trade against stability:

    - Shares, not stratified: a cluster is in test if its place is below ``test_size``. Adding rows later
      never moves another row, unless a new row joins two clusters; sizes are met up to chance.
    - Stratified, or sizes given as counts: within each stratum the clusters are ranked by place, and each stratum
      gives its part of the size, to within one example (clusters of several examples: within one cluster).
      Adding k rows then moves old rows only at the border of two parts, about the square root of k of them.

    A stratum is a label; in ``multi_label``, the rarest label of an example, so that rare ones reach train; in
    ``regression``, the tenth of all targets that an example's lies in (fewer parts below 100 examples).

    Train rows whose text or group also stands in a given validation or test set are dropped from train, and
    validation rows that stand in test are dropped from validation (finding ``split_leakage``).

    Args:
        examples: What train, and each part that is not given, is taken from.
        seed: Another seed gives another split.
        validation_size: Share below 1, or number of examples; 0.1 if left out.
        test_size: Share below 1, or number of examples; 0.2 if left out.
        validation: Validation examples, if they have their own file.
        test: Test examples, if they have their own file.
        stratify: Keep the shares of the strata.
        task_kind: What a label is: a class, several labels, or a number.
        text_key: Examples that agree in it are never on two sides of a split.
        copies: Pairs of places among the examples that are not either, such as near duplicates.

    Raises:
        DataError: If a part comes out too small, or validation or test has labels that train does not have.
    """
    findings: list[Finding] = []
    taken_test = _keys(test or (), text_key)
    train = [e for e in examples if not _touches(e, taken_test, text_key)]
    held = list(validation) if validation is not None else None
    if held is not None:
        held = [e for e in held if not _touches(e, taken_test, text_key)]
        taken_validation = _keys(held, text_key)
        train = [e for e in train if not _touches(e, taken_validation, text_key)]
        findings += _leakage("validation", validation or (), held)
    findings += _leakage("train", examples, train)

    wanted_test = 0.0 if test is not None else TEST_SHARE if test_size is None else test_size
    wanted_validation = 0.0 if held is not None else VALIDATION_SHARE if validation_size is None else validation_size
    for setting, size in (("test_size", wanted_test), ("validation_size", wanted_validation)):
        if size > 1 and size != int(size):
            raise DataError(f"data.{setting} is {size}; expected a share below 1 or a whole number of examples.")
    together = [(text_key(examples[a]), text_key(examples[b])) for a, b in copies]
    clusters = _clusters(train, seed, _stratum_of(train, task_kind), text_key, together)
    divide = _by_rank if stratify or wanted_test >= 1 or wanted_validation >= 1 else _by_place
    parts = divide(clusters, wanted_test, wanted_validation, stratify)
    new_test, new_validation, new_train = ([e for c in part for e in c.examples] for part in parts)
    result = {
        "train": new_train,
        "validation": held if held is not None else new_validation,
        "test": list(test) if test is not None else new_test,
    }
    _refuse_small(result, len(examples))
    if stratify and task_kind != "regression":
        _refuse_unknown_labels(result, task_kind)
    ordered = {part: _in_order(rows, seed) for part, rows in result.items()}
    return Split(ordered["train"], ordered["validation"], ordered["test"], tuple(findings))


def limit_train(
    train: Sequence[Example], limit: int, stratify: bool, task_kind: str = "classification"
) -> tuple[Example, ...]:
    """The first ``limit`` examples, in the order given; with ``stratify`` each stratum keeps its share.

    Of questions about images, those about the first images are kept, all of each: what they share is computed once.

    Every stratum keeps at least one example as long as the limit allows. A larger limit keeps what a smaller
    one kept, up to rounding.
    """
    if limit >= len(train):
        return tuple(train)
    if task_kind == "image_text":
        place: dict[str | None, int] = {}
        for example in train:
            place.setdefault(example.image_hash, len(place))
        train = sorted(train, key=lambda example: place[example.image_hash])  # stable
    if not stratify:
        return tuple(train[:limit])
    stratum_of = _stratum_of(train, task_kind)
    counts = Counter(stratum_of(example) for example in train)
    quota = _quotas(counts, limit, counts)
    for label in sorted(quota, key=lambda name: counts[name]):
        richest = max(quota, key=lambda name: (quota[name], name))
        if quota[label] == 0 and quota[richest] > 1:
            quota[label], quota[richest] = 1, quota[richest] - 1
    kept: list[Example] = []
    for example in train:
        if quota[stratum_of(example)] > 0:
            quota[stratum_of(example)] -= 1
            kept.append(example)
    return tuple(kept)


# ── strata ───────────────────────────────────────────────────────────────────────────────────────────────
def labels_of(example: Example, task_kind: str) -> tuple[str, ...]:
    """The labels of an example: one, or with ``multi_label`` none or several."""
    if task_kind == "multi_label":
        return tuple(label for label in (example.label or "").split(LABEL_SEPARATOR) if label)
    return (example.label or "",)


def _stratum_of(examples: Sequence[Example], task_kind: str) -> Callable[[Example], str]:
    """A function that names an example's stratum among these."""
    if task_kind == "multi_label":
        counts = Counter(label for example in examples for label in labels_of(example, task_kind))
        return lambda e: min(labels_of(e, task_kind), key=lambda label: (counts[label], label), default="")
    if task_kind == "regression" and examples:
        targets = sorted(float(e.label or "nan") for e in examples)
        parts = max(1, min(QUANTILES, len(targets) // 10))
        edges = [targets[len(targets) * i // parts] for i in range(1, parts)]
        return lambda e: str(bisect.bisect_right(edges, float(e.label or "nan")))
    return lambda e: e.label or ""


# ── clusters ─────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class _Cluster:
    place: float  # in [0, 1)
    stratum: str
    examples: tuple[Example, ...]


def _place(seed: int, key: str) -> float:
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _clusters(
    examples: Sequence[Example],
    seed: int,
    stratum_of: Callable[[Example], str],
    text_key: TextKey,
    together: Iterable[tuple[str, str]] = (),
) -> list[_Cluster]:
    """Union of equal texts, of equal groups and of texts that belong together, in order of place."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys = [text_key(example) for example in examples]
    for example, key in zip(examples, keys, strict=True):
        one, other = root(f"text:{key}"), root(f"group:{example.group}" if example.group else f"text:{key}")
        parent[max(one, other)] = min(one, other)  # "group:" < "text:", so a group's name stays its key
    for a, b in together:
        one, other = root(f"text:{a}"), root(f"text:{b}")
        parent[max(one, other)] = min(one, other)
    members: dict[str, list[Example]] = defaultdict(list)
    for example, key in zip(examples, keys, strict=True):
        members[root(f"text:{key}")].append(example)
    clusters = [
        _Cluster(_place(seed, key), _usual([stratum_of(e) for e in group]), tuple(group))
        for key, group in members.items()
    ]
    return sorted(clusters, key=lambda cluster: cluster.place)


def _usual(strata: Sequence[str]) -> str:
    counts = Counter(strata)
    return min(counts, key=lambda stratum: (-counts[stratum], stratum))


_Parts = tuple[list[_Cluster], list[_Cluster], list[_Cluster]]


def _by_place(clusters: list[_Cluster], test: float, validation: float, stratify: bool) -> _Parts:
    return (
        [c for c in clusters if c.place < test],
        [c for c in clusters if test <= c.place < test + validation],
        [c for c in clusters if c.place >= test + validation],
    )


def _by_rank(clusters: list[_Cluster], test: float, validation: float, stratify: bool) -> _Parts:
    label_of: Callable[[_Cluster], str] = (lambda c: c.stratum) if stratify else (lambda c: "")
    counts: Counter[str] = Counter()
    for cluster in clusters:
        counts[label_of(cluster)] += len(cluster.examples)
    total = sum(counts.values())
    left = Counter({label: n - 1 for label, n in counts.items()})  # train keeps one of each label
    quotas: list[dict[str, int]] = []
    for size in (test, validation):
        quota = _quotas(counts, int(size) if size >= 1 else round(size * total), left)
        quotas.append(quota)
        left = Counter({label: left[label] - quota[label] for label in counts})
    parts: _Parts = ([], [], [])
    for cluster in clusters:
        label = label_of(cluster)
        for quota, part in zip(quotas, parts[:2], strict=True):
            # A cluster that is larger than what is missing goes in if that comes closer than leaving it out.
            if quota[label] > 0 and 2 * quota[label] >= len(cluster.examples):
                quota[label] -= len(cluster.examples)
                part.append(cluster)
                break
        else:
            parts[2].append(cluster)
    return parts


def _quotas(counts: Counter[str], size: int, most: Counter[str]) -> dict[str, int]:
    """Divide ``size`` among the labels by to ``counts``, at most ``most`` each, by largest remainder."""
    total = max(1, sum(counts.values()))
    ideal = {label: size * n / total for label, n in counts.items()}
    quota = {label: min(math.floor(share), max(0, most[label])) for label, share in ideal.items()}
    missing = min(size, total) - sum(quota.values())
    by_remainder = sorted(ideal, key=lambda label: (quota[label] - ideal[label], label))
    for label in by_remainder:
        if missing > 0 and quota[label] < most[label]:
            quota[label] += 1
            missing -= 1
    return quota


def _in_order(examples: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """A shuffle that depends on content only; equal examples in order of their source."""
    return tuple(sorted(examples, key=lambda e: (_place(seed, f"order:{e.id}"), _file(e), row_of(e))))


# ── what is wrong, and what is worth saying ──────────────────────────────────────────────────────────────
def row_of(example: Example) -> int:
    """The 1-based line number in ``example.source``; 0 if it has none."""
    tail = example.source.rpartition(":")[2]
    return int(tail) if tail.isdecimal() else 0


def _file(example: Example) -> str:
    return example.source.rpartition(":")[0]


def _keys(examples: Iterable[Example], text_key: TextKey) -> set[str]:
    examples = list(examples)
    return {text_key(e) for e in examples} | {f"group:{e.group}" for e in examples if e.group}


def _touches(example: Example, keys: set[str], text_key: TextKey) -> bool:
    return bool(keys) and (text_key(example) in keys or (bool(example.group) and f"group:{example.group}" in keys))


def _leakage(part: str, before: Sequence[Example], after: Sequence[Example]) -> list[Finding]:
    kept = {id(e) for e in after}
    dropped = sorted((e for e in before if id(e) not in kept), key=row_of)
    if not dropped:
        return []
    where = "validation or test" if part == "train" else "test"
    return [
        Finding(
            "split_leakage",
            "warning",
            len(dropped),
            f"{len(dropped):,} {part} rows share text or group with a {where} row; {part} goes without them.",
            rows=tuple(row_of(e) for e in dropped),
            examples=tuple(e.source for e in dropped[:NAMED]),
            fix="Remove them from the file, or leave out the separate file to have it split by content.",
        )
    ]


def _refuse_small(parts: dict[str, list[Example]], total: int) -> None:
    small = [
        f"{part} has {len(parts[part])} examples; at least {least} are needed."
        for part, least in MINIMUM.items()
        if len(parts[part]) < least
    ]
    if small:
        raise DataError(
            "\n".join(small) + f"\nThere are {total} examples to split. Add examples, or set data.validation_size and "
            "data.test_size."
        )


def _refuse_unknown_labels(parts: dict[str, list[Example]], task_kind: str) -> None:
    known = {label for e in parts["train"] for label in labels_of(e, task_kind)}
    problems = []
    for part in ("validation", "test"):
        unknown = Counter(label for e in parts[part] for label in labels_of(e, task_kind) if label not in known)
        if unknown:
            named = ", ".join(f"'{label}' ({n})" for label, n in sorted(unknown.items())[:10])
            problems.append(
                f"{part} has labels that train does not have: {named}. Rename them, or add examples to train."
            )
    if problems:
        raise DataError("\n".join(problems))
