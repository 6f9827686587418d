"""Random encoder–decoders of three families, each with the tokenizer of tiny_llama: built when a test asks for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

FAMILIES = ("t5", "t5-unscaled", "bart", "marian")


def build_seq2seq(family: str, folder: Path) -> Path:
    """Write a model of the family into ``folder``, which is made."""
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parent / "tiny_llama", local_files_only=True)
    tokenizer.chat_template = None
    if family.startswith("t5"):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    model = _model(family, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("bias"):  # BART's and Marian's bias of logits too, which is zero when they are built
                value.copy_(0.1 * torch.randn(value.shape))
            if name == "final_logits_bias":
                value[0, tokenizer.eos_token_id] -= 2  # or a random BART says nothing at all
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _model(family: str, size: int, pad: int, end: int) -> Any:
    torch.manual_seed(0)
    if family.startswith("t5"):
        config = T5Config(
            vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0,
            pad_token_id=pad, eos_token_id=end, decoder_start_token_id=pad, initializer_factor=1.0,
            tie_word_embeddings=family == "t5", feed_forward_proj="relu" if family == "t5" else "gated-gelu",
        )  # fmt: skip
        return T5ForConditionalGeneration(config)
    shape: dict[str, Any] = {
        "vocab_size": size, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "dropout": 0.0,
        "max_position_embeddings": 512, "pad_token_id": pad, "eos_token_id": end, "forced_eos_token_id": end,
        "init_std": 0.1, "num_beams": 1,
    }  # fmt: skip
    if family == "bart":
        return BartForConditionalGeneration(BartConfig(**shape, bos_token_id=end, decoder_start_token_id=end))
    return MarianMTModel(MarianConfig(**shape, decoder_start_token_id=pad))
