"""How much memory training takes against what was said before: by formula, and after two steps that were measured.

    python benchmarks/memory.py [--only NAME …] [--again]

Each setting trains for two steps in a process of its own, with validations and checkpoints as a run has them; what
counts is its peak beyond what the process held before the model was loaded. The constants of the formula were looked
at on the settings marked ``fitted``; the others were held out: their models, methods or lengths were not looked at.
A setting that stands in the result is not measured again, unless ``--again``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from environment import RESULTS, write_result

SMOL, GEMMA, MINILM = "smollm2-135m-instruct", "gemma3-270m", "minilm-l6"
QWEN = {
    "model_type": "qwen2", "vocab_size": 49152, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA = QWEN | {"model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12,
                "num_key_value_heads": 12, "tie_word_embeddings": False}  # fmt: skip

# name: model, method, tokens computed at once, tokens an example, tokens of it learned, examples a step, fitted
SETTINGS: dict[str, tuple[Any, ...]] = {
    "smol-lora-1024x64": (SMOL, {"kind": "lora"}, 1024, 64, 4, 32, True),
    "smol-lora-512x256": (SMOL, {"kind": "lora"}, 512, 256, 128, 4, True),
    "smol-full-512x128": (SMOL, {"kind": "full"}, 512, 128, 32, 8, True),
    "minilm-full-1024x64": (MINILM, {"kind": "full"}, 1024, 64, 1, 32, True),
    "smol-lora-2048x512": (SMOL, {"kind": "lora", "rank": 64}, 2048, 512, 256, 8, False),
    "smol-full-1024x256": (SMOL, {"kind": "full"}, 1024, 256, 64, 8, False),
    "smol-qlora-512x128": (SMOL, {"kind": "qlora"}, 512, 128, 16, 8, False),
    "gemma-lora-512x128": (GEMMA, {"kind": "lora"}, 512, 128, 32, 8, False),
    "gemma-full-256x128": (GEMMA, {"kind": "full"}, 256, 128, 32, 4, False),
    "minilm-lora-1024x128": (MINILM, {"kind": "lora"}, 1024, 128, 1, 16, False),
    "minilm-full-4096x256": (MINILM, {"kind": "full"}, 4096, 256, 1, 32, False),
    "qwen-lora-1024x128": (QWEN, {"kind": "lora"}, 1024, 128, 32, 16, False),
    "qwen-full-1024x128": (QWEN, {"kind": "full"}, 1024, 128, 32, 16, False),
    "llama-lora-1024x128": (LLAMA, {"kind": "lora", "rank": 8}, 1024, 128, 64, 16, False),
    "llama-full-512x64": (LLAMA, {"kind": "full"}, 512, 64, 16, 16, False),
}


def child(given: dict[str, Any]) -> dict[str, float]:
    """Train for two steps, and say at which peak."""
    import torch

    from tunesmith.config import parse_config
    from tunesmith.hardware import current_memory_bytes, peak_memory_bytes, reset_peak_memory
    from tunesmith.model.load import load_model
    from tunesmith.model.quantise import import_peft
    from tunesmith.plan.probe import Probe, random_items
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.methods import METHODS
    from tunesmith.train.objectives import OBJECTIVES

    import_peft()
    probe = Probe(**given["probe"])
    settings = parse_config({"task": "generation", "data": {"train": "x"}, "method": probe.method}).method[0]
    method = METHODS[settings.kind]
    before = current_memory_bytes()
    reset_peak_memory()
    torch.manual_seed(0)
    lm = load_model(probe.model, probe.interface, probe.outputs, method.four_bit)
    loaded = peak_memory_bytes() - before
    attached = method.attach(lm.model, settings)
    tokens, batch = probe.tokens[0], given["batch"]
    objective = OBJECTIVES[probe.interface].build(lm, tokens, False)
    vocabulary = attached.model.config.get_text_config().vocab_size
    items = random_items(probe, vocabulary, probe.length * batch)[: 2 * batch]
    loop = LoopSettings(epochs=1, learning_rate=1e-5, global_batch_size=batch, evals_per_epoch=1)
    with tempfile.TemporaryDirectory() as folder:
        train(attached.model, attached.trainable, objective, items, items[:4], loop, Path(folder))
    return {"load": loaded, "peak": peak_memory_bytes() - before}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One setting: predicted by formula, predicted after the probe, and what it took."""
    from tunesmith.hardware import detect
    from tunesmith.model.architecture import architecture
    from tunesmith.plan.facts import gather_facts
    from tunesmith.plan.memory import Training
    from tunesmith.plan.probe import Probe, probe_training, random_items
    from tunesmith.sources import resolve_model

    model, method, tokens, length, supervised, batch, fitted = SETTINGS[name]
    if isinstance(model, dict):
        model = build(model, folder)
    interface = "head" if model == MINILM else "causal"
    what = Probe(model, interface, 2 if interface == "head" else 0, method, (tokens,), length, supervised)
    folder_of_model = resolve_model(model)
    items = random_items(what, 1000, length * batch)[: 2 * batch]
    counts = {"train": len(items), "validation": 4, "test": 4}
    facts = gather_facts(counts, 2, items, 0, folder_of_model, architecture(folder_of_model), detect(), 1e11)
    from tunesmith.config import parse_config

    settings = parse_config({"task": "generation", "data": {"train": "x"}, "method": method}).method[0]

    training = Training(facts, settings, batch, interface == "head")
    said = training.memory(tokens)
    by = probe_training(what, training)
    corrected = replace(training, correction=by).memory(tokens).total
    actual = run_child({"probe": asdict(what), "batch": batch})
    return {
        "fitted": fitted, "tokens": tokens, "length": length, "batch": batch, "formula": said.to_json(),
        "correction": by._asdict(), "corrected": round(corrected), "actual": actual,
        "error": {
            "formula": round(said.total / actual["peak"] - 1, 4), "corrected": round(corrected / actual["peak"] - 1, 4),
        },
    }  # fmt: skip


