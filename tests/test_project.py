"""What holds of the project as a whole."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from benchmarks.readme import main as readme_main
from server.config import KEYS
from tests.server.running import Running, running
from tests.tiny import tiny_model, tiny_network, tiny_tokenizer

ROOT = Path(__file__).parent.parent
PACKAGES = ("server", "scheduler", "memory", "engine", "kvcache", "benchmarks")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FORBIDDEN = re.compile(
    r"\b(?:pickle|cPickle|cloudpickle|dill|joblib|shelve|marshal)\b|torch\.(?:load|save)\b|\bnp\.load\b"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled(path: Path) -> None:
    assert not FORBIDDEN.search(path.read_text())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_this_repository_s(package: str) -> None:
    """Packages of the same names exist on the index."""
    assert Path(importlib.import_module(package).__file__ or "").is_relative_to(ROOT)


@pytest.mark.parametrize("package", ["engine.transformers", "kvcache", "memory", "scheduler"])
def test_exported_names_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    for name in module.__all__:
        assert hasattr(module, name)


def test_readme_figures_come_from_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["readme", "--check"])
    assert readme_main() == 0


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [key for key in KEYS if f"`{key}`" not in readme] == []


def test_every_route_is_in_the_readme(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    server: Running
    with running(tiny_model(), tmp_path) as server:
        paths = server.client.get("/openapi.json").json()["paths"]
    assert [path for path in paths if not re.search(rf"{re.escape(path)}`", readme)] == []


@torch.inference_mode()
def test_the_notebook_page_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "kvcache.md").read_text(), re.DOTALL)
    model = tiny_network()
    names = {"model": model, "tokenizer": tiny_tokenizer(), "folder": tmp_path / "segments"}
    exec(code, names)
    store, tokens = names["store"], names["tokens"]
    full = model(torch.tensor([tokens])).logits[0, -1]
    torch.testing.assert_close(names["logits"][0, -1], full, atol=1e-4, rtol=1e-4)
    store.close()  # type: ignore[attr-defined]
