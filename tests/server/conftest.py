from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.transformers import LoadedModel
from tests.server.running import Running, running


@pytest.fixture(scope="module")
def server(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for a module's tests, without keys, as on loopback."""
    with running(model, tmp_path_factory.mktemp("data")) as started:
        yield started
