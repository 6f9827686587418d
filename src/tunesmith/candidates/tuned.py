"""``tune/<model>/<method>``: the model fine-tuned, with what that cost it measured beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tunesmith.candidates.candidate import Context, Family, Fit
from tunesmith.candidates.follow import follow, how_many, require_metric
from tunesmith.config import Config
from tunesmith.errors import ConfigError, EvaluationError, TrainingError
from tunesmith.evaluate.compare import plain_id
from tunesmith.records import Example, Prediction
from tunesmith.tasks import Task

if TYPE_CHECKING:
    from tunesmith.evaluate.forgetting import Base
    from tunesmith.evaluate.memorization import Half
    from tunesmith.evaluate.personal import Beginning
    from tunesmith.evaluate.stereotypes import Answers
    from tunesmith.model.load import LanguageModel
    from tunesmith.train.batches import Order
    from tunesmith.train.loop import Guard, LoopSettings, Measured, TrainResult
    from tunesmith.train.methods import Attached
    from tunesmith.train.objectives import EncodeSettings, Interface, Item, Objective
    from tunesmith.train.remedies import Protection

FIXED_SUBSET = 200  # train and validation examples on which overfitting is measured
MEASURED_ON = ("causal", "preference")  # interfaces whose model still writes text, which the probe suites score
VALIDATION_LIMIT = 128  # examples on which the loss is followed during training


@dataclass(frozen=True, slots=True)
class Part:
    """One data set of a training: its task and its examples; without validation examples where it is only replayed.

    ``alike`` says whether training and validation examples were drawn, and are shown, in the same way.
    """

    name: str
    task: Task
    train: Sequence[Example]
    validation: Sequence[Example]
    alike: bool = True


Fixed = tuple[Sequence[Any], Sequence[Any]]  # items of a fixed part of the training examples, and of validation


class Untrained(NamedTuple):
    """What the model said before training: losses of the fixed items, where it has any that mean something, which of
    the answers it recites, and which personal information it writes; None where it cannot be asked for any."""

    losses: list[np.ndarray] | None
    halves: list[Half]
    recited: list[bool]
    beginnings: list[Beginning] | None
    emitted: list[bool]


class Tuned:
    """Trains, keeps the best checkpoint, saves it, and measures overfitting, forgetting and memorised data."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id, self.folder = context, candidate_id, folder
        self.method = next(m for m in context.config.method if m.kind == plain_id(candidate_id).rsplit("/", 1)[1])
        self._trained: LanguageModel | None = None

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        return self.fit_parts([Part("", self.context.task, train, validation)])

    def fit_parts(
        self,
        parts: Sequence[Part],
        order: Callable[[Sequence[int]], Order] | None = None,
        start: Path | None = None,
        probe: Callable[[LanguageModel, Attached, Objective, Mapping[str, Sequence[Item]]], None] | None = None,
    ) -> Fit:
        """Train on several data sets at once.

        Args:
            parts: What is learned, and what the loss is followed on.
            order: From the number of items of each part to which of them make a step; left out: all, shuffled.
            start: An adapter's folder to go on from, instead of a new adapter.
            probe: Called once before training with what is about to be trained, and the items by part.

        Raises:
            ConfigError: If the parts' tasks use the model in different ways, so that no one loss trains them.
            TrainingError: If training diverged, or nothing was learned.
        """
        import torch

        from tunesmith.model.architecture import architecture
        from tunesmith.model.load import load_model
        from tunesmith.sources import resolve_model
        from tunesmith.train.loop import LoopSettings
        from tunesmith.train.loop import train as run_loop
        from tunesmith.train.methods import METHODS
        from tunesmith.train.objectives import OBJECTIVES, EncodeSettings
        from tunesmith.train.remedies import protect

        listener, config = self.context.listener, self.context.config
        listener(f"{self.id}: loading {self.context.model}", 0, 0, {})
        kind = one_interface(parts, architecture(resolve_model(self.context.model)), self.method.kind)
        require_metric(parts[0].task, config.train.select)
        settings = LoopSettings(**self.context.loop[self.method.kind])
        torch.manual_seed(settings.seed)
        outputs, four_bit = getattr(self.context.task, "outputs", 0), METHODS[self.method.kind].four_bit
        lm = load_model(self.context.model, kind, outputs, four_bit)
        encoding = EncodeSettings(self.context.max_length, config.train.train_on, config.data.overlong)
        encode = OBJECTIVES[kind].encode  # what it finds stands in the plan
        learned = {p.name: encode(p.task, lm.tokenizer, p.train, encoding)[0] for p in parts}
        followed = {p.name: encode(p.task, lm.tokenizer, p.validation, encoding)[0] for p in parts if p.validation}
        stereotyped = self._stereotypes(lm, cached=True)
        base = self._ask_base(lm, [item for part in followed.values() for item in part])
        self.folder.mkdir(parents=True, exist_ok=True)
        texts = self._texts(lm, encode, encoding, sum(len(part) for part in learned.values()))
        whole = order is None and start is None
        canaries = self._canaries(kind, list(learned.values()), list(followed.values()), settings, whole)
        control = self._control(kind, parts, encoding, settings, whole)

        torch.manual_seed(settings.seed)
        attached = METHODS[self.method.kind].attach(lm.model, self.method)
        lm.model = attached.model
        if start is not None:
            continue_adapter(attached, start)
        objective = OBJECTIVES[kind].build(lm, settings.micro_batch_tokens, config.train.share_prefix)
        before = _norms(attached)
        if (prepare := OBJECTIVES[kind].prepare) is not None:
            head_start = METHODS[self.method.kind].start
            learned, followed = prepare(lm.model, learned, followed, settings.micro_batch_tokens, head_start)
        items = [item for part in learned.values() for item in part]
        held_out = [item for part in followed.values() for item in part]
        watched = [(name, item) for name, part in followed.items() for item in part[:VALIDATION_LIMIT]]
        if probe is not None:
            probe(lm, attached, objective, learned)
        order_of_all = np.random.default_rng([config.seed, 4]).permutation(len(items))
        fixed = [items[i] for i in order_of_all[:FIXED_SUBSET]], held_out[:FIXED_SUBSET]
        protection = protect(config.remedies, lm, attached, objective, texts, settings.seed)
        untrained = self._untrained(lm, objective, parts, fixed, items)
        metric = self._follow(lm, parts, held_out)
        result = run_loop(
            attached.model, attached.trainable, objective, [*items, *texts["replayed"]],
            [item for _, item in watched], settings, self.folder,
            paces=attached.paces, order=_order(OBJECTIVES[kind], learned, order),
            penalty=protection.penalty, after_step=protection.after_step,
            parts=[name for name, _ in watched] if len(followed) > 1 else None, guard=self._guard(lm, base, held_out),
            listener=lambda e: listener(f"{self.id}: training", e["step"], e["steps"], e),
            metric=None if isinstance(metric, str) else metric,
        )  # fmt: skip
        if _norms(attached) == before:
            if result.over_budget is not None:
                raise TrainingError(
                    f"{self.id}: {self._guarded(result)['sentence']} Nothing was learned within it: raise "
                    "forgetting.guard, or train.evals_per_epoch to look earlier."
                )
            raise TrainingError(
                f"{self.id}: nothing was learned: the best validation {settings.select} was that of the base model "
                f"(loss {result.best_validation_loss:.4f}; at step {result.last_step} "
                f"{result.last_validation_loss:.4f}). Lower train.learning_rate, or keep to a prompt."
            )
        lm.model.eval()
        held_back = self._scale(lm, objective, protection, [item for _, item in watched])
        self._save(attached, lm, parts)
        self._trained = lm
        losses = self._losses(lm, objective, fixed, "overfitting")
        measured = {
            "overfitting": self._overfitting(losses, result, OBJECTIVES[kind].loss_unit)
            | {"course": self._course([item.units for _, item in watched], settings, result, parts[0].task, metric)}
            | ({"control": control} if control is not None else {}),
            "forgetting": self._forgetting(lm, held_out, base, result),
            "memorization": self._memorization(lm, fixed, losses, untrained, canaries),
        }
        if stereotyped is not None:
            from tunesmith.evaluate.stereotypes import stereotypes

            after = self._stereotypes(lm, cached=False) or {}
            measured["stereotypes"] = stereotypes(config.fairness.suites, stereotyped, after, config.seed)
        if (told := OBJECTIVES[kind].measured) is not None:
            rng = np.random.default_rng([config.seed, 7])
            measured |= told(objective, lm.model, held_out[:FIXED_SUBSET], rng)
        return Fit(
            attached.trainable_parameters,
            result.seconds,
            result.tokens,
            {**self._details(settings, result), "loss_unit": OBJECTIVES[kind].loss_unit, **held_back},
            measured,
        )

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        return self.predict_for(self.context.task, examples)

    def predict_for(self, task: Task, examples: Sequence[Example]) -> list[Prediction]:
        """Predictions for the examples of one of the tasks that were trained."""
        if self._trained is None:
            raise TrainingError(f"{self.id}: predict was called before fit.")
        lm = self._trained
        total, done = len(examples), [0]

        def progress(n: int) -> None:
            done[0] += n
            self.context.listener(f"{self.id}: test", done[0], total, {})

        return task.predict(lm, examples, self.id, (), progress)

    def _save(self, attached: Attached, lm: LanguageModel, parts: Sequence[Part]) -> None:
        from tunesmith.model.save import save_model

        path = Path(self.context.model).expanduser()
        is_path = lm.folder.entry is None and path.exists()  # made absolute, to be found from elsewhere
        base = str(path.resolve()) if is_path else self.context.model
        save_model(self.folder / attached.artifact, attached.save, lm, base, {
            **self.context.origin(self.id, parts[0].train[0]), "method": self.method.model_dump(),
            "interface": lm.interface, "outputs": getattr(self.context.task, "outputs", 0),
            "parts": [{"name": part.name, "train": len(part.train)} for part in parts],
        })  # fmt: skip

    # ── remedies against forgetting ──────────────────────────────────────────────────────────────────────
    def _texts(self, lm: LanguageModel, encode: Any, encoding: EncodeSettings, examples: int) -> dict[str, list[Any]]:
        """General texts that the remedies need, encoded, by use; those that do not fit are left out."""
        from dataclasses import replace

        from tunesmith.train.remedies import gather_texts
        from tunesmith.train.remedies.replay import text_task

        config, file = self.context.config, self.folder / "replay.parquet"
        found = gather_texts(config.remedies, lm, examples, file, config.seed, self.context.listener)
        encoding = replace(encoding, overlong="drop")
        return {u: encode(text_task(), lm.tokenizer, texts, encoding)[0] if texts else [] for u, texts in found.items()}

    def _scale(
        self, lm: LanguageModel, objective: Objective, protection: Protection, validation: Sequence[Any]
    ) -> dict[str, Any]:
        """Make the update smaller where that was asked for; what the report says of the remedies."""
        from tunesmith.train.loop import losses_and_units
        from tunesmith.train.remedies.scale import choose_scale

        settings = self.context.config.remedies
        if settings == type(settings)():
            return {}
        told: dict[str, Any] = {"remedies": settings.model_dump(exclude_defaults=True) | protection.details}
        if protection.put is None:
            return told
        put = protection.put()
        if protection.kl_to_base is None:
            put(settings.scale[0])
            return told

        def validation_loss() -> float:
            self.context.listener(f"{self.id}: choosing a scale", 0, 0, {})
            sums, units = losses_and_units(lm.model, objective, validation)
            return float(sums.sum() / units.sum())

        chosen, tried = choose_scale(put, settings.scale, validation_loss, protection.kl_to_base, settings.exchange)
        return {"remedies": told["remedies"] | {"scale": chosen}, "scales": tried}

    # ── what it cost ─────────────────────────────────────────────────────────────────────────────────────
    def _ask_base(self, lm: LanguageModel, held_out: Sequence[Any]) -> Base | None:
        """What the base says of all that forgetting is measured on; None where it is not measured."""
        from tunesmith.evaluate.forgetting import ask_base

        settings = self.context.config.forgetting
        if lm.interface not in MEASURED_ON:
            if settings.guard is not None:
                raise ConfigError(
                    f"forgetting.guard is for models that write text, not {lm.interface} ones; leave it out."
                )
            return None
        if settings.tier == "off" and settings.guard is None:
            return None
        return ask_base(lm, settings, held_out, self._told("base on"))

    def _told(self, what: str) -> Callable[[str], None]:
        return lambda asked: self.context.listener(f"{self.id}: {what} {asked}", 0, 0, {})

    def _guard(self, lm: LanguageModel, base: Base | None, held_out: Sequence[Any]) -> Guard | None:
        from tunesmith.evaluate.forgetting import answer_log_probabilities, divergences, spread
        from tunesmith.train.loop import Guard

        settings = self.context.config.forgetting
        if base is None or settings.guard is None:
            return None

        asked = spread(held_out)

        def divergence() -> float:
            return float(divergences(base.task, answer_log_probabilities(lm, asked)).mean())

        return Guard(divergence, settings.guard, settings.on_guard == "roll_back")

    def _guarded(self, result: TrainResult) -> dict[str, Any]:
        from tunesmith.evaluate.forgetting import guard_report
        from tunesmith.train.events import read_metrics

        curve = [
            (line["step"], line["kl_to_base"])
            for line in read_metrics(self.folder / "metrics.jsonl")
            if line.get("kl_to_base") is not None
        ]
        return guard_report(self.context.config.forgetting, curve, result.over_budget, result.best_step)

    def _stereotypes(self, lm: LanguageModel, cached: bool) -> Answers | None:
        """What a model that writes text says to the public bias suites; None where they are not asked for."""
        from tunesmith.evaluate.stereotypes import ask_suites

        tier = self.context.config.fairness.suites
        if tier == "off" or lm.interface not in MEASURED_ON:
            return None
        return ask_suites(lm, tier, lambda suite: self.context.listener(f"{self.id}: {suite}", 0, 0, {}), cached)

    def _forgetting(
        self, lm: LanguageModel, held_out: Sequence[Any], base: Base | None, result: TrainResult
    ) -> dict[str, Any]:
        from tunesmith.evaluate.forgetting import ask_tuned

        if lm.interface == "head":
            return {"status": "not_applicable", "reason": "the model gives labels or numbers only; it writes no text"}
        if lm.interface not in MEASURED_ON:
            return {"status": "not_run", "reason": f"the probe suites are for decoders, not for {lm.interface} models"}
        settings = self.context.config.forgetting
        guarded = {"guard": self._guarded(result)} if settings.guard is not None else {}
        if settings.tier == "off" or base is None:
            return {"status": "not_run", "reason": "switched off in the config (forgetting: off)", **guarded}
        rng = np.random.default_rng([self.context.config.seed, 3])
        return {"tier": settings.tier, **ask_tuned(lm, base, held_out, rng, self._told("forgetting,")), **guarded}

    def _losses(self, lm: LanguageModel, objective: Objective, fixed: Fixed, what: str) -> list[np.ndarray]:
        """Loss per unit of the fixed training examples and of the validation examples, as the model is now."""
        from tunesmith.train.loop import losses_and_units

        losses: list[np.ndarray] = []
        for part in fixed:
            self.context.listener(f"{self.id}: {what}", len(losses), 2, {})
            sums, counts = losses_and_units(lm.model, objective, part)
            losses.append((sums / counts).numpy())
        return losses

    def _overfitting(self, losses: Sequence[np.ndarray], result: TrainResult, unit: str) -> dict[str, Any]:
        from tunesmith.evaluate.overfitting import overfitting
        from tunesmith.train.events import read_metrics

        curve = [(0, result.first_validation_loss)] + [
            (line["step"], line["validation_loss"])
            for line in read_metrics(self.folder / "metrics.jsonl")
            if line["validation_loss"] is not None
        ]
        rng = np.random.default_rng([self.context.config.seed, 5])
        return overfitting(losses[0], losses[1], curve, result.best_step, result.last_step, rng, unit)

    def _follow(self, lm: LanguageModel, parts: Sequence[Part], items: Sequence[Any]) -> Callable[[], Measured] | str:
        """What measures the task's metric during training; or why it is not followed."""
        if len(parts) > 1:
            return "several data sets were trained at once"
        task, examples = parts[0].task, parts[0].validation
        try:
            count = how_many(task, lm.interface, len(examples), self.context.config.train.select)
        except EvaluationError as error:
            return str(error)
        return follow(task, lm, examples[:count], items)

    def _course(
        self,
        units: Sequence[int],
        settings: LoopSettings,
        result: TrainResult,
        task: Task,
        metric: Callable[[], Measured] | str,
    ) -> dict[str, Any]:
        from tunesmith.evaluate.course import course
        from tunesmith.train.events import read_metrics

        lines, rng = read_metrics(self.folder / "metrics.jsonl"), np.random.default_rng([self.context.config.seed, 9])
        found = course(
            read_metrics(self.folder / "validations.jsonl"), units, [(line["step"], line["loss"]) for line in lines],
            result.best_step, lines[-1]["steps"], lines[-1]["step"] / lines[-1]["epoch"], settings.learning_rate, rng,
            None if isinstance(metric, str) else task.metric,
        )  # fmt: skip
        return found | ({"metric_not_followed": metric} if isinstance(metric, str) else {})

    def _control(
        self, kind: str, parts: Sequence[Part], encoding: EncodeSettings, settings: LoopSettings, whole: bool
    ) -> dict[str, Any] | None:
        """How far training on permuted answers brings their loss; None where that was not asked for."""
        from tunesmith.candidates.shadow import permuted_control

        if self.context.config.overfitting != "control":
            return None
        task = parts[0].task
        if not whole or len(parts) > 1:
            return {"status": "not_run", "reason": "answers are permuted where one data set is trained alone"}
        if task.kind == "preference":
            return {"status": "not_applicable", "reason": "a preference has no answer of another to take"}
        return permuted_control(
            self.context, self.id, self.method, task, kind, parts[0].train, encoding, settings, self.folder
        )

    def _canaries(
        self,
        kind: str,
        learned: Sequence[Sequence[Any]],
        followed: Sequence[Sequence[Any]],
        settings: LoopSettings,
        whole: bool,
    ) -> dict[str, Any] | None:
        """Which planted secrets a second training remembers; None where that was not asked for."""
        from tunesmith.candidates.shadow import canary_exposure

        if self.context.config.memorization != "canaries":
            return None
        if kind != "causal":
            return {"status": "not_applicable", "reason": f"canaries are planted for decoders, not for {kind} models"}
        if not whole or len(learned) > 1:
            return {"status": "not_run", "reason": "canaries are planted where one data set is trained alone"}
        items, validation = learned[0], followed[0][:VALIDATION_LIMIT]
        return canary_exposure(self.context, self.id, self.method, items, validation, settings, self.folder)

    def _untrained(
        self, lm: LanguageModel, objective: Objective, parts: Sequence[Part], fixed: Fixed, items: Sequence[Any]
    ) -> Untrained | str:
        """What memorised data is measured against, taken before training; or why it is not measured."""
        from tunesmith.evaluate import memorization as measure
        from tunesmith.evaluate.personal import beginnings, emitted, holds_personal
        from tunesmith.model.generate import end_tokens

        if self.context.config.memorization == "off":
            return "switched off in the config (memorization: off)"
        if len(parts) > 1 or not parts[0].alike:
            return "training examples were not drawn or shown like validation examples, so they differ without training"
        continues = lm.interface in measure.CONTINUING
        halves = measure.answer_halves(fixed[0], end_tokens(lm)) if continues else []
        asked = beginnings(items, lm.tokenizer) if continues else None if holds_personal(parts[0].train) else []
        has_ratio = lm.interface in measure.WITH_RATIO
        losses = self._losses(lm, objective, fixed, "base on training examples") if has_ratio else None
        return Untrained(losses, halves, measure.recited(lm, halves), asked, emitted(lm, asked or ()))

    def _memorization(
        self,
        lm: LanguageModel,
        fixed: Fixed,
        losses: Sequence[np.ndarray],
        untrained: Untrained | str,
        canaries: dict[str, Any] | None,
    ) -> dict[str, Any]:
        from tunesmith.evaluate import memorization as measure
        from tunesmith.evaluate.personal import NOTHING, emitted, personal

        if isinstance(untrained, str):
            return {"status": "not_run", "reason": untrained}
        self.context.listener(f"{self.id}: memorised data", 0, 0, {})
        if untrained.losses is None:
            found = measure.membership(-losses[0], -losses[1], "loss")
        else:
            found = measure.membership(untrained.losses[0] - losses[0], untrained.losses[1] - losses[1], "ratio")
        if untrained.halves:
            written = measure.extraction(untrained.recited, measure.recited(lm, untrained.halves))
        elif lm.interface in measure.CONTINUING or max(item.units for item in fixed[0]) < measure.LONG_ANSWER:
            written = measure.no_long_answer(len(fixed[0]))
        else:
            written = {"status": "not_run", "reason": f"{lm.interface} models are not asked to go on with an answer"}
        said = NOTHING
        if untrained.beginnings:
            said = personal(untrained.beginnings, untrained.emitted, emitted(lm, untrained.beginnings))
        elif untrained.beginnings is None:
            said = {"status": "not_run", "reason": f"{lm.interface} models are not asked to go on with an answer"}
        note = measure.OWN_FILE if self.context.config.data.validation is not None else ""
        return measure.memorization(found, written, note, said, canaries or measure.NOT_ASKED)

    def _details(self, settings: LoopSettings, result: TrainResult) -> dict[str, Any]:
        import dataclasses

        return {
            "method": self.method.model_dump(), "loop": dataclasses.asdict(settings),
            "base_model": self.context.model, "stopped_early": result.stopped_early,
            "first_validation_loss": result.first_validation_loss, "best_validation_loss": result.best_validation_loss,
            "last_validation_loss": result.last_validation_loss, "units": result.units,
            "notices": list(result.notices),
        }  # fmt: skip


