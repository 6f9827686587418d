"""Sequential fine-tuning: stages learned one after another, and what the later ones did to the earlier.

Every stage is a run directory of its own below ``stages/`` (one of several tasks has one for each below its own), with
splits, plan, baselines and a report. What is trained lies in the run's own ``candidates/``: ``stage/<k>-<name>/…`` and
``joint/…``. After every stage the model answers the test examples of all stages, where it stands as one candidate
more, ``after/<k>-<name>``, judged like the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.candidates import Context, Fit
from tunesmith.candidates.candidate import Listener
from tunesmith.candidates.tuned import Part, Tuned
from tunesmith.config import Stage, Stages
from tunesmith.errors import RunError, TunesmithError
from tunesmith.hardware import peak_memory_bytes, reset_peak_memory
from tunesmith.plan.choose import DEFAULT_MODEL
from tunesmith.records import Example, Finding
from tunesmith.report.write import write_report
from tunesmith.run import Run, read_examples, read_json, write_examples, write_json, write_predictions
from tunesmith.schedules.mixture import drawing_rates, joint_loop
from tunesmith.schedules.places import (
    BASE,
    Place,
    after_id,
    joint_id,
    named,
    prepare_stages,
    stage_id_of,
    task_configs,
)
from tunesmith.schedules.stages_report import report_stages, stage_answers
from tunesmith.sources import resolve_model
from tunesmith.sources.cache import file_sha256
from tunesmith.train.batches import Mixed
from tunesmith.train.remedies.replay import draw_examples, text_task, write_texts
from tunesmith.workflow import evaluate_candidate, fitted, is_evaluated, measure, start

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel

Json = dict[str, Any]


def run_stages(config: Stages, folder: Path, listener: Listener, command: str) -> Json:
    """Train the stages one after another, and judge the model on every stage's test examples after each.

    What is complete in ``folder`` is kept; a stage that was stopped goes on from its last checkpoint.

    Returns:
        report.json: what each stage started from and cost, the retention matrix with what follows from it, and the
        comparison with training on all stages at once, all with intervals.

    Raises:
        TunesmithError: What cannot be used or done; the problems of all stages in one message, before any weight is
            loaded. A stage that fails ends the run, since the next one has nothing to start from.
    """
    directory = Run(folder)
    with directory.lock(), contextlib.ExitStack() as held:
        start(config, directory, command)
        places = prepare_stages(config, directory, command, listener, held)
        sequence = _Sequence(config, directory, places, listener)
        sequence.announce()
        sequence.ask_base()
        for k in range(len(config.stages)):
            sequence.learn(k)
        if any(row["family"] == "joint" for row in places[0].plan["candidates"]):
            sequence.learn_jointly()
        listener("report", 0, 0, {})
        for place in places:
            write_report(place.run)
        return report_stages(config, directory, places)


# ── training and asking ──────────────────────────────────────────────────────────────────────────────────
class _Sequence:
    """The stages of a run, each learned from what the one before left in the run directory."""

    def __init__(self, config: Stages, directory: Run, places: Sequence[Place], listener: Listener) -> None:
        self.config, self.directory, self.places, self.listener = config, directory, places, listener
        self.model = config.model or DEFAULT_MODEL

    def announce(self) -> None:
        """Say what is about to happen, and count a look at every test split that is to be opened."""
        rows = [(place, row) for place in self.places for row in place.plan["candidates"]]
        minutes = sum(row["estimated_seconds"] for _, row in rows) / 60
        self.listener(
            f"plan: {len(self.config.stages)} stages, {len(self.places)} tasks, about {minutes:.0f} minutes", 0, 0, {}
        )
        for place in self.places:
            waiting = [row["id"] for row in place.plan["candidates"] if not is_evaluated(place.run, row["id"])]
            if waiting:
                place.run.count_test_look(", ".join(waiting))

    def ask_base(self) -> None:
        """Judge the base model and what else needs no stage."""
        by_interface: dict[str, list[Place]] = {}
        for place in self._waiting(BASE):
            kind = place.task.interface(place.plan["facts"]["architecture"], place.config.method[0].kind)
            by_interface.setdefault(kind, []).append(place)
        for kind, places in by_interface.items():
            from tunesmith.model.load import load_model

            self.listener(f"base: loading {self.model}", 0, 0, {})
            lm = load_model(self.model, kind)
            for place in places:
                self._ask(lm, place, BASE, {"baseline": True, **fitted(Fit(details={"shots": 0}))})
        for place in self.places:
            for row in place.plan["candidates"]:
                if row["family"] not in ("after", "joint") and not is_evaluated(place.run, row["id"]):
                    evaluate_candidate(
                        place.config, place.run, place.task, place.plan, row, named(self.listener, place.name)
                    )

    def learn(self, k: int) -> None:
        """Train stage ``k`` and ask it every task; keep what is there."""
        stage, stage_id = self.config.stages[k], stage_id_of(self.config, k)
        fit = self._kept(stage_id) or self._train(k)
        following = self.config.stages[k + 1] if k + 1 < len(self.config.stages) else None
        if following is not None and following.start == "merge":
            self._merge(stage_id, fit["lineage"]["model"])
        self._ask_all(stage_id, after_id(k, stage), self._after_entry(k))

    def _train(self, k: int) -> Json:
        stage = self.config.stages[k]
        model, adapter, lineage = self._start_of(k)
        own = [place for place in self.places if place.stage == k]
        earlier = [place for place in self.places if place.stage < k]
        replayed, findings = self._replay(k)
        sizes = {place.name: place.plan["facts"]["train"] for place in own}
        order = None
        if stage.tasks is not None:
            order = _mixed(drawing_rates(stage.tasks, stage.mixing, list(sizes.values())))
        about = {
            "lineage": lineage, "train": sizes,
            "replayed": {part.name: len(part.train) for part in replayed},
            "findings": [finding.to_json() for finding in findings],
        }  # fmt: skip
        parts = [place.to_part() for place in own] + replayed
        bounds = _bounds(own + earlier if stage.replay and stage.replay_from == "stages" else own)
        return self._fit(stage_id_of(self.config, k), own, parts, bounds, model, adapter, order, about)

    def learn_jointly(self) -> None:
        """Train on all stages at once, from the base; a failure is recorded, the stages' results stand."""
        joint, parts = joint_id(self.config), [place.to_part() for place in self.places]
        try:
            about = {"train": {part.name: len(part.train) for part in parts}}
            fit = self._kept(joint)
            if fit is None:
                fit = self._fit(joint, self.places, parts, _bounds(self.places), self.model, None, None, about)
            self._ask_all(joint, joint, fit)
        except TunesmithError as error:
            if isinstance(error, RunError):
                raise
            for place in self._waiting(joint):
                entry = {"id": joint, "baseline": False, "status": "failed", "reason": str(error), "metrics": {}}
                write_json(place.run.candidate(joint) / "evaluation.json", entry)

    def _start_of(self, k: int) -> tuple[str, Path | None, Json]:
        """The model that stage ``k`` loads, the adapter it goes on with, and both for the record."""
        if k == 0:
            return self.model, None, _lineage("base", self.model, None, None)
        before, stage = self.config.stages[k - 1], self.config.stages[k]
        before_id = stage_id_of(self.config, k - 1)
        saved = self._saved(before_id)
        if saved.name != "adapter":  # all weights were trained: they are what the next stage loads
            return str(saved), None, _lineage("weights", str(saved), None, before.name)
        if stage.start == "merge":
            merged = str(self.directory.candidate(before_id).resolve() / "merged")
            return merged, None, _lineage("merge", merged, None, before.name)
        model = read_json(self.directory.candidate(before_id) / "fit.json")["lineage"]["model"]
        return model, saved, _lineage("continue", model, saved, before.name)

    def _saved(self, candidate_id: str) -> Path:
        folder = self.directory.saved_model(candidate_id)
        if folder is None:
            raise RunError(f"{self.directory.candidate(candidate_id)}: its weights are missing. Delete it; run again.")
        return folder.resolve()

    def _replay(self, k: int) -> tuple[list[Part], list[Finding]]:
        """What stage ``k`` is shown of before, and a finding where there was not enough of it."""
        stage = self.config.stages[k]
        own = sum(place.plan["facts"]["train"] for place in self.places if place.stage == k)
        count = round(stage.replay * own)
        if count == 0:
            return [], []
        rng = np.random.default_rng([self.config.seed, 9, k])
        if stage.replay_from == "base":
            texts = self._base_texts(stage, count, int(rng.integers(2**31)))
            parts = [Part("replay of the base model's texts", text_task(), texts, ())] if texts else []
        else:
            earlier = {place.name: place for place in self.places if place.stage < k}
            drawn = draw_examples({name: place.examples("train") for name, place in earlier.items()}, count, rng)
            parts = [Part(f"replay of {name}", earlier[name].task, found, ()) for name, found in drawn.items()]
        found = sum(len(part.train) for part in parts)
        if found == count:
            return parts, []
        message = f"stage {stage.name}: {count:,} examples were to be replayed, but there are only {found:,}."
        fix = "Lower the stage's replay, or keep more training examples in the stages before."
        if stage.replay_from == "base":
            fix = "The model wrote too few texts that it ended itself; lower the stage's replay, or replay the stages'."
        return parts, [Finding("replay", "warning", count - found, message, fix=fix)]

    def _base_texts(self, stage: Stage, count: int, seed: int) -> tuple[Example, ...]:
        """Texts that the untouched base writes once; a run that goes on has the same."""
        file = self.directory.folder / "replay" / f"{stage.name}.parquet"
        if not file.is_file():
            from tunesmith.model.load import load_model

            write_examples(file, write_texts(load_model(self.model), count, seed, self.listener))
        return read_examples(file)

    def _kept(self, candidate_id: str) -> Json | None:
        """What is known of a model that was trained and saved."""
        file = self.directory.candidate(candidate_id) / "fit.json"
        if not file.is_file() or self.directory.saved_model(candidate_id) is None:
            return None
        kept: Json = read_json(file)
        return kept

    def _fit(
        self, candidate_id: str, own: Sequence[Place], parts: Sequence[Part], bounds: tuple[int, str], model: str,
        adapter: Path | None, order: Callable[[Sequence[int]], Mixed] | None, about: Json,
    ) -> Json:  # fmt: skip
        """Train and save; returns what the report says of it."""
        kind, (length, overlong) = own[0].config.method[0].kind, bounds
        one = own[0].config.model_copy(update={"data": own[0].config.data.model_copy(update={"overlong": overlong})})
        context = Context(
            one, own[0].task, model, {kind: joint_loop([place.plan for place in own], kind)}, length, self.listener
        )
        reset_peak_memory()
        folder = self.directory.candidate(candidate_id)
        fit = Tuned(context, candidate_id, folder).fit_parts(parts, order, adapter)
        found = {**fitted(fit), "peak_memory_bytes": peak_memory_bytes(), **about}
        write_json(folder / "fit.json", found)
        return found

    def _merge(self, stage_id: str, model: str) -> None:
        """Put a stage's adapter into the weights it was trained beside, in full precision."""
        adapter, target = self._saved(stage_id), self.directory.candidate(stage_id).resolve() / "merged"
        if adapter.name == "adapter" and not target.is_dir():
            self.listener(f"{stage_id}: merging", 0, 0, {})
            from tunesmith.model.merge import merge_adapter

            merge_adapter(adapter, model, target)

    def _waiting(self, candidate_id: str) -> list[Place]:
        return [place for place in self.places if not is_evaluated(place.run, candidate_id)]

    def _ask_all(self, trained_id: str, candidate_id: str, entry: Json) -> None:
        """Judge what was saved on every task that it was not judged on yet."""
        waiting = self._waiting(candidate_id)
        if not waiting:
            return
        from tunesmith.model.load import load_model

        self.listener(f"{candidate_id}: loading", 0, 0, {})
        lm = load_model(str(self._saved(trained_id)))
        for place in waiting:
            self._ask(lm, place, candidate_id, {"baseline": False, **entry})

    def _ask(self, lm: LanguageModel, place: Place, candidate_id: str, entry: Json) -> None:
        examples, done = place.examples("test"), [0]

        def progress(n: int) -> None:
            done[0] += n
            self.listener(f"{candidate_id}: test of {place.name}", done[0], len(examples), {})

        predictions = place.task.predict(lm, examples, candidate_id, (), progress)
        folder = place.run.candidate(candidate_id)
        write_predictions(folder / "predictions.parquet", predictions)
        judged = {"status": "ok", **measure(place.task, predictions, self.config.seed)}
        memory = entry.get("peak_memory_bytes") or peak_memory_bytes()
        write_json(folder / "evaluation.json", {
            "id": candidate_id, **entry, **judged, "peak_memory_bytes": memory,
        })  # fmt: skip

    def _after_entry(self, k: int) -> Json:
        """What the entry of a stage's model says of its making: the stages before it are part of its cost."""
        fits = [read_json(self.directory.candidate(stage_id_of(self.config, i)) / "fit.json") for i in range(k + 1)]
        together = {key: sum(fit[key] for fit in fits) for key in ("train_seconds", "tokens_trained")}
        return {**fits[k], **together}


def _bounds(places: Sequence[Place]) -> tuple[int, str]:
    """Tokens that fit, and what happens to longer examples, where each task's own were checked against its plan."""
    rules = {place.config.data.overlong for place in places}
    return max(p.plan["max_length"] for p in places), next((r for r in sorted(rules) if r != "refuse"), "refuse")


def _lineage(how: str, model: str, adapter: Path | None, stage: str | None) -> Json:
    weights = None if adapter is None else file_sha256(adapter / "adapter_model.safetensors")[:16]
    return {
        "start": how, "stage": stage, "model": model, "fingerprint": resolve_model(model).fingerprint,
        "adapter": None if adapter is None else str(adapter), "adapter_sha256": weights,
    }  # fmt: skip


def _mixed(rates: Sequence[float]) -> Callable[[Sequence[int]], Mixed]:
    """A stage's own tasks at their rates; what is replayed, behind them, comes once an epoch as in any stage."""

    def order(counts: Sequence[int]) -> Mixed:
        own = sum(counts[: len(rates)])
        shares = [own * rate for rate in rates] + [float(n) for n in counts[len(rates) :]]
        return Mixed(tuple(counts), tuple(shares), sum(counts))

    return order


__all__ = ["run_stages", "stage_answers", "task_configs"]
