"""Two steps of training on random tokens, in a process of their own, and what they took at their peaks.

``python -m tunesmith.plan.probe`` reads one JSON object from standard input and writes one to standard output. A
process of its own begins with nothing allocated, and is the one that is killed where memory does not suffice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tunesmith.errors import HardwareError
from tunesmith.plan.estimate import OTHER_PROCESS_BYTES
from tunesmith.plan.facts import Facts
from tunesmith.plan.memory import Correction, Training, correction
from tunesmith.train.methods import METHODS

SHARES = (0.5, 1.0)  # of the tokens computed at once that are asked for: what the two steps compute
PASSES = 2  # of each step, until the heap has found its size
CLOSE = 1.3  # estimate over free memory, or the other way round, from which on the formula alone is not trusted
ENDLESS = 10**6  # examples a step: gradients of one micro-batch are there while the next one is computed
INTERFACES = ("causal", "head")  # that random tokens can be made for


@dataclass(frozen=True, slots=True)
class Probe:
    """What is trained for two steps.

    Attributes:
        model: A name that ``load_model`` takes.
        interface: How it is used: ``causal`` or ``head``.
        outputs: Numbers that a head gives.
        method: Its settings as written in a config.
        tokens: Computed at once, of each of the two steps.
        length: Tokens of every example.
        supervised: How many of them, the last ones, are learned.
    """

    model: str
    interface: str
    outputs: int
    method: dict[str, Any]
    tokens: tuple[int, ...]
    length: int
    supervised: int


def probe(what: Probe) -> list[int]:
    """Bytes at the peak of each step, beyond what the process held before the model was loaded.

    Raises:
        HardwareError: If the process did not survive.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.plan.probe"], input=json.dumps(asdict(what)), capture_output=True, text=True
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        killed = "was killed, as where memory runs out" if done.returncode < 0 else f"failed: {last}"
        raise HardwareError(f"{what.model}: two steps of training at {max(what.tokens)} tokens {killed}.")
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def probe_methods(
    methods: Sequence[Any], facts: Facts, interfaces: Mapping[str, str], model: str, outputs: int, tokens: int | None,
    batch: int, always: bool,
) -> dict[str, Correction]:  # fmt: skip
    """Corrections of the formula, by kind of method, for those whose memory is close to what is free, or for all.

    Args:
        methods: Their settings.
        facts: Of data, model and machine.
        interfaces: How each uses the model.
        model: Its name.
        outputs: Numbers that a head gives.
        tokens: Computed at once, if that was set.
        batch: Examples a step.
        always: Also where the formula says that memory suffices by far, or does not by far.
    """
    found: dict[str, Correction] = {}
    free = facts.available_bytes - OTHER_PROCESS_BYTES
    for method in methods:
        training = Training(facts, method, batch, interfaces[method.kind] == "head")
        at_once = max(tokens or training.largest_micro_batch(free) or 0, facts.longest_example)
        share = training.memory(at_once).total / max(free, 1.0)
        readable = facts.architecture in ("decoder", "encoder") and interfaces[method.kind] in INTERFACES
        if readable and METHODS[method.kind].start != "cached" and (always or 1 / CLOSE < share < CLOSE):
            what = Probe(model, interfaces[method.kind], outputs, method.model_dump(), (at_once,), 0, 0)
            found[method.kind] = probe_training(what, training)
    return found


def probe_training(what: Probe, training: Training) -> Correction:
    """Two steps at shares of ``what.tokens``, and what they make of the formula."""
    steps = tuple(max(16, int(share * what.tokens[0])) for share in SHARES)
    facts = training.facts
    length = min(facts.longest_example, steps[0])
    learned = max(1, min(round(facts.supervised_per_example), length - 1))
    alike = replace(
        facts, longest_example=length, tokens_per_example=length, supervised_per_example=learned, prefix_tokens=0
    )
    said = replace(training, facts=alike, batch=ENDLESS)
    formula = [said.memory(tokens).total for tokens in steps]
    return correction(formula, probe(replace(what, tokens=steps, length=length, supervised=learned)))


def random_items(what: Probe, vocabulary: int, tokens: int) -> list[Any]:
    """Encoded examples of ``what.length`` random tokens, enough for two micro-batches of ``tokens``."""
    import numpy as np

    from tunesmith.data.render import IGNORE_INDEX, Rendered
    from tunesmith.train.objectives.head import HeadItem

    rng = np.random.default_rng(0)
    items: list[Any] = []
    for i in range(2 * max(1, tokens // what.length)):
        ids = rng.integers(5, vocabulary, what.length).tolist()
        if what.interface == "head":
            items.append(HeadItem(str(i), ids, (float(i % what.outputs),), "cross_entropy"))
        else:
            masked = what.length - what.supervised
            items.append(Rendered(ids, [IGNORE_INDEX] * masked + ids[masked:], masked, str(i)))
    return items


def measure(what: Probe) -> list[int]:
    """Do the steps in this process."""
    import torch
    from pydantic import TypeAdapter

    from tunesmith.config import Method
    from tunesmith.hardware import current_memory_bytes, peak_memory_bytes, reset_peak_memory, return_freed_memory
    from tunesmith.model.load import load_model
    from tunesmith.model.quantise import import_peft
    from tunesmith.train.objectives import OBJECTIVES
    from tunesmith.train.optim import build_adamw

    import_peft()
    settings: Any = TypeAdapter(Method).validate_python(what.method)
    method = METHODS[settings.kind]
    before = current_memory_bytes()
    lm = load_model(what.model, what.interface, what.outputs, method.four_bit)
    attached = method.attach(lm.model, settings)
    optimizer = build_adamw(attached.trainable, 0.0)
    vocabulary = attached.model.config.get_text_config().vocab_size
    peaks = {}
    for tokens in sorted(what.tokens, reverse=True):  # the heap that a smaller step leaves would not fit a larger one
        objective = OBJECTIVES[what.interface].build(lm, tokens, False)
        items = random_items(what, vocabulary, tokens)
        return_freed_memory()
        reset_peak_memory()
        if lm.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        attached.model.eval()
        objective.item_losses(attached.model, items[:4])  # as training begins, so that the heap looks alike
        attached.model.train()
        for _ in range(PASSES):
            for loss in objective.losses(attached.model, items, 1.0 / len(items)):
                loss.backward()
            torch.nn.utils.clip_grad_norm_(attached.trainable.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        on_device = lm.device.type == "cuda"
        peaks[tokens] = torch.cuda.max_memory_allocated() if on_device else peak_memory_bytes() - before
    return [peaks[tokens] for tokens in what.tokens]


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    sys.stdout.write(json.dumps(measure(Probe(**{**given, "tokens": tuple(given["tokens"])}))) + "\n")
