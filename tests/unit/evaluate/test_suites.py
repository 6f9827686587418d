from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.config import Forgetting
from tunesmith.errors import DataError, EvaluationError
from tunesmith.evaluate import suites
from tunesmith.evaluate.suites import TIERS, Item, Suite, read_own, read_suite, suite_scores
from tunesmith.model.load import load_model
from tunesmith.sources.catalog import SUITES

OPTIONS = ["cold", "sunny and warm", "no"]
ROWS = [
    {
        "question": f" What is day {i}? ",
        "options": "A. cold\nB. sunny and warm\nC. no",
        "answer": f"{'ABC'[i % 3]}. {OPTIONS[i % 3]}",
    }
    for i in range(12)
]


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.fixture
def catalog_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def offer(rows: list[Any], kind: str = "multiple_choice") -> None:
        file = write_rows(tmp_path / "suite.jsonl", rows)
        monkeypatch.setattr(suites, "resolve_suite", lambda name: file)
        monkeypatch.setattr(suites, "suite_entry", lambda name: SimpleNamespace(kind=kind))

    return offer


def test_tiers_ask_more_and_more() -> None:
    assert set(TIERS["quick"]) < set(TIERS["standard"]) == set(TIERS["full"]) == set(SUITES)
    assert {"mmlu", "piqa", "commonsenseqa", "siqa", "openbookqa", "boolq", "truthfulqa"} < set(TIERS["standard"])
    assert set(TIERS["standard"].values()) == {500}
    assert set(TIERS["full"].values()) == {None}


def test_items_are_read_once_each_in_an_order_of_their_own(catalog_suite: Any) -> None:
    unusable = {"question": "?", "options": "A. x\nB. y", "answer": "z"}
    catalog_suite([*ROWS, ROWS[0], unusable, ""])
    suite = read_suite("any")
    assert len(suite.items) == 12
    assert suite.items[0].options == (" cold", " sunny and warm", " no")
    assert {item.prompt for item in suite.items} == {f"Question: What is day {i}?\nAnswer:" for i in range(12)}
    assert suite.chance == pytest.approx(1 / 3)
    assert suite.documents is None
    catalog_suite(ROWS[::-1])
    assert read_suite("any", 4).items == suite.items[:4]
    assert read_suite("any").key == suite.key != read_suite("any", 4).key


def test_every_layout_of_the_catalog(catalog_suite: Any) -> None:
    catalog_suite([{"question": "is ice cold", "passage": "Ice is.", "answer": "True"}], "yes_no")
    (item,) = read_suite("any").items
    assert (item.prompt, item.options, item.right) == (
        "Ice is.\nQuestion: is ice cold?\nAnswer:", (" no", " yes"), 1,
    )  # fmt: skip
    catalog_suite([{"question": "Where?", "answer": ["Here", "Not there"]}], "answers")
    assert read_suite("any").items[0].options == (" Here", " Not there")
    catalog_suite([{**ROWS[0], "passage": "It snowed."}])
    assert read_suite("any").items[0].prompt == "It snowed.\nQuestion: What is day 0?\nAnswer:"


def test_a_broken_suite_is_said_with_its_line(catalog_suite: Any) -> None:
    catalog_suite([ROWS[0], "{"])
    with pytest.raises(EvaluationError, match="line 2"):
        read_suite("any")
    catalog_suite([{"question": "?", "options": "A. x\nB. y", "answer": "z"}])
    with pytest.raises(EvaluationError, match="no usable item"):
        read_suite("any")


def plain_losses(lm: Any, prompt: list[int], tail: list[int]) -> list[float]:
    """Nats of each token of ``tail``, by a forward pass of its own."""
    with torch.no_grad():
        logs = lm.model(torch.tensor([[*prompt, *tail]])).logits[0].log_softmax(-1)
    return [-float(logs[len(prompt) + i - 1, t]) for i, t in enumerate(tail)]


@pytest.mark.parametrize("kind", ["multiple_choice", "yes_no", "answers"])
def test_scores_equal_a_forward_pass_for_each_option(kind: Any, tiny_model_path: Path, catalog_suite: Any) -> None:
    lm = load_model(str(tiny_model_path))
    catalog_suite(ROWS)
    suite = Suite("any", kind, read_suite("any").items)
    found = suite_scores(lm, suite)
    lm.model.set_attn_implementation("sdpa")
    for i, item in enumerate(suite.items):
        prompt = lm.tokenizer(item.prompt).input_ids
        losses = [plain_losses(lm, prompt, lm.tokenizer(o, add_special_tokens=False).input_ids) for o in item.options]
        if kind == "answers":
            assert found["nll"][i] == pytest.approx(np.mean([np.mean(loss) for loss in losses]), rel=1e-5)
            assert set(found) == {"nll"}
            continue
        lengths = [1 if kind == "yes_no" else len(option.strip()) for option in item.options]
        best = int(np.argmin([sum(loss) / n for loss, n in zip(losses, lengths, strict=True)]))
        assert found["accuracy"][i] == float(best == item.right)
        assert found["nll"][i] == pytest.approx(np.mean(losses[item.right]), rel=1e-5)


