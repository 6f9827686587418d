"""QLoRA against LoRA on a CPU: losses after the same steps, bytes of the model's weights, seconds a step.

Both train SmolLM2-135M on the headlines of examples/sarcasm.yaml: the same examples in the same order, the same
adapter at the start, the same rate. Only the base differs: float32, or NF4 in 4 bits. Every measurement is a process
of its own.

    python benchmarks/qlora.py [--examples 640] [--epochs 2] [--seeds 0 1 2]

Target: mean validation loss within 1 % of LoRA's, weights at most 0.35 of float32's. A loss differs more than that
from seed to seed, so each is measured with several. Needs the extra ``qlora``. Takes about 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import write_result
from train_speed import MODEL, examples

BATCH = 16
HELD_OUT = 160
METHOD_NAMES = ("lora", "qlora")
RATIOS = (
    "first_validation_loss", "best_validation_loss", "last_validation_loss", "last_training_losses", "weight_bytes",
    "peak_memory_bytes", "tokens_per_second",
)  # fmt: skip


def measure(method: str, n: int, epochs: float, seed: int) -> dict[str, Any]:
    """Train in this process."""
    import torch

    from tunesmith.config import Lora, Qlora
    from tunesmith.hardware import peak_memory_bytes, reset_peak_memory
    from tunesmith.model.load import load_model
    from tunesmith.model.quantise import quantise_4bit, weight_bytes
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.methods import METHODS
    from tunesmith.train.objectives.causal import Causal

    torch.set_num_threads(2)
    data = examples("headlines", n + HELD_OUT)
    lm = load_model(MODEL)
    begun = time.monotonic()
    if method == "qlora":
        quantise_4bit(lm.model, torch.float32, lm.device)
    loading = time.monotonic() - begun
    model_bytes = weight_bytes(lm.model)
    torch.manual_seed(seed)
    attached = METHODS[method].attach(lm.model, {"lora": Lora(), "qlora": Qlora()}[method])
    rate, _ = METHODS[method].learning_rate(lm.model.config.model_type, lm.model.config.hidden_size)
    settings = LoopSettings(
        epochs=epochs, learning_rate=rate, global_batch_size=BATCH, patience=0, evals_per_epoch=2, seed=seed
    )
    reset_peak_memory()
    events: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            attached.model, attached.trainable, Causal(lm.packed), data[:n], data[n:], settings, Path(folder),
            listener=events.append,
        )  # fmt: skip
    return {
        "first_validation_loss": result.first_validation_loss, "best_validation_loss": result.best_validation_loss,
        "last_validation_loss": result.last_validation_loss, "steps": result.last_step,
        "last_training_losses": sum(e["loss"] for e in events[-10:]) / len(events[-10:]),
        "tokens_per_second": sorted(e["tokens_per_second"] for e in events)[len(events) // 2],
        "weight_bytes": model_bytes, "peak_memory_bytes": peak_memory_bytes(), "quantise_seconds": round(loading, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=640)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=METHOD_NAMES, help="measure one, with the first seed, and print its numbers")
    arguments = parser.parse_args()
    n, epochs = arguments.examples, arguments.epochs
    if arguments.only:
        print(json.dumps(measure(arguments.only, n, epochs, arguments.seeds[0])))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in METHOD_NAMES}
    for seed in arguments.seeds:
        for name, runs in found.items():
            command = [sys.executable, __file__, "--only", name, "--examples", str(n), "--epochs", str(epochs)]
            output = subprocess.run(
                [*command, "--seeds", str(seed)], stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            runs.append(json.loads(output.splitlines()[-1]))

    def ratio(key: str) -> float:
        """Mean over the seeds of QLoRA's number, over that of LoRA's."""
        return sum(run[key] for run in found["qlora"]) / sum(run[key] for run in found["lora"])

    write_result("qlora", {
        "model": MODEL, "examples": n, "epochs": epochs, "batch": BATCH, "seeds": arguments.seeds, **found,
        "ratios": {key: ratio(key) for key in RATIOS},
    })  # fmt: skip


if __name__ == "__main__":
    main()
