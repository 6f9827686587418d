"""Our DPO loss = TRL's on the same pairs, as its trainer computes it from the same conversations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.config import Full, Lora, Preference
from tunesmith.model.load import load_model
from tunesmith.records import Example, Message
from tunesmith.tasks import build_task
from tunesmith.train.methods import METHODS
from tunesmith.train.objectives import OBJECTIVES, EncodeSettings

BETA = 0.3


def examples() -> list[Example]:
    return [
        Example(
            f"f:{i}",
            (Message("user", f"say {'very ' * (i % 4)}{i}"), Message("assistant", f"yes {'x' * (i % 3)}")),
            rejected=(Message("assistant", "no " * (1 + i % 5)),),
        )
        for i in range(6)
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of another library
@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_and_margins(tiny_model_path: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = load_model(str(tiny_model_path), "preference")
    task = build_task(Preference(beta=BETA), ())
    items, _ = OBJECTIVES["preference"].encode(task, lm.tokenizer, examples(), EncodeSettings(200))
    torch.manual_seed(0)
    attached = METHODS[method].attach(lm.model, Lora(rank=4) if method == "lora" else Full())
    lm.model = attached.model
    objective: Any = OBJECTIVES["preference"].build(lm, 64, True)
    with torch.no_grad():  # away from the start
        for parameter in attached.trainable.values():
            parameter += 0.02 * torch.randn_like(parameter)
    found = objective.item_losses(lm.model.eval(), items)
    lm.model.set_attn_implementation("sdpa")

    rows = [
        {
            "prompt": [{"role": m.role, "content": m.content} for m in e.prompt],
            "chosen": [{"role": "assistant", "content": e.answer}],
            "rejected": [{"role": "assistant", "content": e.rejected[0].content}],
        }
        for e in examples()
    ]
    trainer = trl.DPOTrainer(
        model=lm.model,  # the adapters are inside
        ref_model=AutoModelForCausalLM.from_pretrained(tiny_model_path, attn_implementation="sdpa"),
        args=trl.DPOConfig(
            output_dir=str(tmp_path), beta=BETA, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=len(rows), disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_path),
    )  # fmt: skip
    for item, row in zip(items, trainer.train_dataset, strict=True):
        assert (list(item.prompt), list(item.chosen)) == (row["prompt_ids"], row["chosen_ids"][: len(item.chosen)])
        assert list(item.rejected) == row["rejected_ids"][: len(item.rejected)]
        # TRL learns the newline that the template writes behind the end of the turn as well; we end with the turn
        assert len(row["chosen_ids"]) - len(item.chosen) == len(row["rejected_ids"]) - len(item.rejected) == 1
    batch = trainer.data_collator([
        {"prompt_ids": list(item.prompt), "chosen_ids": list(item.chosen), "rejected_ids": list(item.rejected)}
        for item in items
    ])  # fmt: skip
    with torch.no_grad():
        expected = float(trainer.compute_loss(trainer.model.eval(), batch))
    assert float(found.mean()) == pytest.approx(expected, abs=1e-5)
    assert abs(expected - 0.6931) > 1e-3  # or this shows nothing
