from __future__ import annotations

import pytest

from tools.defaults import product, settings, written_twice


def test_each_default_stands_once() -> None:
    assert written_twice(product()) == []


@pytest.mark.parametrize(
    "again",
    [
        "def load(*, max_running: int = 16): ...",
        "class Batch:\n    max_running: int = 16",
        "class Batch:\n    max_running: int = field(default=16)",
        "class Batch(BaseModel):\n    max_running: int = Field(16, ge=1)",
        "class Store:\n    def __init__(self, folder, host_bytes: int = 4 << 30): ...",
        "def outer():\n    async def inner(a, horizon_s=1800.0, *, b=1): ...",
    ],
)
def test_a_second_one_is_found(again: str) -> None:
    (found,) = written_twice({**product(), "again.py": again})
    assert "again.py:" in found
    assert found.count(".py:") == 2


@pytest.mark.parametrize(
    "fine",
    [
        "def load(max_running: int = BatchingConfig.max_running): ...",
        "class Connector:\n    host_gb: float = Field(StoreConfig.host_bytes / 1e9, ge=0)",
        "class Section:\n    max_running: int = owned(BatchingConfig, 'max_running')",
        "def load(max_running: int | None = None): ...",
        "max_running = 16",
    ],
)
def test_a_reference_is_no_second_one(fine: str) -> None:
    assert written_twice({**product(), "fine.py": fine}) == []


def test_settings_are_known_by_both_names() -> None:
    assert {frozenset({"host_gb", "host_bytes"}), frozenset({"max_running"}), frozenset({"sessions"})} <= set(
        settings()
    )
