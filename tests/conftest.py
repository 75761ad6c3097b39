from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from engine.transformers import LoadedModel, load_model
from memory import FolderEmbedder
from server.assets import bundled_embedder_folder, demo_model_folder
from tests.tiny import tiny_model

# Examples are not timed: the machine may be busy with something else.
settings.register_profile("recallkv", deadline=None)
settings.load_profile("recallkv")


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    return demo_model_folder()


@pytest.fixture(scope="session")
def demo_model(demo_folder: Path) -> LoadedModel:
    """The real demo model, loaded once for all tests."""
    return load_model(demo_folder)


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    """A tiny seeded model."""
    return tiny_model()


@pytest.fixture(scope="session")
def minilm() -> FolderEmbedder:
    embedder = FolderEmbedder(bundled_embedder_folder())
    embedder.load()
    return embedder


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests neither see nor touch the settings and data of whoever runs them (the model cache is shared)."""
    for name in ("RECALLKV_DATA_DIR", "RECALLKV_CONFIG", "RECALLKV_URL", "RECALLKV_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg-data"))
