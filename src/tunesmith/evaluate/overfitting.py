"""Overfitting: how much better the tuned weights do on what they were trained on than on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tunesmith.errors import EvaluationError
from tunesmith.measures.uncertainty import difference_of_means
from tunesmith.records import Example

RISE = 0.05  # validation loss has risen when the last step's is this share above the best step's
CONTROL_EXAMPLES = 200  # trained on with permuted answers


def overfitting(
    train_losses: ArrayLike,
    validation_losses: ArrayLike,
    curve: Sequence[tuple[int, float]],
    best_step: int,
    last_step: int,
    rng: np.random.Generator,
    unit: str = "in nats per token",
) -> dict[str, Any]:
    """Compare the loss on a fixed part of the training examples with the loss on validation examples.

    Two signs are looked at: the *gap*, validation loss minus training loss, has a 95 % interval above zero;
    and the validation loss *rose* by more than 5 % from the best to the last step. The verdict is ``none``
    with neither sign, ``mild`` with one, ``overfit`` with both. The weights judged are those kept, of the
    best step.

    Args:
        train_losses: Loss of each example in evaluation mode (no dropout), on a fixed part of the training
            examples; shape (n,). For text the mean negative log-likelihood in nats per token.
        validation_losses: The same for the validation examples; shape (m,).
        curve: Step and validation loss of each evaluation during training, in order.
        best_step: Step whose weights were kept.
        last_step: Last step of training.
        rng: Source of the resamples; the two sets of examples are resampled apart, since they are not paired.
        unit: What the losses are in, as in "validation loss … is 0.2 above training loss".

    Returns:
        The losses, the gap with its interval, the steps, the rise, the verdict and a sentence that says it.
        ``last_minus_best`` is None where the curve does not hold both steps.

    Raises:
        EvaluationError: If a set of losses is empty or a loss is not finite.
    """
    train = np.asarray(train_losses, dtype=np.float64)
    validation = np.asarray(validation_losses, dtype=np.float64)
    for name, losses in (("training", train), ("validation", validation)):
        bad = int(np.sum(~np.isfinite(losses)))
        if losses.size == 0 or bad:
            raise EvaluationError(
                f"{bad} of {losses.size} {name} losses are not finite: overfitting needs at least one, "
                "all finite. Train again with a lower learning rate."
            )
    gap = difference_of_means(validation, train, rng=rng)
    by_step = dict(curve)
    rise = by_step[last_step] - by_step[best_step] if {best_step, last_step} <= by_step.keys() else None
    risen = rise is not None and rise > RISE * by_step[best_step]
    verdict = ("none", "mild", "overfit")[(gap.low > 0) + risen]
    return {
        "train_loss": float(train.mean()),
        "validation_loss": float(validation.mean()),
        "gap": gap.value,
        "low": gap.low,
        "high": gap.high,
        "n_train": int(train.size),
        "n_validation": int(validation.size),
        "best_step": best_step,
        "last_step": last_step,
        "last_minus_best": rise,
        "verdict": verdict,
        "sentence": _sentence(verdict, gap.value, gap.low, gap.high, best_step, last_step, rise, unit),
    }


def _sentence(
    verdict: str,
    gap: float,
    low: float,
    high: float,
    best_step: int,
    last_step: int,
    rise: float | None,
    unit: str,
) -> str:
    opening = {"none": "No sign of overfitting", "mild": "Mild overfitting", "overfit": "Overfitting"}[verdict]
    text = (
        f"{opening}: validation loss {unit} is {abs(gap):.2f} {'above' if gap >= 0 else 'below'} "
        f"training loss (95 % interval of the difference {low:.2f} to {high:.2f})"
    )
    if rise is not None and last_step > best_step:
        return (
            f"{text}; from step {best_step}, whose weights were kept, to the last step {last_step} it "
            f"{'rose' if rise >= 0 else 'fell'} by {abs(rise):.2f}."
        )
    return f"{text}; the last step, {last_step}, was the best." if last_step == best_step else f"{text}."


def with_permuted_answers(examples: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    """The same inputs with each other's answers: labels, or last turns."""
    order = rng.permutation(len(examples))
    return [
        replace(example, label=examples[i].label)
        if example.label is not None
        else replace(example, messages=(*example.messages[:-1], examples[i].messages[-1]))
        for example, i in zip(examples, order, strict=True)
    ]


def control(n: int, start: float, end: float) -> dict[str, Any]:
    """What training on permuted answers says: beyond what the answers' shares give, it can only memorise.

    Args:
        n: Examples trained on.
        start: Their loss before training, in evaluation mode.
        end: The lowest that training brought it to.

    Source:
        Zhang et al. 2017, "Understanding deep learning requires rethinking generalization", arXiv:1611.03530.
    """
    return {
        "status": "ok", "n": n, "start_loss": start, "end_loss": end,
        "sentence": f"On {n} examples with permuted answers the same training brought their loss from {start:.2f} to "
        f"{end:.2f}: beyond learning which answers are common, that is memorising.",
    }  # fmt: skip
