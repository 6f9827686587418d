"""Likelihood of given continuations, with everything that prompts and continuations share computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tunesmith.model.attention import KeyValues, Segment, build_pack, common_start
from tunesmith.model.forward import hidden_states, token_losses
from tunesmith.model.load import LanguageModel

SCORE_TOKENS = 2048  # computed at once; the logits' chunks bound the rest


def score_continuations(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[np.ndarray]:
    """Negative log-likelihood of every token of every continuation.

    The longest common start of all prompts is computed once and its keys and values reused; continuations of one
    prompt share the prompt, and each other's beginnings.

    Args:
        lm: The model.
        prompts: Token ids, each non-empty.
        continuations: For each prompt, one or more non-empty lists of token ids.

    Returns:
        For each prompt an array of objects: one float array of nats per token for each continuation.
    """
    prefix = shared_start(prompts)
    cache = prefix_cache(lm, prefix) if prefix and lm.packed else None
    results: list[np.ndarray] = [np.empty(0, dtype=object)] * len(prompts)
    items = [_tree(prompt[len(prefix) :], choices) for prompt, choices in zip(prompts, continuations, strict=True)]
    for group in _groups([sum(len(s.tokens) for s in segments) for segments, _ in items]):
        pack = build_pack(prefix, [items[i][0] for i in group], lm.device, cache)
        rows: list[int] = []
        targets: list[int] = []
        for i, starts in zip(group, pack.starts, strict=True):
            for places, choice in zip(items[i][1], continuations[i], strict=True):
                rows += [starts[segment] + offset for segment, offset in places]
                targets += choice
        with torch.no_grad():
            hidden = hidden_states(lm.model, pack, lm.packed)
            losses = token_losses(lm.model, hidden[rows], torch.tensor(targets, device=lm.device)).cpu().numpy()
        at = 0
        for i in group:
            found = np.empty(len(continuations[i]), dtype=object)
            for c, choice in enumerate(continuations[i]):
                found[c] = losses[at : at + len(choice)].astype(np.float64)
                at += len(choice)
            results[i] = found
    return results


def shared_start(prompts: Sequence[Sequence[int]]) -> list[int]:
    """What all prompts begin with, leaving each at least one token of its own; empty for a single prompt."""
    if len(prompts) < 2:
        return []
    shared = min(common_start(prompts), min(len(prompt) for prompt in prompts) - 1)
    return list(prompts[0][:shared])


def prefix_cache(lm: LanguageModel, prefix: Sequence[int]) -> KeyValues:
    """Keys and values of a prefix in every layer."""
    record: KeyValues = []
    pack = build_pack([], [[Segment(prefix)]], lm.device, record=record)
    with torch.no_grad():
        hidden_states(lm.model, pack)
    return record


def _tree(prompt: Sequence[int], choices: Sequence[Sequence[int]]) -> tuple[list[Segment], list[list[tuple[int, int]]]]:
    """The prompt with its continuations as a radix tree behind it, each shared beginning once.

    Returns the segments, and for each continuation the (segment, offset) that predicts each of its tokens. A
    continuation's last token is only predicted, never fed.
    """
    segments = [Segment(prompt)]
    places = [[(0, len(prompt) - 1)] for _ in choices]

    def branch(members: list[int], depth: int, parent: int) -> None:
        following: dict[int, list[int]] = {}
        for c in members:
            if len(choices[c]) - 1 > depth:
                following.setdefault(choices[c][depth], []).append(c)
        for group in following.values():
            end = depth + 1
            while all(len(choices[c]) - 1 > end for c in group) and len({choices[c][end] for c in group}) == 1:
                end += 1
            node = len(segments)
            segments.append(Segment(choices[group[0]][depth:end], parent))
            for c in group:
                places[c] += [(node, offset) for offset in range(end - depth)]
            branch(group, end, node)

    branch(list(range(len(choices))), 0, 0)
    return segments, places


def _groups(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indices in order of size, cut so that each group has about ``SCORE_TOKENS`` tokens."""
    group: list[int] = []
    total = 0
    for index in sorted(range(len(sizes)), key=lambda i: (sizes[i], i)):
        if group and total + sizes[index] > SCORE_TOKENS:
            yield group
            group, total = [], 0
        group.append(index)
        total += sizes[index]
    if group:
        yield group
