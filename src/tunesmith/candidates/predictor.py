"""A predictor on a frozen model's vectors: what gives the vectors, and how it is kept to be used after the run.

candidates/<id>/
├── predictor.json         task, labels, layout of data, encoder and its fingerprint, pooling, kind of predictor
└── predictor.safetensors  weights and bias, or vectors, targets; mean and spread of a decoder's features
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tunesmith.candidates.candidate import Context
from tunesmith.config import FORMAT_VERSION
from tunesmith.config import Task as TaskSettings
from tunesmith.errors import ConfigError, ModelError, RunError
from tunesmith.measures.linear import LinearFit
from tunesmith.measures.neighbours import NeighboursFit
from tunesmith.records import Example, Prediction
from tunesmith.run import PREDICTOR, disk_error, read_json, write_bytes, write_json
from tunesmith.tasks import build_task

if TYPE_CHECKING:
    from tunesmith.tasks.task import HeadTask

IMAGES = 16  # computed at once
WEIGHTS = "predictor.safetensors"

Progress = Callable[[int], None]
Embed = Callable[[Sequence[Example], Progress], tuple[dict[str, np.ndarray], int]]  # by pooling, and texts cut
Scale = tuple[np.ndarray, np.ndarray]


def load_vectors(name: str, images: bool) -> Embed:
    """What gives a model's vectors: of length 1, but for a decoder, whose features are as it gives them.

    Raises:
        ConfigError: If the model is of a kind that gives none.
        NotFoundError, SourceError, ModelError: If it is not to be had.
    """
    from tunesmith.model.architecture import architecture
    from tunesmith.model.embed import embed, hidden_features, load_encoder
    from tunesmith.model.load import load_model
    from tunesmith.sources import resolve_model

    folder = resolve_model(name)
    kind = architecture(folder)
    if kind not in (("image-encoder",) if images else ("encoder", "decoder")):
        wanted, fix = ("an image encoder", "dinov2-small") if images else ("an encoder or a decoder", "minilm-l6")
        raise ConfigError(f"encoder: {folder.name} is of kind {kind}, expected {wanted}. Try {fix}.")
    if images:
        from tunesmith.model.vision import image_features, load_image_encoder

        seer = load_image_encoder(folder)

        def of_images(examples: Sequence[Example], progress: Progress) -> tuple[dict[str, np.ndarray], int]:
            import torch

            paths = [str(example.image) for example in examples]
            parts = []
            for start in range(0, len(paths), IMAGES):
                with torch.no_grad():
                    parts.append(image_features(*seer, paths[start : start + IMAGES]).float().cpu().numpy())
                progress(len(parts[-1]))
            rows = np.concatenate(parts)
            lengths: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
            return {"image": rows / np.maximum(lengths, 1e-12)}, 0

        return of_images
    if kind == "decoder":
        lm = load_model(name)
        return lambda examples, progress: hidden_features(lm, [e.text or "" for e in examples], progress)
    encoder = load_encoder(folder)

    def of_texts(examples: Sequence[Example], progress: Progress) -> tuple[dict[str, np.ndarray], int]:
        vectors, cut = embed(encoder, [example.text or "" for example in examples], progress)
        return {encoder.pooling: vectors}, cut

    return of_texts


def scaled(features: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Features brought to the mean and spread of the training texts', where that was done."""
    return features if scale is None else (features - scale[0]) / scale[1]


@dataclass(slots=True)
class SavedPredictor:
    """A predictor that a run kept, with its encoder loaded.

    ``origin`` is what predictor.json says; ``name`` its candidate's; ``texts_cut`` counts those that were longer than
    the encoder reads.
    """

    folder: Path
    origin: dict[str, Any]
    task: HeadTask
    fitted: LinearFit | NeighboursFit
    scale: Scale | None
    embed: Embed
    texts_cut: int = 0

    @property
    def name(self) -> str:
        """The candidate's id."""
        return str(self.origin["candidate"])

    def predict(self, examples: Sequence[Example], progress: Progress = lambda n: None) -> list[Prediction]:
        """Answers to examples, as the run's own on its test examples."""
        started = time.monotonic()
        vectors, cut = self.embed(examples, progress)
        self.texts_cut += cut
        outputs = self.fitted.outputs(scaled(vectors[self.origin["pooling"]], self.scale))
        seconds = time.monotonic() - started
        return self.task.from_outputs(examples, outputs, self.name, seconds, [0] * len(examples))


