"""A package index of small wheels, and a look into the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from wheel_index import Index

from tunesmith.sources import cache, wheels


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder = tmp_path / "index"
    folder.mkdir()
    made = Index(folder)
    monkeypatch.setattr(wheels, "_pip", made.pip)
    return made


@pytest.fixture
def kept() -> Callable[[], list[str]]:
    """A function that lists what the cache holds, locks and digests aside."""

    def listing() -> list[str]:
        root = cache.home()
        found = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
        return sorted(str(p) for p in found if p.parts[0] not in ("locks", "digests"))

    return listing
