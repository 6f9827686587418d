"""Catastrophic forgetting: what the base model could do that the tuned one cannot.

Base and tuned model are asked the same: suites and texts by likelihood (``evaluate.suites``), harmless general requests
(``evaluate.collapse``), and how far the tuned model's next-token distribution moved from the base's, on the task's own
inputs, which predicts forgetting without any general data (arXiv:2509.04259), and on the general requests. What the
base says is cached by the hashes of the model and of what it was asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tunesmith.errors import TunesmithError
from tunesmith.evaluate import collapse as general
from tunesmith.evaluate.harness import harness_scores
from tunesmith.evaluate.suites import Suite, load_suites, suite_scores
from tunesmith.measures.uncertainty import bootstrap_interval, paired_bootstrap, wilson_interval
from tunesmith.records import content_hash
from tunesmith.run import read_json, write_json
from tunesmith.sources import home

if TYPE_CHECKING:
    import torch

    from tunesmith.config import Forgetting
    from tunesmith.data.render import Rendered
    from tunesmith.model.load import LanguageModel

KL_EXAMPLES, KL_POSITIONS = 64, 512
PACK_TOKENS = 1024  # of the examples that are computed at once
SEVERE_POINTS, SEVERE_NATS = 0.05, 0.25  # a confident loss beyond these vetoes a candidate
VERSION = 2  # of the way items are scored; part of the cache's key
VERDICTS = ("severe", "unknown", "mild", "none")  # the first that occurs holds for all

Scores = dict[str, list[float]]  # of each item, by measure
Progress = Callable[[str], None]


class AnswerLogs(NamedTuple):
    """Log-probabilities over the vocabulary where answers are predicted, and the example of each place.

    ``logs`` has the shape (≤ ``KL_POSITIONS``, vocabulary), on the CPU.
    """

    logs: torch.Tensor
    examples: list[int]


@dataclass(frozen=True, slots=True)
class Base:
    """What the base model said, before training.

    ``suites`` and ``scores`` hold, instead of a suite that cannot be asked, the reason; so do ``answers``, those to the
    general requests. ``task`` and ``on_general`` are its predictions on the task's inputs and on its own answers.
    """

    settings: Forgetting
    suites: dict[str, Suite | str]
    scores: dict[str, Scores | str]
    task: AnswerLogs
    answers: list[general.Answer] | str
    on_general: AnswerLogs | None
    seconds: float


# ── before and after training ────────────────────────────────────────────────────────────────────────────
def ask_base(lm: LanguageModel, settings: Forgetting, held_out: Sequence[Rendered], progress: Progress) -> Base:
    """Ask the base model all that a tier asks, or take from the cache what it said before.

    A suite that cannot be had is a sentence instead of scores: it was not measured, and the report says so.

    Raises:
        DataError: If the user's own suites or texts cannot be used.
    """
    begun = time.monotonic()
    suites = load_suites(settings)
    scores = {
        name: suite if isinstance(suite, str) else _kept_scores(lm, suite, progress) for name, suite in suites.items()
    }
    for path in settings.harness:
        scores[path] = asked(lambda path=path: harness_scores(lm, path), path, progress)  # type: ignore[misc]
    task = answer_log_probabilities(lm, spread(held_out))
    if settings.tier == "off":
        return Base(settings, suites, scores, task, "switched off in the config (forgetting.tier: off)", None, 0.0)
    prompts = general.general_prompts(settings.tier)
    answers = _kept_answers(lm, prompts, progress)
    on_general = None
    if not isinstance(answers, str):
        on_general = answer_log_probabilities(lm, general.render_answers(lm, prompts, answers))
    return Base(settings, suites, scores, task, answers, on_general, round(time.monotonic() - begun, 2))


def ask_tuned(
    lm: LanguageModel, base: Base, held_out: Sequence[Rendered], rng: np.random.Generator, progress: Progress
) -> dict[str, Any]:
    """Ask the tuned model the same, and say what report.json holds of forgetting."""
    begun = time.monotonic()
    scores: dict[str, Scores | str] = {}
    for name, before in base.scores.items():
        suite = base.suites.get(name)
        if isinstance(before, str):
            scores[name] = before
        elif isinstance(suite, Suite):
            scores[name] = asked(lambda suite=suite: suite_scores(lm, suite), name, progress)  # type: ignore[misc]
        else:
            scores[name] = asked(lambda name=name: harness_scores(lm, name), name, progress)  # type: ignore[misc]
    kl = kl_to_base(base.task, answer_log_probabilities(lm, spread(held_out)), rng)
    found = forgetting(base.suites, base.scores, scores, kl, rng)
    changed: dict[str, Any] = {"status": "not_run", "reason": base.answers}
    if not isinstance(base.answers, str):
        progress("general requests")
        prompts = general.general_prompts(base.settings.tier)
        changed = general.collapse(base.answers, general.write_answers(lm, prompts), rng)
        if base.on_general is not None and len(base.on_general.examples):
            after = answer_log_probabilities(lm, general.render_answers(lm, prompts, base.answers))
            found["kl_on_general"] = kl_to_base(base.on_general, after, rng)
    found = with_collapse(found, changed)
    return {**found, "seconds": {"base": base.seconds, "tuned": round(time.monotonic() - begun, 2)}}


def _kept_scores(lm: LanguageModel, suite: Suite, progress: Progress) -> Scores | str:
    return kept(lm, suite.key, lambda: suite_scores(lm, suite), suite.name, progress)


def _kept_answers(
    lm: LanguageModel, prompts: Sequence[tuple[str, bool]], progress: Progress
) -> list[general.Answer] | str:
    key = content_hash([prompts, general.ANSWER_TOKENS])
    found = kept(lm, key, lambda: [asdict(a) for a in general.write_answers(lm, prompts)], "general requests", progress)
    return found if isinstance(found, str) else [general.Answer(**answer) for answer in found]


def kept(lm: LanguageModel, key: str, ask: Callable[[], Any], what: str, progress: Progress) -> Any:
    """What the model says, from the cache where it said it before; a sentence where it cannot be asked."""
    kind = [str(lm.model.dtype), *(["4-bit"] if lm.four_bit else [])]
    name = content_hash([VERSION, lm.folder.fingerprint, key, *kind])
    file = home() / "scores" / f"{name}.json"
    try:
        return read_json(file)["said"]
    except (OSError, ValueError, KeyError, TunesmithError):
        said = asked(ask, what, progress)
    if not isinstance(said, str):
        write_json(file, {"model": lm.folder.name, "asked": what, "said": said})
    return said


def asked(ask: Callable[[], Any], what: str, progress: Progress) -> Any:
    progress(what)
    try:
        return ask()
    except TunesmithError as error:
        return str(error)


# ── divergence from the base ─────────────────────────────────────────────────────────────────────────────
def spread(held_out: Sequence[Rendered]) -> list[Rendered]:
    """Up to ``KL_EXAMPLES`` of the validation examples, evenly over all, and so over the tasks of a mixture."""
    places = np.linspace(0, len(held_out) - 1, min(len(held_out), KL_EXAMPLES))
    return [held_out[i] for i in places.round().astype(int)]


def answer_log_probabilities(lm: LanguageModel, rendered: Sequence[Rendered]) -> AnswerLogs:
    """What the model predicts at up to ``KL_POSITIONS`` places of the answers, evenly spread over them.

    The reference answers are fed, so that two models are asked the same.
    """
    import torch

    from tunesmith.model.attention import Segment, build_pack
    from tunesmith.model.forward import head_logits, hidden_states

    places = [(i, t - 1) for i, item in enumerate(rendered) for t in range(1, len(item.labels)) if item.labels[t] >= 0]
    if len(places) > KL_POSITIONS:
        places = [places[k] for k in np.linspace(0, len(places) - 1, KL_POSITIONS).round().astype(int)]
    wanted: dict[int, list[int]] = {}
    for i, place in places:
        wanted.setdefault(i, []).append(place)
    groups: list[list[int]] = []
    tokens = PACK_TOKENS
    for i, rows in wanted.items():
        if tokens + rows[-1] + 1 > PACK_TOKENS:
            groups.append([])
            tokens = 0
        groups[-1].append(i)
        tokens += rows[-1] + 1
    parts = []
    for group in groups:
        pack = build_pack([], [[Segment(rendered[i].input_ids[: wanted[i][-1] + 1])] for i in group], lm.device)
        rows = [starts[0] + row for i, starts in zip(group, pack.starts, strict=True) for row in wanted[i]]
        with torch.no_grad():
            hidden = hidden_states(lm.model, pack, lm.packed)
            parts.append(head_logits(lm.model, hidden[rows]).log_softmax(1).cpu())
    return AnswerLogs(torch.cat(parts) if parts else torch.zeros(0, 0), [i for i, _ in places])


def divergences(base: AnswerLogs, tuned: AnswerLogs) -> np.ndarray:
    """D(base ‖ tuned) at each place, nats, exact over the vocabulary."""
    each: np.ndarray = (base.logs.exp() * (base.logs - tuned.logs)).sum(1).clamp_min(0).double().numpy()
    return each


def kl_to_base(base: AnswerLogs, tuned: AnswerLogs, rng: np.random.Generator) -> dict[str, float | int]:
    """Mean divergence over places, with its interval, in which examples are drawn whole, and 95th percentile."""
    each = divergences(base, tuned)
    interval = bootstrap_interval(each, clusters=base.examples, rng=rng)
    return {**interval.to_json(), "p95": float(np.quantile(each, 0.95))}


def guard_report(
    settings: Forgetting, curve: Sequence[tuple[int, float]], over: Mapping[str, float] | None, best_step: int
) -> dict[str, Any]:
    """What the guard saw during training, and what it did, for the report.

    Args:
        settings: The guard's budget, and what to do beyond it.
        curve: Steps and the divergence from the base there.
        over: The step where it was above the budget, and by what ``kl``; None: nowhere.
        best_step: The step whose weights were kept.
    """
    budget = f"the guard's budget of {settings.guard:g} nats per token"
    if over is None:
        highest = f", at most {max(kl for _, kl in curve):.4f}" if curve else ""
        sentence = f"The divergence from the base stayed within {budget}{highest}."
    else:
        kept = "the best within the budget" if settings.on_guard == "roll_back" else "the best so far"
        sentence = (
            f"At step {over['step']:,.0f} the divergence from the base was {over['kl']:.4f}, above {budget}: training "
            f"ended there, and the weights of step {best_step:,}, {kept}, were kept."
        )
    return {"budget": settings.guard, "on_guard": settings.on_guard, "over_budget": over, "kept_step": best_step,
            "curve": [list(point) for point in curve], "sentence": sentence}  # fmt: skip


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────
def forgetting(
    suites: Mapping[str, Suite | str],
    base: Mapping[str, Scores | str],
    tuned: Mapping[str, Scores | str],
    kl: dict[str, float | int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What report.json says of the suites: base and tuned score of each with the paired difference, and a verdict.

    ``severe``: a suite lost more than 5 points, or texts became more than 0.25 nats per token harder, with the whole
    interval beyond. ``mild``: an interval excludes zero on the bad side. ``unknown``: a suite was not run. Accuracy
    counts where the base's is above that of guessing by its own interval; of the answers' likelihood, which moves with
    their mere form, no loss is severe.
    """
    parts: dict[str, Any] = {}
    verdicts = []
    for name, before in base.items():
        after, suite = tuned[name], suites.get(name)
        if isinstance(before, str) or isinstance(after, str):
            parts[name] = {"status": "not_run", "reason": before if isinstance(before, str) else after}
            verdicts.append("unknown")
            continue
        documents = suite.documents if isinstance(suite, Suite) else None
        nll = _change(after["nll"], before["nll"], documents, rng) if "nll" in before else None
        if "accuracy" not in before:
            is_text = isinstance(suite, Suite) and suite.kind == "text"
            parts[name] = {
                **(nll or {}),
                "unit": f"nats per token{'' if is_text else ' of right answers'}, lower is better",
            }
            verdicts.append(_verdict(parts[name]["low"], SEVERE_NATS if is_text else np.inf))
            continue
        change = _change(after["accuracy"], before["accuracy"], documents, rng)
        parts[name] = {**change, "unit": "accuracy"}
        above = True
        if isinstance(suite, Suite):
            above = wilson_interval(sum(before["accuracy"]), len(before["accuracy"])).low > suite.chance
            parts[name] |= {"chance": suite.chance, "above_chance": above}
        if above:
            verdicts.append(_verdict(-change["high"], SEVERE_POINTS))
        if nll is not None:
            parts[name]["nll"] = nll
            verdicts.append(_verdict(nll["low"], np.inf))
    found = {
        "status": "ok",
        "suites": parts,
        "kl_to_base": kl,
        "verdict": min(verdicts, key=VERDICTS.index, default="none"),
    }
    return _with_reasons(found, [part["reason"] for part in parts.values() if "reason" in part])