def _order(
    interface: Interface, learned: Mapping[str, Sequence[Item]], order: Callable[[Sequence[int]], Order] | None
) -> Order | None:
    """Which items make a step: as the schedule says, else as the way of using the model has it."""
    if order is not None:
        return order([len(part) for part in learned.values()])
    items = [item for part in learned.values() for item in part]
    return interface.order(items) if interface.order is not None else None


def _norms(attached: Attached) -> list[float]:
    """A number for each trained parameter that training changes: what tells a changed model from its copy."""
    return [float(parameter.detach().double().norm()) for parameter in attached.trainable.values()]


def one_interface(parts: Sequence[Part], architecture: str, method: str) -> str:
    """The interface that the tasks of all parts take on one model.

    Raises:
        ConfigError: If they take several, or a head, which has room for one task only.
    """
    kinds = {part.name: part.task.interface(architecture, method) for part in parts}
    if len(set(kinds.values())) > 1 or (len(parts) > 1 and "head" in kinds.values()):
        how = ", ".join(f"{name} by {kind}" for name, kind in kinds.items())
        raise ConfigError(
            f"method {method} on a model of kind {architecture} trains the tasks in different ways ({how}), and "
            "several tasks can be trained together only as text. Choose a decoder and method lora or full."
        )
    return next(iter(kinds.values()))


def continue_adapter(attached: Attached, folder: Path) -> None:
    """Put a saved adapter's weights into a new one of the same shape.

    Raises:
        TrainingError: If it has another shape, so that it can only be merged.
    """
    import torch
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    for name, parameter in attached.trainable.items():
        weights = saved.get(_saved_name(name))
        if weights is None or weights.shape != parameter.shape:
            raise TrainingError(
                f"{folder}: its adapter is not of this method's shape, so training cannot continue it. "
                "Set the stage's start to merge, or give it the method of the stage before."
            )
        with torch.no_grad():
            parameter.copy_(weights)


def _saved_name(name: str) -> str:
    """What peft calls an adapter's parameter in its file: without the adapter's own name."""
    name = name.replace(".modules_to_save.default.", ".").replace(".default.", ".")
    return "base_model.model." + name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")


def tuned_ids(config: Config, model: str, architecture: str) -> list[str]:
    """One candidate for each method of the config."""
    return [f"tune/{model}/{method.kind}" for method in config.method]


TUNED = Family(
    name="tune",
    ids=tuned_ids,
    baseline=False,
    reason="the question: is it worth training?",
    build=Tuned,
)
