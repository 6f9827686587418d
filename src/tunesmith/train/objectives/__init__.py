"""Objectives: what training minimises for each way to use a model. One file each; this table is all that knows them."""

from __future__ import annotations

from tunesmith.train.objectives.causal import CAUSAL
from tunesmith.train.objectives.objective import EncodeSettings, Interface, Item, Objective

OBJECTIVES: dict[str, Interface] = {"causal": CAUSAL}

__all__ = ["OBJECTIVES", "EncodeSettings", "Interface", "Item", "Objective"]
