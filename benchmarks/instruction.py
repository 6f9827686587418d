"""Instruction tuning on an FAQ about building in Sweden: the base model asked, and tuned with LoRA.

    python benchmarks/instruction.py [KEY=VALUE ...]

The project file is examples/instruction.yaml, its settings overridden by the arguments. Metrics are means over the
test questions with 95 % intervals; differences are paired; five answers stand side by side in the result. Exits with
1 if the tuned model's ROUGE-L is not above the base's, by the lower end of the interval. Takes about ten minutes on
two cores.
"""

from __future__ import annotations

import sys

from environment import write_result
from written import base_against_tuned


def main() -> None:
    result = base_against_tuned("instruction.yaml", sys.argv[1:], ("rouge_l", "token_f1"))
    reached = result["tuned_minus_base"]["rouge_l"]["low"] > 0
    write_result("instruction", {**result, "reached": reached})
    if not reached:
        sys.exit("the tuned model does not answer better than the base")


if __name__ == "__main__":
    main()
