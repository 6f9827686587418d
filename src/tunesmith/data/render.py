"""Messages become token ids and labels, through the model's own chat template, with proof of what is trained.

For every assistant turn to be trained, the tokens of the prompt (the messages before it, with the assistant's
header) must be a prefix of the whole conversation's tokens: then training sees exactly what the model will
see when it is asked. The trained span runs from there to the end-of-turn token, which is learned too. What
follows the last trained token is cut off.

A tokenizer without chat template (a base model) gets plain text, tokenised turn by turn, so that the boundary
holds by construction:

    {system}\\n\\n{user}\\n{assistant}<eos>{user}\\n{assistant}<eos>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from tunesmith.errors import DataError
from tunesmith.records import Finding, Message

IGNORE_INDEX = -100  # a label that carries no loss, as everywhere in PyTorch
LISTED = 50  # problems printed; all of them are counted


@dataclass(frozen=True, slots=True)
class Rendered:
    """One example as the model sees it.

    ``labels[t]`` is ``input_ids[t]`` where token t is trained and ``IGNORE_INDEX`` elsewhere, not shifted;
    ``prompt_length`` is the number of tokens before the first trained answer, also if prompts are trained;
    ``weight`` says how much its loss counts in training.
    """

    input_ids: list[int]
    labels: list[int]
    prompt_length: int
    example_id: str = ""
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return len(self.input_ids)

    @property
    def units(self) -> int:
        """Trained tokens; the first one of an example is predicted by nothing."""
        return sum(label != IGNORE_INDEX for label in self.labels[1:])


class Renderer:
    """A tokenizer with its template, and which tokens are trained.

    Args:
        tokenizer: A transformers tokenizer.
        max_length: Tokens that fit; enforced by ``render_all``.
        train_on: ``assistant`` trains the assistant's turns with weight above 0; ``all`` every token but the
            first, which nothing predicts.
    """

    def __init__(self, tokenizer: Any, max_length: int, train_on: Literal["assistant", "all"] = "assistant") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.train_on = train_on
        self.has_template = bool(tokenizer.chat_template)
        self._eos: int | None = tokenizer.eos_token_id
        self._special = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._control = [t for t in self._special.values() if t.strip() and t != tokenizer.unk_token]
        self._openers = {t[0] for t in self._control}  # some tokenizers have thousands; most texts none of these
        self._bos = [i for i in tokenizer("").input_ids[:1] if i == tokenizer.bos_token_id]
        self._end = self._probe_end() if self.has_template else None
        if self._end is None and self._eos is None:
            raise DataError("The tokenizer has no end-of-sequence token, so an answer's end cannot be learned.")

    def render(self, messages: tuple[Message, ...], example_id: str = "") -> Rendered:
        """Turn a conversation into token ids and labels.

        Raises:
            DataError: If no token would be trained, if the template refuses the messages, if a boundary
                cannot be proved, or if the text holds the model's own control tokens.
        """
        trained = [i for i, m in enumerate(messages) if m.role == "assistant" and m.weight > 0]
        if not trained:
            raise DataError("no assistant message with a weight above 0, so no token would be trained.")
        messages = messages[: trained[-1] + 1]
        self.refuse_control_tokens(messages)
        ids, spans = (self._by_template if self.has_template else self._plain)(messages, trained)
        ids = ids[: spans[-1][1]]
        labels = [IGNORE_INDEX] * len(ids)
        for start, end in [(1, len(ids))] if self.train_on == "all" else spans:
            labels[start:end] = ids[start:end]
        return Rendered(ids, labels, spans[0][0], example_id)

    def prompt(self, messages: tuple[Message, ...]) -> list[int]:
        """Token ids of what the model is shown before it answers, with the assistant's header.

        A final assistant message is the answer, and is left out.
        """
        if messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        self.refuse_control_tokens(messages)
        if self.has_template:
            return self._tokens(messages, header=True)
        return self._plain(messages, [])[0]

    # ── with the model's template ────────────────────────────────────────────────────────────────────────
    def _by_template(
        self, messages: tuple[Message, ...], trained: list[int]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        whole = self._tokens(messages, header=False)
        starts = [self._proved_start(messages, turn, whole) for turn in trained]
        spans: list[tuple[int, int]] = []
        for turn, start, following in zip(trained, starts, [*starts[1:], len(whole)], strict=True):
            if self._end is not None and self._end in whole[start:following]:
                spans.append((start, whole.index(self._end, start) + 1))
            elif turn == len(messages) - 1 and self._end is None and self._eos is not None:
                # The template writes nothing after an answer; its end is learned as end of sequence.
                whole = [*whole, self._eos]
                spans.append((start, len(whole)))
            else:
                raise DataError(
                    f"message {turn + 1}: the model's template ends this assistant turn with no token, so "
                    "its end cannot be learned. Keep only the last assistant turn, or give others weight 0."
                )
        return whole, spans

    def _proved_start(self, messages: tuple[Message, ...], turn: int, whole: list[int]) -> int:
        prompt = self._tokens(messages[:turn], header=True)
        if whole[: len(prompt)] == prompt:
            return len(prompt)
        at = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        shown, found = (self.tokenizer.decode(ids[at : at + 8]) for ids in (prompt, whole))
        raise DataError(
            f"message {turn + 1}: where the answer begins cannot be proved: from token {at + 1} the prompt "
            f"reads {shown!r}, the whole conversation {found!r}. If the answer begins with white space, "
            "strip it; otherwise the template changes earlier turns: keep one assistant turn in each example."
        )

    def _tokens(self, messages: tuple[Message, ...], header: bool) -> list[int]:
        import jinja2

        try:
            rendered = self.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                tokenize=True,
                return_dict=False,
                add_generation_prompt=header,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(m.role for m in messages)
            raise DataError(
                f"the model's chat template refuses a conversation of {roles}: {error}. "
                "Change the roles, or use another model."
            ) from error
        return list(rendered)

    def _probe_end(self) -> int | None:
        """The token that the template writes after an assistant's answer; None if it writes none."""
        probe = (Message("user", "a"), Message("assistant", "b"))
        try:
            start = len(self._tokens(probe[:1], header=True))
            whole = self._tokens(probe, header=False)
        except DataError:  # a template of unusual demands; each example says so with its place
            return self._eos
        return next((i for i in whole[start:] if i in self._special or i == self._eos), None)

    def refuse_control_tokens(self, messages: tuple[Message, ...]) -> None:
        """Text such as <|im_end|> would become the token itself, and end a turn where the data does not."""
        for number, message in enumerate(messages, 1):
            if self._openers.isdisjoint(message.content):
                continue
            for token in self._control:
                if token in message.content:
                    raise DataError(
                        f"message {number} holds {token!r}, which the model reads as a control token. "
                        "Remove it, or write it another way."
                    )

    # ── without a template ───────────────────────────────────────────────────────────────────────────────
    def _plain(self, messages: tuple[Message, ...], trained: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = list(self._bos)
        spans: list[tuple[int, int]] = []
        for turn, message in enumerate(messages):
            start = len(ids)
            if message.role == "assistant":
                ids += [*self._text_tokens(message.content), self._eos]  # type: ignore[list-item]
            else:
                ids += self._text_tokens(message.content + ("\n\n" if message.role == "system" else "\n"))
            if turn in trained:
                spans.append((start, len(ids)))
        return ids, spans

    def _text_tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)


