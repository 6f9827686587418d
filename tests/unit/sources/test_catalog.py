"""The catalog's table, and its models themselves: pulled and used."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import NotFoundError
from tunesmith.evaluate.suites import read_suite
from tunesmith.model.safety import check_model_folder
from tunesmith.sources import resolve_model, resolve_suite
from tunesmith.sources.catalog import BIAS_SUITES, MODELS, SUITES, WHEELS, model_entry, suite_entry


def test_every_entry_is_pinned_and_of_one_form() -> None:
    parts = [part for model in MODELS.values() for part in model.wheels] + [s.part for s in SUITES.values()]
    assert parts
    for part in parts:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", part.requirement)
        assert not part.member.startswith("/")
        assert WHEELS.get(part.requirement, part.sha256) == part.sha256
    digests = [*WHEELS.values(), *(p.sha256 for p in parts), *(s.sha256 for s in SUITES.values())]
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)


def test_names_that_are_not_there() -> None:
    assert model_entry("minilm-l6").architecture == "encoder"
    assert suite_entry("piqa").kind == "multiple_choice"
    with pytest.raises(NotFoundError, match=r"no model 'minilm-l7'\. Did you mean 'minilm-l6'\?"):
        model_entry("minilm-l7")
    with pytest.raises(NotFoundError, match=r"Did you mean 'piqa'\?"):
        suite_entry("pika")


def tensors(folder: Path) -> dict[str, Any]:
    raw = (folder / "model.safetensors").open("rb")
    with raw:
        header = json.loads(raw.read(struct.unpack("<Q", raw.read(8))[0]))
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def parameters(folder: Path) -> int:
    return sum(math.prod(t["shape"]) for name, t in tensors(folder).items() if not name.endswith("position_ids"))


def load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = resolve_model(name)
    check_model_folder(model.path)
    assert parameters(model.path) == MODELS[name].parameters  # and so tied embeddings are stored once
    loaded = AutoModelForCausalLM.from_pretrained(model.path, local_files_only=True).eval()
    assert loaded.config.max_position_embeddings == MODELS[name].context_length
    return loaded, AutoTokenizer.from_pretrained(model.path, local_files_only=True)


def bits_per_byte(model: Any, tokenizer: Any, texts: list[str]) -> float:
    import torch

    nats = 0.0
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids
            nats += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def passages(count: int) -> list[str]:
    lines = resolve_suite("general-text").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["passage"] for line in lines[:: len(lines) // count][:count]]


@pytest.mark.slow
def test_smollm2_knows_paris_and_its_template() -> None:
    model, tokenizer = load("smollm2-135m-instruct")
    ids = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=3, do_sample=False)[0])
    assert text.startswith("The capital of France is Paris")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    chat = [{"role": "user", "content": "Hi  12"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered.endswith("<|im_start|>user\nHi  12<|im_end|>\n<|im_start|>assistant\n")
    assert rendered.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokenizer.tokenize("Hi  12") == ["Hi", "ĠĠ", "1", "2"]
    assert tokenizer.decode(tokenizer("Ünïcode 🎉\r\n\t x  12").input_ids) == "Ünïcode 🎉\r\n\t x  12"
    assert bits_per_byte(model, tokenizer, passages(5)) < 1.05  # 0.95 measured


@pytest.mark.slow
def test_gemma3_reads_english() -> None:
    model, tokenizer = load("gemma3-270m")
    config = model.config
    assert config.layer_types.count("full_attention") == 3
    assert (config.sliding_window, config.query_pre_attn_scalar, config.head_dim) == (512, 256, 256)
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 10_000
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1_000_000
    text = "Ünïcode 🎉\n\t x  12   and\n\n\nmore"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id == 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    # The norms' weights count from 0 here and from 1 in GGUF; taken over as they are, text is noise.
    assert bits_per_byte(model, tokenizer, passages(5)) < 0.95  # 0.85 measured


@pytest.mark.slow
def test_minilm_is_whole_and_knows_near_from_far() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = resolve_model("minilm-l6").path
    check_model_folder(folder)
    assert parameters(folder) == MODELS["minilm-l6"].parameters
    assert (folder / "1_Pooling" / "config.json").is_file()
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = ["A man eats bread.", "Someone is eating food.", "The stock market fell sharply."]
    with torch.no_grad():
        vectors = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0].mean(0) for t in texts]
    near, far = (torch.cosine_similarity(vectors[0], v, dim=0).item() for v in vectors[1:])
    assert near > 0.5 > 0.2 > far


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SUITES))
def test_suites_have_the_items_the_catalog_says(name: str) -> None:
    items = [json.loads(line) for line in resolve_suite(name).read_text(encoding="utf-8").splitlines()]
    assert len(items) == SUITES[name].items
    assert len(read_suite(name).items) > 0.89 * len(items)  # the others stand twice, or their answer is no option


def test_bias_suites_are_pinned_and_of_one_wheel() -> None:
    for name, suite in BIAS_SUITES.items():
        assert suite.name == name
        assert suite.requirement in WHEELS
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for _, digest in suite.files)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BIAS_SUITES))
def test_every_bias_suite_has_at_least_the_items_that_are_asked(name: str) -> None:
    from tunesmith.evaluate.stereotypes import LIMITS, read_bias_suite

    limit = LIMITS["full"][name]
    items = read_bias_suite(name, limit)
    assert len(items) == limit
    assert all(text.strip() for item in items for text in item.texts)
