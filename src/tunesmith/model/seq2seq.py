"""Encoder–decoder models: source and target as tokens, the loss of targets, greedy decoding.

Pairs of like length are computed together, padded and masked; logits exist at the targets' tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tunesmith.errors import DataError, ModelError
from tunesmith.hardware import detect
from tunesmith.model.forward import summed_loss, token_losses
from tunesmith.model.generate import BATCH_TOKENS, Generated, end_tokens
from tunesmith.model.load import LanguageModel
from tunesmith.records import Message
from tunesmith.sources import ModelFolder

SENTINEL = "<extra_id_0>"  # in T5's vocabulary and those made after it: models that are told their task in the text
TOLD_LANGUAGES = ("mbart", "m2m_100", "nllb-moe", "plbart", "seamless_m4t", "seamless_m4t_v2")  # model types
IGNORED = -100  # a label that is no token, as transformers' shifts of labels expect it
SCORED_TOKENS = 4096  # computed at once where nothing is trained


@dataclass(frozen=True, slots=True)
class Pair:
    """One example: what the encoder reads and what the decoder writes, both with the tokens that end them."""

    source: list[int]
    target: list[int]
    example_id: str = ""

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return len(self.source) + len(self.target)

    @property
    def units(self) -> int:
        """Tokens that are learned: all of the target."""
        return len(self.target)


def load_seq2seq(folder: ModelFolder, origin: dict[str, Any]) -> LanguageModel:
    """Load an encoder–decoder from a folder that was checked, frozen and in evaluation mode.

    Raises:
        ModelError: If it cannot be read, computes its loss in a way that ours does not, or wants to be told languages.
    """
    hardware = detect()
    dtype = torch.bfloat16 if hardware.dtype == "bfloat16" else torch.float32
    device = torch.device("cuda" if hardware.accelerators else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
        model = AutoModelForSeq2SeqLM.from_pretrained(
            folder.path, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder.name}: cannot be loaded as an encoder–decoder model: {first}") from error
    if model.config.model_type in TOLD_LANGUAGES:
        raise ModelError(
            f"{folder.name}: models of type '{model.config.model_type}' must be told both languages by codes of their "
            "own, for which there is no setting. Choose T5, BART or Marian, or a decoder."
        )
    model.to(device).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    check_loss(model)
    return LanguageModel(model, tokenizer, folder, False, device, origin, "seq2seq")


def check_loss(model: Any) -> None:
    """Compare our loss with the model's own, to 1e-4 of it (float32) or 5e-2.

    Raises:
        ModelError: If they differ, or the model has no loss that is finite.
    """
    size = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, size, (2, 7), generator=generator).tolist()
    pair = Pair(ids[0], ids[1][:5])
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            own = model(
                input_ids=torch.tensor([pair.source], device=device), labels=torch.tensor([pair.target], device=device)
            ).loss.item()
        ours = target_losses(model, [pair])[0].item() / pair.units
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ModelError(_unsupported(model, f": {error}")) from error
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 5e-2
    if not abs(own - ours) <= tolerance * max(1.0, abs(own)):
        raise ModelError(_unsupported(model, f" (loss {own:.6g}, ours {ours:.6g})"))


def _unsupported(model: Any, why: str) -> str:
    return (
        f"encoder–decoders of type '{model.config.model_type}' compute their loss in a way that is not supported{why}. "
        "Choose another, such as T5, BART or Marian."
    )


# ── text and tokens ──────────────────────────────────────────────────────────────────────────────────────
def encode_pair(tokenizer: Any, messages: Sequence[Message], example_id: str = "") -> Pair:
    """One text and its answer as tokens.

    ``messages`` are the text (user) and the answer (assistant), before them perhaps an instruction (system). The
    instruction and a blank go before the text where the vocabulary has T5's sentinels; models of other families
    were not taught to read one, and see the text alone.

    Raises:
        DataError: If the conversation has more turns, or its text holds a control token of the model.
    """
    turns = [message for message in messages if message.role != "system"]
    if [turn.role for turn in turns] != ["user", "assistant"]:
        roles = ", ".join(message.role for message in messages)
        raise DataError(
            f"a conversation of {roles}; an encoder–decoder takes one user text and gives one answer. "
            "Use a model that is a decoder, or leave it out."
        )
    text, answer = turns[0].content, turns[1].content
    instruction = " ".join(message.content for message in messages if message.role == "system")
    if instruction and SENTINEL in tokenizer.get_vocab():
        text = f"{instruction} {text}"
    for part in (text, answer):
        special = [token for token in tokenizer.all_special_tokens if token.strip() and token != tokenizer.unk_token]
        if held := [token for token in special if token in part]:
            raise DataError(
                f"the text holds {held[0]!r}, which the model reads as a control token. Remove it, or write it "
                "another way."
            )
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError("The tokenizer has no end-of-sequence token, so an answer's end cannot be learned.")
    target = list(tokenizer(text_target=answer).input_ids)
    if target[-1:] != [end]:
        target.append(end)
    return Pair(list(tokenizer(text).input_ids), target, example_id)


# ── hidden states and losses ─────────────────────────────────────────────────────────────────────────────
def batches(pairs: Sequence[Pair], token_budget: int) -> Iterator[list[int]]:
    """Indices of pairs of like length, in groups of about ``token_budget`` tokens with their padding."""
    group: list[int] = []
    source = target = 0
    for index in sorted(range(len(pairs)), key=lambda i: (len(pairs[i].source), len(pairs[i].target), i)):
        source, target = max(source, len(pairs[index].source)), max(target, len(pairs[index].target))
        if group and (source + target) * (len(group) + 1) > token_budget:
            yield group
            group, source, target = [], len(pairs[index].source), len(pairs[index].target)
        group.append(index)
    if group:
        yield group


def target_states(model: Any, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head makes logits of: the decoder's states before each target token, and those tokens.

    Shapes (n, hidden) and (n,); the pairs follow one another.
    """
    device = next(model.parameters()).device
    source, mask = _padded([pair.source for pair in pairs], model.config.pad_token_id or 0, device)
    labels, _ = _padded([pair.target for pair in pairs], IGNORED, device)
    encoded = model.get_encoder()(input_ids=source, attention_mask=mask).last_hidden_state
    decoded = model.get_decoder()(
        input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False,
    ).last_hidden_state  # fmt: skip
    learned = labels != IGNORED
    return decoded[learned] * _output_scale(model), labels[learned]


