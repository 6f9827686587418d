"""What was saved of a model or predictor is enough to ask it its task; ``chat`` and ``evaluate`` say the same."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from assets.seq2seq import build_seq2seq
from end_to_end.projects import TINY, Result, build_encoder, call, sentences, settings, write_project
from tunesmith.run import PREDICTOR, Run, read_examples, read_json, read_predictions, write_json

Json = dict[str, Any]


class Trained(NamedTuple):
    """A saved model by itself, a file of examples, and lines that are its first rows."""

    model: Path
    data: Path
    lines: list[str]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("models") / "tiny_bert")


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_seq2seq("t5", tmp_path_factory.mktemp("models") / "tiny_t5")


def write_rows(file: Path, rows: list[Json]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def texts(label: Callable[[int, str], Any]) -> list[Json]:
    """Rows whose columns no one could guess the meaning of."""
    return [{"said": text, "about": i, "found": label(i, yes)} for i, (text, yes) in enumerate(sentences(60))]


def table(label: Callable[[int], Any]) -> list[Json]:
    rows = [{"found": label(i), "size": i % 7, "colour": ("red", "blue, dark", "")[i % 3]} for i in range(60)]
    return [row | {"weight": 0.5 + i} for i, row in enumerate(rows)]


TEXT = {"text": "said", "label": "found"}
TABLE = {"format": "table", "label": "found"}
ON_VECTORS = ("embedding", "setfit")  # candidates, in place of a method
needs_setfit = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="the extra setfit is not installed"
)
# kind of model: (model, method, task, data settings, rows, a row as a line)
CASES: dict[str, tuple[str, Any, Any, Json, Callable[[], list[Json]], Callable[[Json], str]]] = {
    "classes, encoder": (
        "encoder", "head", "classification", TEXT, lambda: texts(lambda i, yes: yes), lambda row: row["said"],
    ),
    "classes, head on a decoder": (
        "decoder", {"kind": "lora", "rank": 2}, {"kind": "classification", "by": "head"}, TEXT,
        lambda: texts(lambda i, yes: yes), lambda row: row["said"],
    ),
    "classes, by likelihood": (
        "decoder", {"kind": "lora", "rank": 2}, "classification", TEXT,
        lambda: texts(lambda i, yes: yes), lambda row: row["said"],
    ),
    "several labels": (
        "encoder", "head", "multi_label", TEXT,
        lambda: texts(lambda i, yes: ["x"] if yes == "yes" else [[], ["y", "z"]][i % 4 // 2]), lambda row: row["said"],
    ),
    "a number": (
        "encoder", "head", "regression", TEXT,
        lambda: texts(lambda i, yes: 100.0 + (yes == "yes")), lambda row: row["said"],
    ),
    "a table as JSON": (
        "encoder", "head", "regression", TABLE, lambda: table(lambda i: 5.5 * i),
        lambda row: json.dumps({name: row[name] for name in ("weight", "colour", "size")}),
    ),
    "a table as pairs": (
        "decoder", {"kind": "lora", "rank": 2}, "classification",
        TABLE | {"template": "a {colour} one, {weight} heavy"}, lambda: table(lambda i: "ab"[i % 2]),
        lambda row: f'weight={row["weight"]}, "colour={row["colour"]}"',
    ),
    "a table as values": (
        "encoder", "head", "classification", TABLE, lambda: table(lambda i: "ab"[i % 2]),
        lambda row: f'{row["size"]}, "{row["colour"]}", {row["weight"]}',
    ),
    "translation, decoder": (
        "decoder", {"kind": "lora", "rank": 2}, {"kind": "translation", "max_new_tokens": 6}, TEXT,
        lambda: texts(lambda i, yes: f"le {yes} {i}"), lambda row: row["said"],
    ),
    "translation, encoder-decoder": (
        "t5", {"kind": "lora", "rank": 2}, {"kind": "translation", "max_new_tokens": 6}, TEXT,
        lambda: texts(lambda i, yes: f"le {yes} {i}"), lambda row: row["said"],
    ),
    "classes, embedding": (
        "encoder", "embedding", "classification", TEXT, lambda: texts(lambda i, yes: yes), lambda row: row["said"],
    ),
    "classes, setfit": (
        "encoder", "setfit", "classification", TEXT, lambda: texts(lambda i, yes: yes), lambda row: row["said"],
    ),
    "several labels, embedding on a decoder": (
        "decoder", "embedding", "multi_label", TEXT,
        lambda: texts(lambda i, yes: ["x"] if yes == "yes" else [[], ["y", "z"]][i % 4 // 2]), lambda row: row["said"],
    ),
    "a table as pairs, embedding": (
        "encoder", "embedding", "regression", TABLE | {"template": "a {colour} one, {weight} heavy"},
        lambda: table(lambda i: 5.5 * i), lambda row: f'weight={row["weight"]}, "colour={row["colour"]}"',
    ),
}  # fmt: skip


def trained(folder: Path, model: Path, method: Any, task: Any, data: Json, rows: list[Json]) -> tuple[Path, Path]:
    """Train by the command, and keep nothing but what it saved and the file of examples."""
    file = write_rows(folder / "rows.jsonl", rows)
    sizes = {"test_size": 6, "validation_size": 4}
    config = folder / "project.yaml"
    how = {"candidates": [method], "encoder": str(model)} if method in ON_VECTORS else {"method": method}
    config.write_text(
        yaml.safe_dump(settings(task=task, model=str(model), data=data | sizes | {"train": str(file)}, **how))
    )
    told = call("run" if method in ON_VECTORS else "train", config, "--out", folder / "run", "-q", "--json")
    assert told.code == 0, told.err
    candidates = folder / "run" / "candidates"
    (saved,) = [path.parent for path in (*candidates.glob("*/*/tunesmith.json"), *candidates.glob(f"*/{PREDICTOR}"))]
    shutil.move(saved, folder / "alone")
    shutil.rmtree(folder / "run")
    config.unlink()
    return folder / "alone", file


def about(model: Path) -> Path:
    """The file that says what was saved."""
    return next(file for file in (model / PREDICTOR, model / "tunesmith.json") if file.is_file())


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=needs_setfit) if "setfit" in name else name for name in CASES],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, encoder: Path, t5: Path) -> Trained:
    name, method, task, data, rows, as_line = CASES[request.param]
    model = {"encoder": encoder, "decoder": TINY, "t5": t5}[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_HOME", str(tmp_path_factory.mktemp("home")))
        found = trained(tmp_path_factory.mktemp("made"), model, method, task, data, rows())
    return Trained(*found, [as_line(row) for row in rows()[:4]])


def scored(model: Path, data: Path, out: Path) -> tuple[Json, list[Any]]:
    result = call("evaluate", model, data, "--json", "-q", "--out", out)
    assert result.code == 0, result.err
    return json.loads(result.out), read_predictions(out)


def asked(model: Path, line: str) -> Json:
    result = call("chat", model, "--message", line, "--json")
    assert result.code == 0, result.err
    found: Json = json.loads(result.out)
    return found


def talk(monkeypatch: pytest.MonkeyPatch, model: Path, lines: list[str], *options: str) -> Result:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return call("chat", model, *options)


def test_chat_says_what_evaluate_does(made: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, predictions = scored(made.model, made.data, tmp_path / "predictions.parquet")
    assert result["n"] == len(predictions) == 60
    origin = read_json(about(made.model))
    for line, expected in zip(made.lines, predictions, strict=False):
        found = asked(made.model, line)
        kind, answer = result["task"]["kind"], found["answer"]
        if kind == "regression":
            assert answer == pytest.approx(float(expected.prediction), rel=1e-4)
        else:
            assert ("|".join(answer) if kind == "multi_label" else answer) == expected.prediction
        if expected.probabilities is not None:
            assert found["probabilities"] == pytest.approx(
                dict(zip(origin["labels"], expected.probabilities, strict=True)), abs=1e-5
            )
        assert (
            found["prompt_tokens"] == expected.prompt_tokens
        )  # the text, the instruction and the columns are the same
    told = talk(monkeypatch, made.model, [*made.lines, "/reset", "/what", "/exit", "never"])
    assert told.code == 0, told.err
    assert len(told.out.splitlines()) == len(made.lines)
    assert "each line is asked by itself" in told.err
    if result["task"]["kind"] == "classification":
        likeliest = max(predictions[0].probabilities)
        assert told.out.startswith(f"{predictions[0].prediction}  ({predictions[0].prediction} {likeliest:.3f}, ")


def test_a_folder_from_before_the_layout_was_saved(made: Trained, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made.model, tmp_path / "old"))
    origin = read_json(about(folder))
    write_json(about(folder), {k: v for k, v in origin.items() if k not in ("data", "columns")})
    told = call("chat", folder, "--message", made.lines[0], "--json")
    if origin.get("interface") == "causal":  # it can be talked to, as then
        assert told.code == 0, told.err
        assert "probabilities" not in json.loads(told.out)
    else:
        assert told.code == 3
        assert "without its task and the layout of its data" in told.err
        assert "Train it again" in told.err


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("method", ["head", "embedding"])
def test_classes_of_images(
    tmp_path: Path, drawn: list[str], tiny_dinov2_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"picture": path, "found": "low" if i < 8 else "high"} for i, path in enumerate(drawn)]
    sizes = {"image": "picture", "label": "found"}
    model, data = trained(tmp_path, tiny_dinov2_path, method, "classification", sizes, rows)
    _, predictions = scored(model, data, tmp_path / "predictions.parquet")
    told = talk(monkeypatch, model, [drawn[0], f"'{drawn[9]}'", "/no/such.png", "what?"])
    assert [line.split()[0] for line in told.out.splitlines()] == [predictions[i].prediction for i in (0, 9)]
    assert told.err.count("error: image ") == 2
    found = asked(model, drawn[0])
    assert found["probabilities"] == pytest.approx(
        dict(zip(("high", "low"), predictions[0].probabilities, strict=True)), abs=1e-5
    )


def test_questions_about_images(
    tmp_path: Path, drawn: list[str], tiny_llava_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"picture": path, "asked": f"{'is it ' * r}bright?", "found": "yes" if i < 8 else "no"}
        for r in range(3) for i, path in enumerate(drawn)
    ]  # fmt: skip
    layout = {"image": "picture", "text": "asked", "label": "found"}
    task = {"kind": "image_text", "max_new_tokens": 3}
    model, data = trained(tmp_path, tiny_llava_path, {"kind": "lora", "rank": 2}, task, layout, rows)
    _, predictions = scored(model, data, tmp_path / "predictions.parquet")
    lines = ["bright?", f"{drawn[3]} bright?", "is it bright?", f"{drawn[5]}", "/reset", "is it bright?", "x.png why"]
    told = talk(monkeypatch, model, [f"{drawn[3]} bright?", "is it bright?"])
    said = "\n".join(predictions[i].prediction for i in (3, 19))
    assert told.out == "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in said) + "\n"
    refused = talk(monkeypatch, model, lines)
    assert refused.out == told.out
    assert refused.err.count("no image yet") == 2
    assert "no question" in refused.err
    assert "the image is forgotten" in refused.err
    assert "x.png: No such file" in refused.err


# ── which of a run's candidates is asked ─────────────────────────────────────────────────────────────────
def test_a_run_stands_for_its_choice_though_it_has_a_fine_tuned_model(tmp_path: Path, encoder: Path) -> None:
    config = write_project(tmp_path, candidates=["embedding", "tune"], encoder=str(encoder))
    assert call("run", config, "--out", tmp_path / "run", "-q").code == 0
    run, chosen = Run.open(tmp_path / "run"), f"embedding/{encoder.name}"
    report = read_json(run.report_file)
    kept = read_predictions(run.candidate(chosen) / "predictions.parquet")[0]
    for choice, place, said in (
        (chosen, run.candidate(chosen), f"asking {chosen}, which the verdict chose."),
        (None, run.saved_model("tune/tiny_llama/lora"), "the only fine-tuned model; the verdict is no candidate."),
        ("tune/tiny_llama/lora", run.saved_model("tune/tiny_llama/lora"), "asking tune/tiny_llama/lora, which"),
    ):
        write_json(run.report_file, report | {"verdict": report["verdict"] | {"choice": choice}})
        told = call("chat", run.folder, "--message", read_examples(run.split("test"))[0].text, "--json")
        assert told.code == 0, told.err
        assert said in told.err
        found = json.loads(told.out)
        assert found["model"] == str(place)
        if choice == chosen:
            assert (found["answer"], tuple(found["probabilities"].values())) == (
                kept.prediction, pytest.approx(kept.probabilities, abs=1e-5),
            )  # fmt: skip


def test_a_line_longer_than_a_predictors_encoder_reads(tmp_path: Path, encoder: Path) -> None:
    model, data = trained(tmp_path, encoder, "embedding", "classification", TEXT, texts(lambda i, yes: yes))
    told = call("chat", model, "--message", "the day is good " * 40)
    assert told.code == 0
    assert told.err.count("longer than the encoder reads; its end was cut off") == 1
    assert "cut off" not in call("chat", model, "--message", "the day is good").err
    assert scored(model, data, tmp_path / "p.parquet")[0]["texts_cut"] == 0
    long = write_rows(tmp_path / "long.jsonl", [{"said": "the day " * n, "found": "yes"} for n in (3, 60, 70)])
    assert scored(model, long, tmp_path / "p.parquet")[0]["texts_cut"] == 2
    assert "2 texts were longer than the encoder reads" in call("evaluate", model, long, "-q").out


# ── what cannot be asked ─────────────────────────────────────────────────────────────────────────────────
def test_a_preference_model_holds_a_conversation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": text, "chosen": f"it is {yes}", "rejected": f"who knows {i}"}
            for i, (text, yes) in enumerate(sentences(40))]  # fmt: skip
    model, data = trained(tmp_path, TINY, {"kind": "lora", "rank": 2}, "preference", {}, rows)
    found = asked(model, "the day is good")
    assert found["completion_tokens"] > 0
    result, _ = scored(model, data, tmp_path / "predictions.parquet")
    assert result["task"]["kind"] == "preference"
    told = talk(monkeypatch, model, ["the day", "and then?"], "--max-new-tokens", "3")
    assert told.code == 0
    assert told.err.count("cut at 3 tokens") <= 2


def test_lines_and_options_that_do_not_fit(
    tmp_path: Path, encoder: Path, t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = trained(tmp_path, encoder, "head", "regression", TABLE, table(lambda i: 5.5 * i))
    told = talk(monkeypatch, model, [
        "1, red", "size=1, colour=red", "size=1, colour=red, weight=2, hue=3", "size=1, size=2, colour=, weight=3",
        "size=1, red, weight=3", '{"size": 1', '{"size": [1], "colour": null, "weight": 2}',
        f"1, {'red ' * 80}, 3", "size=1, colour=, weight=2",
    ])  # fmt: skip
    assert told.code == 0
    problems = [line for line in told.err.splitlines() if line.startswith("error: ")]
    for problem, words in zip(problems, (
        "2 values; expected 3, of size, colour, weight", "not given: weight", "no column of the model: hue",
        "given twice: size", "'red': expected column=value", "JSON", "'size' is of type list",
        "tokens; the model takes 64",
    ), strict=True):  # fmt: skip
        assert words in problem
    assert len(told.out.splitlines()) == 1
    float(told.out)
    (tmp_path / "kept").mkdir()
    predictor, _ = trained(tmp_path / "kept", encoder, "embedding", "regression", TABLE, table(lambda i: 5.5 * i))
    for saved in (model, predictor):
        for option, value in (("--system", "x"), ("--max-new-tokens", "3")):
            refused = call("chat", saved, option, value)
            assert refused.code == 2
            assert f"{option}: its task, regression" in refused.err
    for untrained in (encoder, t5):
        refused = call("chat", untrained, "--message", "x")
        assert refused.code == 3
        assert "not trained for a task" in refused.err

    narrow = write_rows(tmp_path / "narrow.jsonl", [{"found": 1, "size": 3, "colour": "red"}] * 2)
    refused = call("evaluate", model, narrow, "-q")
    assert refused.code == 3
    assert "columns that are not there: weight" in refused.err
    other = write_rows(tmp_path / "other.jsonl", [{"y": 1, "size": 3, "colour": "red", "weight": 3}] * 2)
    refused = call("evaluate", model, other, "-q")
    assert "data.label is 'found'" in refused.err
    assert "--label, or give a project file" in refused.err
    wide = [{"colour": "red", "more": i, "y": i, "weight": 3, "size": 1} for i in range(2)]
    again, predictions = scored_by(model, write_rows(tmp_path / "wide.jsonl", wide), tmp_path / "p.parquet")
    assert again["n"] == 2
    assert predictions[0].text == "size: 1\ncolour: red\nweight: 3"  # as in training, and no more


def scored_by(model: Path, data: Path, out: Path) -> tuple[Json, list[Any]]:
    result = call("evaluate", model, data, "--label", "y", "--json", "-q", "--out", out)
    assert result.code == 0, result.err
    return json.loads(result.out), read_predictions(out)


def test_labels_that_a_model_of_several_does_not_know(tmp_path: Path, encoder: Path) -> None:
    rows = texts(lambda i, yes: ["x"] if yes == "yes" else [[], ["y", "z"]][i % 4 // 2])
    model, _ = trained(tmp_path, encoder, "head", "multi_label", TEXT, rows)
    refused = call("evaluate", model, write_rows(tmp_path / "z.jsonl", [rows[0] | {"found": ["x", "w"]}]), "-q")
    assert refused.code == 3
    assert "labels that the model does not know: 'w' (1)" in refused.err
