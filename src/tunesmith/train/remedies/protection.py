"""All remedies of one training together: the texts they need, what they add to its steps, what they do at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.config import Remedies
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Example
from tunesmith.run import read_examples, write_examples
from tunesmith.train.remedies.replay import read_texts, write_texts

if TYPE_CHECKING:
    import torch

    from tunesmith.candidates.candidate import Listener
    from tunesmith.model.load import LanguageModel
    from tunesmith.train.methods import Attached
    from tunesmith.train.objectives import Objective

HELD_TEXTS, COMPARED_TEXTS = 64, 32  # of KL and EWC, and of the choice of λ, which must not be of texts trained on


def texts_wanted(settings: Remedies, examples: int) -> dict[str, int]:
    """How many texts each use needs: replayed, held to the base by KL or EWC, compared with it to choose λ."""
    return {
        "replayed": round(settings.replay * examples),
        "held": HELD_TEXTS if settings.kl or settings.ewc else 0,
        "compared": COMPARED_TEXTS if len(settings.scale) > 1 else 0,
    }


def gather_texts(
    settings: Remedies, lm: LanguageModel, examples: int, file: Path, seed: int, listener: Listener
) -> dict[str, list[Example]]:
    """The texts of each use, no text in two of them.

    Args:
        settings: Says where they come from: a file, or the base model, which writes them once.
        lm: The base model.
        examples: Number of training examples.
        file: Where what the base wrote is kept, so that a run that goes on has the same.
        seed: Of what is drawn or written.
        listener: Told how far the writing is.

    Raises:
        DataError: If there are fewer texts than are needed.
    """
    wanted = texts_wanted(settings, examples)
    needed = sum(wanted.values())
    if not needed:
        return {use: [] for use in wanted}
    if settings.replay_from != "base":
        given = read_texts(settings.replay_from)
        found = [given[i] for i in np.random.default_rng([seed, 10]).permutation(len(given))]
    else:
        if not file.is_file():
            write_examples(file, write_texts(lm, needed, seed, listener))
        found = list(read_examples(file))
    if len(found) < needed:
        uses = ", ".join(f"{n} {use}" for use, n in wanted.items() if n)
        raise DataError(
            f"remedies: {len(found)} texts from {settings.replay_from}, {needed} are needed ({uses}). "
            + (
                "Name a file in remedies.replay_from."
                if settings.replay_from == "base"
                else "Give more, or lower replay."
            )
        )
    shared, at = {}, 0
    for use, n in wanted.items():
        shared[use], at = found[at : at + n], at + n
    return shared


@dataclass(frozen=True, slots=True)
class Protection:
    """What the training loop is given, ``None`` where nothing asks for it; ``put`` sets λ once training has ended."""

    penalty: Callable[[int], Iterator[torch.Tensor]] | None = None
    after_step: Callable[[bool], None] | None = None
    put: Callable[[], Callable[[float], None]] | None = None
    kl_to_base: Callable[[], float] | None = None
    details: dict[str, Any] = field(default_factory=dict)


def protect(
    settings: Remedies, lm: LanguageModel, attached: Attached, objective: Objective, texts: Mapping[str, Sequence[Any]],
    seed: int,
) -> Protection:  # fmt: skip
    """Prepare the remedies of a training that is about to begin.

    Raises:
        ConfigError: If an adapter trains what a remedy cannot measure.
    """
    if settings == Remedies():
        return Protection()
    from tunesmith.train.remedies.averaging import average_with_start
    from tunesmith.train.remedies.ewc import ewc, fisher
    from tunesmith.train.remedies.kl import kl, mean_kl, view_of_base
    from tunesmith.train.remedies.l2_sp import l2_sp
    from tunesmith.train.remedies.update import adapted_layers, copied, scaler

    on_weights = bool(settings.l2_sp or settings.ewc or settings.averaging or settings.scale)
    with_adapters = bool(adapted_layers(attached))
    other = [name for name in attached.trainable if with_adapters and ".lora_" not in name]
    other += [name for name in attached.trainable if ".lora_embedding" in name]
    if on_weights and other:
        raise ConfigError(
            f"remedies: l2_sp, ewc, averaging and scale measure the update of linear layers, and '{other[0]}' is none. "
            "Leave it out of method.target_modules, or use replay and kl."
        )
    start = copied(attached) if on_weights and not with_adapters else None
    held, compared = texts["held"], texts["compared"]
    view = view_of_base(lm, attached, held) if settings.kl else None
    apart = view_of_base(lm, attached, compared) if compared else None
    information = fisher(attached, objective, held) if settings.ewc else {}

    def penalty(step: int) -> Iterator[torch.Tensor]:
        if view is not None:
            yield from kl(attached.model, view, settings.kl, seed, step)
        if settings.l2_sp:
            yield from l2_sp(attached, start, settings.l2_sp)
        if settings.ewc:
            yield from ewc(attached, start, information, settings.ewc)

    def after_step(validates: bool) -> None:
        if validates:
            average_with_start(attached, start, settings.averaging)

    return Protection(
        penalty if settings.kl or settings.l2_sp or settings.ewc else None,
        after_step if settings.averaging else None,
        (lambda: scaler(attached, start)) if settings.scale else None,
        (lambda: mean_kl(attached.model, apart)) if apart is not None else None,
        {use: len(found) for use, found in texts.items() if found},
    )
