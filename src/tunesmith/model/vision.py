"""Images: opened safely, turned into features by an encoder, or read by a model that also reads text.

A conversation about an image is rendered by the model's own processor: its template places the image in the last
user turn, and as many image tokens are written as the model makes of the picture. That what is trained is what the
model will be asked is proved as for text (``data.render``): the tokens of the prompt are a prefix of the whole.

Batches here are padded, which every family can; ``model.image_pack`` does without where it was measured to be right.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.data.read.images import FORMATS
from tunesmith.data.render import IGNORE_INDEX, Rendered, Renderer
from tunesmith.errors import DataError, MissingExtraError, ModelError
from tunesmith.hardware import detect
from tunesmith.model.load import LanguageModel, known_parity, load_tokenizer
from tunesmith.model.safety import check_model_folder
from tunesmith.records import Message
from tunesmith.sources import ModelFolder

BATCH_TOKENS = 2048  # padded tokens computed at once, in scoring and generation

# What transformers' families call these parts: LLaVA, Gemma 3 and Mistral 3; Idefics and SmolVLM; Qwen-VL.
_EYES = ("vision_tower", "vision_model", "visual")
_CONNECTORS = ("multi_modal_projector", "connector", "merger")

Conversation = tuple[tuple[Message, ...], str]  # messages and the path of their image


def open_image(path: str | Path) -> Any:
    """The image of a file as RGB, read whole, in the formats and up to the size that data checks let pass.

    Raises:
        MissingExtraError: If Pillow is not installed.
        DataError: If there is no such file, it is no image, damaged or cut off, or claims too many pixels.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "Images need the package Pillow, which is not installed. Run: pip install 'tunesmith[images]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return image.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image. Correct the path, or leave the example out.") from error
    except Exception as error:  # a decoder may stumble over damage in any way
        said = " ".join(str(error).split())
        raise DataError(f"{path}: not an image that can be read ({said}). Save it anew, or leave it out.") from error


# ── image encoders ───────────────────────────────────────────────────────────────────────────────────────
def load_image_encoder(folder: ModelFolder) -> tuple[Any, Any]:
    """An image encoder in float32, frozen and in evaluation mode, and its image processor.

    Raises:
        ModelError: If the folder is damaged or unsafe, or holds no image encoder.
    """
    from transformers import AutoModel

    processor = load_tokenizer(folder, "image-encoder")
    try:
        model = AutoModel.from_pretrained(folder.path, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder.name}: cannot be loaded as an image encoder: {_first_line(error)}") from error
    model.to("cuda" if detect().accelerators else "cpu").eval()
    return model.requires_grad_(False), processor


def image_features(backbone: Any, processor: Any, paths: Sequence[str]) -> torch.Tensor:
    """One vector an image, shape (n, width), on the backbone's device, differentiable.

    It is the class token's last state where there is one, else the mean over patches. On the 24 pairs of shape and
    colour in easy-VQA the class token of DINOv2-small alone finds more neighbours of the same kind than with the
    patches' mean beside it (at 112 pixels 80 against 77 %).

    Raises:
        DataError: If an image cannot be read.
    """
    values = processor([open_image(path) for path in paths], return_tensors="pt")["pixel_values"]
    hidden: torch.Tensor = backbone(pixel_values=values.to(backbone.device)).last_hidden_state
    if hidden.dim() == 4:  # (n, channels, height, width): a convolutional network
        return hidden.mean(dim=(2, 3))
    if any(name.endswith("cls_token") for name, _ in backbone.named_parameters()):
        return hidden[:, 0]
    return hidden.mean(dim=1)


def feature_width(backbone: Any) -> int:
    """Size of an image's features."""
    sizes = getattr(backbone.config, "hidden_sizes", None)
    width: int = sizes[-1] if sizes else backbone.config.hidden_size
    return width


# ── models that read images and text ─────────────────────────────────────────────────────────────────────
def load_image_text(folder: ModelFolder, origin: dict[str, Any]) -> LanguageModel:
    """A vision–language model with its processor (as ``tokenizer``), frozen and in evaluation mode.

    Raises:
        ModelError: If the folder is damaged or unsafe, or holds no such model.
    """
    from transformers import AutoModelForImageTextToText

    from tunesmith.model.image_pack import measure_image_parity, set_text_attention

    check_model_folder(folder.path)
    hardware = detect()
    processor = load_tokenizer(folder, "vision-language")
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder.path, dtype=torch.bfloat16 if hardware.dtype == "bfloat16" else torch.float32,
            attn_implementation="sdpa", local_files_only=True, use_safetensors=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder.name}: cannot be loaded as a vision–language model: {_first_line(error)}") from error
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    device = torch.device("cuda" if hardware.accelerators else "cpu")
    model.to(device).eval().requires_grad_(False)
    packed = known_parity(f"image_text {folder.fingerprint}", lambda: measure_image_parity(model, processor))
    if packed:
        set_text_attention(model, "tunesmith")
    return LanguageModel(model, processor, folder, packed, device, origin, "image_text")


