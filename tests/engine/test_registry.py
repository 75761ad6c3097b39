from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest

from engine.config import EngineConfig, EngineName
from engine.errors import ModelNotLoaded
from engine.registry import COMPUTES_HERE, ENGINES
from kvcache import StoreConfig


def test_every_name_has_an_engine() -> None:
    assert tuple(ENGINES) == get_args(EngineName)
    assert set(ENGINES) >= COMPUTES_HERE


def test_without_vllm_its_engine_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("engine.vllm.loading")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("vllm", "vllm.config"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelNotLoaded, match=r"vLLM is not installed here \(.*\); see docs/vllm.md"):
        ENGINES["vllm"](EngineConfig("model", "model"), StoreConfig(tmp_path))


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_a_model_that_is_not_there(name: EngineName, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotLoaded):
        ENGINES[name](EngineConfig(tmp_path / "empty", "empty"), StoreConfig(tmp_path / "segments"))
