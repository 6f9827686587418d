"""Adapters trained at once over one base against one after another: tokens per second, and memory.

LoRA of several ranks and rates on SmolLM2-135M, eight headlines a step, K = 1, 2, 4 and 8 adapters; ``same``: all read
the same items in every step, ``own``: each has an order of its own. Both ways train with ``train.loop`` on one loaded
base; ways and numbers alternate, medians count, and a gain below 1.1 is none. Memory is the peak of a process with
eight adapters against eight times that of a process with one, which is what eight runs at a time would take.

    python benchmarks/adapters.py [--numbers 1 2 4 8] [--repeats 3] [--steps 3]

Takes about 10 minutes on two cores, on a GPU one. The result is kept by the processor's or the GPU's name.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train_speed import MODEL, examples

BATCH = 8
RANKS = (16, 8, 32, 64)
RATE = 1e-3


def members(number: int, order: str, folder: Path, clock: Any) -> list[Any]:
    from tunesmith.config import Lora
    from tunesmith.search.concurrent import Member
    from tunesmith.train.loop import LoopSettings

    made = []
    for i in range(number):
        settings = LoopSettings(
            epochs=1, learning_rate=RATE / (1 + i % 3), global_batch_size=BATCH, patience=0, evals_per_epoch=1,
            seed=i if order == "own" else 0,
        )  # fmt: skip
        made.append(Member(str(i), Lora(rank=RANKS[i % len(RANKS)]), settings, folder / str(i), listener=clock))
    return made


def together(lm: Any, number: int, order: str, steps: int) -> float:
    """Tokens per second of all adapters at once, after the first step."""
    from tunesmith.search.concurrent import train_concurrently
    from tunesmith.train.objectives.causal import Causal

    data = examples("headlines", BATCH * steps)
    ends: dict[int, float] = {}

    def clock(event: dict[str, Any]) -> None:
        ends[event["step"]] = time.perf_counter()  # of the last member

    with tempfile.TemporaryDirectory() as folder:
        trained = train_concurrently(lm, Causal(), members(number, order, Path(folder), clock), data, data[:1], number)
    return _timed_tokens(trained.values(), data, steps) / (ends[steps] - ends[1])


def alone(lm: Any, number: int, order: str, steps: int) -> float:
    """The same, one adapter after another."""
    import torch

    from tunesmith.search.concurrent import Trained
    from tunesmith.train.loop import train
    from tunesmith.train.methods import METHODS
    from tunesmith.train.objectives.causal import Causal
    from tunesmith.train.together import share_weights

    data = examples("headlines", BATCH * steps)
    seconds, results = 0.0, []
    ends: dict[int, float] = {}

    def clock(event: dict[str, Any]) -> None:
        ends[event["step"]] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        for member in members(number, order, Path(folder), clock):
            own = share_weights(lm)
            torch.manual_seed(member.settings.seed)
            attached = METHODS["lora"].attach(own.model, member.method)
            result = train(
                attached.model, attached.trainable, Causal(), data, data[:1], member.settings, member.folder,
                listener=clock,
            )  # fmt: skip
            results.append(Trained(result, attached, own))
            seconds += ends[steps] - ends[1]
    return _timed_tokens(results, data, steps) / seconds


def _timed_tokens(trained: Any, data: list[Any], steps: int) -> float:
    """Tokens read after the first step; each member has read every item once."""
    return sum(member.result.tokens for member in trained) * (steps - 1) / steps


WAYS = {"together": together, "alone": alone}


def load() -> Any:
    from tunesmith.model.load import load_model

    return load_model(MODEL)


def peak(way: str, number: int) -> int:
    """Peak memory in bytes of a process of its own."""
    command = [sys.executable, __file__, "--peak", way, "--numbers", str(number), "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stderr[-3000:]}")
    return int(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="steps of one measurement; the first is not timed")
    parser.add_argument("--peak", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    lm = load()
    if arguments.peak:
        import torch

        from tunesmith.hardware import peak_memory_bytes

        WAYS[arguments.peak](lm, arguments.numbers[0], "same", arguments.steps)
        print(torch.cuda.max_memory_allocated() if lm.device.type == "cuda" else peak_memory_bytes())
        return
    from environment import write_result

    from tunesmith.hardware import cpu_name, detect
    from tunesmith.search.concurrent import gain

    speeds: dict[tuple[str, int, str], list[float]] = {}
    for repeat in range(arguments.repeats):
        for order in ("same", "own"):
            for number in arguments.numbers:
                for way in WAYS if repeat % 2 else reversed(WAYS):
                    speed = WAYS[way](lm, number, order, arguments.steps)
                    speeds.setdefault((order, number, way), []).append(speed)
                    print(
                        f"{repeat + 1}/{arguments.repeats} {order} {number} {way}: {speed:.0f} tokens/s",
                        file=sys.stderr,
                    )
    found: dict[str, Any] = {}
    for order in ("same", "own"):
        for number in arguments.numbers:
            both = {way: speeds[order, number, way] for way in WAYS}
            seconds = {way: [1 / speed for speed in both[way]] for way in WAYS}
            found[f"{order} {number}"] = {
                "tokens_per_second": {way: statistics.median(both[way]) for way in WAYS}, "all": both,
                "gain": gain(seconds["alone"], seconds["together"]) or "none",
            }  # fmt: skip
    most = max(arguments.numbers)
    of_all, of_one = peak("together", most), peak("alone", 1)
    machine = detect()
    name = machine.accelerators[0].name if machine.accelerators else cpu_name()
    name = "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\([^)]*\)|processor", "", name.lower())))
    part = "" if arguments.numbers == [1, 2, 4, 8] else "_" + "_".join(map(str, arguments.numbers))
    write_result(f"adapters-{name}{part}", {
        "model": MODEL, "examples_a_step": BATCH, "speed": found,
        "peak_memory_bytes": {"adapters": most, "together": of_all, "one run": of_one, "as many runs": most * of_one},
        "memory_ratio": of_all / (most * of_one),
    })  # fmt: skip


if __name__ == "__main__":
    main()
