"""Methods: which weights move. One file each; this table is all that knows them."""

from __future__ import annotations

from tunesmith.train.methods.full import FULL
from tunesmith.train.methods.gradual import GRADUAL
from tunesmith.train.methods.head import HEAD
from tunesmith.train.methods.lora import LORA
from tunesmith.train.methods.method import Attached, Method
from tunesmith.train.methods.qlora import QLORA

METHODS: dict[str, Method] = {method.kind: method for method in (LORA, QLORA, FULL, HEAD, GRADUAL)}

__all__ = ["METHODS", "Attached", "Method"]
