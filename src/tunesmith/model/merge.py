"""An adapter inside the weights it was trained beside: a model like any other."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from tunesmith.errors import ModelError, NotFoundError
from tunesmith.model.load import ORIGIN, load_model, peft_quiet
from tunesmith.model.save import save_model
from tunesmith.model.score import score_continuations
from tunesmith.run import read_json

PROOF = "Before the sun rose, 17 ships had left the harbour; nobody asked why. Answer: because the tide was high."
ROUNDING = 1e-3  # nats; what float32 sums in another order may differ by


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


def export_merged(adapter: Path, target: Path) -> float:
    """Merge a trained decoder's adapter into its base, and prove that the result says what the adapter said.

    Args:
        adapter: Folder of a saved adapter; its base is found by the name it was trained under.
        target: A folder that is absent or empty.

    Returns:
        The largest difference of a token's log probability, in nats, between the two on a fixed text. An adapter
        trained on a 4-bit base differs by what the base lost by quantisation; any other by rounding.

    Raises:
        NotFoundError: If the folder has no adapter.
        ModelError: If it is not a decoder's, the target is not empty, or the merged model says something else.
    """
    origin = read_json(adapter / ORIGIN) if (adapter / ORIGIN).is_file() else {}
    if not (adapter / "adapter_config.json").is_file() or "base_model" not in origin:
        raise NotFoundError(f"{adapter}: no adapter trained by Tunesmith. Give a run, or its candidate's folder.")
    if (kind := origin.get("interface", "causal")) not in ("causal", "preference"):
        raise ModelError(f"{adapter}: an adapter of kind {kind}; only those of decoders are merged. Use it as it is.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target}: is there and not empty, and nothing is overwritten. Name another folder.")
    merge_adapter(adapter, origin["base_model"], target)
    found = (_said(str(adapter)) - _said(str(target))).abs().max().item()
    quantised = origin.get("method", {}).get("kind") == "qlora"
    if not (math.isfinite(found) if quantised else found <= ROUNDING):
        raise ModelError(f"{target}: the merged model differs from its adapter by {found:.2g} nats. Do not use it.")
    return found


def _said(name: str) -> torch.Tensor:
    """The negative log-likelihood of each token of a fixed text, in nats."""
    lm = load_model(name)
    ids = lm.tokenizer(PROOF, add_special_tokens=False)["input_ids"]
    return torch.tensor(score_continuations(lm, [ids[:1]], [[ids[1:]]])[0][0])
