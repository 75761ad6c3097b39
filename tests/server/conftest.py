from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.transformers import LoadedModel
from tests.server import clients
from tests.server.dialects import CLOUD, mem0_client
from tests.server.running import Running, running


@pytest.fixture(scope="module")
def server(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for a module's tests, without keys, as on loopback."""
    with running(model, tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture(scope="module")
def guarded(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for a module's tests, where keys are needed."""
    with running(model, tmp_path_factory.mktemp("guarded"), api_keys="required") as started:
        yield started


@pytest.fixture(scope="module")
def keys(guarded: Running) -> dict[str, dict[str, str]]:
    """Headers of two tenants."""
    create = guarded.services.keys.create
    return {tenant: {"Authorization": f"Bearer {create(tenant, tenant)}"} for tenant in ("anna", "boris")}


@pytest.fixture(scope="module")
def mem0(server: Running) -> Iterator[Any]:
    with mem0_client(server) as client:
        yield client


@pytest.fixture(scope="module")
def memos(server: Running) -> Any:
    return clients.memos().MemOSClient(api_key="none", base_url=server.url + CLOUD)
