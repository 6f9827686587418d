"""The report of a made-up run: report.json's contract, a page that needs nothing else, the model card."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from tunesmith.config import Forgetting
from tunesmith.errors import EvaluationError, NotFoundError, RunError
from tunesmith.evaluate.forgetting import guard_report
from tunesmith.evaluate.memorization import extraction, membership, memorization
from tunesmith.report.findings import headline, key_findings
from tunesmith.report.write import write_report
from tunesmith.run import read_examples, read_json, read_predictions, write_json, write_predictions
from unit.report.synthetic_run import CANDIDATES, build_run

LORA, FULL = "tune/smollm2-135m-instruct/lora", "tune/smollm2-135m-instruct/full"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = build_run(tmp_path_factory.mktemp("finished") / "tickets", test=300)
    return run, write_report(run)


def test_report_json_keeps_the_contract(finished):
    run, report = finished
    assert read_json(run.report_file) == json.loads(json.dumps(report))
    assert report["format_version"] == 1
    assert report["task"] == {"kind": "classification", "metric": "accuracy"}
    assert (report["data"]["train"], report["data"]["validation"], report["data"]["test"]) == (1280, 160, 300)
    assert {"check", "severity", "count", "message", "examples", "fix"} <= report["data"]["findings"][0].keys()
    assert [c["id"] for c in report["candidates"]] == list(CANDIDATES)
    for candidate in report["candidates"]:
        assert {
            "id", "metrics", "baseline", "trainable_parameters", "train_seconds", "tokens_trained",
            "seconds_per_example", "peak_memory_bytes", "overfitting", "forgetting", "bias", "memorization",
        } <= candidate.keys()  # fmt: skip
        assert candidate["metrics"]["accuracy"].keys() == {"value", "low", "high", "n"}
    assert len(report["comparisons"]) == 15
    assert {
        "a", "b", "metric", "difference", "low", "high", "p_value", "n", "minimum_detectable_effect",
    } <= report["comparisons"][0].keys()  # fmt: skip
    assert report["verdict"].keys() == {"choice", "confident", "reason", "would_change"}
    assert report["test_looks"] == 1


def with_config(run, **changes):
    settings = yaml.safe_load(run.settings_file.read_text())
    settings["config"] |= changes
    run.settings_file.write_text(yaml.safe_dump(settings))


def test_the_plans_estimates_stand_beside_what_was_taken(finished, tmp_path):
    run, report = finished
    for candidate in report["candidates"]:
        assert candidate["estimate"] == {
            "seconds": 10.0, "memory_bytes": 10**9,
            "actual_seconds": None, "actual_memory_bytes": candidate["peak_memory_bytes"],
        }  # fmt: skip
    assert "what the plan said, and what it took" in run.html_file.read_text()
    again = build_run(tmp_path / "timed")
    for name, seconds in ((LORA, 700.0), (FULL, 1.0)):  # the second was trained for longer than this process ran
        file = again.candidate(name) / "evaluation.json"
        write_json(file, read_json(file) | {"seconds": seconds})
    timed = {c["id"]: c["estimate"]["actual_seconds"] for c in write_report(again)["candidates"]}
    assert (timed[LORA], timed[FULL]) == (700.0, None)


def test_cost_is_the_time_to_train_and_answer_and_money_where_an_hour_has_a_price(finished, tmp_path):
    _, without = finished
    for candidate in without["candidates"]:
        seconds = candidate["train_seconds"] + 10_000 * candidate["seconds_per_example"]
        assert candidate["cost"] == {"seconds": pytest.approx(seconds), "predictions": 10_000}
    run = build_run(tmp_path / "priced", test=300)
    with_config(run, prices={"machine_hour": 0.9, "currency": "CHF"})
    lora = next(c for c in write_report(run)["candidates"] if c["id"] == LORA)
    assert lora["cost"]["money"] == pytest.approx(0.9 * lora["cost"]["seconds"] / 3600)
    page = run.html_file.read_text()
    assert "0.9 CHF an hour" in page
    assert re.search(r"[\d.]+ CHF</td>", page)
    assert "an hour." not in finished[0].html_file.read_text()


def test_a_guardrail_of_the_user_excludes_by_name(tmp_path):
    run = build_run(tmp_path / "strict", test=300)
    with_config(run, guardrails={"forgetting": "none", "overfitting": "off"})
    forgot = next(c for c in write_report(run)["candidates"] if (c["forgetting"] or {}).get("verdict") == "mild")
    assert f"{forgot['id']} is excluded: its forgetting is mild" in write_report(run)["verdict"]["reason"]


def test_memorised_data_is_a_finding_a_section_a_line_of_the_card_and_a_veto_where_asked(tmp_path):
    members, others = np.arange(30.0) + 25, np.arange(30.0)
    part = memorization(membership(members, others, "ratio"), extraction([False] * 30, [True] * 9 + [False] * 21))
    assert part["verdict"] == "severe"
    run = build_run(tmp_path / "recited", test=300)
    file = run.candidate(FULL) / "evaluation.json"
    write_json(file, {**read_json(file), "memorization": part})
    report = write_report(run)
    assert f"{FULL}: {part['sentence']}" in key_findings(report)
    assert "in 9 of 30 cases, the base model in 0" in part["sentence"]
    page = html.unescape(run.html_file.read_text())
    for shown in ("<h2>Memorised training data</h2>", part["sentence"], "AUC, telling by how much training lowered"):
        assert shown in page
    assert f"- {part['sentence']}" in (run.candidate(FULL) / "model" / "README.md").read_text()
    assert "memorization is severe" not in report["verdict"]["reason"]
    with_config(run, guardrails={"memorization": "mild"})
    assert f"{FULL} is excluded: its memorization is severe" in write_report(run)["verdict"]["reason"]


def test_the_page_shows_prompt_rule_of_thumb_and_what_losses_are_in(finished, tmp_path):
    run = build_run(tmp_path / "shown", test=300)
    for name, more in {
        "prompt/zero-shot": {"details": {"prompt": [{"role": "system", "content": "Sort <this>."}]}},
        LORA: {
            "details": {"loss_unit": "in nats per pair"},
            "reward_margin": {"value": 0.21, "low": 0.1, "high": 0.32, "n": 60},
            "reward_accuracy": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 60},
        },
    }.items():
        file = run.candidate(name) / "evaluation.json"
        write_json(file, read_json(file) | more)
    report, page = write_report(run), run.html_file.read_text()
    assert page.count("Sort &lt;this&gt;.") == page.count("<pre>system: Sort &lt;this&gt;.\n</pre>") == 1
    assert "Loss in nats per pair by step" in page
    assert "0.210 nats (95 % interval 0.100 to 0.320, 60 pairs); above 0 for 70 % of them" in page
    assert f"A rule of thumb, not a result: {report['prior']['favours']}" in page
    assert "Reward margin" not in finished[0].html_file.read_text()


def test_what_was_tried_is_a_table_and_what_was_looked_up_has_a_line_each(tmp_path):
    run = build_run(tmp_path / "tried", test=300)
    file = run.candidate("prompt/zero-shot") / "evaluation.json"
    tried = [
        {"template": "plain", "shots": 0, "score": 0.5},
        {"template": "<rules>", "shots": 4, "skipped": "too long"},
    ]
    rag = {"weight": 0.25, "errors": {"wrong": 7, "retrieval_miss": 3}}
    write_json(file, read_json(file) | {"details": {"tried_on_validation": tried, "rag": rag}})
    write_report(run)
    page = run.html_file.read_text()
    assert "<tr><th>template</th><th>shots</th><th>score</th><th>skipped</th></tr>" in page
    assert "<tr><td>plain</td><td>0</td><td>0.5</td><td>–</td></tr>" in page
    assert "<tr><td>&lt;rules&gt;</td><td>4</td><td>–</td><td>too long</td></tr>" in page
    assert "<dt>errors</dt><dd>wrong: 7, retrieval_miss: 3</dd>" in page


def test_what_was_not_measured_says_so_and_why(finished):
    _, report = finished
    by_id = {c["id"]: c for c in report["candidates"]}
    assert by_id["prompt/zero-shot"]["forgetting"] == {"status": "not_run", "reason": "no model was changed"}
    assert by_id[LORA]["bias"]["status"] == "not_run"
    assert by_id[LORA]["bias"]["reason"]


def test_differences_are_those_of_the_stored_predictions(finished):
    run, report = finished
    for c in report["comparisons"]:
        a, b = (read_predictions(run.candidate(c[side]) / "predictions.parquet") for side in "ab")
        expected = sum(p.score for p in a) / 300 - sum(p.score for p in b) / 300
        assert c["difference"] == pytest.approx(expected)


def test_writing_the_report_again_changes_nothing(finished):
    run, report = finished
    before = run.report_file.read_bytes(), run.html_file.read_bytes()
    assert write_report(run) == report
    assert (run.report_file.read_bytes(), run.html_file.read_bytes()) == before


class Page(HTMLParser):
    """What a page loads, the tags it opens and closes, and its text."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags, self.text, self.policy = [], [], [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        names = dict(attributes)
        self.loads += [v for k, v in attributes if k in ("src", "href", "action", "style") or k.startswith("on")]
        if names.get("http-equiv") == "Content-Security-Policy":
            self.policy = names["content"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(run):
    page = Page()
    page.feed(run.html_file.read_text(encoding="utf-8"))
    assert page.open == []
    return page, " ".join(" ".join(page.text).split())


def test_the_page_loads_nothing_and_forbids_it(finished):
    run, _ = finished
    page, _ = parse(run)
    assert page.loads == []
    assert not {"script", "iframe", "link", "img", "object", "form"} & set(page.tags)
    assert page.policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in page.policy
    raw = run.html_file.read_text(encoding="utf-8")
    assert "url(" not in raw
    assert "@import" not in raw


def test_the_page_says_the_verdict_first_and_shows_every_part(finished):
    run, report = finished
    _, text = parse(run)
    place = 0
    for part in (
        report["verdict"]["reason"], report["verdict"]["would_change"], "What stands out", "Candidates",
        "accuracy against cost", "Training", "Forgetting", "the suite could not be pulled",
        "Answers of the choice", "Its most confident mistakes", "14 training examples are copies",
        "ten times the rate of full fine-tuning", "Not measured", "How to reproduce this",
        "tunesmith run tickets.yaml --out runs/tickets",
    ):  # fmt: skip
        place = text.index(part, place)
    for name in CANDIDATES:
        assert name in text


def test_what_a_data_set_wrote_is_text(finished):
    run, _ = finished
    raw = run.html_file.read_text(encoding="utf-8")
    assert "<b>" not in raw
    assert "&lt;b&gt;&amp;amp; more&lt;/b&gt;" in raw


def test_a_model_card_stands_beside_the_weights(finished):
    run, report = finished
    card = (run.candidate(LORA) / "adapter" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert header == {
        "library_name": "peft", "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0",
        "language": ["en"], "tags": ["tunesmith", "classification", "lora"],
    }  # fmt: skip
    value = next(c for c in report["candidates"] if c["id"] == LORA)["metrics"]["accuracy"]
    assert f"| accuracy | {100 * value['value']:.1f} % | {100 * value['low']:.1f} %" in card
    assert "against prompt/zero-shot: +" in card
    assert "t" * 64 in card
    assert "Not measured: bias" in card
    whole = (run.candidate(FULL) / "model" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(whole.split("---")[1])["library_name"] == "transformers"


def test_a_failed_and_a_forgotten_candidate_are_shown_and_never_chosen(tmp_path):
    run = build_run(tmp_path / "run", test=120, failed=(LORA,))
    (run.candidate(FULL) / "evaluation.json").unlink()
    report = write_report(run)
    by_id = {c["id"]: c for c in report["candidates"]}
    assert by_id[LORA]["status"] == "failed"
    assert by_id[FULL]["status"] == "not_run"
    assert report["verdict"]["choice"] not in (LORA, FULL)
    assert f"{LORA} is excluded: it did not finish (the loss was not finite at step 31)" in report["verdict"]["reason"]
    _, text = parse(run)
    assert "the loss was not finite at step 31" in text
    assert any("was planned but not evaluated" in sentence for sentence in key_findings(report))


def test_what_forgetting_cannot_tell_what_got_worse_and_what_the_guard_did_are_said(tmp_path):
    run = build_run(tmp_path / "run", shares={"prompt/zero-shot": 0.4, LORA: 0.9}, test=200)
    path = run.candidate(LORA) / "evaluation.json"
    part = read_json(path)["forgetting"]
    change = {
        "base": 0.0,
        "tuned": 0.5,
        "difference": 0.5,
        "low": 0.3,
        "high": 0.7,
        "n": 32,
        "unit": "share of answers",
    }
    part["suites"]["openbookqa"] |= {"chance": 0.25, "above_chance": False, "nll": change}
    part |= {
        "kl_on_general": {"value": 0.777, "low": 0.7, "high": 0.8, "n": 512, "p95": 2.5},
        "collapse": {"refusal": {**change, "worse": True}, "valid_json": {**change, "worse": False}},
        "guard": guard_report(Forgetting(guard=0.5), [(40, 0.4), (80, 0.6)], {"step": 80, "kl": 0.6}, 40),
    }
    write_json(path, read_json(path) | {"forgetting": part})
    told = key_findings(write_report(run))
    assert any("the base is not above chance on openbookqa, so accuracy there tells nothing" in s for s in told)
    assert any(
        "answers to general requests changed for the worse: refusal." in s or "worse: refusal;" in s for s in told
    )
    assert f"{LORA}: {part['guard']['sentence']}" in told
    page = html.unescape(run.html_file.read_text())
    for shown in ("base not above chance (0.25", "openbookqa, right answer", "on general requests",
                  "95th percentile 2.5", "general requests: valid json", "changed for the worse",
                  part["guard"]["sentence"]):  # fmt: skip
        assert shown in page, shown
    part |= {"collapse": {"status": "not_run", "reason": "no template"}, "status": "not_run", "verdict": "unknown"}
    write_json(path, read_json(path) | {"forgetting": {**part, "reason": "general requests: no template"}})
    told = key_findings(write_report(run))
    assert f"{LORA}: {part['guard']['sentence']}" in told
    assert any("was not measured: general requests: no template" in sentence for sentence in told)
    assert "not measured: no template" in html.unescape(run.html_file.read_text())


def test_forgetting_that_was_not_run_leaves_the_verdict_uncertain(tmp_path):
    run = build_run(tmp_path / "run", shares={"prompt/zero-shot": 0.4, LORA: 0.9}, test=200)
    path = run.candidate(LORA) / "evaluation.json"
    write_json(path, read_json(path) | {"forgetting": {"status": "not_run", "reason": "forgetting: off"}})
    report = write_report(run)
    assert report["verdict"]["choice"] == LORA
    assert not report["verdict"]["confident"]
    assert any("was not measured: forgetting: off" in sentence for sentence in key_findings(report))


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"prompt/zero-shot": 0.4, LORA: 0.9}, "Fine-tuning is worth it"),
        ({"embedding/minilm-l6": 0.9, LORA: 0.4}, "Fine-tuning is not worth it"),
        ({"embedding/minilm-l6": 0.7, LORA: 0.7}, "No evidence that fine-tuning is worth it"),
        ({"embedding/minilm-l6": 0.7, "prompt/zero-shot": 0.4}, "No fine-tuned candidate to judge"),
        ({LORA: 0.7}, "Fine-tuned, with nothing to compare it with"),
    ],
)
def test_the_headline_says_whether_fine_tuning_was_worth_it(tmp_path, shares, says):
    assert headline(write_report(build_run(tmp_path / "run", shares=shares, test=300))) == says


