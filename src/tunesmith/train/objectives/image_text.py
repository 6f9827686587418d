"""The answer's tokens after an image and a question: what training on images with text minimises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.data.render import render_all
from tunesmith.errors import DataError
from tunesmith.model.forward import summed_loss
from tunesmith.model.image_pack import answer_losses, answer_states
from tunesmith.model.vision import ImageRenderer, ImageText
from tunesmith.records import Example, Finding
from tunesmith.tasks import Task
from tunesmith.train.batches import Grouped
from tunesmith.train.objectives.objective import EncodeSettings, Interface

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel


@dataclass(frozen=True, slots=True)
class ImageTextLoss:
    """Negative log-likelihood of the answers' tokens, in nats. Images are read again for every batch.

    ``packed`` says whether the text model's attention runs over a layout (see ``model.image_pack``); what the
    conversations of a step share, an image and its tokens among it, is then computed once where ``share_prefix``.
    """

    processor: Any
    micro_batch_tokens: int = 1024
    packed: bool = True
    share_prefix: bool = True

    def losses(self, model: Any, items: Sequence[ImageText], scale: float) -> Iterator[torch.Tensor]:
        states = answer_states(model, self.processor, items, self.micro_batch_tokens, self.packed, self.share_prefix)
        for found in states:
            weights = torch.full((len(found.targets),), scale, device=found.targets.device)
            yield summed_loss(model, found.hidden, found.targets, weights)

    def item_losses(self, model: Any, items: Sequence[ImageText]) -> torch.Tensor:
        return answer_losses(model, self.processor, items, self.micro_batch_tokens, self.packed, self.share_prefix)


def encode(
    task: Task, processor: Any, examples: Sequence[Example], settings: EncodeSettings
) -> tuple[list[Any], list[Finding]]:
    """Conversations about an image through the model's processor.

    Raises:
        DataError: If examples have no image, cannot be rendered or are too long; also if they are to be cut or
            trained on their prompts, which images do not allow.
    """
    blind = [e.source for e in examples if e.image is None]
    if blind:
        more = f" and {len(blind) - 5:,} more" if len(blind) > 5 else ""
        raise DataError(
            f"{len(blind):,} of {len(examples):,} examples have no image: {', '.join(blind[:5])}{more}. "
            "Name their images by data.image."
        )
    if settings.overlong == "truncate_left":
        raise DataError("data.overlong: truncate_left would cut into images. Set it to refuse or drop.")
    if settings.train_on == "all":
        raise DataError("train.train_on: all is not possible with images. Set it to assistant.")
    renderer = ImageRenderer(processor, settings.max_length)
    return render_all(renderer, [(e.source, (task.messages(e), e.image)) for e in examples], settings.overlong)


def build(lm: LanguageModel, micro_batch_tokens: int, share_prefix: bool) -> ImageTextLoss:
    return ImageTextLoss(lm.tokenizer, micro_batch_tokens, lm.packed, share_prefix)


def by_image(items: Sequence[ImageText]) -> Grouped:
    """The questions about one image follow one another, so that a step computes few images."""
    places: dict[str, int] = {}
    return Grouped(tuple(places.setdefault(item.image, len(places)) for item in items))


IMAGE_TEXT = Interface(encode, build, lambda items: 0, order=by_image)