def with_collapse(found: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """The same with what became of the answers to general requests: a change for the worse is ``mild``."""
    if changed.get("status") == "not_run":
        mark, reasons = "unknown", [f"general requests: {changed['reason']}"]
    else:
        mark, reasons = "mild" if any(probe["worse"] for probe in changed.values()) else "none", []
    found = {**found, "collapse": changed, "verdict": min(found["verdict"], mark, key=VERDICTS.index)}
    return _with_reasons(found, [*([found["reason"]] if "reason" in found else []), *reasons])


def _with_reasons(found: dict[str, Any], reasons: Sequence[str]) -> dict[str, Any]:
    """Where the verdict is unknown, it was not run, for these reasons."""
    if found["verdict"] != "unknown":
        return {**found, "status": "ok"}
    return {**found, "status": "not_run", "reason": "; ".join(reasons)}


def _change(
    after: Sequence[float], before: Sequence[float], documents: Sequence[str] | None, rng: np.random.Generator
) -> dict[str, Any]:
    change = paired_bootstrap(np.array(after), np.array(before), documents, rng=rng)
    return {"base": float(np.mean(before)), "tuned": float(np.mean(after)), "difference": change.difference,
            "low": change.low, "high": change.high, "n": change.n}  # fmt: skip


def _verdict(worse_by: float, limit: float) -> str:
    """Of the least that was lost, by the interval."""
    return "severe" if worse_by > limit else "mild" if worse_by > 0 else "none"
