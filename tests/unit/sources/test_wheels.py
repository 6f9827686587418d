"""Files inside wheels: checked by hash, taken out by name, whole or not at all."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from wheel_index import Index

from tunesmith.errors import ConfigError, NotFoundError, SourceError
from tunesmith.sources import cache, wheels
from tunesmith.sources.wheels import fetch_wheel_file, parse_wheel_source

TEXT = b'{"text": "a"}\n' * 1000
Kept = Callable[[], list[str]]


def test_a_member_is_taken_out_once_and_nothing_else_is_kept(index: Index, kept: Kept) -> None:
    digest = index.add("toy-data==1.0", {"toy/a.jsonl": TEXT, "toy/code.py": b"raise SystemExit"})
    source = parse_wheel_source("pypi:Toy_Data==1.0/toy/a.jsonl")
    assert wheels.find_wheel_file(source) is None
    path = fetch_wheel_file(source)
    assert path.read_bytes() == TEXT
    assert fetch_wheel_file(source) == wheels.find_wheel_file(source) == path
    assert index.calls == ["toy-data==1.0"]
    assert kept() == ["wheels.json", f"wheels/toy-data-1.0-{digest[:12]}/toy/a.jsonl"]


def test_what_a_wildcard_stands_for_is_taken_out_once_with_the_folder_beside_it(index: Index, kept: Kept) -> None:
    files = ["a/x.po", "a/b/x.po", "a/b/x.mo", "a/bx/y.po", "a/b/images/1.png", "a/b/images/deep/2.png", "c.po"]
    digest = index.add("toy==1.0", {name: name.encode() for name in files})
    source = parse_wheel_source("pypi:toy==1.0/a/**/?.po")
    expected = ("a/b/x.po", "a/bx/y.po", "a/x.po")
    assert wheels.fetch_wheel_files(source) == wheels.fetch_wheel_files(source) == expected
    one = parse_wheel_source("pypi:toy==1.0/a/b/x.po")
    for _ in range(2):
        assert wheels.fetch_wheel_files(one, beside="images/") == ("a/b/x.po",)
    assert index.calls == ["toy==1.0"] * 2
    folder = f"wheels/toy-1.0-{digest[:12]}/"
    images = {"a/b/images/1.png", "a/b/images/deep/2.png"}
    assert {name.removeprefix(folder) for name in kept() if ".lists" not in name} == {"wheels.json", *expected, *images}
    (cache.home() / folder / "a/b/images/1.png").unlink()
    assert wheels.fetch_wheel_files(one, beside="images/") == ("a/b/x.po",)
    assert (cache.home() / folder / "a/b/images/1.png").read_bytes() == b"a/b/images/1.png"
    with pytest.raises(NotFoundError, match=r"holds no 'z/\*\.po'"):
        wheels.fetch_wheel_files(parse_wheel_source("pypi:toy==1.0/z/*.po"))
    with pytest.raises(SourceError, match="leads out"):
        wheels.fetch_wheel_files(one, beside="../../../etc")


@pytest.mark.parametrize(
    "source",
    ["pypi:toy/a", "pypi:toy==1", "pypi:toy==1/", "pypi:-r==1/a", "pypi:toy==1/a#sha256=12", "pypi:toy>=1/a"],
)
def test_a_source_of_another_form_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="NAME==VERSION/path"):
        parse_wheel_source(source)


@pytest.mark.parametrize("member", ["../a", "a/../../b", "/etc/passwd", "a\\b", "c:/a"])
def test_a_member_that_leads_out_is_refused(member: str) -> None:
    with pytest.raises(SourceError, match="leads out"):
        parse_wheel_source(f"pypi:toy==1.0/{member}")


def test_a_wrong_hash_is_refused_by_name_and_nothing_is_kept(index: Index, kept: Kept) -> None:
    found, expected = index.add("toy==1.0", {"a.jsonl": TEXT}), "0" * 64
    with pytest.raises(wheels.HashMismatchError) as refused:
        fetch_wheel_file(parse_wheel_source(f"pypi:toy==1.0/a.jsonl#sha256={expected}"))
    for part in ("toy-1.0-py3-none-any.whl", expected, found):
        assert part in str(refused.value)
    assert kept() == []


def test_the_right_hash_is_accepted(index: Index) -> None:
    digest = index.add("toy==1.0", {"a.jsonl": TEXT})
    source = parse_wheel_source(f"pypi:toy==1.0/a.jsonl#sha256={digest.upper()}")
    assert fetch_wheel_file(source).read_bytes() == TEXT


def test_the_catalogs_hash_holds_for_sources_without_one(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add("toy==1.0", {"a.jsonl": TEXT})
    monkeypatch.setitem(wheels.WHEELS, "toy==1.0", "0" * 64)
    with pytest.raises(wheels.HashMismatchError):
        fetch_wheel_file(parse_wheel_source("pypi:toy==1.0/a.jsonl"))


def test_the_hash_of_the_first_use_holds_from_then_on(index: Index) -> None:
    index.add("toy==1.0", {"a.jsonl": TEXT, "b.jsonl": b"old"})
    fetch_wheel_file(parse_wheel_source("pypi:toy==1.0/a.jsonl"))
    index.add("toy==1.0", {"a.jsonl": TEXT, "b.jsonl": b"new"})
    with pytest.raises(wheels.HashMismatchError, match=r"toy-1\.0"):
        fetch_wheel_file(parse_wheel_source("pypi:toy==1.0/b.jsonl"))
    assert fetch_wheel_file(parse_wheel_source("pypi:toy==1.0/a.jsonl")).read_bytes() == TEXT


def test_a_missing_member_is_said_with_the_nearest(index: Index, kept: Kept) -> None:
    index.add("toy==1.0", {"toy/data/samples.jsonl": TEXT})
    with pytest.raises(NotFoundError, match=r"holds no 'toy/samples.jsonl'.*toy/data/samples\.jsonl"):
        fetch_wheel_file(parse_wheel_source("pypi:toy==1.0/toy/samples.jsonl"))
    assert kept() == []


def test_what_pip_said_is_passed_on_with_what_to_do_offline(index: Index) -> None:
    with pytest.raises(SourceError) as failed:
        fetch_wheel_file(parse_wheel_source("pypi:toy==1.0/a"))
    assert "PIP_FIND_LINKS" in str(failed.value)
    assert str(failed.value).endswith("pip: ERROR: No matching distribution found for toy==1.0")


def test_pip_is_called_with_arguments_not_through_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.append(arguments)
        assert not options.get("shell")
        return subprocess.CompletedProcess(arguments, 1, "", "no")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SourceError):
        wheels.download("toy==1.0", None, tmp_path)
    assert seen[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(seen[0])
    assert seen[0][-1] == "toy==1.0"


def test_an_archive_cannot_write_outside(tmp_path: Path) -> None:
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/../../evil", b"!")
    with pytest.raises(SourceError, match="leads out"):
        wheels.extract(wheel, ["toy/"], tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("declared", [len(TEXT) - 1, len(TEXT) + 1])
def test_a_member_of_another_size_than_declared_is_refused(tmp_path: Path, declared: int) -> None:
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", TEXT)
    raw = bytearray(wheel.read_bytes())
    struct.pack_into("<I", raw, raw.index(b"PK\1\2") + 24, declared)  # uncompressed size in the directory
    wheel.write_bytes(raw)
    with pytest.raises(SourceError, match="damaged"):
        wheels.extract(wheel, ["a.jsonl"], tmp_path / "out")


def test_a_member_larger_than_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", TEXT)
    usage = shutil._ntuple_diskusage(10**6, 10**6, 100)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SourceError, match="14,000 bytes unpacked"):
        wheels.extract(wheel, ["a.jsonl"], tmp_path / "out")


def test_a_truncated_wheel_is_refused(index: Index, kept: Kept) -> None:
    index.add("toy==1.0", {"a.jsonl": TEXT})
    (wheel,) = index.folder.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(SourceError, match="damaged wheel"):
        fetch_wheel_file(parse_wheel_source("pypi:toy==1.0/a.jsonl"))
    assert kept() == []


# ── processes that die, and processes that meet ──────────────────────────────────────────────────────────
CHILD = """
import os, shutil, subprocess, sys, time
from pathlib import Path
from tunesmith.sources import cache, wheels

