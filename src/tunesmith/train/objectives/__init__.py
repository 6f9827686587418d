"""Objectives: what training minimises for each way to use a model. One file each; this table is all that knows them."""

from __future__ import annotations

from tunesmith.train.objectives.causal import CAUSAL
from tunesmith.train.objectives.head import HEAD
from tunesmith.train.objectives.image_text import IMAGE_TEXT
from tunesmith.train.objectives.objective import EncodeSettings, Interface, Item, Objective
from tunesmith.train.objectives.preference import PREFERENCE
from tunesmith.train.objectives.seq2seq import SEQ2SEQ

OBJECTIVES: dict[str, Interface] = {
    "causal": CAUSAL,
    "head": HEAD,
    "preference": PREFERENCE,
    "image_text": IMAGE_TEXT,
    "seq2seq": SEQ2SEQ,
}

__all__ = ["OBJECTIVES", "EncodeSettings", "Interface", "Item", "Objective"]