def test_a_generation_run_shows_its_best_and_worst_answers(tmp_path):
    run = build_run(tmp_path / "run", kind="generation", shares={"prompt/zero-shot": 0.4, LORA: 0.8}, test=60)
    report = write_report(run)
    assert report["comparisons"][0]["test"] == "paired_bootstrap"
    _, text = parse(run)
    assert "Its worst answers" in text
    assert "It is something else" in text
    assert "Which label was answered" not in text


@pytest.mark.parametrize(
    ("shares", "choice", "beside"),
    [
        ({"prompt/zero-shot": 0.2, LORA: 0.9}, LORA, "prompt/zero-shot"),
        ({"prompt/zero-shot": 0.9, LORA: 0.2, FULL: 0.3}, "prompt/zero-shot", FULL),
        ({"baseline/majority": 0.1, LORA: 0.9}, LORA, None),
    ],
)
def test_texts_of_the_tuned_and_the_untuned_model_stand_side_by_side(tmp_path, shares, choice, beside):
    run = build_run(tmp_path / "run", kind="generation", shares=shares, test=60)
    report = write_report(run)
    assert report["verdict"]["choice"] == choice
    page = run.html_file.read_text(encoding="utf-8")
    answers = page[page.index("Answers of the choice") : page.index("<h2>Data</h2>")]
    if beside is None:
        assert "<th>answered</th>" in answers
        return
    assert f"<th>{choice}</th><th>{beside}</th>" in answers
    cells = re.findall(r'<td class="long">(.*?)</td>', answers)
    rows = [tuple(cells[i : i + 4]) for i in range(0, len(cells), 4)]
    stored = read_predictions(run.candidate(beside) / "predictions.parquet")
    by_input = {e.prompt[-1].content: e.id for e in read_examples(run.split("test"))}
    of = {p.example_id: p.prediction for p in stored}
    for shown, target, answered, other in rows:
        assert other == of[by_input[html.unescape(shown)]]
        assert answered in (target, "It is something else")
    assert len(rows) == 18
    blind = rows[:6]
    assert [by_input[html.unescape(r[0])] for r in blind] == sorted(of)[:6]


