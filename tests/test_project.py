"""What holds of the project as a whole."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from typer.main import get_command

from benchmarks.cli import app as bench_cli
from benchmarks.report.readme import main as readme_main
from server.cli import app as server_cli
from server.config import KEYS
from tests.server.running import Running, running
from tests.tiny import tiny_model, tiny_network, tiny_tokenizer
from tools.pages import missing_in
from tools.settings import main as settings_main
from tools.settings import rendered as rendered_settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
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


def test_readme_s_picture_shows_every_mode_and_peer() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "lab-quick-cpu.json").read_text())
    bars = ElementTree.fromstring((DOCS / "first-token.svg").read_text()).findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == len({row["mode"] for row in result["rows"]})


def test_every_setting_is_documented_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["settings", "--check"])
    assert settings_main() == 0
    page = (DOCS / "settings.md").read_text()
    assert [key for key in KEYS if f"`{key}`" not in page] == []


def test_a_setting_without_a_row_is_found() -> None:
    page = (DOCS / "settings.md").read_text()
    with pytest.raises(ValueError, match=r"server\.port"):
        rendered_settings(page.replace("| `server.port` |", "| server.port |"))


def test_every_route_is_documented(tmp_path: Path) -> None:
    page = (DOCS / "http.md").read_text()
    server: Running
    with running(tiny_model(), tmp_path) as server:
        paths = server.client.get("/openapi.json").json()["paths"]
    assert [path for path in paths if not re.search(rf"{re.escape(path)}`", page)] == []


def _commands(group: Any, name: str) -> list[str]:
    """Return the full names of a command group's commands."""
    found = []
    for sub, command in group.commands.items():
        path = f"{name} {sub}"
        found += _commands(command, path) if hasattr(command, "commands") else [path]
    return found


def test_every_command_is_documented() -> None:
    page = (DOCS / "cli.md").read_text()
    commands = _commands(get_command(server_cli), "recallkv") + _commands(get_command(bench_cli), "recallkv bench")
    assert len(commands) > 30
    assert [name for name in commands if not re.search(rf"`{name}[` ]", page)] == []


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    assert [path.name for path in sorted(DOCS.glob("*.md")) if f"({path.name})" not in index + "(index.md)"] == []
    decisions = (DOCS / "decisions" / "index.md").read_text()
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [path.name for path in pages if f"({path.name})" not in decisions + "(index.md)"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_in_the_docs_exist(page: Path) -> None:
    assert missing_in(page) == []


def test_dead_links_and_paths_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, with `code`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md), [b](there.md#a-heading-with-code), [c](gone.md), [d](there.md#gone), [e](https://example.org/x)\n"
        "`memory/`, `memory/no_such_file.py`, `python -m benchmarks.no_such`, `python -m benchmarks.report.readme`\n"
        "```sh\npython -m benchmarks.nowhere\n```\n"
        "`memory/not_yet.py` <!-- check at merge -->\n"
    )
    named = ["gone.md", "there.md#gone", "memory/no_such_file.py", "benchmarks.no_such", "benchmarks.nowhere"]
    assert missing_in(page) == named


@torch.inference_mode()
def test_the_notebook_page_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "kvcache.md").read_text(), re.DOTALL)
    model = tiny_network()
    names = {"model": model, "tokenizer": tiny_tokenizer(), "folder": tmp_path / "segments"}
    exec(code, names)
    store, tokens = names["store"], names["tokens"]
    full = model(torch.tensor([tokens])).logits[0, -1]
    torch.testing.assert_close(names["logits"][0, -1], full, atol=1e-4, rtol=1e-4)
    store.close()
