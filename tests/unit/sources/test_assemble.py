"""A vision–language model put together from two models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.errors import ModelError
from tunesmith.model.safety import check_model_folder
from tunesmith.sources import cache, catalog, resolve, resolve_model
from tunesmith.sources.assemble import assemble_vision_language
from tunesmith.sources.catalog import MODELS, CatalogModel


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    check_model_folder(folder)
    model, report = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval(), AutoProcessor.from_pretrained(folder, local_files_only=True)


def test_the_parts_are_what_they_were(tmp_path: Path, tiny_dinov2_path: Path, tiny_model_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    assemble_vision_language(tiny_dinov2_path, tiny_model_path, tmp_path / "out")
    model, _ = load(tmp_path / "out")
    encoder = AutoModel.from_pretrained(tiny_dinov2_path, local_files_only=True)
    for name, value in encoder.state_dict().items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], value)
    text = AutoModelForCausalLM.from_pretrained(tiny_model_path, local_files_only=True).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected, found = text(ids).logits, model(input_ids=ids).logits
    assert torch.equal(expected, found[..., : expected.shape[-1]])
    assert found.shape[-1] == model.config.image_token_id + 1 == expected.shape[-1] + 1


def test_the_processor_places_the_image(tmp_path: Path, tiny_dinov2_path: Path, tiny_model_path: Path) -> None:
    import torch
    from PIL import Image

    assemble_vision_language(tiny_dinov2_path, tiny_model_path, tmp_path / "out")
    model, processor = load(tmp_path / "out")
    content = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<image>\nwhat is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    images = [Image.fromarray(np.full((30, 90, 3), value, np.uint8)) for value in (10, 200)]
    outputs = []
    for image in images:
        batch = processor(text=[text], images=[[image]], return_tensors="pt")
        assert (batch["input_ids"] == model.config.image_token_id).sum() == 36
        assert batch["pixel_values"].shape == (1, 3, 84, 84)
        with torch.no_grad():
            outputs.append(model(**batch).logits[0, -1])
    assert not torch.allclose(*outputs)


def test_the_seed_decides_the_projector(tmp_path: Path, tiny_dinov2_path: Path, tiny_model_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assemble_vision_language(tiny_dinov2_path, tiny_model_path, tmp_path / name, seed)
    a, b, c = (cache.read_sha256(tmp_path / name / "model.safetensors") for name in "abc")
    assert a == b != c


def test_parts_that_do_not_fit_are_refused(tmp_path: Path, tiny_dinov2_path: Path, tiny_model_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a DINOv2 model and a decoder that reads ChatML"):
        assemble_vision_language(tiny_model_path, tiny_model_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_assembled_model_is_built_once_and_from_its_parts(
    tiny_dinov2_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = MODELS["smollm2-dinov2"]
    monkeypatch.setattr(
        resolve, "_fetch_catalog_model", _from(resolve._fetch_catalog_model, tiny_dinov2_path, tiny_model_path)
    )
    monkeypatch.setattr(resolve.hub, "find_model", lambda name: None)
    assert resolve.find_model(entry.name) is None
    built = resolve_model(entry.name)
    assert built.entry is catalog.MODELS[entry.name]
    assert built.path == cache.home() / "models" / entry.name
    before = (built.path / "manifest.json").stat().st_mtime_ns
    assert resolve_model(entry.name).fingerprint == built.fingerprint
    assert (built.path / "manifest.json").stat().st_mtime_ns == before


def _from(original: Any, vision: Path, text: Path) -> Any:
    """Stands in for fetching the parts."""

    def fetch(entry: CatalogModel) -> Path:
        return {"dinov2-small": vision, "smollm2-135m-instruct": text}.get(entry.name) or original(entry)

    return fetch
