"""Several files by one source, in the order of their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from wheel_index import Index

from tunesmith.errors import ConfigError, NotFoundError
from tunesmith.sources import resolve_files


def test_a_wildcard_stands_for_files_in_the_order_of_their_names(index: Index, tmp_path: Path) -> None:
    for name in ("b/x.csv", "a/x.csv", "a/deep/x.csv", "a/y.json"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).touch()
    found = [str(tmp_path / "d" / name) for name in ("a/deep/x.csv", "a/x.csv", "b/x.csv")]
    assert list(resolve_files(f"{tmp_path}/d/**/*.csv")) == found
    assert resolve_files(found[0]) == {found[0]: Path(found[0])}
    with pytest.raises(NotFoundError, match=r"\.tsv: no file is of that form"):
        resolve_files(f"{tmp_path}/d/*.tsv")
    with pytest.raises(NotFoundError, match="no such file"):
        resolve_files(f"{tmp_path}/d/x.csv")
    index.add("toy==1.0", {"b/fr.po": b"b", "a/fr.po": b"a", "a/images/1.png": b"1"})
    wheel = resolve_files("pypi:toy==1.0/*/fr.po")
    assert list(wheel) == ["pypi:toy==1.0/a/fr.po", "pypi:toy==1.0/b/fr.po"]
    assert [path.read_bytes() for path in wheel.values()] == [b"a", b"b"]
    ((name, path),) = resolve_files("pypi:toy==1.0/a/fr.po", "images/").items()
    assert name == "pypi:toy==1.0/a/fr.po"
    assert (path.parent / "images/1.png").read_bytes() == b"1"
    assert resolve_files("pypi:toy==1.0/b/fr.po") == {"pypi:toy==1.0/b/fr.po": wheel["pypi:toy==1.0/b/fr.po"]}


@pytest.mark.parametrize(("source", "beside"), [("hf:o/n/*.csv", None), ("hf:o/n/a.csv", "images/")])
def test_the_hub_gives_single_files_only(source: str, beside: str | None) -> None:
    with pytest.raises(ConfigError, match="cannot be fetched from the hub"):
        resolve_files(source, beside)
