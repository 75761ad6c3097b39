from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from engine.transformers import LoadedModel, load_model
from memory import AS_IT_IS, FolderEmbedder
from server.assets import bundled_embedder_folder, demo_model_folder
from tests.server import running
from tests.tiny import tiny_model

# Examples are not timed: the machine may be busy with something else.
settings.register_profile("recallkv", deadline=None)
settings.load_profile("recallkv")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=["transformers", "vllm"],
        default="transformers",
        help="vllm: what does not depend on the engine, and tests/vllm, run with real vLLM on a tiny model",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.parent.name != "tests":
        return None
    # The clients have environments of their own (make test-clients).
    is_vllm, is_clients = collection_path.name == "vllm", collection_path.name == "clients"
    return True if is_clients or (is_vllm and config.getoption("--engine") != "vllm") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    running.ENGINE = config.getoption("--engine")
    if running.ENGINE == "vllm":
        skip = pytest.mark.skip(reason="about the transformers engine")
        for item in items:
            if item.get_closest_marker("transformers"):
                item.add_marker(skip)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--engine") == "vllm":
        from tests.vllm.shared import close_all

        close_all()


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    return demo_model_folder()


@pytest.fixture(scope="session")
def demo_model(demo_folder: Path) -> LoadedModel:
    """The real demo model, loaded once for all tests; in float32 whatever the machine would choose."""
    return load_model(demo_folder, dtype="float32")


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    """A tiny seeded model."""
    return tiny_model()


@pytest.fixture(scope="session")
def minilm() -> FolderEmbedder:
    embedder = FolderEmbedder(bundled_embedder_folder(), calibration=AS_IT_IS)
    embedder.load()
    return embedder


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests neither see nor touch the settings and data of whoever runs them (the model cache is shared)."""
    for name in ("RECALLKV_DATA_DIR", "RECALLKV_CONFIG", "RECALLKV_URL", "RECALLKV_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg-data"))
