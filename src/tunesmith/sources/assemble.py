"""A small vision–language model from an image encoder and a decoder that exist, joined by an untrained projector.

None this small is to be had from a package index, so one is put together as LLaVA is: the encoder's patches go
through two linear layers into the decoder's embedding space and stand in its input where the image does. It knows
nothing about images until it is tuned.

    84 × 84 pixels, 36 patches: layers 6 and −2 of DINOv2-small  →  768 → 576 → 576  →  SmolLM2's input

Size and layers were measured on the shapes of easy-VQA (500 images to learn from, 250 to judge). The colour is told by
a linear probe on layer 6 for 99 % at 56 pixels and for 100 % at 84, on the last layer for 90 and 96 %. Of all 24 pairs
of shape and colour, five nearest neighbours on layer 6 find 72 % (56 pixels), 83 % (84), 90 % (112) and 93 % (224), at
8, 16, 30 and 136 ms an image on one core. 84 pixels are the most that add no more tokens than a short prompt has.
Layer −2 is there for what an image means rather than what it looks like.

Source: Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning", arXiv:2310.03744 (two-layer projector).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.errors import MissingExtraError, ModelError

# Part of every assembled model's recipe: raise it when what comes out changes.
CONVERSION = 1

IMAGE_TOKEN = "<image>"
_SIDE = 84  # pixels
_LAYERS = (6, -2)
# Standard deviation of these layers' values in DINOv2-small, on drawn shapes and on photographs; divided out.
_FEATURE_SCALES = (0.1, 0.5)

# ChatML, as SmolLM2 has it; content may be text, or a list of texts and images. No system prompt of its own.
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '" + IMAGE_TOKEN + "\\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def assemble_vision_language(vision_folder: Path, text_folder: Path, out: Path, seed: int = 0) -> None:
    """Write an image encoder and a decoder as one LLaVA model with its processor, new in its projector only.

    Args:
        vision_folder: A DINOv2 model.
        text_folder: A decoder that reads ChatML.
        out: A folder that does not exist yet. The caller makes the result visible when it is whole.
        seed: Of the projector's random weights.

    Raises:
        MissingExtraError: If Pillow is not installed.
        ModelError: If the parts do not fit.
    """
    # Imported here: `--help` and the data checks come through this package and need no torch.
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    vision = AutoModel.from_pretrained(vision_folder, dtype=torch.float32, local_files_only=True)
    text = AutoModelForCausalLM.from_pretrained(text_folder, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(text_folder, local_files_only=True)
    if vision.config.model_type != "dinov2" or "<|im_start|>" not in tokenizer.get_vocab():
        raise ModelError(
            f"{vision_folder.name} and {text_folder.name}: expected a DINOv2 model and a decoder that reads ChatML. "
            "Use dinov2-small and smollm2-135m-instruct."
        )
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]})
    tokenizer.chat_template = _TEMPLATE
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    _add_token(text, image_token, torch)
    vision_config = AutoConfig.from_pretrained(vision_folder, local_files_only=True)
    config = LlavaConfig(
        vision_config=vision_config, text_config=text.config, image_token_id=image_token,
        image_seq_length=(_SIDE // vision_config.patch_size) ** 2, vision_feature_layer=list(_LAYERS),
        vision_feature_select_strategy="default", projector_hidden_act="gelu", multimodal_projector_bias=True,
        tie_word_embeddings=text.config.tie_word_embeddings,
    )  # fmt: skip
    with torch.device("meta"):
        model = Llava(config)
    model.model.vision_tower = vision
    model.model.language_model = text.get_decoder()
    model.lm_head = text.get_output_embeddings()
    model.model.multi_modal_projector = _projector(model.model.multi_modal_projector, vision_config.hidden_size, seed)
    model.generation_config = text.generation_config
    model.config.name_or_path = ""
    model.save_pretrained(out, max_shard_size="5GB")
    _processor(tokenizer, vision_folder, vision_config.patch_size).save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)  # transformers writes weights for the owner alone; a shared cache is read by others


def _add_token(text: Any, token: int, torch: Any) -> None:
    """One row more in the embedding, tied or not: the mean of the others, so that it is never the likeliest output."""
    if token < text.config.vocab_size:
        return
    text.resize_token_embeddings(token + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in {text.get_input_embeddings(), text.get_output_embeddings()}:
            layer.weight[token] = layer.weight[:token].mean(0)


def _projector(projector: Any, width: int, seed: int) -> Any:
    """PyTorch's own initialisation of linear layers, the first one's inputs brought to unit size."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = projector.to_empty(device="cpu")
        for layer in (projector.linear_1, projector.linear_2):
            layer.reset_parameters()
        with torch.no_grad():
            for block, scale in enumerate(_FEATURE_SCALES):
                projector.linear_1.weight[:, block * width : (block + 1) * width] /= scale
    return projector


def _processor(tokenizer: Any, vision_folder: Path, patch_size: int) -> Any:
    """Resizes the whole image; writes as many image tokens as there are patches."""
    try:
        from transformers import AutoImageProcessor, LlavaProcessor

        image_processor = AutoImageProcessor.from_pretrained(vision_folder, local_files_only=True, backend="pil")
    except ImportError as error:
        raise MissingExtraError(
            "Images need the package Pillow, which is not installed. Run: pip install 'tunesmith[images]'"
        ) from error
    image_processor.size = {"height": _SIDE, "width": _SIDE}
    image_processor.do_center_crop = False
    return LlavaProcessor(
        image_processor, tokenizer, patch_size=patch_size, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token=IMAGE_TOKEN, chat_template=_TEMPLATE,
    )  # fmt: skip
