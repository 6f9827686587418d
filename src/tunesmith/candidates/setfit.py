"""``setfit/<encoder>``: a sentence encoder tuned on pairs of texts, then logistic regression on its vectors.

What it changes: all weights of the encoder, so that texts of one label come to lie together. When to prefer it: few
labelled texts of many kinds, 8 or 16 of each; with hundreds of each, ``embedding`` or ``tune`` do as well. What data it
needs: texts with one label each. What it costs: a step of 16 pairs reads 32 texts forward and backward; at most
``MOST_PAIRS`` pairs are drawn, so time does not grow with the data. Source: Tunstall et al. 2022, "Efficient few-shot
learning without prompts", arXiv:2209.11055, through sentence-transformers; its recipe but for three things: the number
of pairs is bounded, the weights of the evaluation with the lowest loss on validation pairs are kept, and the penalty of
the logistic regression is chosen on validation.
"""

from __future__ import annotations

import gc
import importlib.util
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from tunesmith.candidates.candidate import Context, Family, Fit, model_id
from tunesmith.candidates.embedding import DEFAULT, OWN
from tunesmith.candidates.predictor import save_predictor
from tunesmith.config import Config
from tunesmith.errors import ConfigError, MissingExtraError, TrainingError
from tunesmith.measures.linear import LinearFit, fit_linear
from tunesmith.records import Example, Prediction

if TYPE_CHECKING:
    from tunesmith.model.embed import Encoder
    from tunesmith.sources import ModelFolder
    from tunesmith.tasks.task import HeadTask

ROUNDS = 20  # pairs of one label, and of two, drawn for each text: R of the source
MOST_PAIRS = 8_000  # all in all: 500 steps
BATCH = 16  # pairs in a step
LOSS_UNIT = "in squared errors of pairs' similarity"
LEARNING_RATE, WARMUP = 2e-5, 0.1  # of AdamW, rising over this share of the steps and falling to zero after
EVALUATIONS = 5  # of the loss on validation pairs, evenly spread over the steps
MEASURED_PAIRS = 400  # validation pairs it is measured on, and as many training pairs for overfitting
# Told, since sentence-transformers takes a tokenizer with a chat template to be fed with conversations.
TEXT_ALONE: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
ENCODER = "encoder"  # folder of the tuned encoder, in the candidate's


class Pair(NamedTuple):
    """Places of two texts, and the cosine similarity they are to have: 1 for one label, 0 for two."""

    left: int
    right: int
    similarity: float


