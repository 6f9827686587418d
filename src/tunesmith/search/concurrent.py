"""Several LoRA trainings at once in one process, over one copy of the frozen base.

    members = [Member("a", Lora(rank=8), settings_a, folder_a), Member("b", Lora(rank=64), settings_b, folder_b)]
    trained = train_concurrently(lm, objective, members, items, validation)
    trained["a"].result      # what train.loop.train returns, or the TrainingError that ended it
    trained["a"].attached    # holds the best weights; .save(folder) writes the adapter, as after a training alone

Each member is trained by ``train.loop`` itself: its own optimizer, clipping, schedule, stopping, checkpoints and
curves, in a folder that a training alone can go on from, and the other way round. Only the losses are computed
together, by ``train.together``: a member that wants one waits until all want one. At most ``at_once`` train at a time;
when one ends, the next joins.

A search that trains in several goes (a stem, then branches) uses the parts: a :class:`Session`, in it ``attach`` for
each trial, and ``run`` with a function for each, which may call ``train.loop.train`` as often as it wants. Ask
``train.together.why_alone`` first, and :func:`measure_gain` whether it is worth it here: below 1.1 it is not.

Members are threads, of which only one runs at any time: there is one model to compute with. Ctrl-C ends them all; what
each had at its last validation is kept.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from tunesmith.config import Lora
from tunesmith.data.render import Rendered
from tunesmith.errors import ConfigError, TrainingError
from tunesmith.train.batches import Order
from tunesmith.train.events import Listener
from tunesmith.train.loop import LoopSettings, TrainResult, train
from tunesmith.train.methods import METHODS, Attached
from tunesmith.train.objectives.causal import Causal
from tunesmith.train.together import Adapters, Ask, Together, share_weights, why_alone

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

AT_ONCE = 8  # the activations of each are in memory together
LEAST_GAIN = 1.1  # less is noise, or not worth the memory: it counts as none
T = TypeVar("T")


class Member(NamedTuple):
    """One training: its adapter, its settings and its own folder. ``order`` as in ``train.loop.train``."""

    name: str
    method: Lora
    settings: LoopSettings
    folder: Path
    order: Order | None = None
    listener: Listener | None = None


class Trained(NamedTuple):
    """A member afterwards: ``lm`` holds its best weights, unless ``result`` is the error that ended it."""

    result: TrainResult | TrainingError
    attached: Attached
    lm: LanguageModel


@dataclass(frozen=True, slots=True)
class MemberObjective:
    """A member's loss, computed with those of the others; for a model that ``attach`` gave, and no other."""

    session: Session
    adapters: Adapters

    def losses(self, model: Any, items: Sequence[Rendered], scale: float) -> Iterator[torch.Tensor]:
        """One number for the whole step; gradients are there before it is given, its own backward pass is empty."""
        loss = self.session.ask(Ask(self.adapters, items, scale, torch.zeros((), device=self.session.device)))
        yield loss.requires_grad_()

    def item_losses(self, model: Any, items: Sequence[Rendered]) -> torch.Tensor:
        return self.session.ask(Ask(self.adapters, items, None, torch.zeros(len(items), dtype=torch.float64)))


class Session:
    """Trainings that wait for each other wherever one of them wants a loss.

    Args:
        lm: The base model, loaded; it stays as it is.
        objective: How steps are cut into micro-batches.
    """

    def __init__(self, lm: LanguageModel, objective: Causal) -> None:
        self.lm, self.together = lm, Together(lm, objective)
        self.device = lm.device
        self._turn = threading.Condition()  # who holds it runs
        self._asks: list[Ask] = []  # not answered yet
        self._running = 0  # jobs that have not asked
        self._broken: BaseException | None = None

    def attach(self, method: Lora, seed: int) -> tuple[LanguageModel, Attached, MemberObjective]:
        """A model of a member's own over the base's weights, its new adapter, and its loss.

        Raises:
            ConfigError: If this method on this model can only be trained alone.
        """
        if (reason := why_alone(self.lm, method)) is not None:
            raise ConfigError(f"{reason}. Train it by itself.")
        lm = share_weights(self.lm)
        torch.manual_seed(seed)
        attached = METHODS[method.kind].attach(lm.model, method)
        lm.model = attached.model
        return lm, attached, MemberObjective(self, self.together.join(attached))

    def run(self, jobs: Mapping[str, Callable[[], T]], at_once: int = AT_ONCE) -> dict[str, T]:
        """Call every job in a thread of its own, ``at_once`` at a time, and return what each gave, by name.

        An error that a job does not handle ends all of them and is raised.
        """
        given: dict[str, T] = {}
        threads: list[threading.Thread] = []

        def work(name: str, job: Callable[[], T]) -> None:
            with self._turn:
                try:
                    given[name] = job()
                except BaseException as error:
                    self._broken = self._broken or error
                finally:
                    self._running -= 1
                    self._turn.notify_all()

        self._asks, self._running, self._broken = [], 0, None
        waiting = [threading.Thread(target=work, args=job, name=job[0]) for job in jobs.items()]
        try:
            with self._turn:
                while True:
                    while waiting and self._running + len(self._asks) < at_once:
                        self._running += 1
                        threads.append(waiting.pop(0))
                        threads[-1].start()  # it runs once this thread waits
                    self._turn.wait_for(lambda: self._running == 0 or self._broken is not None)
                    if self._broken is not None:
                        raise self._broken
                    if waiting and len(self._asks) < at_once:
                        continue  # one has ended: the next joins before more is computed
                    if not self._asks:
                        break
                    self.together.answer(self._asks)
                    self._running, self._asks = len(self._asks), []
                    self._turn.notify_all()
        except BaseException as error:
            with self._turn:
                self._broken = error
                self._turn.notify_all()
            raise
        finally:
            for thread in threads:
                thread.join()
        return {name: given[name] for name in jobs}

    def ask(self, ask: Ask) -> torch.Tensor:
        """Wait until every job that runs asks, and return the loss; gradients are added where it is differentiable."""
        if self._running == 0:  # from outside of run
            self.together.answer([ask])
            return ask.loss
        self._asks.append(ask)
        self._running -= 1
        self._turn.notify_all()
        self._turn.wait_for(lambda: ask not in self._asks or self._broken is not None)
        if self._broken is not None:
            raise _Ended
        return ask.loss