def test_many_labels_are_shown_as_the_most_confused_pairs(tmp_path):
    run = build_run(tmp_path / "run", labels=tuple(f"intent {i}" for i in range(77)), test=200)
    write_report(run)
    _, text = parse(run)
    assert "Most often confused" in text
    assert "Which label was answered for which" not in text


def test_a_metrics_file_cut_short_is_drawn_as_far_as_it_goes(tmp_path):
    run = build_run(tmp_path / "run", shares={"prompt/zero-shot": 0.4, LORA: 0.8}, test=60)
    path = run.candidate(LORA) / "metrics.jsonl"
    path.write_text(path.read_text()[:-40])
    write_report(run)
    assert "Loss in nats per token" in parse(run)[1]


def test_a_run_without_results_is_refused(tmp_path):
    run = build_run(tmp_path / "run", shares={"prompt/zero-shot": 0.5}, test=30)
    path = run.candidate("prompt/zero-shot")
    stored = read_predictions(path / "predictions.parquet")
    (path / "predictions.parquet").unlink()
    report = write_report(run)
    assert report["verdict"]["choice"] is None
    assert headline(report) == "No verdict"
    (path / "evaluation.json").unlink()
    with pytest.raises(RunError, match="no candidate was evaluated"):
        write_report(run)
    run.data_file.unlink()
    with pytest.raises(NotFoundError, match=re.escape("data.json")):
        write_report(run)
    assert len(stored) == 30