class SetFit:
    """Tunes the encoder, saves it, and fits the classifier on the vectors of the saved encoder."""

    def __init__(self, context: Context, candidate_id: str, folder: Path) -> None:
        self.context, self.id, self.folder = context, candidate_id, folder
        self.task = cast("HeadTask", context.task)
        self.name = next(name for name in _encoders(context.config) if f"setfit/{model_id(name)}" == candidate_id)
        self.fitted: LinearFit | None = None
        self._encoder: Encoder | None = None

    def fit(self, train: Sequence[Example], validation: Sequence[Example]) -> Fit:
        """Tune on pairs of train, then fit logistic regression; what is chosen is chosen on validation.

        Raises:
            MissingExtraError: If sentence-transformers is not installed.
            TrainingError: If there are no pairs to learn from, or no step lowered the loss on validation pairs.
        """
        from tunesmith.model.architecture import architecture
        from tunesmith.model.embed import embed, load_encoder
        from tunesmith.sources import resolve_model

        require_sentence_transformers()
        started = time.monotonic()
        folder = resolve_model(self.name)
        kind = architecture(folder)
        if kind != "encoder":
            raise ConfigError(f"encoder: {folder.name} is of kind {kind}, and setfit tunes an encoder. Try minilm-l6.")
        tuned = self._tune(folder, load_encoder(folder), train, validation)
        gc.collect()  # the optimizer's state and the copies of the weights
        encoder = self._encoder = load_encoder(resolve_model(str(self.folder / ENCODER)))
        vectors, cut = embed(encoder, [example.text or "" for example in train])
        held_out, _ = embed(encoder, [example.text or "" for example in validation])
        targets, held = (np.array([self.task.head_target(e) for e in part]) for part in (train, validation))
        self.fitted = fit_linear(vectors, targets, held_out, held, self.task.head_loss, self.task.outputs)
        save_predictor(self.folder, self.id, self.context, train[0], self.fitted, ENCODER, encoder.pooling)
        parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
        return Fit(
            trainable_parameters=parameters + int(self.fitted.weights.size + self.fitted.bias.size),
            train_seconds=time.monotonic() - started,
            tokens_trained=tuned.pop("tokens"),
            details={
                "encoder": self.name, "predictor": "logistic", "C": self.fitted.c,
                "tried_on_validation": list(self.fitted.tried), "texts_cut": cut, "learning_rate": LEARNING_RATE,
                "loss_unit": LOSS_UNIT, **tuned["details"],
            },
            measured={
                "overfitting": tuned["overfitting"],
                "forgetting": {"status": "not_applicable", "reason": "the model gives labels only; it writes no text"},
                "memorization": {"status": "not_run", "reason": "pairs of texts were trained, so no text has a loss"},
            },
        )  # fmt: skip

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        if self.fitted is None or self._encoder is None:
            raise TrainingError(f"{self.id}: predict was called before fit.")
        from tunesmith.model.embed import embed

        started = time.monotonic()
        done = [0]

        def progress(n: int) -> None:
            done[0] += n
            self.context.listener(f"{self.id}: test", done[0], len(examples), {})

        vectors, _ = embed(self._encoder, [example.text or "" for example in examples], progress)
        outputs = self.fitted.outputs(vectors)
        self._encoder = None  # freed; what is saved stays
        return self.task.from_outputs(examples, outputs, self.id, time.monotonic() - started, [0] * len(examples))

    # ── contrastive tuning ───────────────────────────────────────────────────────────────────────────────
    def _tune(
        self, folder: ModelFolder, encoder: Encoder, train: Sequence[Example], validation: Sequence[Example]
    ) -> dict[str, Any]:
        """Tune the encoder on pairs and save the best weights in ``encoder/``, as sentence-transformers reads them."""
        import torch

        from tunesmith.evaluate.overfitting import overfitting

        seed = self.context.config.seed
        pairs = sentence_pairs([e.label for e in train], MOST_PAIRS, np.random.default_rng([seed, 8]))
        held = sentence_pairs([e.label for e in validation], MEASURED_PAIRS, np.random.default_rng([seed, 9]))
        if not pairs or not held:
            part = "training" if not pairs else "validation"
            raise TrainingError(f"{self.id}: fewer than two {part} examples make no pair. Give it more examples.")
        torch.manual_seed(seed)  # dropout
        model = build_sentence_transformer(folder, encoder)
        texts, held_texts = [e.text or "" for e in train], [e.text or "" for e in validation]
        steps = -(-len(pairs) // BATCH)
        evaluated = {round(steps * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
        curve = [(0, float(_pair_losses(model, held_texts, held).mean()))]
        best, kept, tokens = curve[0], None, 0
        for step in range(1, steps + 1):
            batch = pairs[(step - 1) * BATCH : step * BATCH]
            model.train()
            loss, read = _loss(model, texts, batch)
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += read
            if step in evaluated:
                curve.append((step, float(_pair_losses(model, held_texts, held).mean())))
                if not np.isfinite(curve[-1][1]):
                    raise TrainingError(f"{self.id}: the loss is not finite at step {step}. Choose another encoder.")
                if curve[-1][1] < best[1]:
                    best, kept = curve[-1], {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            self.context.listener(f"{self.id}: training", step, steps, {"validation_loss": curve[-1][1]})
        if kept is None:
            raise TrainingError(
                f"{self.id}: nothing was learned: no step lowered the loss on validation pairs ({curve[0][1]:.4f} "
                "before the first). Keep to the embedding candidate, or give it more examples of each label."
            )
        model.load_state_dict(kept)
        some = np.random.default_rng([seed, 10]).permutation(len(pairs))[:MEASURED_PAIRS]
        learned = _pair_losses(model, texts, [pairs[i] for i in some])
        rng = np.random.default_rng([seed, 5])
        found = overfitting(learned, _pair_losses(model, held_texts, held), curve, best[0], steps, rng, LOSS_UNIT)
        self._save_encoder(model, encoder)
        details = {
            "pairs": len(pairs), "steps": steps, "best_step": best[0],
            "validation_losses": [{"step": step, "loss": loss} for step, loss in curve],
        }  # fmt: skip
        return {"tokens": tokens, "overfitting": found, "details": details}

    def _save_encoder(self, model: Any, encoder: Encoder) -> None:
        from tunesmith.run import replaced_folder

        with replaced_folder(self.folder / ENCODER) as temporary:
            model.save(str(temporary), create_model_card=False, safe_serialization=True)
            encoder.tokenizer.save_pretrained(temporary)  # with the limit at which texts are cut


def sentence_pairs(labels: Sequence[Any], most: int, rng: np.random.Generator) -> list[Pair]:
    """Pairs of texts of one label and of two, as many of each where both can be drawn, in random order.

    For each text, up to ``ROUNDS`` times, another of its label and another of a different one are drawn. Where that
    would be more than ``most`` pairs the rounds are fewer; where one round would be, texts drawn at random go without.

    Args:
        labels: Of the texts, in order.
        most: The bound on the number of pairs.
        rng: Source of the draws.

    Source:
        Tunstall et al. 2022, section 3, arXiv:2209.11055.
    """
    places: dict[Any, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    everywhere = np.arange(len(labels))
    others = {label: np.setdiff1d(everywhere, own) for label, own in places.items()}
    anchors = rng.permutation(len(labels))[: max(1, most // 2)]
    rounds = max(1, min(ROUNDS, most // max(1, 2 * len(anchors))))
    pairs = []
    for anchor in np.tile(anchors, rounds).tolist():
        own, other = places[labels[anchor]], others[labels[anchor]]
        if len(own) > 1:
            drawn = own[int(rng.integers(len(own) - 1))]
            pairs.append(Pair(anchor, own[-1] if drawn == anchor else drawn, 1.0))
        if len(other):
            pairs.append(Pair(anchor, int(other[rng.integers(len(other))]), 0.0))
    return [pairs[i] for i in rng.permutation(len(pairs))][:most]


def build_sentence_transformer(folder: ModelFolder, encoder: Encoder) -> Any:
    """The encoder as a ``SentenceTransformer``: transformer, its pooling, and normalisation to length 1.

    Built from its parts, so that the folder needs none of sentence-transformers' own files and nothing is fetched.

    Raises:
        MissingExtraError: If sentence-transformers is not installed.
    """
    require_sentence_transformers()
    from tunesmith.model.load import quiet
    from tunesmith.model.quantise import import_peft

    quiet()
    import_peft()  # which sentence-transformers imports as well, and less quietly
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    here = {"local_files_only": True}
    transformer = Transformer(
        str(folder.path), model_kwargs={**here, "use_safetensors": True, "dtype": "float32"}, processor_kwargs=here,
        config_kwargs=here, max_seq_length=min(encoder.tokenizer.model_max_length, 100_000),
        do_lower_case=encoder.lower, modality_config=TEXT_ALONE, module_output_name="token_embeddings",
    )  # fmt: skip
    width = transformer.get_embedding_dimension()
    model = SentenceTransformer(
        modules=[transformer, Pooling(width, pooling_mode=encoder.pooling), Normalize()],
        prompts={"text": encoder.prefix} if encoder.prefix else None,
        default_prompt_name="text" if encoder.prefix else None,
        device=str(encoder.model.device),
    )
    return model.eval()


def _pace(step: int, steps: int) -> float:
    """Share of the learning rate at a step: rising in a straight line, then falling to zero."""
    rising = max(1, round(WARMUP * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising + 1), 1.0)


def require_sentence_transformers() -> None:
    """Check that sentence-transformers is installed, without importing it.

    Raises:
        MissingExtraError: If it is not.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtraError(
            "setfit needs the package sentence-transformers, which is not installed. "
            "Run: pip install 'tunesmith[setfit]', or take setfit out of candidates."
        )


def _loss(model: Any, texts: Sequence[str], pairs: Sequence[Pair]) -> tuple[Any, int]:
    """Squared error of each pair's cosine similarity, shape (pairs,), by ``CosineSimilarityLoss``; tokens read."""
    import torch
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    prefix = model.prompts.get(model.default_prompt_name or "", "")
    sides = []
    for column in ([pair.left for pair in pairs], [pair.right for pair in pairs]):
        features = model.preprocess([prefix + texts[i] for i in column])
        sides.append({k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()})
    wanted = torch.tensor([pair.similarity for pair in pairs], device=model.device)
    loss = CosineSimilarityLoss(model, loss_fct=torch.nn.MSELoss(reduction="none"))
    tokens = sum(int(side["attention_mask"].sum()) for side in sides)
    return loss(sides, wanted), tokens


def _pair_losses(model: Any, texts: Sequence[str], pairs: Sequence[Pair]) -> np.ndarray:
    """The losses of pairs without dropout, shape (pairs,), float64."""
    import torch

    model.eval()
    with torch.no_grad():
        parts = [_loss(model, texts, pairs[i : i + BATCH])[0].double().cpu() for i in range(0, len(pairs), BATCH)]
    found: np.ndarray = torch.cat(parts).numpy()
    return found


def _encoders(config: Config) -> list[str]:
    """Those that are named, but for the run's model; else the default."""
    return [name for name in config.encoder if name != OWN] or list(DEFAULT)


def _ids(config: Config, model: str, architecture: str) -> list[str]:
    """One candidate for each encoder that is named, for texts with one label each."""
    if config.task.kind != "classification" or architecture == "image-encoder":
        return []
    return [f"setfit/{model_id(name)}" for name in _encoders(config)]


SETFIT = Family(
    name="setfit",
    ids=_ids,
    baseline=False,
    reason="an encoder tuned on pairs of texts: often the best there is for few labels",
    build=SetFit,
)
