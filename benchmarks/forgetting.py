"""What fine-tuning on a narrow task takes from a small model, and what each remedy keeps of it.

    python benchmarks/forgetting.py [--size 2000] [--variants LIST] [--out FOLDER]

Which of two animals is larger: ``larger_animal`` of instruction-induction (Honovich et al. 2022, Apache-2.0), read from
the folder TUNESMITH_TEST_DATA, by default shared/data beside the repository; SmolLM2-135M-Instruct; 500 validation
examples for all. One variant after another by ``tunesmith search forgetting``, whose report.html stands in ``--out``;
what was interrupted goes on, and a part of the variants may be named. All of them take about two hours on two cores.

In question is whether the change of loss on general text falls from full fine-tuning at ten times the rule's rate, to
LoRA by the rule, to 3 % of self-written replay, to λ = 0.7 on top; and whether the divergence from the base on the
task's own inputs puts the runs in the same order, with a rank correlation above 0.8. Both are reported as they come
out; the exit code is 1 if one is missed. With all examples and variants it also writes docs/images/forgetting.svg.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from environment import test_data, write_result

SIZE, HELD = 2000, 500
CHAIN = ("full+rate=10", "lora", "lora+replay=0.03", "lora+replay=0.03+scale=0.7")
VARIANTS = (
    "full+rate=10", "full", "full+rate=0.25", "lora+rate=10", "lora", "lora+rate=0.25", "lora+scale=0.7",
    "lora+replay=0.03", "lora+replay=0.03+scale=0.7", "lora+kl=1", "lora+averaging=0.3", "lora+l2_sp=0.01",
    "lora+ewc=1", "lora+seed=1", "lora+scale=0.7+seed=1",
    "lora+replay=0.03+seed=1", "lora+replay=0.03+scale=0.7+seed=1",
)  # fmt: skip
CORRELATION = 0.8
INSTRUCTION = "You are given two animals. Answer with the name of the larger one."
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "forgetting.svg"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs") / "forgetting")
    parser.add_argument("--held", type=int, default=HELD)
    chosen = parser.parse_args()
    report = _search(chosen.size, chosen.held, tuple(chosen.variants.split(",")), chosen.out)
    result = _figures(report, chosen.size)
    whole = chosen.size == SIZE and chosen.variants == ",".join(VARIANTS)
    write_result("forgetting" if whole else "forgetting-slice", result)
    if whole:
        PICTURE.write_text(_picture(report), encoding="utf-8")
    if not result["reached"]:
        sys.exit("a figure was missed")


def _search(size: int, held: int, variants: tuple[str, ...], out: Path) -> dict[str, Any]:
    from tunesmith import parse_config
    from tunesmith.cli.progress import progress
    from tunesmith.report.search import write_search_page
    from tunesmith.run import Run
    from tunesmith.search.forgetting import search_forgetting

    config = parse_config({
        "task": {"kind": "generation", "metric": "exact_match", "instruction": INSTRUCTION, "max_new_tokens": 8},
        "model": "smollm2-135m-instruct",
        "data": {"train": str(_examples(out)), "train_limit": size, "validation_size": held, "test_size": held},
        "train": {"epochs": 1},
    })  # fmt: skip
    with progress() as listener:
        report = search_forgetting(config, out / f"{size}", listener, " ".join(["python", *sys.argv]), names=variants)
    write_search_page(Run(out / f"{size}"), report)
    failed = [f"{row['name']}: {row['reason']}" for row in report["variants"] if row["status"] != "ok"]
    if failed:
        sys.exit("\n".join(failed))
    return report


def _examples(out: Path) -> Path:
    file = out / "larger_animal.jsonl"
    if not file.is_file():
        source = test_data("instruction_induction") / "induce" / "larger_animal.json.gz"
        rows = json.loads(gzip.decompress(source.read_bytes()))["examples"].values()
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"prompt": row["input"], "completion": row["output"]}) for row in rows)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _figures(report: dict[str, Any], size: int) -> dict[str, Any]:
    """What came out: each run, the means over seeds, the order and the rank correlation."""
    from scipy.stats import spearmanr

    rows = [row for row in report["variants"] if row["folder"]]
    runs = {
        row["name"]: {
            "exact_match": _rounded(row["quality"]), "general_text_change": _rounded(row["loss"]),
            "kl_to_base": _rounded(row["kl_to_base"]), "learning_rate": row["learning_rate"],
            "best_step": row["overfitting"]["best_step"], "seconds": row["train_seconds"],
        }
        for row in rows
    }  # fmt: skip
    change = {name: _mean(runs, name) for name in runs if "seed" not in name}
    chain = [change[name] for name in CHAIN if name in change]
    steps = [
        {"from": a, "to": b, "fell": change[a] > change[b], "apart": _apart(runs[a], runs[b])}
        for a, b in pairwise(CHAIN)
        if a in change and b in change
    ]
    divergences = [row["kl_to_base"]["value"] for row in rows]
    losses = [row["loss"]["value"] for row in rows]
    rank = float(spearmanr(divergences, losses).statistic) if len(rows) > 2 else None
    base = next(row for row in report["variants"] if not row["folder"])
    return {
        "model": "smollm2-135m-instruct", "task": "larger_animal", "train": size, "validation": base["quality"]["n"],
        "base_exact_match": _rounded(base["quality"]), "runs": runs, "mean_change": change,
        "order": steps, "rank_correlation_of_kl_and_change": rank, "front": report["front"], "knee": report["knee"],
        "reached": all(a > b for a, b in pairwise(chain)) and (rank is None or rank > CORRELATION),
    }  # fmt: skip


def _mean(runs: dict[str, Any], name: str) -> float:
    """Change on general text, over the seeds of a variant."""
    values = [run["general_text_change"]["value"] for other, run in runs.items() if other.split("+seed")[0] == name]
    return round(float(np.mean(values)), 4)


def _apart(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether the intervals do not even touch, which is more than a paired test would ask."""
    return a["general_text_change"]["low"] > b["general_text_change"]["high"]


