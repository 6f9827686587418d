from __future__ import annotations

from pathlib import Path

import pytest

from end_to_end.projects import build_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random text encoder: equal texts have equal vectors, others mean nothing."""
    return build_encoder(tmp_path_factory.mktemp("encoder"))
