"""The training loop without abstractions: fine-tune on 212 questions in one to two minutes on two cores.

    python examples/training_loop.py

What ``tunesmith.train.loop`` does, in one flat script on the same helpers: read, split, render, attach LoRA, train,
judge. Left out here, and needed in earnest: checkpoints and resuming, early stopping, several processes, stopping on a
loss that is not finite. Read this one to learn; trust the other one, which the tests hold against plain PyTorch.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tunesmith.config import Classification, Lora
from tunesmith.data.read import read_examples
from tunesmith.data.render import Renderer
from tunesmith.data.split import split_examples
from tunesmith.model.forward import hidden_states, summed_loss, token_losses
from tunesmith.model.load import load_model
from tunesmith.tasks import build_task
from tunesmith.train.batches import Shuffled, micro_batches
from tunesmith.train.methods import METHODS
from tunesmith.train.optim import build_adamw, learning_rate_at

MODEL = "smollm2-135m-instruct"
DATA = Path(__file__).with_name("questions.csv")
SEED, BATCH, STEPS = 0, 8, 48
TOKENS_AT_ONCE = 1024  # bounds memory; changes nothing else

# ── data: rows → examples → splits by content, so that no text is in two of them ──────────────────────────
rows = read_examples(DATA, "classification", text="question", label="topic").examples
split = split_examples(rows, seed=SEED, validation_size=30, test_size=60, stratify=True)
train, validation, test = split.train, split.validation, split.test

# ── task: an example becomes a conversation whose last turn is the answer ─────────────────────────────────
labels = sorted({example.label for example in train if example.label})
task = build_task(Classification(), labels)  # the instruction is made from the labels

# ── model: weights and tokenizer; the renderer turns conversations into tokens, and marks those that are learned ─
lm = load_model(MODEL)
renderer = Renderer(lm.tokenizer, lm.max_length)
learned = [renderer.render(task.messages(example), example.id) for example in train]
held_out = [renderer.render(task.messages(example), example.id) for example in validation]


def accuracy() -> float:
    """Share of the test questions whose likeliest label is right."""
    lm.model.eval()
    predictions = task.predict(lm, test, "example")
    return sum(p.score for p in predictions) / len(predictions)


def validation_loss() -> float:
    """Mean negative log-likelihood of the held-out answers, nats per token."""
    lm.model.eval()
    total, count = 0.0, 0
    for micro in micro_batches(held_out, TOKENS_AT_ONCE, share_prefix=True, device=lm.device):
        with torch.no_grad():
            hidden = hidden_states(lm.model, micro.pack, lm.packed)
            losses = token_losses(lm.model, hidden[micro.rows], micro.targets)
        total, count = total + losses.sum().item(), count + len(losses)
    return total / count


print(f"before: accuracy {accuracy():.3f} on {len(test)} test questions, validation loss {validation_loss():.3f}")

# ── method: which weights move, and how far a step goes ───────────────────────────────────────────────────
torch.manual_seed(SEED)  # the adapter's first values
method = METHODS["lora"]
attached = method.attach(lm.model, Lora(rank=16))
lm.model = attached.model
config = lm.model.config
peak_rate, source = method.learning_rate(config.model_type, config.hidden_size)
optimizer = build_adamw(attached.trainable, weight_decay=0.0)
print(
    f"{attached.trainable_parameters:,} of {lm.parameters:,} parameters move; learning rate {peak_rate:.1e} ({source})"
)

order = Shuffled(len(learned))

# ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────
for step in range(STEPS):
    batch = [learned[i] for i in order.step(BATCH, SEED, step)]
    answers = sum(label >= 0 for example in batch for label in example.labels)  # tokens that carry loss

    lm.model.train()
    loss = 0.0
    # What all examples of the step begin with is computed once; the rest lies end to end, without padding.
    for micro in micro_batches(batch, TOKENS_AT_ONCE, share_prefix=True, device=lm.device):
        hidden = hidden_states(lm.model, micro.pack, lm.packed)  # (tokens, hidden)
        # Divided by the step's tokens, not the micro-batch's: cutting a step in pieces must not change it.
        weights = torch.full((len(micro.rows),), 1.0 / answers, device=lm.device)
        # Logits are wanted only where a token is learned: a few rows of a matrix with 49,152 columns.
        part = summed_loss(lm.model, hidden[micro.rows], micro.targets, weights)
        part.backward()
        loss += part.item()

    torch.nn.utils.clip_grad_norm_(attached.trainable.values(), max_norm=1.0)
    rate = learning_rate_at(step, STEPS, peak_rate, warmup_ratio=0.05, schedule="cosine")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    print(f"step {step + 1:>2}/{STEPS}  loss {loss:.3f}  learning rate {rate:.1e}")

print(f"after: accuracy {accuracy():.3f} on {len(test)} test questions, validation loss {validation_loss():.3f}")
