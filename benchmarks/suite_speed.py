"""The suites of the forgetting measure against a bare batched forward pass, in tokens per second; and what they add.

Both score the same rows, each a prompt with one of its options: ours by ``evaluate.suites.suite_scores``, the bare pass
by ``model(input_ids, attention_mask)`` on padded batches of rows in order of length, in float32, without looking at the
logits. A token is one of a row's own, padding is none, and a prompt counts with each of its options, since that is what
was asked; what ours computes once for all of them is its gain. The two alternate.

    python benchmarks/suite_speed.py [--items 100] [--repeats 3] [--suites piqa mmlu …] [--run runs/sarcasm]

With ``--run``, a finished run of the demo whose base scores were cached, also the share of its time that forgetting
took. Takes about fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from environment import write_result

MODEL = "smollm2-135m-instruct"
BATCH_TOKENS = 2048  # of the bare pass, padding among them; as many as ours computes at once


def rows(lm: Any, suite: Any) -> list[list[int]]:
    """Token ids of each prompt with each option, as they are scored."""
    from tunesmith.evaluate.suites import TEXT_TOKENS

    if suite.kind == "text":
        return [lm.tokenizer(item.options[0]).input_ids[:TEXT_TOKENS] for item in suite.items]
    return [
        [*lm.tokenizer(item.prompt).input_ids, *lm.tokenizer(option, add_special_tokens=False).input_ids]
        for item in suite.items
        for option in item.options
    ]


def bare_pass(model: Any, ids: list[list[int]]) -> None:
    """Every row through the model, in padded batches in order of length."""
    import torch

    ordered = sorted(ids, key=len)
    at = 0
    with torch.no_grad():
        while at < len(ordered):
            n = 1
            while at + n < len(ordered) and (n + 1) * len(ordered[at + n]) <= BATCH_TOKENS:
                n += 1
            batch = ordered[at : at + n]
            padded = torch.zeros(n, len(batch[-1]), dtype=torch.long)
            mask = torch.zeros_like(padded)
            for i, row in enumerate(batch):
                padded[i, : len(row)] = torch.tensor(row)
                mask[i, : len(row)] = 1
            model(input_ids=padded, attention_mask=mask, use_cache=False)
            at += n


def share_of_run(run: Path) -> dict[str, Any]:
    """How much of a run's time its candidates' forgetting took."""
    import yaml

    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    created = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["created"]
    total = (run / "report.json").stat().st_mtime - datetime.fromisoformat(str(created)).timestamp()
    took = [part["seconds"] for c in report["candidates"] if "seconds" in (part := c.get("forgetting") or {})]
    spent = sum(part["base"] + part["tuned"] for part in took)
    return {"run_seconds": round(total, 1), "forgetting_seconds": round(spent, 1),
            "share_added": round(spent / (total - spent), 4)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--suites", nargs="+")
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()

    from transformers import AutoModelForCausalLM

    from tunesmith.evaluate.suites import read_suite, suite_scores
    from tunesmith.model.load import load_model
    from tunesmith.sources.catalog import SUITES

    lm = load_model(MODEL)
    model = AutoModelForCausalLM.from_pretrained(
        lm.folder.path, dtype=lm.model.dtype, attn_implementation="sdpa"
    ).eval()
    found: dict[str, Any] = {}
    for name in options.suites or SUITES:
        suite = read_suite(name, options.items)
        ids = rows(lm, suite)
        tokens = sum(map(len, ids))
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(options.repeats):
            for who, call in (("ours", lambda: suite_scores(lm, suite)), ("bare", lambda: bare_pass(model, ids))):  # noqa: B023
                begun = time.perf_counter()
                call()
                seconds[who].append(time.perf_counter() - begun)
        ratios = [bare / ours for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
        found[name] = {
            "tokens": tokens, "rows": len(ids),
            **{f"{who}_tokens_per_second": round(tokens / statistics.median(s), 1) for who, s in seconds.items()},
            "ratio": round(statistics.median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios],
        }  # fmt: skip
    lowest = min(found.values(), key=lambda part: part["ratio"])["ratio"]
    write_result("suite_speed", {
        "model": MODEL, "items": options.items, "suites": found, "lowest_ratio": lowest, "target_ratio": 0.7,
        "target_share_added": 0.2, "demo": share_of_run(options.run) if options.run else {"status": "not run"},
    })  # fmt: skip


if __name__ == "__main__":
    main()
