"""Questions about images in one row of tokens, so that what several of them share is computed once.

A micro-batch is a tree of segments (``model.attention``): what all conversations begin with; behind it, for each image,
its tokens and what its questions begin with; behind these, each question's own words and answer. An image's features
are computed once for all of its questions, with gradient through what joins them to the text.

A family whose text model cannot run over such a layout (measured when it is loaded) takes the padded path of
``model.vision``: the same contract.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tunesmith.data.render import IGNORE_INDEX
from tunesmith.errors import DataError
from tunesmith.model.attention import Pack, Segment, build_pack, common_start, layout
from tunesmith.model.forward import decoder, token_losses
from tunesmith.model.generate import Generated, end_tokens
from tunesmith.model.load import LanguageModel
from tunesmith.model.vision import (
    BATCH_TOKENS,
    ImageRenderer,
    ImageText,
    by_length,
    collate,
    open_image,
    supervised_states,
)
from tunesmith.records import Message


class AnswerStates(NamedTuple):
    """What predicts the answers of some conversations: the states before the trained tokens, and those tokens.

    ``counts`` are the trained tokens of each conversation, ``order`` its index among all.
    """

    hidden: torch.Tensor  # (trained, hidden), differentiable
    targets: torch.Tensor  # (trained,)
    counts: list[int]
    order: list[int]


def answer_states(
    model: Any, processor: Any, items: Sequence[ImageText], token_budget: int, packed: bool, share: bool = True
) -> Iterator[AnswerStates]:
    """The states of all items, about ``token_budget`` tokens at a time; in what order does not depend on the items'.

    Args:
        model: The vision–language model, adapters inside it or not.
        processor: Its processor.
        items: Rendered conversations.
        token_budget: Tokens computed at once; a longer conversation stands alone.
        packed: Whether its text model runs over a layout.
        share: Compute what conversations share once; False: each by itself.
    """
    if not packed:
        for group in by_length(items, token_budget):
            chosen = [items[i] for i in group]
            hidden, targets = supervised_states(model, processor, chosen)
            yield AnswerStates(hidden, targets, [item.units for item in chosen], group)
        return
    device = next(model.parameters()).device
    for batch in image_batches(items, token_budget, model.config.image_token_id, device, share):
        places = batch.rows.to(device)
        hidden = _hidden_states(model, processor, batch)[places]
        yield AnswerStates(hidden, batch.targets.to(device), [items[i].units for i in batch.order], batch.order)


def answer_losses(
    model: Any, processor: Any, items: Sequence[ImageText], token_budget: int, packed: bool, share: bool = True
) -> torch.Tensor:
    """Summed negative log-likelihood of each item's answer in nats, shape (n,), float64 on the CPU, no gradient."""
    sums = torch.zeros(len(items), dtype=torch.float64)
    with torch.no_grad():
        for found in answer_states(model, processor, items, token_budget, packed, share):
            losses = token_losses(model, found.hidden, found.targets).double().cpu()
            for index, part in zip(found.order, losses.split(found.counts), strict=True):
                sums[index] = part.sum()
    return sums