def _output_scale(model: Any) -> float:
    """T5 of the first version, and some of its descendants, scale what goes into the head."""
    if not hasattr(model, "model_dim") or model.config.model_type == "mt5":
        return 1.0
    scaled = getattr(model.config, "scale_decoder_outputs", model.config.tie_word_embeddings)
    return float(model.model_dim**-0.5) if scaled else 1.0


def _padded(rows: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens side by side, padded on the right, and where they are, both of shape (rows, longest)."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), padding, device=device)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, device=device)
        mask[index, : len(row)] = 1
    return ids, mask


def training_losses(model: Any, pairs: Sequence[Pair], scale: float, token_budget: int) -> Iterator[torch.Tensor]:
    """``scale`` times the summed loss of the targets, nats, one differentiable number for each batch."""
    for group in batches(pairs, token_budget):
        states, targets = target_states(model, [pairs[i] for i in group])
        yield summed_loss(model, states, targets, torch.full((len(targets),), scale, device=states.device))


def target_losses(model: Any, pairs: Sequence[Pair], token_budget: int = SCORED_TOKENS) -> torch.Tensor:
    """Negative log-likelihood of each target, summed over its tokens, nats; shape (n,), float64, on the CPU."""
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    with torch.no_grad():
        for group in batches(pairs, token_budget):
            losses = token_losses(model, *target_states(model, [pairs[i] for i in group])).double().cpu()
            for index, part in zip(group, losses.split([pairs[i].units for i in group]), strict=True):
                sums[index] = part.sum()
    return sums


# ── decoding ─────────────────────────────────────────────────────────────────────────────────────────────
def generate_targets(
    lm: LanguageModel, pairs: Sequence[Pair], max_new_tokens: int, on_progress: Callable[[int], None] | None = None
) -> list[Generated]:
    """Answer each source greedily, until the model ends or ``max_new_tokens`` are written; in the order asked.

    The targets are not looked at. What the model's own settings say of beams is set aside, and so is an end that
    they force at the limit: an answer that was cut must be known.
    """
    results: list[Generated | None] = [None] * len(pairs)
    ends = end_tokens(lm)
    sources = [Pair(pair.source, []) for pair in pairs]
    for group in batches(sources, BATCH_TOKENS):
        ids, mask = _padded([sources[i].source for i in group], lm.model.config.pad_token_id or 0, lm.device)
        settings: dict[str, Any] = {
            "do_sample": False, "num_beams": 1, "early_stopping": False, "length_penalty": 1.0,
            "temperature": None, "top_p": None, "top_k": None, "forced_eos_token_id": None,
        }  # fmt: skip
        with torch.no_grad():
            out = lm.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, eos_token_id=ends, **settings
            )
        for index, row in zip(group, out[:, 1:].tolist(), strict=True):  # the first only starts the decoder
            stop = next((i for i, token in enumerate(row) if token in ends), None)
            written = row if stop is None else row[:stop]
            text = lm.tokenizer.decode(written, skip_special_tokens=True)
            results[index] = Generated(text, len(pairs[index].source), len(written), stop is None)
        if on_progress is not None:
            on_progress(len(group))
    return [result for result in results if result is not None]
