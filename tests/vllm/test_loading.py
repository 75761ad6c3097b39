from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig, VllmConfig
from engine.errors import ModelNotLoaded
from engine.vllm import loading
from kvcache import Catalogue, StoreConfig
from tests.vllm.shared import tiny_checkpoint


def failing(error: Exception) -> Any:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    return fail


def load(folder: Path, model: Path | None = None, *flags: str) -> None:
    config = EngineConfig(model or tiny_checkpoint(), "tiny", dtype="float32", vllm=VllmConfig(flags))
    loading.load_vllm_engine(config, StoreConfig(folder))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Engine core initialization failed.\nSee above."), "Engine core initialization failed"),
        (ValueError(""), "ValueError"),
        (OSError("no weights"), "no weights"),
    ],
)
def test_a_start_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setattr(loading, "_start", failing(error))
    with pytest.raises(ModelNotLoaded, match=told) as caught:
        load(tmp_path)
    assert caught.value.__cause__ is error
    Catalogue(tmp_path).close()


def test_a_bug_is_not_taken_for_a_model_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    close = Catalogue.close

    def noted(catalogue: Catalogue) -> None:
        closed.append(catalogue)
        close(catalogue)

    monkeypatch.setattr(Catalogue, "close", noted)
    monkeypatch.setattr(loading, "_start", failing(TypeError("a bug")))
    with pytest.raises(TypeError, match="a bug"):
        load(tmp_path)
    assert len(closed) == 1


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotLoaded, match="vLLM does not start with"):
        load(tmp_path / "segments", tmp_path / "empty")