def image_parts(model: Any) -> tuple[list[str], list[str]]:
    """Names of a vision–language model's image encoder, and of what joins it to the text model; empty for others."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    eyes = [name for name in _EYES if name in names]
    return eyes, [name for name in _CONNECTORS if name in names] if eyes else []


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True, slots=True)
class ImageText(Rendered):
    """A rendered conversation about an image. ``text`` is what the template wrote, before tokens took its place."""

    text: str = ""
    image: str = ""


class ImageRenderer:
    """A processor with its template: conversations about an image become text, tokens and labels.

    Args:
        processor: A transformers processor with a chat template.
        max_length: Tokens that fit, those of the image included; enforced by ``data.render.render_all``.
    """

    def __init__(self, processor: Any, max_length: int) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = max_length
        self._plain = Renderer(self.tokenizer, max_length)
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        self._ends = (special | {self.tokenizer.eos_token_id}) - {None}

    def render(self, conversation: Conversation, example_id: str = "") -> ImageText:
        """Token ids, and labels on the last answer and the token that ends it.

        Raises:
            DataError: If the last message is no answer, the image cannot be read, the text holds control tokens, the
                template refuses the messages, or where the answer begins and ends cannot be proved.
        """
        messages, image = conversation
        if not messages or messages[-1].role != "assistant":
            raise DataError("no answer at the end, so no token would be trained.")
        self._plain.refuse_control_tokens(messages)
        prompt, text = self._text(messages[:-1], True), self._text(messages, False)
        shown, whole = self.tokens([prompt, text], image)
        if whole[: len(shown)] != shown:
            raise DataError(
                "where the answer begins cannot be proved: the prompt's tokens are not the beginning of the whole "
                "conversation's. If the answer begins with white space, strip it."
            )
        end = next((at for at in range(len(shown), len(whole)) if whole[at] in self._ends), None)
        if end is None:
            raise DataError("the model's template ends an answer with no token, so its end cannot be learned.")
        labels = [IGNORE_INDEX] * len(whole)
        labels[len(shown) : end + 1] = whole[len(shown) : end + 1]
        return ImageText(whole, labels, len(shown), example_id, text=text, image=image)

    def prompt(self, conversation: Conversation) -> ImageText:
        """What the model is shown before it answers, with the assistant's header; a final answer is left out."""
        messages, image = conversation
        messages = messages[:-1] if messages and messages[-1].role == "assistant" else messages
        self._plain.refuse_control_tokens(messages)
        text = self._text(messages, True)
        ids = self.tokens([text], image)[0]
        return ImageText(ids, [IGNORE_INDEX] * len(ids), len(ids), text=text, image=image)

    def tokens(self, texts: Sequence[str], image: str) -> list[list[int]]:
        """Token ids of each text, the image's among them."""
        opened = open_image(image)
        ids: list[list[int]] = self.processor(
            text=list(texts), images=[[opened]] * len(texts), add_special_tokens=_adds_bos(self.tokenizer, texts[0])
        )["input_ids"]
        return [list(row) for row in ids]

    def _text(self, messages: Sequence[Message], header: bool) -> str:
        """The template's text; the image stands before the words of the last user turn."""
        import jinja2

        last = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
        chat = [
            {
                "role": message.role,
                "content": [{"type": "image"}] * (i == last) + [{"type": "text", "text": message.content}],
            }
            for i, message in enumerate(messages)
        ]
        try:
            text: str = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=header)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(m.role for m in messages)
            raise DataError(
                f"the model's chat template refuses a conversation of {roles}: {error}. "
                "Change the roles, or use another model."
            ) from error
        return text


def _adds_bos(tokenizer: Any, text: str) -> bool:
    """Whether the tokenizer shall add its own: not where the template wrote it already."""
    return not (tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token))


def collate(processor: Any, items: Sequence[ImageText], side: str, device: torch.device | str) -> dict[str, Any]:
    """One padded batch with its images, as the model's forward takes it; ``side`` is where padding goes."""
    batch = processor(
        text=[item.text for item in items], images=[[open_image(item.image)] for item in items], return_tensors="pt",
        padding=True, padding_side=side, add_special_tokens=_adds_bos(processor.tokenizer, items[0].text),
    )  # fmt: skip
    return dict(batch.to(device))


def by_length(items: Sequence[Rendered], token_budget: int) -> Iterator[list[int]]:
    """Indices in order of length, cut so that each group has about ``token_budget`` padded tokens."""
    group: list[int] = []
    for index in sorted(range(len(items)), key=lambda i: (items[i].tokens, i)):
        if group and (len(group) + 1) * items[index].tokens > token_budget:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def supervised_states(model: Any, processor: Any, items: Sequence[ImageText]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states that predict the trained tokens, and those tokens, item after item.

    Returns:
        (supervised, hidden), differentiable, and (supervised,) token ids.
    """
    device = next(model.parameters()).device
    batch = collate(processor, items, "right", device)
    # The model below its head: logits are formed only where something is predicted.
    hidden = model.base_model(**batch, use_cache=False).last_hidden_state
    places = [
        (row, t - 1, label)
        for row, item in enumerate(items)
        for t, label in enumerate(item.labels)
        if label != IGNORE_INDEX
    ]
    rows, before, targets = torch.tensor(places, device=device).unbind(1)
    return hidden[rows, before], targets
