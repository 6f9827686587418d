"""``tunesmith doctor``."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from tunesmith import hardware
from tunesmith.cli import doctor
from tunesmith.cli.main import main


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second-long measurements."""
    rates = {"float32": 2e11, "bfloat16": 1e9}
    monkeypatch.setattr(hardware, "measure_matmul", lambda dtype: rates[dtype])


def examined(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {check["name"]: check for check in shown["checks"]} | {
        "ok": shown["ok"],
        "verdict": shown["verdict"],
    }


def test_it_reports_everything(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    found = examined(capsys)
    names = "python packages home disk processor memory accelerators dtype speed models network"
    assert set(names.split()) <= set(found)
    assert found["speed"]["text"] == "processor 200 GFLOP/s in float32, 1 in bfloat16 (measured)"
    assert found["ok"] is True
    main(["doctor"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("Ready")


def test_a_home_that_cannot_be_written_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "--json"])
    assert stopped.value.code == 1
    found = examined(capsys)
    assert found["home"]["status"] == "broken"
    assert found["verdict"] == "Not ready: home must be mended first."


def test_a_missing_package_is_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    assert "torch is not installed" in examined(capsys)["packages"]["text"]


def test_offline_settings_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    main(["doctor", "--json"])
    assert examined(capsys)["network"]["text"].startswith("offline (HF_HUB_OFFLINE=1")


def test_a_look_that_fails_is_reported_not_raised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "detect", lambda: 1 / 0)
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    assert examined(capsys)["machine"]["text"] == "ZeroDivisionError: division by zero"