class Renders(Protocol):
    """What renders a conversation: a ``Renderer``, or that of another kind of input."""

    tokenizer: Any
    max_length: int

    def render(self, conversation: Any, example_id: str, /) -> Rendered: ...


def render_all(
    renderer: Renders,
    examples: Sequence[tuple[str, Any]],
    overlong: Literal["refuse", "drop", "truncate_left"],
) -> tuple[list[Rendered], list[Finding]]:
    """Render many examples, and treat those over ``renderer.max_length`` tokens as told.

    Args:
        renderer: How to render.
        examples: Pairs of a name (an id, or file and line) and what is rendered (the messages); the name becomes
            ``example_id``.
        overlong: ``refuse`` raises; ``drop`` leaves them out; ``truncate_left`` cuts the beginning of the
            prompt and keeps everything from the first answer on, and a beginning-of-sequence token.

    Returns:
        The examples in the order given, and findings ``overlong`` (dropped) or ``truncated`` (cut).

    Raises:
        DataError: If an example cannot be rendered, is too long under ``refuse``, or holds answers that alone
            are too long under ``truncate_left``; all of them in one message. Also if none is left.
    """
    problems: list[str] = []
    rendered: list[Rendered] = []
    for name, messages in examples:
        try:
            rendered.append(renderer.render(messages, name))
        except DataError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise DataError(listed(f"{len(problems):,} of {len(examples):,} examples cannot be rendered.", problems))
    limit = renderer.max_length
    long = [item for item in rendered if len(item.input_ids) > limit]
    if not long:
        return rendered, []
    longest = max(len(item.input_ids) for item in long)
    count = f"{len(long):,} of {len(rendered):,} examples are longer than {limit:,} tokens (longest {longest:,})"
    names = tuple(item.example_id for item in long[:LISTED])
    lengths = [f"{item.example_id}: {len(item.input_ids):,} tokens" for item in long]
    if overlong == "refuse":
        fix = "Set data.overlong to drop or truncate_left, raise train.max_length, or shorten them."
        raise DataError(f"{listed(count + '.', lengths)}\n{fix}")
    if overlong == "drop":
        kept = [item for item in rendered if len(item.input_ids) <= limit]
        if not kept:
            raise DataError(f"{listed(count + '.', lengths)}\nNo example is left. Raise train.max_length.")
        fix = "Raise train.max_length, shorten them, or set data.overlong to truncate_left."
        return kept, [Finding("overlong", "warning", len(long), f"{count}; they were left out.", (), names, fix)]
    cut, unfit, removed = _cut_all(rendered, limit, renderer.tokenizer.bos_token_id)
    if unfit:
        head = f"{len(unfit):,} examples do not fit into {limit:,} tokens even without their prompt."
        raise DataError(f"{listed(head, unfit)}\nRaise train.max_length, shorten the answers, or drop them.")
    share = removed / sum(len(item.input_ids) for item in rendered)
    message = f"{count}; the beginnings of their prompts were cut: {removed:,} tokens, {share:.1%} of all."
    fix = "Raise train.max_length to keep them whole."
    return cut, [Finding("truncated", "warning", len(long), message, (), names, fix)]


def _cut_all(rendered: list[Rendered], limit: int, bos: int | None) -> tuple[list[Rendered], list[str], int]:
    cut: list[Rendered] = []
    unfit: list[str] = []
    removed = 0
    for item in rendered:
        surplus = len(item.input_ids) - limit
        keep = 1 if item.input_ids[0] == bos else 0
        if surplus <= 0:
            cut.append(item)
        elif keep + surplus > item.prompt_length - (1 - keep):  # one token of prompt stays, to predict from
            unfit.append(f"{item.example_id}: {len(item.input_ids) - item.prompt_length:,} tokens from the answer on")
        else:
            cut.append(
                replace(
                    item,
                    input_ids=item.input_ids[:keep] + item.input_ids[keep + surplus :],
                    labels=[IGNORE_INDEX] * (keep + 1) + item.labels[keep + surplus + 1 :],
                    prompt_length=item.prompt_length - surplus,
                )
            )
            removed += surplus
    return cut, unfit, removed


def listed(head: str, lines: list[str]) -> str:
    """A heading with the first ``LISTED`` of its lines, and how many more there are."""
    more = [f"  … and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return "\n".join([head, *(f"  {line}" for line in lines[:LISTED]), *more])
