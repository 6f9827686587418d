"""What rules of thumb say before anything is measured: shown as a prior, never as a result. Pure."""

from __future__ import annotations

from typing import NamedTuple

FEW_LABELLED = 50  # examples below which published comparisons favour prompts


class Rule(NamedTuple):
    """A way that is usually favoured, why, and who found so."""

    favours: str
    because: str
    source: str


PROMPT = Rule(
    "a good prompt, or an encoder tuned on few labels",
    f"fewer than {FEW_LABELLED} training examples are seldom enough to beat a well-chosen prompt",
    "Pecher et al. 2024, arXiv:2402.12819; Tunstall et al. 2022, arXiv:2209.11055",
)
RETRIEVAL = Rule(
    "retrieval, with fine-tuning for the form of the answers",
    "facts that stand in documents are found there more reliably than they are learned by heart",
    "Ovadia et al. 2023, arXiv:2312.05934; Balaguer et al. 2024, arXiv:2401.08406",
)
LABELS = Rule(
    "a small fine-tuned model, or a linear model on embeddings",
    "with some hundred labels small tuned models beat prompted large ones",
    "Bucher and Martini 2024, arXiv:2406.08660",
)
MANY_LABELS = Rule(
    "a linear model on embeddings, then fine-tuning",
    "many labels with few examples each are hard to put into a prompt",
    "Tunstall et al. 2022, arXiv:2209.11055",
)
FORM = Rule(
    "fine-tuning",
    "style and format are learned from examples more easily than they are described",
    "Zhao et al. 2024 (LoRA Land), arXiv:2405.00732",
)
CROWDED = 20  # labels above which a prompt that lists them gets long


def prior(task: str, train: int, labels: int, documents: bool) -> dict[str, str]:
    """The rule of thumb for a task, as ``favours``, ``because`` and ``source``.

    Args:
        task: Its kind.
        train: Training examples.
        labels: Labels of a classification, otherwise 0.
        documents: Whether documents were given to retrieve from.
    """
    if documents:
        rule = RETRIEVAL
    elif train < FEW_LABELLED:
        rule = PROMPT
    elif task in ("classification", "multi_label", "regression"):
        rule = MANY_LABELS if labels > CROWDED else LABELS
    else:
        rule = FORM
    return rule._asdict()
