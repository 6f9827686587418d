"""The training loop: one straight function.

The loss of a step is the sum over its items divided by the number of their units (supervised tokens, or targets),
whatever the micro-batches and however many processes. It stops at the first loss
or gradient that is not finite, resumes bit for bit, and ends with the best checkpoint's weights in the model.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from accelerate import PartialState

from tunesmith.errors import TrainingError
from tunesmith.hardware import current_memory_bytes
from tunesmith.train.batches import Order, Shuffled, steps_in
from tunesmith.train.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    load_weights,
    prune_checkpoints,
    save_checkpoint,
)
from tunesmith.train.events import Listener, MetricsFile
from tunesmith.train.methods.method import Pace
from tunesmith.train.objectives import Item, Objective
from tunesmith.train.optim import build_adamw, learning_rate_at, set_pace


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Resolved settings of one training run; ``config.Train`` with nothing left to choose.

    Schedule ``constant`` is for a training that others go on from: it never decays.
    """

    epochs: float
    learning_rate: float
    global_batch_size: int
    schedule: Literal["cosine", "constant_decay", "constant"] = "cosine"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    evals_per_epoch: int = 4
    patience: int = 4
    seed: int = 0
    select: Literal["loss", "metric"] = "loss"
    micro_batch_tokens: int = 1024  # for who builds the objective