# ── decoding ─────────────────────────────────────────────────────────────────────────────────────────────
def answer_images(
    lm: LanguageModel,
    prompts: Sequence[ImageText],
    max_new_tokens: int,
    on_progress: Callable[[int], None] | None = None,
) -> list[Generated]:
    """Answer each prompt greedily, until the model ends its turn or ``max_new_tokens`` are written.

    Where the model is ``packed``, an image and what stands before it are read once for all of its questions.
    """
    processor = lm.tokenizer
    ends = end_tokens(replace(lm, tokenizer=processor.tokenizer))
    found: list[Generated | None] = [None] * len(prompts)
    groups = _by_head(prompts, lm.model.config.image_token_id) if lm.packed else by_length(prompts, BATCH_TOKENS)
    before = lm.model.config.get_text_config()._attn_implementation
    set_text_attention(lm.model, "sdpa")  # which decodes with a cache
    try:
        for group in groups:
            chosen = [prompts[i] for i in group]
            batch = _read_heads(lm, chosen) if lm.packed else collate(processor, chosen, "left", lm.device)
            with torch.no_grad():
                out = lm.model.generate(
                    **batch, max_new_tokens=max_new_tokens, eos_token_id=ends, do_sample=False, num_beams=1,
                    pad_token_id=processor.tokenizer.pad_token_id, temperature=None, top_p=None, top_k=None,
                )  # fmt: skip
            for index, row in zip(group, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                stop = next((i for i, token in enumerate(row) if token in ends), None)
                written = row if stop is None else row[:stop]
                text = processor.tokenizer.decode(written, skip_special_tokens=True)
                found[index] = Generated(text, prompts[index].tokens, len(written), stop is None)
            if on_progress is not None:
                on_progress(len(group))
    finally:
        set_text_attention(lm.model, before)
    return [answer for answer in found if answer is not None]


def _head(item: ImageText, image_token: int) -> list[int]:
    """A conversation's tokens up to the end of its image's."""
    return item.input_ids[: len(item.input_ids) - item.input_ids[::-1].index(image_token)]


def _by_head(prompts: Sequence[ImageText], image_token: int) -> Iterator[list[int]]:
    """Groups of about ``BATCH_TOKENS`` padded tokens whose heads are equally long, those about one image together."""
    heads = [_head(prompt, image_token) for prompt in prompts]
    group: list[int] = []
    longest = 0
    for i in sorted(range(len(prompts)), key=lambda i: (len(heads[i]), prompts[i].image, heads[i], prompts[i].tokens)):
        longer = max(longest, prompts[i].tokens)
        if group and (len(heads[i]) != len(heads[group[0]]) or (len(group) + 1) * longer > BATCH_TOKENS):
            yield group
            group, longer = [], prompts[i].tokens
        group.append(i)
        longest = longer
    if group:
        yield group


def _read_heads(lm: LanguageModel, prompts: Sequence[ImageText]) -> dict[str, Any]:
    """What ``generate`` goes on from: keys and values of each different head, and the tokens, padded behind it."""
    token, pad = lm.model.config.image_token_id, lm.tokenizer.tokenizer.pad_token_id
    keys = [(prompt.image, tuple(_head(prompt, token))) for prompt in prompts]
    heads = list(dict.fromkeys(keys))
    end, longest = len(heads[0][1]), max(prompt.tokens for prompt in prompts)
    ids = torch.tensor([head for _, head in heads], device=lm.device)
    seen = lm.tokenizer.image_processor([open_image(path) for path, _ in heads], return_tensors="pt").to(lm.device)
    with torch.no_grad():
        cache = lm.model.base_model(input_ids=ids, **seen, use_cache=True).past_key_values
    cache.batch_select_indices(torch.tensor([heads.index(key) for key in keys], device=lm.device))
    rows = torch.full((len(prompts), longest), pad, device=lm.device)
    mask = torch.zeros_like(rows)
    for row, prompt in enumerate(prompts):
        behind = prompt.input_ids[end:]
        rows[row, :end], mask[row, :end] = torch.tensor(prompt.input_ids[:end], device=lm.device), 1
        rows[row, longest - len(behind) :] = torch.tensor(behind, device=lm.device)
        mask[row, longest - len(behind) :] = 1
    return {"input_ids": rows, "attention_mask": mask, "past_key_values": cache}


# ── the layout ───────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Conversations computed at once. ``rows`` are places in the row whose hidden state predicts ``targets``."""

    pack: Pack
    images: list[str]  # paths, in the order in which their tokens stand in the row
    rows: torch.Tensor  # (trained,)
    targets: torch.Tensor  # (trained,)
    order: list[int]  # index of each conversation, in the order of ``targets``


@dataclass(frozen=True, slots=True)
class _Tree:
    """Conversations about one image: which, and how many tokens at their beginning they share."""

    members: list[int]
    shared: int
    tokens: int  # of all, what is shared once


def image_batches(
    items: Sequence[ImageText], token_budget: int, image_token: int, device: torch.device | str, share: bool = True
) -> Iterator[ImageBatch]:
    """Cut conversations into packs of about ``token_budget`` tokens, those about one image side by side."""
    prefix = 0
    if share and len(items) > 1:
        starts = [item.input_ids.index(image_token) for item in items]
        prefix = min(common_start([item.input_ids for item in items]), *starts)
    trees = sorted(
        (tree for members in _by_image(items, image_token, share) for tree in _trees(items, members, token_budget)),
        key=lambda tree: (tree.tokens, items[tree.members[0]].image, items[tree.members[0]].input_ids),
    )
    group: list[_Tree] = []
    total = prefix
    for tree in trees:
        own = tree.tokens - prefix
        if group and total + own > token_budget:
            yield _batch(items, group, prefix, device)
            group, total = [], prefix
        group.append(tree)
        total += own
    if group:
        yield _batch(items, group, prefix, device)


def _by_image(items: Sequence[ImageText], image_token: int, share: bool) -> Iterator[list[int]]:
    """Conversations that are alike up to the end of one image's tokens."""
    alike: dict[Any, list[int]] = {}
    for i in sorted(range(len(items)), key=lambda i: (items[i].image, items[i].tokens, items[i].input_ids, i)):
        head = _head(items[i], image_token)
        whole = share and _first_trained(items[i]) > len(head)
        alike.setdefault((items[i].image, tuple(head)) if whole else i, []).append(i)
    yield from alike.values()


def _trees(items: Sequence[ImageText], members: list[int], token_budget: int) -> Iterator[_Tree]:
    """The conversations of one image, as many to a tree as the budget allows."""
    tree = _Tree(members[:1], 0, items[members[0]].tokens)
    for i in members[1:]:
        wider = _tree(items, [*tree.members, i])
        if wider.tokens > token_budget:
            yield tree
            wider = _Tree([i], 0, items[i].tokens)
        tree = wider
    yield tree


def _tree(items: Sequence[ImageText], members: list[int]) -> _Tree:
    """The token that predicts the first trained one stays with its conversation."""
    shared = common_start([items[i].input_ids for i in members])
    shared = min(shared, *(_first_trained(items[i]) - 1 for i in members))
    return _Tree(members, shared, shared + sum(items[i].tokens - shared for i in members))


def _first_trained(item: ImageText) -> int:
    return next((t for t, label in enumerate(item.labels) if label != IGNORE_INDEX), len(item.labels))


def _batch(items: Sequence[ImageText], trees: list[_Tree], prefix: int, device: torch.device | str) -> ImageBatch:
    segments = []
    for tree in trees:
        rows = [items[i].input_ids for i in tree.members]
        root = [Segment(rows[0][prefix : tree.shared])] if len(rows) > 1 else []
        segments.append([*root, *(Segment(row[max(prefix, tree.shared) :], len(root) - 1) for row in rows)])
    pack = build_pack(items[trees[0].members[0]].input_ids[:prefix], segments, device)
    places: list[int] = []
    targets: list[int] = []
    order: list[int] = []
    for tree, starts in zip(trees, pack.starts, strict=True):
        first = max(prefix, tree.shared)
        for i, start in zip(tree.members, starts[-len(tree.members) :], strict=True):
            trained = [t for t, label in enumerate(items[i].labels) if label != IGNORE_INDEX]
            places += [start + t - first - 1 for t in trained]
            targets += [items[i].labels[t] for t in trained]
            order.append(i)
    images = [items[tree.members[0]].image for tree in trees]
    return ImageBatch(pack, images, torch.tensor(places), torch.tensor(targets), order)


def _hidden_states(model: Any, processor: Any, batch: ImageBatch) -> torch.Tensor:
    """Last hidden states of the row, shape (tokens, hidden), each image's features in place of its tokens."""
    ids = batch.pack.input_ids
    seen = processor.image_processor([open_image(path) for path in batch.images], return_tensors="pt").to(ids.device)
    embedded = model.get_input_embeddings()(ids)
    features = torch.cat(list(model.base_model.get_image_features(**seen, return_dict=True).pooler_output))
    places = (ids == model.config.image_token_id)[..., None].expand_as(embedded)
    if int(places.sum()) != features.numel():
        raise ValueError(f"{features.shape[0]} features of images, {int(places[..., 0].sum())} tokens for them")
    embedded = embedded.masked_scatter(places, features.to(embedded.dtype))
    with layout(batch.pack):
        out = decoder(model)(inputs_embeds=embedded, position_ids=batch.pack.position_ids, use_cache=False)
    hidden: torch.Tensor = out.last_hidden_state[0]
    return hidden


# ── whether a family can ─────────────────────────────────────────────────────────────────────────────────
def set_text_attention(model: Any, name: str) -> None:
    """Change how the text part of a vision–language model attends; its eyes stay as they are."""
    model.set_attn_implementation({"text_config": name})


def measure_image_parity(model: Any, processor: Any) -> bool:
    """Whether two questions about each of two images, computed together, give what the model gives for each alone.

    Compared are the states that predict the answers, to 1e-3 of the largest (float32) or 5e-2. Text models with
    sliding windows are not tried: the pictures here would have to be longer than a window.
    """
    from PIL import Image

    if getattr(model.config.get_text_config(), "sliding_window", None):
        return False
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        paths = [str(Path(folder) / f"{i}.png") for i in range(2)]
        for path, colour in zip(paths, ((250, 60, 10), (10, 90, 200)), strict=True):
            Image.new("RGB", (48, 40), colour).save(path)
        questions = ("What is this?", "What is to be seen here, and where does it stand?")
        renderer = ImageRenderer(processor, 10**9)
        try:
            items = [
                renderer.render(((Message("user", question), Message("assistant", "a thing")), path))
                for path in paths
                for question in questions
            ]
            expected = [supervised_states(model, processor, [item])[0] for item in items]
            set_text_attention(model, "tunesmith")
            (found,) = answer_states(model, processor, items, 10**9, packed=True)
            parts = dict(zip(found.order, found.hidden.split(found.counts), strict=True))
        except (DataError, NotImplementedError, TypeError, ValueError, KeyError, RuntimeError, AttributeError):
            return False
        finally:
            set_text_attention(model, "sdpa")
    return all(
        bool(((parts[i] - alone).abs().max() <= tolerance * alone.abs().max()).item())
        for i, alone in enumerate(expected)
    )
