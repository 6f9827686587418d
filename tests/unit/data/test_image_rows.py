"""Images that rows name."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.config import Data
from tunesmith.data.prepare import prepare_data
from tunesmith.data.read import ReadResult, read_examples
from tunesmith.data.read.formats import recognise
from tunesmith.errors import DataError, MissingExtraError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def draw(path: Path, shade: int, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade, shade, 40)).save(path)
    return path


def rows(folder: Path, items: list[Any], kind: str, **settings: Any) -> ReadResult:
    path = folder / "x.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in items))
    return read_examples(path, kind, **settings)


NAMES = ["question", "answer", "image_id"]


def test_a_template_or_a_column_gives_the_path_from_the_files_folder(tmp_path: Path) -> None:
    image = draw(tmp_path / "images/0.png", 1)
    items = [["what?", "a square", 0], ["which?", "this", 0]]
    found = rows(tmp_path, items, "image_text", columns=NAMES, image="images/{image_id}.png").examples
    assert [(e.image, e.messages[0].content, e.answer) for e in found] == [
        (str(image), "what?", "a square"),
        (str(image), "which?", "this"),
    ]
    digest = hashlib.sha256(image.read_bytes()).hexdigest()[:16]
    assert {(e.image_hash, e.group) for e in found} == {(digest, f"image {digest}")}
    named = {"image": "images/0.png", "question": "what?", "answer": "a square", "team": "a"}
    (example,) = rows(tmp_path, [named], "image_text", group="team").examples
    assert (example.id, example.group) == (found[0].id, "a")
    messages = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a square"}]
    (chat,) = rows(tmp_path, [{"image": str(image), "messages": messages}], "image_text").examples
    assert chat.id == found[0].id


def test_an_image_with_a_label_needs_no_text(tmp_path: Path) -> None:
    for i in range(2):
        draw(tmp_path / f"{i}.png", i)
    items = [{"path": f"{i % 2}.png", "label": "ab"[i % 2], "caption": "x"} for i in range(4)]
    result = rows(tmp_path, items, "classification", image="path")
    assert [(e.text, e.label, e.group) for e in result.examples] == [(None, "ab"[i % 2], None) for i in range(4)]
    assert len({e.prompt_key for e in result.examples}) == 2
    assert rows(tmp_path, items, "classification", image="path", text="caption").examples[0].text == "x"


def test_every_image_that_cannot_be_read_is_a_bad_row_with_its_line_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "good.png", 1)
    draw(tmp_path / "large.png", 1, 40)
    photo = draw(tmp_path / "cut.jpg", 1, 20)
    photo.write_bytes(photo.read_bytes()[:-100])
    broken = bytearray(draw(tmp_path / "broken.png", 1).read_bytes())
    broken[45] ^= 0xFF
    (tmp_path / "broken.png").write_bytes(broken)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "x.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    names = ["good.png", "none.png", "large.png", "cut.jpg", "broken.png", "text.png", "folder.png", "x.eps",
             "http://a/b.png", None]  # fmt: skip
    items = [{"image": name, "question": "q", "answer": "a"} for name in names]
    result = rows(tmp_path, items, "image_text", policy="skip")
    assert len(result.examples) == 1
    reasons = {bad.line: bad.reason for bad in result.bad}
    expected = {
        2: f"image {tmp_path}/none.png: No such file",
        3: f"image {tmp_path}/large.png: has more than 1,000 pixels",
        4: f"image {tmp_path}/cut.jpg: cannot be read",
        5: f"image {tmp_path}/broken.png: cannot be read",
        6: f"image {tmp_path}/text.png: not an image that can be read; expected one of PNG, JPEG",
        7: f"image {tmp_path}/folder.png: ",
        8: f"image {tmp_path}/x.eps: not an image",
        9: "'image' gives 'http://a/b.png'; expected the path of a file",
        10: "'image' is missing or null",
    }
    assert set(reasons) == set(expected)
    for line, start in expected.items():
        assert reasons[line].startswith(start), reasons[line]
    with pytest.raises(DataError, match=rf"x\.jsonl line 2: image {tmp_path}/none\.png"):
        rows(tmp_path, items, "image_text")


def test_one_picture_in_two_files_is_one_and_two_pictures_of_one_name_are_two(tmp_path: Path) -> None:
    for part, shades in (("train", range(1, 31)), ("test", [1, 2, *range(100, 110)])):
        for i, shade in enumerate(shades):
            draw(tmp_path / part / f"images/{i}.png", shade)
        items = [["what?", f"shade {shade}", i] for i, shade in enumerate(shades)]
        (tmp_path / part / "q.json").write_text(json.dumps(items))
    data = Data(
        train=str(tmp_path / "train/q.json"), test=str(tmp_path / "test/q.json"), columns=tuple(NAMES),
        image="images/{image_id}.png", validation_size=5,
    )  # fmt: skip
    prepared = prepare_data(data, "image_text", 0)
    (leak,) = (f for f in prepared.findings if f.check == "split_leakage")
    assert (leak.count, leak.rows) == (2, (1, 1))
    assert len(prepared.split.test) == 12
    assert len(prepared.split.train) + len(prepared.split.validation) == 28


def test_settings_that_name_no_image_are_refused() -> None:
    row = {"question": "q", "answer": "a", "picture": "p"}
    with pytest.raises(DataError, match=r"which column holds the image's path\? none of .*data\.image: COLUMN"):
        recognise([row], "x", "image_text")
    with pytest.raises(DataError, match=r"data\.image is 'pictures'.*Did you mean 'picture'"):
        recognise([row], "x", "image_text", image="pictures")
    with pytest.raises(DataError, match=r"data\.image names 'id', but the columns are"):
        recognise([row], "x", "image_text", image="images/{id}.png")
    with pytest.raises(DataError, match=r"data\.image: COLUMN"):
        recognise([{"image": "a.png", "label": "a", "title": "b"}], "x", "classification")


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "0.png", 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tunesmith\[images\]'"):
        rows(tmp_path, [{"image": "0.png", "question": "q", "answer": "a"}], "image_text")
