"""Choosing a prompt on validation examples, in rounds: few examples for many prompts, then more for the better ones.

Every wording is asked without shots; the better half with four; the best wording with other numbers of shots; and the
best two prompts on as many examples as there are, up to a limit. Each round may compute ``ROUND_TOKENS``, shared
evenly by its prompts, which decides on how many examples they are asked. Calibration of label probabilities needs no
further pass, so each prompt is judged with it and without.

Source: successive halving, Jamieson & Talwalkar 2016, arXiv:1502.07943; the rounds' order is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tunesmith.candidates.templates import TEMPLATES
from tunesmith.errors import EvaluationError
from tunesmith.evaluate.metrics import METRICS
from tunesmith.measures.calibration import batch_prior
from tunesmith.records import Example, Prediction
from tunesmith.tasks.classification import ClassificationTask
from tunesmith.tasks.task import Ask, AskedTask

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

SHOTS = (0, 4, 8, 16)
ROUND_TOKENS = 30_000  # that one round may compute; there are four, and one for nearest shots
ROUND_EXAMPLES = (24, 48, 48, 96)  # validation examples at most, by round
FEWEST = 8  # examples a prompt is asked on, whatever they cost

# (the wording, the number of shots) → how an example is asked; None: there are not so many examples to show
MakeAsk = Callable[[str, int], Ask | None]


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens that a prompt makes the model compute: a start that all questions share, and each question's own."""

    shared: int
    own: float
    longest: int


@dataclass(slots=True)
class Cell:
    """A prompt that is tried: its wording, its shots, and what was answered to the first validation examples."""

    template: str
    shots: int
    ask: Ask
    cost: Cost
    selection: str = "fixed"
    predictions: list[Prediction] = field(default_factory=list)


class Trials:
    """Prompts tried on ``held_out``. ``tried`` has a row for each in each round; ``tokens`` is what all computed."""

    def __init__(
        self, task: AskedTask, lm: LanguageModel, held_out: Sequence[Example], candidate: str,
        listener: Callable[[str, float, float, dict[str, Any]], None],
    ) -> None:  # fmt: skip
        from tunesmith.data.render import Renderer

        self.task, self.lm, self.held_out, self.candidate, self.listener = task, lm, list(held_out), candidate, listener
        self.renderer = Renderer(lm.tokenizer, lm.max_length)
        self.room = getattr(task, "max_new_tokens", 16)  # for the answer
        self.tried: list[dict[str, Any]] = []
        self.tokens = 0

    def cost(self, ask: Ask) -> Cost:
        """What asking the examples computes; labels are scored each, texts are written once.

        Labels' common beginnings are computed once and counted for each, so a little less is computed than said.
        """
        from tunesmith.model.score import shared_start

        asked = [ask(example) for example in self.held_out]
        prompts = [self.renderer.prompt(turns) for turns in asked]
        answers = [len(self.renderer.render(t).input_ids) - len(p) for t, p in zip(asked, prompts, strict=True)]
        shared = len(shared_start(prompts)) if self.task.labels else 0
        each = float(np.mean(answers)) * max(1, len(self.task.labels))
        lengths = [len(prompt) for prompt in prompts]
        return Cost(shared, float(np.mean(lengths)) - shared + each, max(lengths))

    def fits(self, cell: Cell) -> bool:
        """Whether every prompt leaves room for its answer; one that does not is written down as skipped."""
        longest = cell.cost.longest
        if longest + self.room > self.renderer.max_length:
            self._skip(cell.template, cell.shots, cell.selection, f"{longest} tokens")
            return False
        return True

    def skip_for_want_of_examples(self, template: str, shots: int) -> None:
        self._skip(template, shots, "fixed", "too few examples")

    def round(self, cells: Sequence[Cell], limit: int) -> list[Cell]:
        """Ask every cell on the same number of examples, at most ``limit``; the best comes first."""
        share = ROUND_TOKENS / max(1, len(cells))
        affordable = [int((share - cell.cost.shared) / cell.cost.own) for cell in cells]
        n = min(limit, len(self.held_out), max(FEWEST, min(affordable, default=FEWEST)))
        for done, cell in enumerate(cells):
            self.listener(f"{self.candidate}: choosing the prompt", done, len(cells), {})
            new = self.held_out[len(cell.predictions) : n]
            spent = 0
            if new:
                cell.predictions += self.task.predict_asked(self.lm, new, self.candidate, cell.ask)
                spent = round(cell.cost.shared + cell.cost.own * len(new))
            self.tokens += spent
            self.tried.append({
                "template": cell.template, "shots": cell.shots, "selection": cell.selection, **self.scores(cell),
                "n": len(cell.predictions), "tokens": spent,
            })  # fmt: skip
        return sorted(cells, key=self._rank)

    def scores(self, cell: Cell) -> dict[str, float]:
        """The task's metric of a cell, uncalibrated and, where there are labels, calibrated; and the mean loss."""
        found = {"score": metric_value(cell.predictions, self.task.metric)}
        if self.task.labels:
            found["calibrated_score"] = metric_value(self.calibrated(cell), self.task.metric)
        return {**found, "nll": float(np.mean([p.nll for p in cell.predictions if p.nll is not None]))}

    def prior(self, cell: Cell) -> list[float]:
        """What the cell's prompt gives each label on average over the examples it was asked on."""
        return [float(p) for p in batch_prior(np.array([p.probabilities for p in cell.predictions]))]

    def calibrated(self, cell: Cell) -> list[Prediction]:
        """A cell's predictions with its prior taken out."""
        return cast("ClassificationTask", self.task).calibrated(cell.predictions, self.prior(cell))

    def _rank(self, cell: Cell) -> tuple[float, float]:
        found = self.scores(cell)
        return -max(found["score"], found.get("calibrated_score", found["score"])), found["nll"]

    def _skip(self, template: str, shots: int, selection: str, why: str) -> None:
        self.tried.append({"template": template, "shots": shots, "selection": selection, "skipped": why})