index, dies_at = Path(sys.argv[1]), sys.argv[2]

def pip(arguments):
    with (index / "calls").open("a") as calls:
        calls.write("x")
    while (index / "hold").exists():
        time.sleep(0.02)
    target = Path(arguments[arguments.index("--dest") + 1])
    for wheel in index.glob("*.whl"):
        shutil.copy(wheel, target)
    return subprocess.CompletedProcess(arguments, 0, "", "")

def write_half(archive, info, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive.read(info)[:500])
    os.kill(os.getpid(), 9)

def die(*_):
    os.kill(os.getpid(), 9)

wheels._pip = pip
if dies_at == "extract":
    wheels._write_member = write_half
if dies_at == "publish":
    cache._sync = die
print(wheels.fetch_wheel_file(wheels.parse_wheel_source("pypi:toy==1.0/a.jsonl")))
"""


def start(index: Index, dies_at: str = "never") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(index.folder), dies_at],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


@pytest.mark.parametrize("dies_at", ["extract", "publish"])
def test_a_killed_fetch_leaves_nothing_that_looks_whole(index: Index, kept: Kept, dies_at: str) -> None:
    index.add("toy==1.0", {"a.jsonl": TEXT})
    with start(index, dies_at) as child:
        assert child.wait(timeout=60) == -9
    source = parse_wheel_source("pypi:toy==1.0/a.jsonl")
    assert wheels.find_wheel_file(source) is None
    assert not any(name.startswith("wheels/") for name in kept())
    assert fetch_wheel_file(source).read_bytes() == TEXT
    assert len(kept()) == 2  # the member and the recorded hash


def test_a_second_process_waits_and_uses_what_the_first_fetched(index: Index) -> None:
    index.add("toy==1.0", {"a.jsonl": TEXT})
    hold, calls = index.folder / "hold", index.folder / "calls"
    hold.touch()
    with start(index) as first, start(index) as second:
        while not calls.exists():
            time.sleep(0.02)
        time.sleep(1.0)  # time enough for the other to come as far as the lock
        assert first.poll() is None
        assert second.poll() is None
        hold.unlink()
        outputs = {first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]}
    assert calls.read_text() == "x"
    assert outputs == {f"{wheels.find_wheel_file(parse_wheel_source('pypi:toy==1.0/a.jsonl'))}\n"}


def test_a_home_that_cannot_be_written_is_said_plainly(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "file" / "home"))
    index.add("toy==1.0", {"a.jsonl": TEXT})
    with pytest.raises(SourceError, match="Set TUNESMITH_HOME"):
        fetch_wheel_file(parse_wheel_source("pypi:toy==1.0/a.jsonl"))


def test_a_full_disk_is_said_plainly(index: Index, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = index.add("toy==1.0", {"a.jsonl": TEXT})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_sync", full)
    with pytest.raises(SourceError, match="the disk is full"):
        fetch_wheel_file(parse_wheel_source(f"pypi:toy==1.0/a.jsonl#sha256={digest}"))
    assert kept() == []
