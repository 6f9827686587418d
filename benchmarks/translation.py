"""English to French on Django's translation catalogs: the base model asked, and tuned with LoRA.

    python benchmarks/translation.py [KEY=VALUE ...]

The project file is examples/translation.yaml, its settings overridden by the arguments. chrF and BLEU are over the
whole test set, with 95 % intervals by bootstrap; differences are paired. Exits with 1 if the tuned model's chrF is not
above the base's, by the lower end of the interval; said as well is whether it is above that of the text left as it is,
which in software's catalogs, full of names and placeholders, is much. Takes about fifteen minutes on two cores.
"""

from __future__ import annotations

import sys

from environment import write_result
from written import base_against_tuned


def main() -> None:
    result = base_against_tuned("translation.yaml", sys.argv[1:], ("chrf", "bleu"))
    scores = {name: c["metrics"]["chrf"]["value"] for name, c in result["candidates"].items()}
    tuned = next(value for name, value in scores.items() if name.startswith("tune/"))
    reached = result["tuned_minus_base"]["chrf"]["low"] > 0
    write_result("translation", {**result, "above_copied_text": tuned > scores["baseline/copy"], "reached": reached})
    if not reached:
        sys.exit("the tuned model does not translate better than the base")


if __name__ == "__main__":
    main()
