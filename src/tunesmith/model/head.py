"""A linear head on pooled features of a backbone: how encoders are used, and decoders that answer by a head.

An encoder's features are the mean over its tokens, a decoder's the hidden state of the last token (end of sequence),
an image encoder's what ``model.vision`` makes of the patches. Features are brought to mean 0 and spread 1 by the
training examples' own, so that one learning rate fits every backbone; so are the numbers of a regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from tunesmith.errors import DataError, ModelError
from tunesmith.model.architecture import architecture
from tunesmith.model.attention import Segment, build_pack
from tunesmith.model.embed import load_backbone
from tunesmith.model.forward import hidden_states
from tunesmith.model.load import HEAD_FILE, LanguageModel, load_causal
from tunesmith.records import Example
from tunesmith.sources import ModelFolder

BATCH_TOKENS = 2048  # padded tokens computed at once when predicting
IMAGE_TOKENS = 257  # what an image counts as: the patches of 14 × 14 pixels and one more, of 224 × 224
HEAD_SPREAD = 0.02  # of a new head's weights, as transformers has it

Input = list[int] | str  # token ids, or an image's path
Pooling = Literal["mean", "last", "image"]


class HeadModel(torch.nn.Module):
    """A backbone and a linear head on its pooled features.

    Args:
        backbone: A transformers model without head.
        width: Size of the features.
        outputs: Numbers that the head gives.
        pooling: Mean over tokens, hidden state of the last token, or an image's features.
        packed: Whether the backbone's attention runs over a layout (decoders only).
        processor: What opens images; None for text.
    """

    feature_shift: torch.Tensor
    feature_scale: torch.Tensor
    target_shift: torch.Tensor
    target_scale: torch.Tensor

    def __init__(
        self, backbone: Any, width: int, outputs: int, pooling: Pooling, packed: bool = False, processor: Any = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = torch.nn.Linear(width, outputs)
        torch.nn.init.normal_(self.head.weight, std=HEAD_SPREAD)
        torch.nn.init.zeros_(self.head.bias)
        self.pooling, self.packed, self.processor = pooling, packed, processor
        for name, size in (("feature", width), ("target", outputs)):
            self.register_buffer(f"{name}_shift", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    @property
    def config(self) -> Any:
        """The backbone's."""
        return self.backbone.config

    def forward(self, inputs: Sequence[Input]) -> torch.Tensor:
        """Outputs in standard units, shape (n, outputs), float32."""
        return self.from_features(self.features(inputs))

    def from_features(self, features: torch.Tensor) -> torch.Tensor:
        """The head alone, on features as the backbone gives them."""
        found: torch.Tensor = self.head((features - self.feature_shift) / self.feature_scale)
        return found

    def answers(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs in the targets' own units: logits as they are, numbers as the data has them."""
        return outputs * self.target_scale + self.target_shift

    def features(self, inputs: Sequence[Input]) -> torch.Tensor:
        """Pooled features, shape (n, width), float32; differentiable in the backbone."""
        device = self.head.weight.device
        if self.pooling == "image":
            from tunesmith.model.vision import image_features

            return image_features(self.backbone, self.processor, [str(path) for path in inputs]).float()
        tokens = [ids for ids in inputs if not isinstance(ids, str)]
        if self.pooling == "last":
            pack = build_pack([], [[Segment(row)] for row in tokens], device)
            hidden = hidden_states(self.backbone, pack, self.packed)
            return hidden[[start[0] + len(row) - 1 for start, row in zip(pack.starts, tokens, strict=True)]].float()
        longest = max(len(ids) for ids in tokens)
        pad = getattr(self.config, "pad_token_id", None) or 0
        rows = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in tokens], device=device)
        lengths = torch.tensor([len(ids) for ids in tokens], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        hidden = self.backbone(input_ids=rows, attention_mask=mask).last_hidden_state.float()
        return (hidden * mask[..., None]).sum(1) / lengths[:, None]


def load_head_model(folder: ModelFolder, origin: dict[str, Any], outputs: int, four_bit: bool = False) -> LanguageModel:
    """Load a backbone from a folder that was checked, with the head saved beside it, else a new one.

    A new head is drawn by torch's generator, which the caller seeds. Frozen, in evaluation mode; a decoder's weights
    in 4 bits where ``four_bit``.

    Raises:
        ModelError: If the folder holds no model that can have a head, or a head of another size.
    """
    kind = architecture(folder)
    pooling: Pooling
    if kind == "decoder":
        lm = load_causal(folder, origin, four_bit=True) if four_bit else load_causal(folder, origin)
        backbone, pooling, packed, tokenizer = lm.model.base_model, "last", lm.packed, lm.tokenizer
        width = backbone.config.get_text_config().hidden_size
    elif kind == "encoder":
        backbone, tokenizer = load_backbone(folder)
        backbone.pooler = None  # of the first token; the mean takes its place
        pooling, packed, width = "mean", False, backbone.config.hidden_size
    elif kind == "image-encoder":
        from tunesmith.model.vision import feature_width, load_image_encoder

        backbone, tokenizer = load_image_encoder(folder)
        pooling, packed, width = "image", False, feature_width(backbone)
    else:
        raise ModelError(
            f"{folder.name}: a head needs a decoder, a text encoder or an image encoder; this is of kind {kind}. "
            "Choose another model."
        )
    device = next(backbone.parameters()).device
    model = HeadModel(backbone, width, outputs, pooling, packed, tokenizer if pooling == "image" else None)
    if (folder.path / HEAD_FILE).is_file():
        load_head_weights(model, folder.path)
    model.to(device).eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, folder, packed, device, origin, "head")


