"""Every way in which a model folder is refused, and those in which it is not."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.errors import ModelError, NotFoundError
from tunesmith.model.safety import check_model_folder


def safetensors(**changes: object) -> bytes:
    header = {"__metadata__": {"format": "pt"}}
    header |= {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}} | changes  # type: ignore[dict-item]
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder that may be loaded."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama", "_sliding_window_pattern": 6}')
    (path / "model.safetensors").write_bytes(safetensors())
    (path / "tokenizer.json").write_text("{}")
    return path


def index(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def link_out(folder: Path) -> None:
    (folder.parent / "secret").write_text("s")
    (folder / "vocab.txt").symlink_to("../secret")


def weights(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def config(text: str, name: str = "config.json") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


BAD: list[tuple[Callable[[Path], object], str]] = [
    (only_pickle, r"weights only as pickle \(pytorch_model\.bin\)"),
    (lambda f: (f / "model.safetensors").unlink(), r"no weights \(\*\.safetensors\)"),
    (config('{"auto_map": {"AutoModel": "x.Y"}}'), "config.json has 'auto_map'"),
    (config('{"text_config": [{"auto_map": 1}]}'), "config.json has 'auto_map'"),
    (config('{"auto_map": {}}', "tokenizer_config.json"), "tokenizer_config.json has 'auto_map'"),
    (config('{"_attn_implementation_internal": "evil/kernel"}'), "sets '_attn_implementation_internal'"),
    (config("{"), "config.json is not JSON"),
    (config("[" * 100_000), "config.json is not JSON"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    (config("", "modeling_x.py"), "modeling_x.py is Python code"),
    (lambda f: [(f / "sub").mkdir(), (f / "sub" / "x.py").touch()], "sub/x.py is Python code"),
    (lambda f: index(f, "../other/model.safetensors"), "not a plain file name"),
    (lambda f: index(f, "/etc/passwd"), "not a plain file name"),
    (lambda f: index(f, "a\\b"), "not a plain file name"),
    (lambda f: index(f, "model-2.safetensors"), "'model-2.safetensors', which is not there"),
    (config("[]", "model.safetensors.index.json"), "has no weight_map"),
    (link_out, "vocab.txt is a link that leaves the folder"),
    (lambda f: (f / "vocab.txt").symlink_to("gone"), "vocab.txt is a link to nothing"),
    (weights(safetensors()[:-1]), "take 16 bytes but the file holds 15"),
    (weights(safetensors() + b"x"), "take 16 bytes but the file holds 17"),
    (weights(b""), "cut off"),
    (weights(struct.pack("<Q", 2**60) + b"{}"), "cut off"),
    (weights(struct.pack("<Q", 4) + b"nope"), "its header is damaged"),
    (weights(safetensors(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 16]})), "not the size"),
    (weights(safetensors(a={"dtype": "X9", "shape": [16], "data_offsets": [0, 16]})), "a data type"),
    (weights(safetensors(b={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})), "overlap"),
]  # fmt: skip


def test_a_sound_folder_is_accepted(folder: Path, tiny_model_path: Path) -> None:
    (folder / "pytorch_model.bin").touch()  # beside safetensors it is never read
    (folder / "merges.txt").symlink_to("tokenizer.json")
    index(folder, "model.safetensors")
    check_model_folder(folder)
    check_model_folder(tiny_model_path)


@pytest.mark.parametrize(("damage", "reason"), BAD)
def test_each_damage_is_refused_with_its_reason(folder: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=reason) as refused:
        check_model_folder(folder)
    assert str(refused.value).count("\n  - ") == 1


def test_all_reasons_are_said_at_once(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").unlink()
    (folder / "evil.py").touch()
    link_out(folder)
    with pytest.raises(ModelError) as refused:
        check_model_folder(folder)
    for reason in ("config.json is missing", "evil.py", "leaves the folder"):
        assert reason in str(refused.value)


def test_a_hub_snapshot_may_link_to_its_own_blobs_only(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--o--n"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    check_model_folder(snapshot)
    (tmp_path / "secret").touch()
    (snapshot / "vocab.txt").symlink_to("../../../secret")
    with pytest.raises(ModelError, match="leaves the folder"):
        check_model_folder(snapshot)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        check_model_folder(tmp_path / "none")


def test_the_check_does_not_import_torch() -> None:
    code = "import sys, tunesmith.model.safety, tunesmith.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