def save_predictor(
    folder: Path,
    candidate: str,
    context: Context,
    shown: Example,
    fitted: LinearFit | NeighboursFit,
    encoder: str,
    pooling: str,
    scale: Scale | None = None,
) -> None:
    """Keep a fitted predictor in its candidate's folder; the same predictor gives the same bytes.

    Args:
        folder: The candidate's.
        candidate: Its id.
        context: Its task and the layout of its data.
        shown: One of the examples that it was fitted on.
        fitted: What was fitted.
        encoder: What gives its vectors: a catalog name, a path, ``hf:owner/name``, or a folder within ``folder``.
        pooling: Which of the encoder's vectors it takes.
        scale: Mean and spread that the vectors are brought to.

    Raises:
        RunError: If the disk does not take it.
    """
    from safetensors.numpy import save

    from tunesmith.sources import resolve_model

    inside = (folder / encoder).is_dir()
    model = resolve_model(str(folder / encoder) if inside else encoder)
    is_path = not inside and model.entry is None and Path(encoder).expanduser().exists()
    linear = isinstance(fitted, LinearFit)
    names = ("weights", "bias") if linear else ("vectors", "targets")
    arrays = {name: getattr(fitted, name) for name in names}
    if scale is not None:
        arrays |= {"mean": scale[0], "spread": scale[1]}
    write_bytes(folder / WEIGHTS, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    write_json(folder / PREDICTOR, {
        "format_version": FORMAT_VERSION, **context.origin(candidate, shown),
        "encoder": str(model.path.resolve()) if is_path else encoder, "fingerprint": model.fingerprint,
        "pooling": pooling, "images": shown.image is not None, "kind": "linear" if linear else "neighbours",
        **({} if isinstance(fitted, LinearFit) else {"k": fitted.k}),
    })  # fmt: skip


def load_predictor(folder: Path) -> SavedPredictor:
    """A predictor from its candidate's folder, and its encoder.

    Raises:
        NotFoundError, SourceError: If there is none, or its encoder is not to be had.
        RunError: If it is damaged, or of another format.
        ModelError: If the encoder is no longer the one that the predictor was fitted on.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    origin: dict[str, Any] = read_json(folder / PREDICTOR)
    version = origin.get("format_version")
    if version != FORMAT_VERSION:
        raise RunError(f"{folder}: written in format {version}; this version reads format {FORMAT_VERSION}.")
    try:
        settings: TaskSettings = TypeAdapter(TaskSettings).validate_python(origin["task"])
        task = cast("HeadTask", build_task(settings, origin["labels"], origin["instruction"]))
        arrays = load_file(folder / WEIGHTS)
        fitted = _fitted(origin, arrays, task)
        scale = (arrays["mean"], arrays["spread"]) if "mean" in arrays else None
    except (KeyError, ValidationError, SafetensorError) as error:
        raise RunError(f"{folder}: its predictor is damaged ({str(error).splitlines()[0]}). Run again.") from error
    except OSError as error:
        raise disk_error(error, folder / WEIGHTS) from error
    return SavedPredictor(folder, origin, task, fitted, scale, _own_vectors(folder, origin))


def _own_vectors(folder: Path, origin: Mapping[str, Any]) -> Embed:
    from tunesmith.sources import resolve_model

    encoder = str(origin["encoder"])
    if (folder / encoder).is_dir():  # setfit's own, beside it
        encoder = str(folder / encoder)
    model = resolve_model(encoder)
    if model.fingerprint != origin["fingerprint"]:
        raise ModelError(
            f"{folder}: fitted on vectors of {encoder} with fingerprint {origin['fingerprint']}, which has "
            f"{model.fingerprint} now. Use the same version of it, or run again."
        )
    return load_vectors(encoder, origin["images"])


def _fitted(origin: Mapping[str, Any], arrays: Mapping[str, np.ndarray], task: HeadTask) -> LinearFit | NeighboursFit:
    if origin["kind"] == "linear":
        return LinearFit(arrays["weights"], arrays["bias"], 0.0, ())
    return NeighboursFit(arrays["vectors"], arrays["targets"], origin["k"], task.head_loss, task.outputs, ())