@dataclass(frozen=True, slots=True)
class Guard:
    """What ends training when the model has moved too far from the base.

    ``divergence`` is called after each validation, in evaluation mode, and gives the KL divergence from the base in
    nats per token; above ``budget`` training ends. With ``roll_back`` the step where that happened is not kept.
    """

    divergence: Callable[[], float]
    budget: float
    roll_back: bool


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How training went. ``tokens`` counts what was read, padding never among it; ``units`` what carried loss.

    ``over_budget`` holds ``step`` and ``kl`` where the guard ended training.
    """

    best_step: int
    last_step: int
    best_validation_loss: float
    last_validation_loss: float
    first_validation_loss: float
    tokens: int
    units: int
    seconds: float
    stopped_early: bool
    notices: tuple[str, ...]
    over_budget: dict[str, float] | None = None


class Measured(NamedTuple):
    """What else is followed on validation examples.

    ``values`` are shown by name, None: not finite; ``gain`` is the metric that steps can be selected by, higher is
    better; ``items`` what it was computed from, JSON of shape (n, ...).
    """

    values: dict[str, float | None]
    gain: float
    items: list[Any]


def train(
    model: Any,
    trainable: Mapping[str, torch.nn.Parameter],
    objective: Objective,
    items: Sequence[Item],
    validation: Sequence[Item],
    settings: LoopSettings,
    folder: Path,
    *,
    paces: Mapping[str, Pace] | None = None,
    order: Order | None = None,
    parts: Sequence[str] | None = None,
    guard: Guard | None = None,
    listener: Listener | None = None,
    metric: Callable[[], Measured] | None = None,
    penalty: Callable[[int], Iterator[torch.Tensor]] | None = None,
    after_step: Callable[[bool], None] | None = None,
) -> TrainResult:
    """Train ``trainable`` on ``items``; afterwards the model holds the weights of the best step.

    That is the one with the lowest validation loss, or with ``settings.select`` the best metric (of equal ones, the
    lowest loss). Reads and writes ``folder/checkpoints/``, ``folder/metrics.jsonl`` and, a line for each validation
    with the loss of every item, ``folder/validations.jsonl``. If checkpoints are there, training goes
    on from the newest whole one, with the same result as if it had never stopped.

    Args:
        model: What ``objective`` computes losses with; moved nowhere, its device is used.
        trainable: The parameters that move, by name.
        objective: The loss.
        items: What is learned, encoded for the objective; each with at least one unit.
        validation: What the loss is measured on, ``settings.evals_per_epoch`` times an epoch.
        paces: Of parameters, by name: a factor on the learning rate, and when they start to move; 1 and at once
            for those not named.
        order: Which items make a step; by default all of them, shuffled in every epoch.
        parts: The data set that each validation item belongs to; the loss is then told for each.
        guard: What ends training when the model has moved too far from the base.
        listener: Called with every line of metrics.jsonl.
        metric: Called at each validation, in evaluation mode; must leave torch's random state alone.
        penalty: From the number of a step, from 0, to differentiable numbers that are added to its loss, one at a time.
            What it gives depends on that number and the weights alone, so that a resumed run computes the same.
        after_step: Called once the weights have moved, with whether the validation loss is measured next.

    Raises:
        TrainingError: If a loss or gradient is not finite; the last good checkpoint stays.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once a checkpoint is saved.
    """
    order = order or Shuffled(len(items))
    device = next(iter(trainable.values())).device
    state = PartialState(cpu=device.type == "cpu")
    rank, ranks = state.process_index, state.num_processes
    total = steps_in(order.size, settings.epochs, settings.global_batch_size)
    per_epoch = -(-order.size // settings.global_batch_size)
    every = max(1, min(per_epoch, total) // settings.evals_per_epoch)
    optimizer = build_adamw(trainable, settings.weight_decay, paces)
    checkpoints = folder / "checkpoints"

    torch.manual_seed(settings.seed)
    done: dict[str, Any] = {
        "step": 0, "best": math.inf, "best_step": 0, "first": math.inf, "last": math.inf, "waited": 0,
        "best_gain": -math.inf,
        "tokens": 0, "units": 0, "seconds": 0.0, "stopped_early": False, "kl": None, "over_budget": None,
    }  # fmt: skip
    with state.main_process_first():  # it sets damaged ones aside, then the others look
        newest, notices = find_checkpoint(checkpoints)
    if newest is not None:
        done |= load_checkpoint(newest, trainable, optimizer)
        notices.append(f"resumed from step {done['step']} of {total}.")
    kept_to = done["step"] if newest is not None else -1
    metrics = MetricsFile(folder / "metrics.jsonl", kept_to, listener) if rank == 0 else None
    validations = MetricsFile(folder / "validations.jsonl", kept_to) if rank == 0 else None

    by_part: dict[str, float] = {}

    def save() -> None:
        if rank == 0:
            save_checkpoint(checkpoints, done["step"], trainable, optimizer, done)
            prune_checkpoints(checkpoints, done["best_step"])

    def validate() -> tuple[float, Measured | None]:
        sums, counts = losses_and_units(model, objective, validation)
        loss = float(sums.sum() / counts.sum())
        if parts is not None:
            by_part.update(_by_part(sums, counts, parts))
        if not math.isfinite(loss):
            raise TrainingError(f"step {done['step']}: the validation loss is {loss}. {_ADVICE}")
        measured = metric() if metric is not None else None
        if guard is not None and done["step"] > 0:
            done["kl"] = guard.divergence()
            if not math.isfinite(done["kl"]):
                raise TrainingError(f"step {done['step']}: the divergence from the base is {done['kl']}. {_ADVICE}")
            if done["kl"] > guard.budget:
                done["over_budget"] = {"step": done["step"], "kl": done["kl"]}
        kept = done["over_budget"] is None or guard is None or not guard.roll_back
        better = loss < done["best"]
        if settings.select == "metric" and measured is not None:
            better = (measured.gain, -loss) > (done["best_gain"], -done["best"])
        done["waited"] = 0 if better else done["waited"] + 1
        if better and kept:
            done["best"], done["best_step"] = loss, done["step"]
            done["best_gain"] = measured.gain if measured is not None else -math.inf
        done["last"] = loss
        if validations is not None:
            more = {**measured.values, "metric_items": measured.items} if measured is not None else {}
            validations.write({"step": done["step"], "loss": loss, **more, "losses": sums.tolist()})
        return loss, measured

    started = time.monotonic() - done["seconds"]
    if newest is None:
        done["first"], _ = validate()
        save()
    with _interruptible() as stop:
        for step in range(done["step"], total):
            if done["stopped_early"]:
                break
            begun = time.monotonic()
            batch = [items[i] for i in order.step(settings.global_batch_size, settings.seed, step)]
            n_units = sum(item.units for item in batch)
            n_tokens = sum(item.tokens for item in batch)
            rate = learning_rate_at(step, total, settings.learning_rate, settings.warmup_ratio, settings.schedule)
            set_pace(optimizer, rate, step, total)

            model.train()
            loss = torch.zeros((), device=device)
            for part in objective.losses(model, batch[rank::ranks], 1.0 / n_units):
                part.backward()
                loss += part.detach()
            held = 0.0
            for part in penalty(step) if penalty is not None else ():
                (part / ranks).backward()
                held += part.item()
            if ranks > 1:
                _sum_over_processes(loss, trainable.values())
            norm = torch.nn.utils.clip_grad_norm_(trainable.values(), settings.max_grad_norm)
            if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
                ids = ", ".join(item.example_id for item in batch[:5])
                raise TrainingError(
                    f"step {step + 1}: the loss is {loss.item()}, the gradient norm {norm.item()} (learning rate "
                    f"{rate:.2e}, examples {ids} …). The checkpoint of step {done['step']} or before is kept. {_ADVICE}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            validates = (step + 1) % every == 0 or step + 1 == total
            if after_step is not None:
                after_step(validates)

            done["step"] = step + 1
            done["tokens"] += n_tokens
            done["units"] += n_units
            took = time.monotonic() - begun
            validation_loss, measured = None, None
            if validates:
                validation_loss, measured = validate()
                waited = settings.patience > 0 and done["waited"] >= settings.patience
                done["stopped_early"] = waited or done["over_budget"] is not None
            done["seconds"] = time.monotonic() - started
            if metrics is not None:
                metrics.write({
                    "step": step + 1, "steps": total, "epoch": round((step + 1) / per_epoch, 4), "loss": loss.item(),
                    "validation_loss": validation_loss, "learning_rate": rate, "grad_norm": norm.item(),
                    "units_per_second": n_units / took, "tokens_per_second": n_tokens / took,
                    "memory_bytes": current_memory_bytes(), "seconds": round(done["seconds"], 3),
                    **({"validation_metrics": measured.values} if measured is not None else {}),
                    **({"validation_losses": dict(by_part)} if parts and validation_loss is not None else {}),
                    **({"penalty": held} if penalty is not None else {}),
                    **({"kl_to_base": done["kl"]} if guard is not None and validation_loss is not None else {}),
                })  # fmt: skip
            if validation_loss is not None or stop.is_set():
                save()
            if stop.is_set():
                raise KeyboardInterrupt
    best = checkpoints / f"step-{done['best_step']:06d}"
    state.wait_for_everyone()  # the first process may still be writing it
    if done["best_step"] != done["step"]:
        load_weights(best, trainable)
    return TrainResult(
        done["best_step"], done["step"], done["best"], done["last"], done["first"], done["tokens"],
        done["units"], done["seconds"], done["stopped_early"], tuple(notices),
        done["over_budget"],
    )  # fmt: skip


_ADVICE = "Lower train.learning_rate, or look at these examples with 'tunesmith data preview'."


def losses_and_units(model: Any, objective: Objective, items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss and number of units of each item with dropout off, two float64 tensors of shape (n,)."""
    model.eval()
    return objective.item_losses(model, items), torch.tensor([i.units for i in items], dtype=torch.float64)


def _by_part(sums: torch.Tensor, counts: torch.Tensor, parts: Sequence[str]) -> dict[str, float]:
    """Loss per unit of each data set."""
    names = np.array(parts)
    return {name: float(sums[names == name].sum() / counts[names == name].sum()) for name in dict.fromkeys(parts)}


def _sum_over_processes(loss: torch.Tensor, parameters: Any) -> None:
    """Add up loss and gradients of all processes in place, in one message."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:  # a rank without an example in this step
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([loss.reshape(1), *(p.grad.reshape(-1) for p in parameters)])
    torch.distributed.all_reduce(flat)
    loss.copy_(flat[0])
    at = 1
    for parameter in parameters:
        parameter.grad.copy_(flat[at : at + parameter.numel()].view_as(parameter))
        at += parameter.numel()


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the event, so that the step can end and be saved; the second one kills."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