class _Ended(BaseException):
    """Leaves a job whose session has ended."""


def train_concurrently(
    lm: LanguageModel, objective: Causal, members: Sequence[Member], items: Sequence[Rendered],
    validation: Sequence[Rendered], at_once: int = AT_ONCE,
) -> dict[str, Trained]:  # fmt: skip
    """Train every member as ``train.loop.train`` would train it alone, several at a time.

    Args:
        lm: The base model, loaded; it stays as it is.
        objective: How steps are cut into micro-batches; each member's are as they would be alone.
        members: What is trained, with names and folders of their own.
        items: What all of them learn. Those of one seed and batch read the same in every step, which shares more.
        validation: What their losses are measured on.
        at_once: How many train at a time.

    Raises:
        ConfigError: If a member can only be trained alone, or two have one name or folder; all in one message.
    """
    problems = [f"{m.name}: {reason}. Train it by itself." for m in members if (reason := why_alone(lm, m.method))]
    for what, values in (("name", [m.name for m in members]), ("folder", [str(m.folder) for m in members])):
        problems += [
            f"{what} {value}: two members have it." for value in sorted({v for v in values if values.count(v) > 1})
        ]
    if problems:
        raise ConfigError("\n".join(problems))
    session = Session(lm, objective)

    def training(member: Member) -> Trained:
        own, attached, loss = session.attach(member.method, member.settings.seed)
        try:
            result: TrainResult | TrainingError = train(
                attached.model, attached.trainable, loss, items, validation, member.settings, member.folder,
                order=member.order, listener=member.listener,
            )  # fmt: skip
        except TrainingError as error:
            result = error
        return Trained(result, attached, own)

    return session.run({member.name: partial(training, member) for member in members}, at_once)


def measure_gain(
    lm: LanguageModel, objective: Causal, methods: Sequence[Lora], steps: Sequence[Sequence[Rendered]], repeats: int = 3
) -> float | None:
    """How many times as fast losses and gradients of several adapters are computed together as one after another.

    Args:
        methods: Of the adapters.
        steps: The items of a step for each; the same sequence where they will read the same.
        repeats: Measurements of each way, which alternate, after one that does not count.

    Returns:
        The quotient of the medians, None if it is below ``LEAST_GAIN``.
    """
    session = Session(lm, objective)
    members = [session.attach(method, 0)[1:] for method in methods]
    alone: list[float] = []
    together: list[float] = []
    for _ in range(repeats + 1):
        begun = _now(lm)
        for (attached, _), items in zip(members, steps, strict=True):
            for part in objective.losses(attached.model, items, 1.0):
                part.backward()
        between = _now(lm)
        session.together.answer([
            Ask(loss.adapters, items, 1.0, torch.zeros((), device=lm.device))
            for (_, loss), items in zip(members, steps, strict=True)
        ])  # fmt: skip
        together.append(_now(lm) - between)
        alone.append(between - begun)
    return gain(alone[1:], together[1:])


def gain(alone: Sequence[float], together: Sequence[float]) -> float | None:
    """Median seconds alone by median seconds together; None if below ``LEAST_GAIN``, which counts as none."""
    quotient = statistics.median(alone) / statistics.median(together)
    return quotient if quotient >= LEAST_GAIN else None


def _now(lm: LanguageModel) -> float:
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)
    return time.perf_counter()
