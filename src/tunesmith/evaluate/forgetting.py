"""Catastrophic forgetting: what the base model could do that the tuned one cannot.

Three measures, base against tuned on the same items: the change of token loss on general text; accuracy on
multiple-choice suites by the likelihood of the options; and the divergence from the base on the task's own inputs,
which predicts forgetting without any general data (arXiv:2509.04259). The base's scores are cached by the hashes of
model and suite.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import EvaluationError, TunesmithError
from tunesmith.measures.uncertainty import bootstrap_interval, paired_bootstrap
from tunesmith.records import Interval, content_hash
from tunesmith.run import write_json
from tunesmith.sources import home, resolve_suite
from tunesmith.sources.catalog import suite_entry

if TYPE_CHECKING:
    import torch

    from tunesmith.data.render import Rendered
    from tunesmith.model.load import LanguageModel

QUICK = {"general-text": 100, "piqa": 100, "commonsenseqa": 100, "openbookqa": 100}  # suite: items
TEXT_TOKENS = 128  # of each general text
KL_EXAMPLES, KL_POSITIONS = 64, 512
SEVERE_POINTS, SEVERE_NATS = 0.05, 0.25  # a confident loss beyond these vetoes a candidate
VERSION = 1  # of the way items are shown; part of the cache's key


@dataclass(frozen=True, slots=True)
class Item:
    """``prompt`` and its ``options``; for general text the prompt is empty and the one option is the text."""

    prompt: str
    options: tuple[str, ...]
    right: int


def read_suite(name: str, limit: int) -> list[Item]:
    """The first ``limit`` items of a suite in the order of their hashes, the same on every machine.

    Raises:
        EvaluationError: If the file holds what the suite should not.
    """
    kind = suite_entry(name).kind
    items: dict[str, Item] = {}
    for number, line in enumerate(resolve_suite(name).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            item = _text_item(row) if kind == "text" else _choice_item(row)
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"suite {name}, line {number}: {error}. Delete it from the cache and pull again."
            ) from error
        if item is not None:
            items[hashlib.sha256(f"{item.prompt}|{item.options}".encode()).hexdigest()] = item
    return [items[key] for key in sorted(items)[:limit]]


def _text_item(row: Mapping[str, Any]) -> Item:
    return Item("", (" ".join(str(row["passage"]).split()),), 0)


def _choice_item(row: Mapping[str, Any]) -> Item | None:
    """A question with lettered options; None where the answer is not among them."""
    options = [part.strip() for part in re.split(r"(?:^|\n)\s*[A-H]\.\s*", row["options"]) if part.strip()]
    answer = re.sub(r"^[A-H]\.\s*", "", row["answer"]).strip()
    if answer not in options or len(options) < 2:
        return None
    return Item(
        f"Question: {row['question'].strip()}\nAnswer:",
        tuple(f" {option}" for option in options),
        options.index(answer),
    )


def suite_scores(lm: LanguageModel, name: str, limit: int) -> list[float]:
    """Score of each item: nats per token for text, 1 or 0 for whether the right option is the likeliest.

    Options are compared by their mean likelihood per token, so that length does not decide.
    """
    from tunesmith.model.score import score_continuations

    items = read_suite(name, limit)
    if not items:
        raise EvaluationError(f"suite {name} has no usable item.")
    if suite_entry(name).kind == "text":
        texts = [lm.tokenizer(item.options[0]).input_ids[:TEXT_TOKENS] for item in items]
        losses = score_continuations(lm, [ids[:1] for ids in texts], [[ids[1:]] for ids in texts])
        return [float(loss[0].mean()) for loss in losses]
    prompts = [lm.tokenizer(item.prompt).input_ids for item in items]
    options = [[lm.tokenizer(o, add_special_tokens=False).input_ids for o in item.options] for item in items]
    found = score_continuations(lm, prompts, options)
    return [
        float(int(np.argmin([loss.mean() for loss in losses])) == item.right)
        for losses, item in zip(found, items, strict=True)
    ]


def base_scores(
    lm: LanguageModel, suites: Mapping[str, int] = QUICK, progress: Callable[[str], None] | None = None
) -> dict[str, list[float] | str]:
    """Scores of the base model on every suite, from the cache where they were measured before.

    A suite that cannot be had is a sentence instead of scores: it was not measured, and the report says so.
    """
    results: dict[str, list[float] | str] = {}
    for name, limit in suites.items():
        key = json.dumps([VERSION, suite_entry(name).sha256, limit, TEXT_TOKENS])
        results[name] = kept(lm, key, functools.partial(suite_scores, lm, name, limit), name, progress)
    return results


def kept(
    lm: LanguageModel,
    key: str,
    ask: Callable[[], Any],
    what: str,
    progress: Callable[[str], None] | None = None,
    cached: bool = True,
) -> Any:
    """What the model says, from the cache where it said it before; a sentence where it cannot be asked.

    Args:
        lm: The model.
        key: What it is asked, and how; the model's own hash is added.
        ask: Asks it; the answer is JSON.
        what: How it is called.
        progress: Called with ``what`` before it is asked.
        cached: Off for a model that is asked once: its weights are not those of its folder.
    """
    name = content_hash([lm.folder.fingerprint, key, str(lm.model.dtype)])
    file = home() / "scores" / f"{name}.json"
    if cached:
        try:
            return json.loads(file.read_text(encoding="utf-8"))["said"]
        except (OSError, ValueError, KeyError):
            pass
    if progress is not None:
        progress(what)
    try:
        said = ask()
    except TunesmithError as error:
        return str(error)
    if cached:
        write_json(file, {"model": lm.folder.name, "asked": what, "said": said})
    return said


def answer_log_probabilities(lm: LanguageModel, rendered: Sequence[Rendered]) -> torch.Tensor:
    """Log-probabilities over the vocabulary where answers are predicted, shape (≤ ``KL_POSITIONS``, vocabulary).

    Taken behind the first ``KL_EXAMPLES`` examples with the reference answer fed, so that two models are asked
    the same.
    """
    import torch

    from tunesmith.model.attention import Segment, build_pack
    from tunesmith.model.forward import head_logits, hidden_states

    parts = []
    left = KL_POSITIONS
    for example in rendered[:KL_EXAMPLES]:
        places = [t - 1 for t in range(1, len(example.labels)) if example.labels[t] >= 0][:left]
        left -= len(places)
        if places:
            with torch.no_grad():
                hidden = hidden_states(lm.model, build_pack([], [[Segment(example.input_ids)]], lm.device), lm.packed)
                parts.append(head_logits(lm.model, hidden[places]).log_softmax(1).cpu())
    return torch.cat(parts)


def kl_to_base(base: torch.Tensor, tuned: torch.Tensor, rng: np.random.Generator) -> dict[str, float | int]:
    """Mean over positions of D(base ‖ tuned) in nats, exact over the vocabulary, with interval and 95th percentile."""
    each = (base.exp() * (base - tuned)).sum(1).clamp_min(0).double().numpy()
    interval = bootstrap_interval(each, rng=rng)
    return {**interval.to_json(), "p95": float(np.quantile(each, 0.95))}


def forgetting(
    base: Mapping[str, list[float] | str],
    tuned: Mapping[str, list[float] | str],
    kl: dict[str, float | int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What report.json says of forgetting: each suite's base and tuned score with the paired difference, a verdict.

    ``severe``: a suite lost more than 5 points, or general text became more than 0.25 nats per token harder, with
    the whole interval beyond. ``mild``: an interval excludes zero on the bad side. ``unknown``: a suite was not run.
    """
    suites: dict[str, Any] = {}
    verdicts = []
    for name in base:
        before, after = base[name], tuned[name]
        if isinstance(before, str) or isinstance(after, str):
            suites[name] = {"status": "not_run", "reason": before if isinstance(before, str) else after}
            verdicts.append("unknown")
            continue
        difference = paired_bootstrap(np.array(after), np.array(before), rng=rng)
        is_text = suite_entry(name).kind == "text"
        suites[name] = {
            "base": float(np.mean(before)), "tuned": float(np.mean(after)), "difference": difference.difference,
            "low": difference.low, "high": difference.high, "n": difference.n,
            "unit": "nats per token, lower is better" if is_text else "accuracy",
        }  # fmt: skip
        loss = Interval(difference.difference, difference.low, difference.high, difference.n)
        verdicts.append(_verdict(loss, is_text))
    order = ("severe", "unknown", "mild", "none")
    verdict = min(verdicts, key=order.index) if verdicts else "unknown"
    return {
        "status": "not_run" if verdict == "unknown" else "ok",
        **(
            {"reason": "; ".join(s["reason"] for s in suites.values() if "reason" in s)} if verdict == "unknown" else {}
        ),
        "suites": suites,
        "kl_to_base": kl,
        "verdict": verdict,
    }


def _verdict(difference: Interval, is_text: bool) -> str:
    worse_by = difference.low if is_text else -difference.high  # the least that was lost, by the interval
    limit = SEVERE_NATS if is_text else SEVERE_POINTS
    return "severe" if worse_by > limit else "mild" if worse_by > 0 else "none"
