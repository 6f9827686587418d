"""The nouns that every stage shares: Message, Example, Prediction, Finding, Interval."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool")
Severity = Literal["error", "warning", "info"]
LABEL_SEPARATOR = "|"  # between the labels of a multi-label example, which are sorted; no label may hold it


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``weight`` 0 keeps an assistant turn out of the loss."""

    role: str
    content: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Example:
    """One item of data.

    One with labels has ``text`` and ``label``: a class, labels joined by ``LABEL_SEPARATOR`` ("" for none), or a
    number as text. Any other has ``messages`` that end with the assistant's answer. ``source`` is ``file:line``;
    ``group`` names what examples share (a document, a customer), so that intervals treat them as one cluster and
    no group straddles a split.

    Some have more: ``rejected`` is the worse answer's turns, where ``messages`` end with the better one; ``image``
    the absolute path of an image file and ``image_hash`` the first 16 hexadecimal digits of its sha256;
    ``columns`` the cells of a table's row (missing: None), of which ``text`` is the rendering; ``sensitive`` column and
    group of each sensitive attribute that is known, which no model is shown and no id holds; ``weight`` how much its
    loss counts in training, which is 1 in any file and changed by remedies alone.
    """

    source: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    label: str | None = None
    group: str | None = None
    rejected: tuple[Message, ...] = ()
    image: str | None = None
    columns: tuple[tuple[str, str | float | None], ...] = ()
    image_hash: str | None = None
    sensitive: tuple[tuple[str, str], ...] = ()
    weight: float = 1.0

    @property
    def id(self) -> str:
        """Content hash, 16 hexadecimal digits: equal examples have equal ids wherever they stand."""
        held: list[Any] = [self.text, self.label, [[m.role, m.content, m.weight] for m in self.messages]]
        more = self._shown_besides()
        if self.rejected:
            more["rejected"] = [[m.role, m.content] for m in self.rejected]
        return content_hash([*held, more] if more else held)

    @property
    def prompt_key(self) -> str:
        """Hash of what the model is shown, without the answer: examples that agree here must not straddle splits."""
        shown = self.text if self.text is not None else [[m.role, m.content] for m in self.prompt]
        more = self._shown_besides()
        return content_hash([shown, more] if more else shown)

    def _shown_besides(self) -> dict[str, Any]:
        """Image and columns, where there are any.

        An image stands for itself by its content: two files may share a name (``train/0.png``, ``test/0.png``) and
        one picture may lie in two files, and where a data set was unpacked must not move its examples.
        """
        more: dict[str, Any] = {}
        if self.image is not None:
            more["image"] = self.image_hash or self.image
        if self.columns:
            more["columns"] = self.columns
        return more

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the final answer."""
        return self.messages[:-1] if self.messages and self.messages[-1].role == "assistant" else self.messages

    @property
    def answer(self) -> str:
        """What a right prediction is compared with: the label, or the final assistant turn."""
        if self.label is not None:
            return self.label
        return self.messages[-1].content if self.messages and self.messages[-1].role == "assistant" else ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one candidate said about one test example. Every reported number is recomputed from these.

    ``prediction`` and ``target`` are the label or the text; ``score`` is the task's metric for this item in
    [0, 1]; ``nll`` is the mean negative log-likelihood of the target in nats per token, where the candidate
    has one; ``probabilities`` are those of the labels in the task's order; ``truncated`` marks an answer that
    was cut at the token limit; ``sensitive`` are the example's.
    """

    example_id: str
    candidate: str
    prediction: str
    target: str
    score: float
    nll: float | None = None
    probabilities: tuple[float, ...] | None = None
    cluster: str | None = None
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    truncated: bool = False
    text: str = ""
    sensitive: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: what was found, where, and what to do. ``rows`` are 1-based line numbers.

    ``pairs``, of a check that compares examples, are the sources of both sides and how alike they are, from 0 to 1.
    """

    check: str
    severity: Severity
    count: int
    message: str
    rows: tuple[int, ...] = ()
    examples: tuple[str, ...] = ()
    fix: str = ""
    pairs: tuple[tuple[str, str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Split:
    """Train, validation and test examples, fixed by content."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    findings: tuple[Finding, ...] = field(default=())


def content_hash(value: Any) -> str:
    """First 16 hexadecimal digits of the sha256 of a value's canonical JSON."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