def search(trials: Trials, make_ask: MakeAsk) -> Cell:
    """The best prompt with the same shots for every question: wordings first, then numbers of shots.

    Raises:
        EvaluationError: If no prompt fits the model.
    """
    few, some, more, most = ROUND_EXAMPLES

    def cells(wanted: Sequence[tuple[str, int]]) -> list[Cell]:
        found = []
        for template, shots in wanted:
            ask = make_ask(template, shots)
            if ask is None:
                trials.skip_for_want_of_examples(template, shots)
            elif trials.fits(cell := Cell(template, shots, ask, trials.cost(ask))):
                found.append(cell)
        return found

    unshown = trials.round(cells([(name, 0) for name in _different_templates(trials, make_ask)]), few)
    if not unshown:
        raise EvaluationError(
            f"{trials.candidate}: no prompt fits the model's {trials.renderer.max_length} tokens: {trials.tried}. "
            "Shorten the texts or choose a model with a longer context."
        )
    better = [cell.template for cell in unshown[: (len(unshown) + 1) // 2]]
    shown = trials.round(cells([(name, SHOTS[1]) for name in better]), some)
    best = shown[0].template if shown else better[0]
    others = [cell for cell in unshown if cell.template == best] + cells([(best, n) for n in SHOTS[2:]])
    ranked = trials.round([*others, *shown[:1]], more)
    return trials.round(ranked[:2], most)[0]


def _different_templates(trials: Trials, make_ask: MakeAsk) -> list[str]:
    """Wordings of the task, without those that ask the first example as one before them does."""
    found: dict[Any, str] = {}
    for name in TEMPLATES[trials.task.kind]:
        ask = make_ask(name, 0)
        if ask is not None:
            found.setdefault(ask(trials.held_out[0]), name)
    return list(found.values())


def metric_value(predictions: Sequence[Prediction], name: str) -> float:
    """A metric of predictions, in its own unit."""
    metric = METRICS[name]
    return float(metric.of(metric.values(predictions), np.ones((1, len(predictions))))[0])
