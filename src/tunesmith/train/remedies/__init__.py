"""Remedies against forgetting: what a training can do to keep what its base could do. One file each.

Every one is off unless the project file asks for it, and they go together. ``replay`` mixes texts in; ``kl``, ``l2_sp``
and ``ewc`` add to the loss; ``averaging`` moves the weights back during training, ``scale`` after it. A lower learning
rate and LoRA instead of ``full`` are remedies too, and settings of their own.
"""

from __future__ import annotations

from tunesmith.train.remedies.protection import Protection, gather_texts, protect

__all__ = ["Protection", "gather_texts", "protect"]