def run_child(given: dict[str, Any]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(given)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{given}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def build(config: dict[str, Any], folder: Path) -> str:
    """A model of random weights with SmolLM2's tokenizer, in a folder."""
    import transformers

    from tunesmith.sources import resolve_model

    path = folder / f"{config['model_type']}-{config['hidden_size']}"
    if not path.is_dir():
        kinds: Any = {"qwen2": transformers.Qwen2Config, "llama": transformers.LlamaConfig}
        made = kinds[config["model_type"]](**{k: v for k, v in config.items() if k != "model_type"})
        transformers.AutoModelForCausalLM.from_config(made).save_pretrained(path)
        tokenizer = transformers.AutoTokenizer.from_pretrained(resolve_model(SMOL).path, local_files_only=True)
        tokenizer.save_pretrained(path)
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="*", default=list(SETTINGS))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(json.loads(arguments.child))))
        return
    file = RESULTS / "memory.json"
    rows = json.loads(file.read_text())["settings"] if file.is_file() and not arguments.again else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            if name not in rows or arguments.again:
                rows[name] = measure(name, Path(folder))
                error = rows[name]["error"]
                print(f"{name:<24} {rows[name]['actual']['peak'] / 2**20:8.0f} MiB  {error}", file=sys.stderr)
                write(rows)
    write(rows)


def write(rows: dict[str, Any]) -> None:
    """Keep what was measured so far, with the largest errors of the settings that were fitted and held out."""
    rows = {name: rows[name] for name in SETTINGS if name in rows}
    worst = {
        part: {
            which: max((abs(r["error"][which]) for r in rows.values() if r["fitted"] == fitted), default=None)
            for which in ("formula", "corrected")
        }
        for part, fitted in (("fitted", True), ("held_out", False))
    }
    write_result("memory", {"target": {"formula": 0.10, "corrected": 0.03}, "largest_error": worst, "settings": rows})


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
