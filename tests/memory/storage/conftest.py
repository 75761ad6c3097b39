"""The contract of a storage backend: each test here runs against each backend. A new one is added to ``BACKENDS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory.storage.base import Storage
from memory.storage.sqlite.database import SqliteStorage

Open = Callable[[Path], Storage]
"""Opens the backend's store in a folder, or makes it."""

BACKENDS: dict[str, Open] = {"sqlite": lambda folder: SqliteStorage(folder / "m.sqlite")}


@pytest.fixture(params=sorted(BACKENDS), scope="session")
def backend(request: pytest.FixtureRequest) -> Open:
    return BACKENDS[request.param]


@pytest.fixture
def storage(backend: Open, tmp_path: Path) -> Iterator[Storage]:
    opened = backend(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(backend: Open, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """One store for all examples of a property."""
    opened = backend(tmp_path_factory.mktemp("shared"))
    yield opened
    opened.close()
