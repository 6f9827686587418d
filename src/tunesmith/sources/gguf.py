"""GGUF files: unpacked once into a model folder with safetensors, and put right where that goes wrong.

transformers reads the file; its weights come out in fp32. Two things a GGUF file says are not taken over by
transformers (5.23) and are put right here; see ``_restore_digit_split`` and ``_save``.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError

# Part of every converted model's recipe: raise it when a correction changes what comes out.
CONVERSION = 1

# ``tokenizer.ggml.pre`` names the expression that cuts text before the merges. These cut every digit off
# by itself, then as GPT-2 does (llama.cpp, src/llama-vocab.cpp); transformers only does the second.
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
# These cut as GPT-2 does, which is what transformers falls back to.
_AS_GPT2 = ("gpt-2", "mpt", "olmo")


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF model as safetensors, config, generation config, tokenizer and chat template.

    Args:
        file: The GGUF file.
        folder: A folder that does not exist yet. The caller makes the result visible when it is whole.

    Raises:
        ModelError: If the file is damaged, of a kind that transformers cannot read, holds values that are not
            finite, or a tokenizer that would be converted wrongly.
    """
    check_header(file)
    # Imported here: `--help` and the data checks come through this package and need no torch.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),  # left in blocks it could not be saved
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
    except (
        ValueError,
        KeyError,
        IndexError,
        OSError,
        RuntimeError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise ModelError(
            f"{file.name}: transformers cannot read this GGUF file ({' '.join(str(error).split())[:300]}). "
            "Use the model's original weights, such as hf:owner/name."
        ) from error
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    wrong = sorted(set(report["missing_keys"]) - tied) + sorted(report["unexpected_keys"])
    wrong += [str(key) for key in report["mismatched_keys"]]
    wrong += [f"{name} (not finite)" for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if wrong:
        raise ModelError(f"{file.name}: {len(wrong)} weights are missing, left over or broken: {', '.join(wrong[:5])}.")
    _restore_digit_split(tokenizer, file)
    _save(model, tokenizer, folder)


def check_header(file: Path) -> None:
    """Refuse a file that does not start as a GGUF file, or claims to hold what its size rules out."""
    with file.open("rb") as stream:
        head = stream.read(24)
    if len(head) < 24 or head[:4] != b"GGUF":
        raise ModelError(f"{file}: not a GGUF file. Give a GGUF file, or a folder with safetensors.")
    version, tensors, values = struct.unpack("<IQQ", head[4:])
    # Each tensor and each value takes at least 24 and 13 bytes of header.
    if version not in (2, 3) or tensors * 24 + values * 13 > file.stat().st_size:
        raise ModelError(f"{file}: a damaged GGUF file, or of version {version}; versions 2 and 3 are read.")


def _restore_digit_split(tokenizer: Any, file: Path) -> None:
    """Cut digits off one by one where the vocabulary was learned so; two spaces before a digit show it.

    transformers silently cuts as GPT-2 does when it does not know ``tokenizer.ggml.pre``; a vocabulary
    learned with another cut would then be used wrongly, so such a file is refused.
    """
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    fell_back = isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) and backend.pre_tokenizer.use_regex
    if not fell_back:
        return
    cut = _text_field(file, "tokenizer.ggml.pre")
    if cut in _SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif cut not in _AS_GPT2:
        raise ModelError(
            f"{file.name}: its tokenizer cuts text by the rule '{cut}', which would be converted wrongly. "
            "Use the model's original folder, such as hf:owner/name."
        )


def _text_field(file: Path, name: str) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(file).fields.get(name)
    return None if field is None else str(field.contents())


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    # The GGUF tokenizer carries no length limit; the model's own is what every reader of the folder expects.
    tokenizer.model_max_length = model.config.max_position_embeddings
    # Where the file came from on this machine is nobody's business.
    for key in ("is_local", "local_files_only", "name_or_path", "gguf_file"):
        tokenizer.init_kwargs.pop(key, None)
    model.config.name_or_path = ""
    model.save_pretrained(folder, max_shard_size="5GB")
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # transformers writes weights for the owner alone; a shared cache is read by others
