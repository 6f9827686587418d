"""What a folder's config.json says of the kind of model in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import ModelError
from tunesmith.model.architecture import architecture
from tunesmith.sources import ModelFolder
from tunesmith.sources.catalog import MODELS

# As the files on the hub have it, but for what does not matter here.
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("decoder", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}),
    ("decoder", {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}),
    ("decoder", {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}),
    ("decoder", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}),
    ("decoder", {"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True}),
    ("decoder", {"model_type": "bart", "architectures": ["BartForCausalLM"], "is_encoder_decoder": False}),
    ("encoder", {"model_type": "bert", "architectures": ["BertModel"]}),
    ("encoder", {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}),
    ("encoder", {"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"]}),
    ("encoder-decoder", {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}),
    ("encoder-decoder", {"model_type": "bart", "architectures": ["BartModel"], "is_encoder_decoder": True}),
    ("encoder-decoder", {"model_type": "marian", "architectures": ["MarianMTModel"], "is_encoder_decoder": True}),
    ("image-encoder", {"model_type": "vit", "architectures": ["ViTForImageClassification"]}),
    ("image-encoder", {"model_type": "dinov2", "architectures": ["Dinov2Model"]}),
    ("vision-language", {"model_type": "gemma3", "text_config": {}, "vision_config": {}}),
    ("vision-language", {"model_type": "llava", "text_config": {}, "vision_config": {}}),
    ("vision-language", {"model_type": "idefics3", "text_config": {}, "vision_config": {}}),
    ("vision-language", {"model_type": "smolvlm", "text_config": {}, "vision_config": {}}),
    ("vision-language", {"model_type": "qwen2_vl", "vision_config": {}}),
]


def folder(path: Path, config: str) -> ModelFolder:
    (path / "config.json").write_text(config, encoding="utf-8")
    return ModelFolder("mine", path, "0" * 16, None)


@pytest.mark.parametrize(("expected", "config"), CONFIGS)
def test_what_it_is(tmp_path: Path, expected: str, config: dict[str, Any]) -> None:
    assert architecture(folder(tmp_path, json.dumps(config))) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "clip", "text_config": {}, "vision_config": {}},
        {"model_type": "whisper", "is_encoder_decoder": True},
        {"model_type": "wav2vec2"},
        {"model_type": "no-such-type"},
    ],
)
def test_what_is_none_of_these_is_refused_by_its_type(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"mine: models of type '{config['model_type']}' are not supported"):
        architecture(folder(tmp_path, json.dumps(config)))


@pytest.mark.parametrize("config", ["", "[]", "{}", "{"])
def test_a_config_that_says_nothing_is_refused(tmp_path: Path, config: str) -> None:
    with pytest.raises(ModelError, match=r"does not say what model it is of"):
        architecture(folder(tmp_path, config))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_the_catalog_says_the_same(name: str) -> None:
    from tunesmith.sources import resolve_model

    assert architecture(resolve_model(name)) == MODELS[name].architecture
