"""Replay: what training is shown of before; examples of earlier stages, texts that the base wrote, or a file's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.config import Generation
from tunesmith.data.read import BadRow, read_examples, read_rows
from tunesmith.errors import DataError
from tunesmith.records import Example, Message
from tunesmith.sources import resolve_files
from tunesmith.tasks import Task, build_task

if TYPE_CHECKING:
    from tunesmith.candidates.candidate import Listener
    from tunesmith.data.render import Renderer
    from tunesmith.model.load import LanguageModel

QUESTION_TOKENS = 64  # a longer question is cut: it is read, not learned
ANSWER_TOKENS = 128  # a longer answer is left out: cut, it would teach to stop in the middle
BATCH = 16  # texts written side by side
MOST_ROUNDS = 8  # batches for each batch of texts wanted, after which fewer have to do
MARK = "\N{OBJECT REPLACEMENT CHARACTER}"


def even_shares(count: int, sizes: Sequence[int]) -> list[int]:
    """How many to draw from each of several sets, as evenly as their sizes allow, ``count`` in all.

    What does not divide goes to the first sets, and what a small set lacks to the others.

    Example:
        >>> even_shares(10, [100, 2, 100]), even_shares(10, [3, 4])
        ([4, 2, 4], [3, 4])
    """
    shares = [0] * len(sizes)
    for _ in range(min(count, sum(sizes))):
        shares[min((i for i in range(len(sizes)) if shares[i] < sizes[i]), key=lambda i: (shares[i], i))] += 1
    return shares


def draw_examples(
    earlier: Mapping[str, Sequence[Example]], count: int, rng: np.random.Generator
) -> dict[str, list[Example]]:
    """Draw ``count`` examples from those of earlier stages, evenly and without repeating one.

    Args:
        earlier: Training examples by the name of their task.
        count: How many in all; fewer if there are not so many.
        rng: Source of the draw.

    Returns:
        What was drawn of each task, tasks of which nothing was drawn left out.
    """
    shares = even_shares(count, [len(examples) for examples in earlier.values()])
    drawn = {}
    for (name, examples), share in zip(earlier.items(), shares, strict=True):
        order = rng.permutation(len(examples))[:share]
        if share:
            drawn[name] = [examples[i] for i in order]
    return drawn


def text_task() -> Task:
    """Texts are learned as answers in conversations."""
    return build_task(Generation(), ())


def read_texts(source: str) -> list[Example]:
    """Chats, or pairs of prompt and completion, of a file; or plain texts, where its one column is ``text``.

    Args:
        source: What ``data.train`` takes.

    Raises:
        NotFoundError: If there is no such file.
        DataError: If it holds anything else; all bad rows in one message.
    """
    files = resolve_files(source)
    path = next(iter(files.values()))
    first = next((row for _, row in read_rows(path) if not isinstance(row, BadRow)), {})
    if set(first) != {"text"}:
        return list(read_examples(files, "generation", name=source).examples)
    rows = [(f"{name}:{line}", row) for name, path in files.items() for line, row in read_rows(path)]
    bad = [place for place, row in rows if isinstance(row, BadRow) or not str(row.get("text") or "").strip()]
    if bad:
        raise DataError(f"{source}: {len(bad)} rows have no text: {', '.join(bad[:50])}. Remove them.")
    return [Example(place, (Message("assistant", str(row["text"])),)) for place, row in rows if isinstance(row, dict)]


def write_texts(lm: LanguageModel, count: int, seed: int, listener: Listener) -> list[Example]:
    """Let a model write what it would write unasked: questions with its own answers, sampled at temperature 1.

    Behind its template's header of a user turn a model writes a question, and answers that; a model without a template
    writes on from the beginning of a text, all of which counts as its answer. Only answers that the model ended
    itself are kept.

    Args:
        lm: A decoder.
        count: How many to write; there may be fewer, if most are too long.
        seed: Of torch's generator, which is used and left as it was.
        listener: Told how many there are.

    Source:
        Questions by the template alone: Xu et al. 2024, "Magpie", arXiv:2406.08464. Own texts as replay: Huang et al.
        2024, "Mitigating catastrophic forgetting in large language models with self-synthesized rehearsal",
        arXiv:2403.01244.
    """
    import torch

    from tunesmith.data.render import Renderer

    renderer = Renderer(lm.tokenizer, lm.max_length)
    texts: dict[str, Example] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(MOST_ROUNDS * -(-count // BATCH)):
            if len(texts) >= count:
                break
            for messages in _conversations(lm, renderer):
                example = Example(f"base:{len(texts) + 1}", messages)
                if _can_be_learned(renderer, messages):
                    texts.setdefault(example.id, example)
            listener("replay: the base model writes", min(count, len(texts)), count, {})
    return list(texts.values())[:count]


def _conversations(lm: LanguageModel, renderer: Renderer) -> list[tuple[Message, ...]]:
    """A batch of what the model writes; answers that it did not end are left out."""
    if not renderer.has_template:
        start = renderer.prompt(()) or [lm.tokenizer.eos_token_id]
        return [(Message("assistant", text),) for text, ended in _sample(lm, [start] * BATCH, ANSWER_TOKENS) if ended]
    shown = lm.tokenizer.apply_chat_template([{"role": "user", "content": MARK}], tokenize=False)
    header = list(lm.tokenizer(shown.split(MARK)[0], add_special_tokens=False).input_ids)
    questions = [text for text, _ in _sample(lm, [header] * BATCH, QUESTION_TOKENS)]
    asked = [(Message("user", text),) for text in questions if text and _can_be_shown(renderer, text)]
    if not asked:
        return []
    answers = _sample(lm, [renderer.prompt(turns) for turns in asked], ANSWER_TOKENS)
    return [(*turns, Message("assistant", text)) for turns, (text, ended) in zip(asked, answers, strict=True) if ended]


def _can_be_shown(renderer: Renderer, text: str) -> bool:
    try:
        renderer.refuse_control_tokens((Message("user", text),))
    except DataError:
        return False
    return True


def _can_be_learned(renderer: Renderer, messages: tuple[Message, ...]) -> bool:
    """Whether the text can be rendered as it was written, and is one."""
    try:
        return bool(messages[-1].content) and bool(renderer.render(messages).units)
    except DataError:
        return False


def _sample(lm: LanguageModel, prompts: Sequence[Sequence[int]], most_tokens: int) -> list[tuple[str, bool]]:
    """A text behind each prompt, drawn from the model's own distribution, and whether the model ended it."""
    import torch
    from transformers import GenerationConfig

    from tunesmith.model.generate import end_tokens

    ends = end_tokens(lm)
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), lm.tokenizer.pad_token_id, device=lm.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, device=lm.device)
        mask[row, longest - len(prompt) :] = 1
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=most_tokens, eos_token_id=ends,
        pad_token_id=lm.tokenizer.pad_token_id,
    )  # fmt: skip
    before: Any = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            out = lm.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    finally:
        lm.model.set_attn_implementation(before)
    texts = []
    for row in out[:, longest:].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), None)
        text = lm.tokenizer.decode(row if stop is None else row[:stop], skip_special_tokens=True)
        texts.append((text.strip(), stop is not None))
    return texts
