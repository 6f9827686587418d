"""Candidates: ways to solve the task. One family, one file; this table is all that knows them."""

from __future__ import annotations

from tunesmith.candidates.baseline import BASELINE
from tunesmith.candidates.boosting import BOOSTING
from tunesmith.candidates.candidate import Candidate, Context, Family, Fit
from tunesmith.candidates.embedding import EMBEDDING
from tunesmith.candidates.fairness import with_remedies
from tunesmith.candidates.prompt import PROMPT
from tunesmith.candidates.retrieval import RAG, TUNED_RAG
from tunesmith.candidates.setfit import SETFIT
from tunesmith.candidates.tuned import TUNED

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (BASELINE, BOOSTING, PROMPT, with_remedies(EMBEDDING), SETFIT, RAG, with_remedies(TUNED), TUNED_RAG)
}

__all__ = ["FAMILIES", "Candidate", "Context", "Family", "Fit"]
