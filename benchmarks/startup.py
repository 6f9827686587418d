"""How long ``tunesmith --help`` takes, and whether it imports torch.

    python benchmarks/startup.py [--runs 20]

Target: 0.4 s at the median, and neither torch nor transformers imported. Exits with 1 if it is missed. Takes ten
seconds; the first, uncounted run reads the files into memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from environment import write_result

TARGET_SECONDS = 0.4
HEAVY = ("torch", "transformers", "sklearn", "pyarrow", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    command = [str(Path(sys.executable).with_name("tunesmith")), "--help"]
    seconds = [_time(command) for _ in range(runs + 1)][1:]
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from tunesmith.cli.main import main; main(['--help'])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    modules = {line.rsplit("|", 1)[-1].strip() for line in imported.stderr.splitlines() if "|" in line}
    heavy = [name for name in HEAVY if name in modules]
    median = statistics.median(seconds)
    write_result("startup", {
        "median_seconds": round(median, 4), "fastest_seconds": round(min(seconds), 4),
        "slowest_seconds": round(max(seconds), 4), "runs": runs, "heavy_imports": heavy,
        "target_seconds": TARGET_SECONDS, "reached": median <= TARGET_SECONDS and "torch" not in heavy,
    })  # fmt: skip
    if median > TARGET_SECONDS or "torch" in heavy:
        sys.exit(1)


def _time(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "COLUMNS": "100"})
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
