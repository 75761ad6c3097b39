from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memory import HashEmbedder, MemoryStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    """A side store on disk whose embedder needs no model."""
    opened = MemoryStore(tmp_path / "memories.sqlite", HashEmbedder())
    yield opened
    opened.close()


@pytest.fixture
def cube(store: MemoryStore) -> str:
    """The default cube of the tenant ``tenant``."""
    return store.default_cube("tenant").id
