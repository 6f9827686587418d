"""What kind of model a folder holds, from its config.json alone."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.sources import ModelFolder
from tunesmith.sources.catalog import Architecture


def architecture(folder: ModelFolder) -> Architecture:
    """``decoder``, ``encoder``, ``encoder-decoder``, ``vision-language`` or ``image-encoder``.

    Told by the model type and transformers' own tables of which types can do what; loads no weights. A type that is
    in several tables is what its config says it was built as: a BERT is an encoder unless it has ``is_decoder``.

    Raises:
        ModelError: If config.json is missing, is not JSON, or is of a type that is none of these.
    """
    file = folder.path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: does not say what model it is of ('model_type'). Get the model anew.") from error
    found = _architecture(config, model_type)
    if found is None:
        raise ModelError(
            f"{folder.name}: models of type '{model_type}' are not supported. Choose a language model (such as llama, "
            "qwen3, gemma3_text), a text encoder (bert), an encoder–decoder (t5, bart, marian), an image encoder (vit, "
            "dinov2) or a vision–language model (llava, smolvlm); 'tunesmith models list' shows some."
        )
    return found


def _architecture(config: dict[str, Any], model_type: str) -> Architecture | None:
    # Imported here: reading a project file and checking data come without torch.
    from transformers.models.auto import modeling_auto as tables

    if "vision_config" in config:  # before the others: a few of these types also stand among the decoders
        return "vision-language" if model_type in tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES else None
    if model_type in tables.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and "audio_config" not in config:
        # BART and its like can be built without their encoder
        return "encoder-decoder" if config.get("is_encoder_decoder", True) else "decoder"
    if model_type in tables.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES and "text_config" not in config:
        return "image-encoder"
    if config.get("is_encoder_decoder"):
        return None  # speech, whose decoder alone stands among the decoders
    causal = model_type in tables.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if model_type in tables.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (causal and config.get("is_decoder")):
        return "encoder"
    return "decoder" if causal else None