def _rounded(interval: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) for key, value in interval.items() if key in ("value", "low", "high", "n")}


# ── the picture ──────────────────────────────────────────────────────────────────────────────────────────
STYLE = (
    "svg{background:#fff;font:12px system-ui,sans-serif} text{fill:#1d2129} .tick{fill:#5c6470;font-size:11px} "
    ".grid{stroke:#e2dfd9} .whisker{stroke-width:1.5} line.other{stroke:#6b7686} line.choice{stroke:#0b6e4f} "
    "circle.other{fill:#6b7686} circle.choice{fill:#0b6e4f} .curve{fill:none;stroke:#2b5fa8;stroke-width:2} "
    ".label.choice{fill:#0b6e4f;font-weight:650}"
)


def _picture(report: dict[str, Any]) -> str:
    """The search's picture with its style inside, and the names of its numbers below."""
    from tunesmith.report.charts import WIDTH
    from tunesmith.report.search import table, trade_off

    drawn = trade_off(report)
    height = int(drawn.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()[1])
    rows = [f"{row['key']}  {row['name']}" for row in table(report) if row["drawn"]]
    half = -(-len(rows) // 2)
    legend = ""
    for i, name in enumerate(rows):
        x, y = 10 + (i // half) * WIDTH // 2, height + 16 + 15 * (i % half)
        legend += f'<text class="tick" x="{x}" y="{y}">{escape(name)}</text>'
    drawn = drawn.replace(f"0 0 {WIDTH} {height}", f"0 0 {WIDTH} {height + 24 + 15 * half}", 1)
    drawn = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return drawn.replace("</title>", f"</title><style>{STYLE}</style>", 1).replace("</svg>", f"{legend}</svg>") + "\n"


if __name__ == "__main__":
    main()