def save_head_model(model: HeadModel, folder: Path) -> None:
    """Write backbone and head, as :func:`load_head_model` reads them."""
    model.backbone.save_pretrained(folder)
    save_head_weights(model, folder)


def save_head_weights(model: HeadModel, folder: Path) -> None:
    """Write the head alone: weight, bias, and what features and targets are standardised by."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in _head_state(model).items()}, folder / HEAD_FILE
    )


def load_head_weights(model: HeadModel, folder: Path) -> None:
    """Put the head that was saved in ``folder`` into the model.

    Raises:
        ModelError: If it is missing, damaged, or of another size.
    """
    file = folder / HEAD_FILE
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file}: the head cannot be read ({error}). Train again, or copy the whole folder."
        ) from error
    expected = _head_state(model)
    wrong = [
        f"{name} is {tuple(found[name].shape) if name in found else 'missing'}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name not in found or found[name].shape != value.shape
    ]
    if wrong:
        raise ModelError(f"{file}: not the head of this model: {'; '.join(wrong)}. Copy the whole folder again.")
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(found[name])


def _head_state(model: HeadModel) -> dict[str, torch.Tensor]:
    return {"weight": model.head.weight, "bias": model.head.bias, **dict(model.named_buffers(recurse=False))}


# ── what it reads ────────────────────────────────────────────────────────────────────────────────────────
def head_inputs(tokenizer: Any, examples: Sequence[Example]) -> list[Input]:
    """What the backbone reads of each example: its text's tokens, or its image's path.

    A text's tokens have the special ones that the tokenizer puts round them, and end with end of sequence where the
    tokenizer has one: a decoder's features are read off there.

    Raises:
        DataError: If the model reads text and examples have images, or the other way round.
    """
    reads_text = isinstance(tokenizer, PreTrainedTokenizerBase)
    unfit = [e.source for e in examples if (e.image is None) != reads_text]
    if unfit:
        held, reads, fix = ("images", "text", "dinov2-small") if reads_text else ("no image", "images", "minilm-l6")
        raise DataError(
            f"{len(unfit):,} examples have {held} ({', '.join(unfit[:3])} …), but the model reads {reads}. "
            f"Choose another model, such as {fix}."
        )
    if not reads_text:
        return [str(example.image) for example in examples]
    if not examples:
        return []
    rows = tokenizer([example.text or "" for example in examples], truncation=False, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    return [list(ids) if end is None or ids[-1:] == [end] else [*ids, end] for ids in rows]


def input_tokens(read: Input) -> int:
    """Tokens that an input counts as."""
    return IMAGE_TOKENS if isinstance(read, str) else len(read)


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in order of length, cut so that each batch has at most ``budget`` tokens when padded."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[index] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def compute_features(model: HeadModel, inputs: Sequence[Input], budget: int = BATCH_TOKENS) -> torch.Tensor:
    """Features of inputs in evaluation mode, without gradient, shape (n, width), float32, on the model's device."""
    found = torch.zeros(len(inputs), model.head.in_features, device=model.head.weight.device)
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in length_batches([input_tokens(read) for read in inputs], budget):
            found[batch] = model.features([inputs[i] for i in batch])
    model.train(training)
    return found


def head_outputs(
    lm: LanguageModel, examples: Sequence[Example], progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, list[int]]:
    """What the head says of examples, and how many tokens each was read as.

    Returns:
        Logits of the labels, or numbers in the targets' units, shape (n, outputs), float64; tokens, length n.
    """
    inputs = head_inputs(lm.tokenizer, examples)
    tokens = [input_tokens(read) for read in inputs]
    found = np.zeros((len(inputs), lm.model.head.out_features))
    lm.model.eval()
    with torch.no_grad():
        for batch in length_batches(tokens, BATCH_TOKENS):
            answers = lm.model.answers(lm.model([inputs[i] for i in batch]))
            found[batch] = answers.double().cpu().numpy()
            if progress is not None:
                progress(len(batch))
    return found, tokens
