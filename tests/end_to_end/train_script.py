"""Trains the tiny model on fixed examples, in as many processes as torchrun starts; rank 0 writes what came out.

torchrun --nproc-per-node 2 train_script.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tunesmith.config import Lora
from tunesmith.data.render import IGNORE_INDEX, Rendered
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.methods import METHODS
from tunesmith.train.objectives.causal import Causal

TINY = Path(__file__).parents[1] / "assets" / "tiny_llama"


def examples(n: int) -> list[Rendered]:
    """Examples behind one shared start, of different lengths and with one to three supervised tokens."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(n):
        ids = [7, 8, 9, 10, *torch.randint(5, 300, (4 + i % 5,), generator=generator).tolist()]
        labels = [IGNORE_INDEX] * (len(ids) - 1 - i % 3) + ids[-1 - i % 3 :]
        made.append(Rendered(ids, labels, len(ids) - 1 - i % 3, f"example {i}"))
    return made


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="tunesmith")
    model.requires_grad_(False)
    torch.manual_seed(1)
    attached = METHODS["lora"].attach(model, Lora(rank=4))
    start = {name: p.detach().clone() for name, p in attached.trainable.items()}
    # 13 examples in steps of 4: the last step of an epoch has one, so a rank goes without
    settings = LoopSettings(epochs=3, learning_rate=3e-3, global_batch_size=4, patience=0)
    events: list[dict[str, Any]] = []
    data = examples(13)
    train(
        attached.model,
        attached.trainable,
        Causal(micro_batch_tokens=24),
        data,
        data[:4],
        settings,
        folder,
        listener=events.append,
    )
    state = PartialState()
    save_file(
        {n: p.detach().contiguous() for n, p in attached.trainable.items()},
        folder / f"{state.process_index}.safetensors",
    )
    if state.process_index == 0:
        save_file(start, folder / "start.safetensors")
        (folder / "losses.json").write_text(json.dumps([[e["loss"], e["grad_norm"]] for e in events]))
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