def test_candidates_that_answered_different_examples_are_refused(tmp_path):
    run = build_run(tmp_path / "run", shares={"prompt/zero-shot": 0.5, LORA: 0.8}, test=30)
    path = run.candidate(LORA) / "predictions.parquet"
    write_predictions(path, read_predictions(path)[:-1])
    with pytest.raises(EvaluationError, match="1 are only in the first"):
        write_report(run)


def test_the_page_shows_the_course_of_training_and_the_calibration(tmp_path):
    run = build_run(tmp_path / "course", test=300)
    file = run.candidate(FULL) / "evaluation.json"
    error = {"value": 0.123, "low": 0.1, "high": 0.15, "n": 200}
    heat = {
        "value": 1.7, "n_validation": 160, "at_an_end": False, "nll_before": 0.6, "nll_after": 0.5,
        "expected_calibration_error": error, "difference": {"value": -0.05, "low": -0.07, "high": -0.031, "n": 200},
    }  # fmt: skip
    found = {"status": "ok", "n_bins": 10, "expected_calibration_error": error, "if_calibrated": 0.04}
    found |= {"confidence": 0.9, "accuracy": 0.8, "temperature": heat}
    write_json(file, read_json(file) | {"calibration": found})
    write_report(run)
    page = run.html_file.read_text(encoding="utf-8")
    for shown in ("The course of training", "lowest at step 60", "Nothing to change", "accuracy at step 70"):
        assert shown in page
    assert f"accuracy of {FULL} by step" in page
    assert f"expected_calibration_error of {FULL} by step" not in page
    for shown in ("<h2>Calibration</h2>", "0.123", "1.700", "−0.070 to −0.031"):
        assert shown in page
