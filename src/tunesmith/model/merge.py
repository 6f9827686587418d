"""An adapter inside the weights it was trained beside: a model like any other."""

from __future__ import annotations

from pathlib import Path

from tunesmith.model.load import ORIGIN, load_model, peft_quiet
from tunesmith.model.save import save_model
from tunesmith.run import read_json


def merge_adapter(adapter: Path, model: str, target: Path) -> None:
    """Write a model with an adapter's update inside its weights, in float32; the model is loaded unquantised.

    Args:
        adapter: Folder of a saved adapter.
        model: The model it was trained beside: a catalog name or a folder.
        target: The folder to write, whole or not at all: a model like any other.
    """
    from peft import PeftModel

    origin = read_json(adapter / ORIGIN)
    lm = load_model(model, origin.get("interface", "causal"))
    lm.model.float()
    with peft_quiet():
        merged = PeftModel.from_pretrained(lm.model, adapter, local_files_only=True).merge_and_unload()
    save_model(target, merged.save_pretrained, lm, model, {"merged": origin.get("candidate")})
