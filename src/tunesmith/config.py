"""Every setting a user can write: frozen, typed, documented, and strict about names.

``None`` means "choose for me": ``plan`` fills it in and records why. Functions take values from here,
never the whole config.
"""

from __future__ import annotations

import difflib
import glob
import json
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from tunesmith.errors import ConfigError, NotFoundError

FORMAT_VERSION = 1
BY_LEXICON = "lexicon:"  # how an entry of ``data.sensitive`` begins that is no column


class Settings(BaseModel):
    """Base of everything a user may write."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# ── task: what goes in and out ───────────────────────────────────────────────────────────────────────────
class Classification(Settings):
    kind: Literal["classification"] = "classification"
    instruction: str | None = Field(None, description="What the model is told to do; left out: made from the labels.")
    labels: dict[str, str] | None = Field(
        None, description="Words for the labels in the data, e.g. {'1': 'sarcastic', '0': 'sincere'}."
    )
    by: Literal["likelihood", "head"] | None = Field(
        None, description="Likelihood of the label's words, or a classification head; left out: what the model allows."
    )
    metric: Literal["accuracy", "macro_f1"] = Field("accuracy", description="What candidates are compared by.")
    temperature_scaling: bool = Field(
        False, description="Scale the probabilities by a temperature fitted on validation, and show what it does."
    )


class MultiLabel(Settings):
    kind: Literal["multi_label"] = "multi_label"
    metric: Literal["micro_f1", "macro_f1_labels", "subset_accuracy"] = Field(
        "micro_f1", description="What candidates are compared by."
    )


class Regression(Settings):
    kind: Literal["regression"] = "regression"
    metric: Literal["pearson", "spearman", "mae"] = Field("pearson", description="What candidates are compared by.")


class Generation(Settings):
    kind: Literal["generation"] = "generation"
    instruction: str | None = Field(None, description="System prompt for examples that bring none.")
    metric: Literal["exact_match", "token_f1", "rouge_l"] = Field(
        "token_f1", description="What candidates are compared by."
    )
    max_new_tokens: int = Field(128, gt=0, le=8192, description="An answer longer than this is cut, and counted.")


class Translation(Settings):
    kind: Literal["translation"] = "translation"
    instruction: str = Field("Translate the text.", description="What the model is told to do with each text.")
    metric: Literal["chrf", "bleu"] = Field("chrf", description="What candidates are compared by.")
    max_new_tokens: int = Field(128, gt=0, le=8192, description="A translation longer than this is cut, and counted.")


class Preference(Settings):
    kind: Literal["preference"] = "preference"
    instruction: str | None = Field(None, description="System prompt for examples that bring none.")
    beta: float = Field(0.1, gt=0, description="How strongly the model is held to the base; DPO's beta.")
    metric: Literal["preference_accuracy"] = Field(
        "preference_accuracy", description="Share of pairs whose chosen answer is likelier than the rejected one."
    )


class ImageText(Settings):
    kind: Literal["image_text"] = "image_text"
    instruction: str | None = Field(None, description="System prompt of every question.")
    metric: Literal["exact_match", "token_f1"] = Field("exact_match", description="What candidates are compared by.")
    max_new_tokens: int = Field(16, gt=0, le=8192, description="An answer longer than this is cut, and counted.")


Task = Annotated[
    Classification | MultiLabel | Regression | Generation | Translation | Preference | ImageText,
    Field(discriminator="kind"),
]


# ── method: which weights move ───────────────────────────────────────────────────────────────────────────
class LowRank(Settings):
    """What every method that trains a low-rank update can be told."""

    rank: int = Field(16, gt=0, le=512, description="Width of the low-rank update.")
    alpha: float = Field(32.0, gt=0, description="Scale; the update is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the adapter's inputs dropped in training.")
    target_modules: tuple[str, ...] = Field((), description="Names of linear layers; empty: all but the head.")
    rank_stabilised: bool = Field(False, description="Multiply by alpha / √rank instead (rsLoRA), for high ranks.")
    dora: bool = Field(False, description="Train the length of each row of the weights apart (DoRA); slower.")


class Lora(LowRank):
    kind: Literal["lora"] = "lora"
    init: Literal["default", "pissa"] = Field(
        "default", description="How the update starts: at zero, or at the weights' largest directions (PiSSA)."
    )

    @model_validator(mode="after")
    def _pissa_stands_alone(self) -> Lora:
        problems = []
        if self.init == "pissa" and self.dora:
            problems.append("init: pissa does not go with dora; choose one of the two")
        if self.init == "pissa" and self.dropout > 0:
            problems.append(f"init: pissa needs dropout 0, got {self.dropout:g}; remove it")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Qlora(LowRank):
    kind: Literal["qlora"] = "qlora"


class Full(Settings):
    kind: Literal["full"] = "full"


class Head(Settings):
    kind: Literal["head"] = "head"


class Gradual(Settings):
    kind: Literal["gradual"] = "gradual"
    decay: float = Field(2.6, ge=1, description="Each layer learns at this fraction of the rate of the one above it.")
    unfreeze: float = Field(
        0.5, ge=0, le=1, description="Share of the steps after which the lowest layer moves; 0: all at once."
    )


Method = Annotated[Lora | Qlora | Full | Head | Gradual, Field(discriminator="kind")]


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────
class Data(Settings):
    train: str = Field(
        description="A path, hf:owner/name/path, or pypi:NAME==VERSION/member; * and ** stand for several files."
    )
    validation: str | None = Field(None, description="Validation examples; left out: split off from train.")
    test: str | None = Field(None, description="Test examples; left out: split off from train.")
    format: Literal[
        "auto", "chat", "prompt_completion", "alpaca", "sharegpt", "evals", "preference", "columns", "table"
    ] = Field("auto", description="How a row is laid out; auto recognises all but table: each column a feature.")
    columns: tuple[str, ...] = Field(
        (), description="Names for rows that bring none: JSON lists, or CSV without a header line."
    )
    template: str = Field(
        "names",
        description="How a table's row becomes text: names ('age: 39'), sentence ('The age is 39.'), or text with "
        "{column}s of your own.",
    )
    text: str | None = Field(None, description="Column with the input; found by itself when only one can be it.")
    label: str | None = Field(None, description="Column with the label, or with the answer for generation.")
    image: str | None = Field(
        None,
        description="Column with an image's path from the data file's folder, or such a path with {column}s, as in "
        "images/{id}.png.",
    )
    group: str | None = Field(None, description="Column naming what rows share; groups never straddle splits.")
    sensitive: tuple[str, ...] = Field(
        (),
        description="Column with the group of the people (such as gender), or a list of them: bias of a classification "
        "is measured by it; shown to no model unless it is an input too. lexicon:pronouns (or names, nationalities, a "
        "CSV file) instead of a column: the group that a text's words name.",
    )
    policy: Literal["strict", "skip"] = Field("strict", description="Refuse a file with bad rows, or skip them.")
    train_limit: int | None = Field(None, gt=0, description="Use at most this many training examples.")
    validation_size: float | None = Field(None, gt=0, description="Share (<1) or number of examples; default 0.1.")
    test_size: float | None = Field(None, gt=0, description="Share (<1) or number of examples; default 0.2.")
    overlong: Literal["refuse", "drop", "truncate_left"] = Field(
        "refuse", description="What happens to an example longer than max_length tokens."
    )
    contamination: Literal["words", "meaning", "off"] = Field(
        "words",
        description="How test and validation examples are looked for in train: equal and near copies by their words; "
        "also paraphrases by their meaning, which embeds every text; or not.",
    )

    @field_validator("contamination", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @field_validator("sensitive", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("columns", "sensitive")
    @classmethod
    def _names_differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise PydanticCustomError("data_columns", "expected each name once")
        return names

    @field_validator("image", "template")
    @classmethod
    def _fits_the_format(cls, value: str | None, info: ValidationInfo) -> str | None:
        is_table = info.data.get("format") == "table"
        if info.field_name == "image" and value is not None and is_table:
            raise PydanticCustomError("data_image", "a table has no images; remove it, or 'data.format: table'")
        if info.field_name == "template" and value not in (None, "names", "sentence") and "{" not in value:
            raise PydanticCustomError("data_template", "expected names, sentence, or text with {column} in it")
        if info.field_name == "template" and value != "names" and not is_table:
            raise PydanticCustomError("data_template", "a template needs 'data.format: table'; set it as well")
        return value


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────
class Train(Settings):
    epochs: float | None = Field(None, gt=0, description="Passes over the training examples.")
    learning_rate: float | None = Field(None, gt=0, description="Peak learning rate; left out: from the rule.")
    schedule: Literal["cosine", "constant_decay"] = Field(
        "cosine", description="Shape after warm-up: cosine to zero, or constant with a final linear decay."
    )
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="Share of the steps with a rising rate.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    global_batch_size: int | None = Field(None, gt=0, description="Examples per optimizer step.")
    micro_batch_tokens: int | None = Field(
        None,
        gt=0,
        description="Tokens computed at once; bounds memory, not results. Left out: as many as are fast and fit.",
    )
    max_length: int | None = Field(None, gt=8, description="Longest example in tokens; left out: the model's.")
    train_on: Literal["assistant", "all"] = Field("assistant", description="Which tokens carry loss.")
    evals_per_epoch: int = Field(2, gt=0, le=1000, description="How often validation loss is measured.")
    patience: int = Field(4, ge=0, description="Evaluations without improvement before stopping; 0: never stop.")
    select: Literal["loss", "metric"] = Field(
        "loss", description="What the best step and early stopping go by, on validation: the loss or the task's metric."
    )
    share_prefix: bool = Field(True, description="Compute the tokens that examples of a step share only once.")


SCALES = (0.3, 0.5, 0.7, 0.85, 1.0)  # what ``scale: auto`` chooses from


class Remedies(Settings):
    """What training does to keep what the base model could do; each is off unless it is given."""

    replay: float = Field(
        0.0, ge=0, le=1, description="General texts mixed in, as a share of the training examples; 0.01 to 0.05 do."
    )
    replay_from: str = Field(
        "base",
        description="base: texts that the base model writes itself, for replay, kl, ewc and the choice of a scale; or "
        "a file of chats, prompts and completions, or texts, named as in data.train.",
    )
    scale: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (),
        description="After training the update is multiplied by this; of a list validation chooses, and auto is such "
        "a list, 0.3 to 1.",
    )
    exchange: float = Field(
        1.0, gt=0, description="Validation loss given up to be a nat per token nearer to the base, where scale chooses."
    )
    kl: float = Field(0.0, ge=0, description="Weight of the divergence from the base on general texts, in the loss.")
    l2_sp: float = Field(0.0, ge=0, description="Half of it times the squared length of the update, in the loss.")
    ewc: float = Field(0.0, ge=0, description="The same by how much the base's texts depend on each weight (Fisher).")
    averaging: float = Field(
        0.0, ge=0, lt=1, description="Share of the way back to the start that the weights go before each validation."
    )

    @field_validator("scale", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        if value == "auto":
            return SCALES
        return [value] if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _every_word_counts(self) -> Self:
        problems = []
        if len(set(self.scale)) != len(self.scale):
            problems.append(f"remedies.scale: each may stand once, got {list(self.scale)}")
        if self.replay_from != "base" and not (self.replay or self.kl or self.ewc or len(self.scale) > 1):
            problems.append("remedies.replay_from: nothing uses texts; give replay, kl, ewc or several scales as well")
        if self.exchange != 1.0 and len(self.scale) < 2:
            problems.append("remedies.exchange: nothing is chosen by it; give several scales, or leave it out")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Budget(Settings):
    minutes: float | None = Field(
        None, gt=0, description="Time the run should take; bounds the epochs that are chosen."
    )


class Guardrails(Settings):
    """The worst that a choice may show, fine-tuned or, of bias, any; ``off``: it need not even be measured."""

    forgetting: Literal["none", "mild", "severe", "off"] = Field(
        "mild", description="The worst forgetting of a choice; off: it need not be measured."
    )
    overfitting: Literal["none", "mild", "overfit", "off"] = Field(
        "overfit", description="The worst overfitting of a choice; the weights kept are the best step's in any case."
    )
    memorization: Literal["none", "mild", "severe", "off"] = Field(
        "off",
        description="The worst memorisation of training data by a choice; off: it is reported, and excludes none.",
    )

    bias: Literal["off"] | Annotated[float, Field(ge=0, lt=1)] = Field(
        "off",
        description="How far a choice may widen the labels' gap between groups, as a share (0.05: 5 points); needs "
        "data.sensitive.",
    )

    @field_validator("forgetting", "overfitting", "memorization", "bias", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value


Remedy = Literal["reweigh", "balance", "augment", "threshold"]


class Fairness(Settings):
    """Bias looked into further: swapped texts, remedies, public suites. Nothing of it is done unless asked for."""

    swaps: tuple[str, ...] = Field(
        (),
        description="Lexica whose terms are swapped in test texts, to see if answers change: pronouns, names, "
        "nationalities (English), or a CSV file with a column for each group.",
    )
    remedies: tuple[Remedy, ...] = Field(
        (),
        description="Each makes one more candidate of every tune and embedding one: reweigh, balance and threshold by "
        "data.sensitive, augment by the swaps.",
    )
    shares: tuple[str, ...] = Field(
        (),
        description="Words, such as occupations, for which written answers' shares of groups are held against those of "
        "training answers; groups by the swaps' lexica, or by pronouns.",
    )
    suites: Literal["off", "quick", "full"] = Field(
        "off",
        description="Public suites of stereotypes, asked before and after tuning: BBQ, CrowS-Pairs, StereoSet, "
        "WinoBias, Winogender (English; 43 MB from your package index).",
    )
    threshold: Literal["labels", "equal"] = Field(
        "labels",
        description="What thresholds aim at: groups answered as differently as their labels are, or all alike.",
    )

    @property
    def copied(self) -> tuple[str, ...]:
        """Lexica by which training examples get swapped copies."""
        return self.swaps if "augment" in self.remedies else ()

    @field_validator("suites", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @field_validator("swaps", "remedies", "shares", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.remedies)) < len(self.remedies) or len(set(self.swaps)) < len(self.swaps):
            raise ValueError(
                f"fairness: each remedy and lexicon may stand once, got {list(self.remedies)}, {list(self.swaps)}"
            )
        if "augment" in self.remedies and not self.swaps:
            raise ValueError("fairness.remedies: augment needs fairness.swaps, which say what is swapped; give them")
        return self


class Prices(Settings):
    machine_hour: float = Field(gt=0, description="What an hour of the machine costs, electricity and all.")
    currency: str = Field("€", min_length=1, max_length=8, description="Its sign.")


class Rag(Settings):
    """Documents that answers are looked up in."""

    documents: tuple[str, ...] = Field(
        (),
        description="Files and folders, or pypi:NAME==VERSION/member; also one alone. May be left out with an index.",
    )
    index: str | None = Field(None, description="Folder of an index that is there; left out: made in the run's folder.")
    where: dict[str, str] = Field(
        {}, description="Only documents with this metadata, as in {kind: pdf}; 'tunesmith rag stats' lists the fields."
    )
    k: int = Field(5, gt=0, le=50, description="Chunks shown with each question; fewer where they do not fit.")
    retriever: tuple[Literal["dense", "bm25", "hybrid"], ...] = Field(
        ("dense", "bm25", "hybrid"),
        min_length=1,
        description="By meaning, by words, or by both; each is a candidate. The last one finds what tune+rag shows.",
    )
    chunk_size: int = Field(200, ge=10, le=2000, description="Words in a chunk, at most.")
    rerank: str | None = Field(
        None,
        description="Ranks what was found anew: a cross-encoder (a catalog name, a path, or hf:owner/name), or "
        "likelihood: by how likely the model finds the question after each chunk.",
    )
    rerank_depth: int = Field(
        50, ge=1, le=50, description="Chunks ranked anew, at most; how many, or none, is chosen on validation."
    )
    gold_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of training examples shown the chunk with the answer; the rest: others only.",
    )

    @field_validator("documents", "retriever", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("where", mode="before")
    @classmethod
    def _metadata_is_text(cls, value: Any) -> Any:
        """Numbers, true and dates as the index holds them: as they are written."""
        if not isinstance(value, dict):
            return value
        return {
            key: json.dumps(v) if isinstance(v, int | float) else str(v) if isinstance(v, date) else v
            for key, v in value.items()
        }

    @model_validator(mode="after")
    def _documents_or_an_index(self) -> Self:
        if not self.documents and self.index is None:
            raise ValueError("rag: neither documents nor an index; give one of the two")
        if self.documents and self.index is not None:
            raise ValueError(
                "rag: documents and an index are given; leave one out ('tunesmith rag add' adds to an index)"
            )
        if len(set(self.retriever)) < len(self.retriever):
            raise ValueError(f"rag.retriever: each may stand once, got {list(self.retriever)}")
        if self.rerank is None and self.rerank_depth != Rag.model_fields["rerank_depth"].default:
            raise ValueError("rag.rerank_depth: nothing ranks anew; give rag.rerank, or leave it out")
        return self


class Forgetting(Settings):
    """What is asked of the base model and of the tuned one, and when training is stopped for it."""

    tier: Literal["quick", "standard", "full", "off"] = Field(
        "quick", description="How much is asked: in about a minute on 2 cores, in about ten, or everything; or nothing."
    )
    suites: tuple[str, ...] = Field(
        (), description="Files of your own multiple-choice questions: JSONL with question, options and answer."
    )
    texts: tuple[str, ...] = Field(
        (), description="Your own texts: JSONL with text, a text each, or a folder of .txt and .md files."
    )
    harness: tuple[str, ...] = Field(
        (), description="Task files (YAML) of lm-evaluation-harness with local data; needs the extra lm-eval."
    )
    guard: float | None = Field(
        None,
        gt=0,
        description="Training ends when the KL divergence from the base on validation examples is above this many "
        "nats per token.",
    )
    on_guard: Literal["stop", "roll_back"] = Field(
        "roll_back", description="Of all steps so far, or only of those within the guard's budget, the best is kept."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        return {"tier": value} if isinstance(value, str | bool) else value

    @field_validator("suites", "texts", "harness", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("tier", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _asked_for(self) -> Self:
        own = [*self.suites, *self.texts, *self.harness]
        if self.tier == "off" and own:
            raise ValueError(f"forgetting.tier is off, so {', '.join(own)} would not be asked; leave one out")
        if len(set(own)) < len(own):
            raise ValueError(f"forgetting: each file may stand once, got {own}")
        if self.guard is None and self.on_guard != Forgetting.model_fields["on_guard"].default:
            raise ValueError("forgetting.on_guard: there is no guard; give forgetting.guard, or leave it out")
        return self


TEXT_TASKS = ("classification", "generation", "translation")  # that a decoder answers in words
CandidateFamily = Literal["baseline", "boosting", "prompt", "embedding", "setfit", "tune", "rag", "tune+rag"]
WITH_DOCUMENTS: tuple[CandidateFamily, ...] = ("rag", "tune+rag")
FINE_TUNED: tuple[CandidateFamily, ...] = ("tune", "tune+rag")


S = TypeVar("S", bound=Settings)


class Common(Settings):
    """What every kind of project file may say, whatever its schedule."""

    model: str | None = Field(None, description="A catalog name, a path, or hf:owner/name; left out: chosen.")
    method: tuple[Method, ...] = Field((Lora(),), min_length=1, description="Fine-tuning method, or a list of them.")
    candidates: tuple[CandidateFamily, ...] = Field(
        ("baseline", "boosting", "prompt", "embedding", "tune"),
        min_length=1,
        description="Families of solutions to compare; rag and tune+rag are added where rag is given.",
    )
    encoder: tuple[str, ...] = Field(
        ("minilm-l6",),
        min_length=1,
        description="Sentence encoder of the embedding candidate, or a list; model: the model's own hidden states.",
    )
    train: Train = Train()
    budget: Budget = Budget()
    seed: int = Field(0, ge=0, description="Fixes splits, data order, initialisation and resampling.")
    margin: float | None = Field(
        None, ge=0, description="Smallest difference that matters, in the metric's unit; left out: the metric's own."
    )
    guardrails: Guardrails = Guardrails()
    prices: Prices | None = Field(None, description="Given, the report says what each candidate costs in money.")
    overfitting: Literal["quick", "control"] = Field(
        "quick",
        description="What is measured of overfitting; control: also a second training on up to 200 examples with "
        "permuted answers, which shows how much these settings memorise, and is thrown away.",
    )
    forgetting: Forgetting = Forgetting()
    memorization: Literal["quick", "canaries", "off"] = Field(
        "quick",
        description="Whether training examples can be told from others, and answers recited; canaries: also how often "
        "a secret must stand to be remembered, by a second training with planted ones, which is thrown away.",
    )

    @property
    def fine_tunes(self) -> bool:
        """Whether a candidate is asked for that fine-tunes the model."""
        return not set(FINE_TUNED).isdisjoint(self.candidates)

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        items = value if isinstance(value, list | tuple) else [value]
        return [{"kind": item} if isinstance(item, str) else item for item in items]

    @field_validator("memorization", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @field_validator("budget", mode="before")
    @classmethod
    def _no_budget(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("candidates", "encoder", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _documents_are_there(self) -> Self:
        wanted = [name for name in self.candidates if name in WITH_DOCUMENTS]
        if wanted and getattr(self, "rag", None) is None:
            raise ValueError(f"candidates: {wanted} need documents; give rag.documents, in a project with one task")
        return self

    @model_validator(mode="after")
    def _methods_differ(self) -> Self:
        kinds = [method.kind for method in self.method]
        if len(set(kinds)) != len(kinds):
            raise ValueError(f"method: each kind may stand once, got {kinds}")
        return self

    def with_task(self, task: Any, data: Data, **changes: Any) -> Config:
        """The project file of one task alone, with what this one says otherwise."""
        common = {name: getattr(self, name) for name in Common.model_fields}
        return Config(task=task, data=data, **common | changes)


def _task_by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


class Config(Common):
    """One project file with one task."""

    task: Task
    data: Data
    rag: Rag | None = Field(None, description="Documents that answers are looked up in, for task generation.")
    remedies: Remedies = Remedies()
    fairness: Fairness = Fairness()

    _name = field_validator("task", mode="before")(_task_by_name)

    @model_validator(mode="before")
    @classmethod
    def _documents_are_used(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("rag") is not None and value.get("candidates") is None:
            default = cls.model_fields["candidates"].default
            return {**value, "candidates": [*default, *WITH_DOCUMENTS]}
        return value

    @model_validator(mode="after")
    def _documents_fit(self) -> Self:
        if self.rag is not None and self.task.kind != "generation":
            raise ValueError(
                f"rag: task {self.task.kind} takes no documents, only generation does; remove rag (for "
                "classification, prompt/nearest shows each text the training examples most like it)"
            )
        return self

    @model_validator(mode="after")
    def _remedies_apply(self) -> Self:
        """Remedies are for decoders that learn next tokens, and each only for methods whose update it can measure."""
        if self.remedies == Remedies():
            return self
        problems = []
        if not self.fine_tunes:
            problems.append("nothing is fine-tuned; add tune to candidates, or remove remedies")
        if self.task.kind not in TEXT_TASKS or getattr(self.task, "by", None) == "head":
            what = "a head" if self.task.kind in TEXT_TASKS else f"task {self.task.kind}"
            problems.append(f"they are for models that learn text ({', '.join(TEXT_TASKS)}), not for {what}")
        of_update = [name for name in ("l2_sp", "ewc", "averaging") if getattr(self.remedies, name)]
        for method in self.method:
            if method.kind in ("head", "gradual"):
                problems.append(f"method {method.kind} trains a head, which has no base to keep; take lora or full")
                continue
            refused = {}
            if getattr(method, "init", "default") == "pissa":
                refused["init: pissa, whose update is no single product"] = of_update
            if getattr(method, "dora", False):
                scaled = ["scale"] if self.remedies.scale else []
                refused["dora, whose update is no product"] = [*of_update, *scaled]
            if method.kind == "qlora":
                refused["qlora, whose base in 4 bits has no gradient"] = ["ewc"] if self.remedies.ewc else []
            problems += [
                f"{', '.join(names)}: not with {what}; use replay or kl" for what, names in refused.items() if names
            ]
        if problems:
            raise ValueError(f"remedies: {'; '.join(problems)}")
        return self

    @model_validator(mode="after")
    def _training_is_there(self) -> Self:
        """What is asked of a training needs one."""
        asked = {"forgetting.guard": self.forgetting.guard is not None, "overfitting": self.overfitting == "control"}
        if not self.fine_tunes and any(asked.values()):
            names = ", ".join(name for name, there in asked.items() if there)
            raise ValueError(f"{names}: nothing is fine-tuned; add tune to candidates, or leave it out")
        return self

    @model_validator(mode="after")
    def _fairness_fits(self) -> Self:
        asked = [name for name in ("swaps", "remedies") if getattr(self.fairness, name)]
        written = self.task.kind in ("generation", "translation")
        if self.fairness.shares and not written:
            raise ValueError(
                f"fairness: shares are of written answers, and the task is {self.task.kind}; leave them out"
            )
        if written and self.fairness.shares:
            asked = [name for name in asked if name != "swaps"]
        if asked and (self.task.kind != "classification" or self.data.image is not None):
            raise ValueError(f"fairness: {' and '.join(asked)} are for classifications of texts; leave them out")
        by_group = [remedy for remedy in self.fairness.remedies if remedy != "augment"]
        if by_group and not self.data.sensitive:
            raise ValueError(f"fairness.remedies: {by_group} go by groups; give data.sensitive")
        return self


# ── schedules: several tasks at once, or one after another ───────────────────────────────────────────────
NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"


class TaskPart(Settings):
    """One task of a mixture: the task's own settings, its data, and its weight, side by side."""

    task: Task
    data: Data
    weight: float | None = Field(None, gt=0, description="How often it is drawn, against the other tasks' weights.")

    @model_validator(mode="before")
    @classmethod
    def _side_by_side(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "task" in value:
            return value
        own = {key: value[key] for key in ("data", "weight") if key in value}
        return {**own, "task": {key: item for key, item in value.items() if key not in own}}


def _refuse_for_several(tasks: Iterable[Task | None], train: Train, what: str) -> None:
    """Settings that mean something for one task alone are refused where there are several, rather than left unused.

    Raises:
        ValueError: Names all of them.
    """
    unused = [
        f"tasks.{place}.temperature_scaling"
        for place, task in enumerate(tasks)
        if isinstance(task, Classification) and task.temperature_scaling
    ]
    if train.select == "metric":
        unused.append("train.select: metric")
    if unused:
        raise ValueError(
            f"{', '.join(unused)}: works in a project of one task only, not in one with {what}; leave it out"
        )


class Mixing(Settings):
    temperature: float = Field(1.0, ge=1, description="1: drawn by size; larger: more evenly.")
    cap: int | None = Field(None, gt=0, description="A task counts as having at most this many examples.")


class Mixture(Common):
    """A project file with several tasks, trained together."""

    tasks: dict[Annotated[str, Field(pattern=NAME)], TaskPart] = Field(min_length=2)
    mixing: Mixing = Mixing()

    @model_validator(mode="after")
    def _all_weights_or_none(self) -> Self:
        _refuse_for_several((part.task for part in self.tasks.values()), self.train, "several tasks")
        without = [name for name, part in self.tasks.items() if part.weight is None]
        if without and len(without) < len(self.tasks):
            raise ValueError(f"tasks: {without} have no weight and others do; give each one, or none")
        if not without and self.mixing != Mixing():
            raise ValueError("mixing: weights are given, so temperature and cap would do nothing; leave one out")
        return self


class Stage(Settings):
    """One stage of a sequence: a task and its data, or several tasks, learned from where the stage before left."""

    name: str = Field(pattern=NAME, description="How the report calls it.")
    task: Task | None = None
    data: Data | None = None
    tasks: dict[Annotated[str, Field(pattern=NAME)], TaskPart] | None = Field(None, min_length=2)
    mixing: Mixing = Mixing()
    method: Method | None = Field(None, description="Left out: the project's.")
    train: Train | None = Field(None, description="Left out: the project's.")
    start: Literal["continue", "merge"] = Field(
        "continue", description="Go on with the adapter of the stage before, or merge it and start a new one."
    )
    replay: float = Field(0.0, ge=0, le=1, description="Old examples, as a share of this stage's own, mixed in.")
    replay_from: Literal["stages", "base"] = Field(
        "stages", description="Examples of the stages before, or text that the base model wrote."
    )

    _name = field_validator("task", mode="before")(_task_by_name)

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if (self.tasks is None) == (self.task is None or self.data is None):
            raise ValueError("a stage has either task and data, or tasks")
        return self


class Stages(Common):
    """A project file with stages, each trained from what the one before left."""

    stages: tuple[Stage, ...] = Field(min_length=2)
    joint: bool = Field(True, description="Also train on all stages at once, for comparison.")

    @model_validator(mode="after")
    def _stages_differ(self) -> Self:
        parts = [part.task for stage in self.stages for part in (stage.tasks or {}).values()]
        for train in (self.train, *(stage.train for stage in self.stages if stage.train)):
            _refuse_for_several([*(stage.task for stage in self.stages), *parts], train, "stages")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages: each name may stand once, got {names}")
        if self.stages[0].replay and self.stages[0].replay_from == "stages":
            raise ValueError("stages.0.replay: there is no stage before the first; leave it out, or replay_from: base")
        if len(self.method) > 1:
            raise ValueError("method: one for all stages, or one in each stage")
        return self


AnyConfig = Config | Mixture | Stages
PATHS = {
    "rag": ("documents", "index", "rerank"),
    "fairness": ("swaps",),
    "forgetting": ("suites", "texts", "harness"),
    "remedies": ("replay_from",),
}  # settings of groups that may name files


def read_config(path: Path | str, overrides: tuple[str, ...] = ()) -> Config:
    """Read a project file with one task; see :func:`read_any_config`.

    Raises:
        ConfigError: Also if the file has several tasks, or stages.
    """
    config = read_any_config(path, overrides)
    if not isinstance(config, Config):
        what = "tasks" if isinstance(config, Mixture) else "stages"
        raise ConfigError(f"{path}: has {what}, and this command takes one task. Use 'tunesmith run' or 'plan'.")
    return config


def read_any_config(path: Path | str, overrides: tuple[str, ...] = ()) -> AnyConfig:
    """Read a project file. ``overrides`` are ``key.key=value`` pairs; values are YAML.

    A relative path under ``data``, ``rag`` or ``forgetting`` is looked up from the project file's folder first, then
    from the working directory.

    Raises:
        NotFoundError: If the file is not there.
        ConfigError: If it is not YAML, or holds anything a user cannot write; all problems at once.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(
            f"{path}: no such config file. Give the path of a project file, such as examples/sarcasm.yaml."
        )
    try:
        raw = yaml.load(path.read_text(encoding="utf-8-sig"), _UniqueKeys)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected settings such as 'task: classification', found {type(raw).__name__}.")
    for override in overrides:
        _apply(raw, override)
    for data in _data_settings(raw):
        for part in ("train", "validation", "test"):
            if isinstance(data.get(part), str) and ":" not in data[part]:
                beside = path.parent / data[part]
                if beside.exists() or glob.glob(data[part], root_dir=path.parent, recursive=True):
                    data[part] = str(beside)
        if "sensitive" in data:
            data["sensitive"] = _beside(data["sensitive"], path.parent, BY_LEXICON)
    for group, keys in PATHS.items():
        if isinstance(raw.get(group), dict):
            named = {key: raw[group][key] for key in keys if key in raw[group]}
            raw[group] |= {
                key: _beside(value, path.parent)
                for key, value in named.items()
                if (key, value) != ("replay_from", "base")
            }
    return parse_any_config(raw, str(path))


def _beside(value: Any, folder: Path, prefix: str = "") -> Any:
    """Paths of files that a setting names, behind ``prefix``, from the project file's folder where they are there."""
    if isinstance(value, list):
        return [_beside(item, folder, prefix) for item in value]
    name = value.removeprefix(prefix) if isinstance(value, str) and value.startswith(prefix) else ""
    return prefix + str(folder / name) if name and ":" not in name and (folder / name).exists() else value


class _UniqueKeys(yaml.SafeLoader):
    """YAML as it is meant: a key that stands twice is an error, not the last one's victory."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if isinstance(key, str) and keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"'{twice[0]}' stands twice{node.start_mark}; give one of them another name")
        return super().construct_mapping(node, deep)


def _data_settings(raw: Any) -> Iterator[dict[str, Any]]:
    """Every group of data settings, wherever it stands: at the top, in a task, in a stage."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            if key == "data" and isinstance(value, dict):
                yield value
            else:
                yield from _data_settings(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from _data_settings(value)


def parse_config(raw: dict[str, Any], name: str = "config") -> Config:
    """Turn a mapping into the settings of one task, or raise a ConfigError that lists every problem."""
    return _parse(Config, raw, name)


def parse_any_config(raw: dict[str, Any], name: str = "config") -> AnyConfig:
    """Settings of one task, of a mixture (``tasks:``) or of a sequence (``stages:``)."""
    kinds: dict[str, type[Any]] = {"stages": Stages, "tasks": Mixture}
    parsed: AnyConfig = _parse(next((kinds[key] for key in kinds if key in raw), Config), raw, name)
    return parsed


def _parse(kind: type[S], raw: dict[str, Any], name: str) -> S:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        found = error.errors()
        # a list that is too short only because its items are wrong is no problem of its own
        inner = {e["loc"][: len(e["loc"]) - 1 - i] for e in found for i in range(len(e["loc"]))}
        found = [e for e in found if e["type"] != "too_short" or e["loc"] not in inner]
        problems = [f"{name}: {_sentence(e, kind)}" for e in found]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from error


_SHORT = {"task": "kind", "method": "kind", "forgetting": "tier"}  # groups written as one word, and what that is


def _apply(raw: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set {override}: expected key=value, such as --set train.epochs=2.")
    *parents, last = key.strip().split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if parent in _SHORT and isinstance(child, str | bool):
            child = {_SHORT[parent]: child}
        if child is None:
            child = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: '{parent}' is not a group of settings.")
        node[parent] = child
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from error


def _sentence(error: Any, kind: type[Settings]) -> str:
    """One problem in words, with the nearest valid name for an unknown key."""
    where = [str(part) for part in error["loc"] if str(part) not in _KIND_SETTINGS]
    if where[:1] == ["tasks"] and where[2:3] == ["task"]:
        del where[2]  # a task's settings stand beside its data
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        names = _names_beside(list(error["loc"]), kind)
        near = difflib.get_close_matches(where[-1], names, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(names)}."
        return f"unknown setting '{key}'.{hint}"
    if error["type"] == "missing":
        return f"'{key}' is missing. Add it."
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        expected = error["ctx"].get("expected_tags", "a 'kind'")
        found = error["ctx"].get("tag", "nothing")
        near = difflib.get_close_matches(str(found), [t.strip("' ") for t in str(expected).split(",")], n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"'{key}' is '{found}', expected one of {expected}.{hint}"
    if error["type"] == "value_error":
        return f"{error['msg'].removeprefix('Value error, ')}."
    return f"'{key}' is {error['input']!r}: {error['msg']}."


def _names_beside(location: list[Any], kind: type[Settings]) -> list[str]:
    """The valid names in the group that an unknown key was written in."""
    groups: dict[str, type[Settings]] = {
        "data": Data, "train": Train, "budget": Budget, "mixing": Mixing, "stages": Stage, "rag": Rag,
        "fairness": Fairness, "forgetting": Forgetting, "remedies": Remedies, **_KIND_SETTINGS,
    }  # fmt: skip
    for part in reversed(location[:-1]):
        if part in groups:
            return list(groups[part].model_fields)
    return list(kind.model_fields)


def _kinds(union: Any) -> dict[str, type[Settings]]:
    """The members of a union of settings by their kind."""
    return {member.model_fields["kind"].default: member for member in get_args(get_args(union)[0])}


_KIND_SETTINGS: dict[str, type[Settings]] = {**_kinds(Task), **_kinds(Method)}