@pytest.mark.parametrize(("kind", "best"), [("multiple_choice", 1), ("yes_no", 0)])
def test_length_decides_only_between_yes_and_no(
    kind: Any, best: int, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [np.array([3.0]), np.array([2.0, 3.0])]  # 3 nats for 2 characters, 5 for 14: 1.5 and 0.36 for each
    monkeypatch.setattr("tunesmith.model.score.score_continuations", lambda *_: [said])
    item = Item("?", (" no", " sunny and warm"), best)
    assert suite_scores(load_model(str(tiny_model_path)), Suite("any", kind, (item,)))["accuracy"] == [1.0]


def test_a_question_longer_than_the_model_can_take_is_said(tiny_model_path: Path) -> None:
    lm = load_model(str(tiny_model_path))
    suite = Suite("own", "multiple_choice", (Item("day " * (lm.max_length + 1), (" a", " b"), 0),))
    with pytest.raises(EvaluationError, match=f"the model takes {lm.max_length:,}"):
        suite_scores(lm, suite)


def test_the_loss_on_text_is_per_token(tiny_model_path: Path, catalog_suite: Any) -> None:
    lm = load_model(str(tiny_model_path))
    catalog_suite([{"passage": f"the news  report \n of day {i}"} for i in range(5)], "text")
    suite = read_suite("any")
    found = suite_scores(lm, suite)["nll"]
    lm.model.set_attn_implementation("sdpa")
    for item, score in zip(suite.items, found, strict=True):
        assert "  " not in item.options[0]
        ids = torch.tensor([lm.tokenizer(item.options[0]).input_ids])
        with torch.no_grad():
            assert score == pytest.approx(lm.model(ids, labels=ids).loss.item(), rel=1e-5)


# ── the user's own ───────────────────────────────────────────────────────────────────────────────────────
def own_rows(n: int = 12) -> list[dict[str, Any]]:
    return [{"question": f"Day {i}?", "options": OPTIONS, "answer": OPTIONS[i % 3]} for i in range(n)]


def test_own_suites_and_texts_are_read(tmp_path: Path) -> None:
    questions = write_rows(tmp_path / "q.jsonl", own_rows())
    texts = write_rows(
        tmp_path / "t.jsonl", [{"text": " ".join(f"day {i}.{k} is cold" for k in range(60))} for i in range(12)]
    )
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(11):
        (folder / f"{i}.md").write_text(f"Note {i} is not very long.")
    paths = [str(texts), str(folder)]
    found = read_own(Forgetting(suites=(str(questions),), texts=tuple(paths), tier="full"))
    own, long, short = (found[name] for name in [str(questions), *paths])
    assert isinstance(own, Suite) and isinstance(long, Suite) and isinstance(short, Suite)
    assert (own.kind, len(own.items), own.documents) == ("multiple_choice", 12, None)
    assert len(long.items) == 12 * 3 and len(set(long.documents or ())) == 12
    assert all(len(item.options[0]) <= suites.PIECE_CHARACTERS for item in long.items)
    assert sorted(item.options[0] for item in short.items) == sorted(f"Note {i} is not very long." for i in range(11))
    quick = read_own(Forgetting(texts=(str(folder),)))[str(folder)]
    assert isinstance(quick, Suite) and quick.items == short.items


def test_all_bad_rows_are_refused_at_once_by_file_and_line(tmp_path: Path) -> None:
    bad = [
        {**own_rows(1)[0], "question": 7}, {**own_rows(1)[0], "options": "A. x\nB. y"},
        {**own_rows(1)[0], "options": ["x", "x"]}, {**own_rows(1)[0], "answer": "maybe"},
        {**own_rows(1)[0], "passage": 3}, "{",
    ]  # fmt: skip
    questions = write_rows(tmp_path / "q.jsonl", [*own_rows(10), *bad])
    texts = write_rows(
        tmp_path / "t.jsonl", [{"text": "long enough to be read"}, {"text": " "}, {"body": "x"}, {"text": "too short"}]
    )
    few = write_rows(tmp_path / "few.jsonl", own_rows(3))
    missing = tmp_path / "missing.jsonl"
    settings = Forgetting(suites=tuple(map(str, (questions, few, missing))), texts=(str(texts),))
    with pytest.raises(DataError) as caught:
        read_own(settings)
    said = str(caught.value)
    for line, what in ((11, "'question' is 7"), (12, "a list of texts"), (13, "two or more that differ"),
                       (14, "none of the options"), (15, "'passage' is 3"), (16, "broken JSON")):  # fmt: skip
        assert f"{questions} line {line}: " in said
        assert what in next(row for row in said.splitlines() if f"{questions} line {line}:" in row)
    assert f"{texts} line 2: 'text' is" in said and f"{texts} line 3: 'text' is null" in said
    assert f"{texts}:4: 9 characters; expected 20 or more" in said
    assert f"{few}: 3 questions; expected 10 or more" in said
    assert f"{missing}: no such file" in said
    assert "11 problems" in said


def test_texts_need_several_documents(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("long " * 1000)
    with pytest.raises(DataError, match="1 documents; expected 10"):
        read_own(Forgetting(texts=(str(tmp_path / "notes"),)))
