"""The scripts in examples/, run as they are."""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples import compose, notebook, remember_and_ask
from tests.server import clients
from tests.server.processes import QUICK, Process, serving

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("examples") / "data", *QUICK) as server:
        yield server
        server.openai.close()


@pytest.mark.slow
def test_remember_and_ask(server: Process, capsys: pytest.CaptureFixture[str]) -> None:
    remember_and_ask.main(server.url)
    first, second = capsys.readouterr().out.splitlines()
    assert "Biscuit" in first
    assert first.endswith("['computed']")
    assert second == first.replace("computed", "resident")


@pytest.mark.slow
def test_mem0_client(server: Process, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = clients.mem0()  # the package's own __init__ needs more than the client does
    made: list[Any] = []

    def client(**arguments: str) -> Any:
        made.append(module.MemoryClient(**arguments))
        return made[-1]

    monkeypatch.setattr(importlib.import_module("mem0"), "MemoryClient", client, raising=False)
    from examples import mem0_client

    mem0_client.main(server.url)
    made[0].client.close()
    listed, found = capsys.readouterr().out.splitlines()
    assert "Lisbon" in listed
    assert "Olive" in found


@pytest.mark.slow
def test_compose(demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compose.main(demo_folder)
    header, job, city, dog, turns, answer = capsys.readouterr().out.splitlines()
    assert header.startswith("header: ")
    assert turns.startswith("turns: computed")
    for line, label in zip((job, city, dog), ("job@1", "city@1", "dog@1"), strict=True):
        assert re.fullmatch(rf"{label}: (resident|host|disk), high, \d+ of \d+ recomputed", line)
    assert "Biscuit" in answer


def test_notebook(demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.main(demo_folder)
    told, word = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"(\d+) of \d+ tokens came from disk", told)
    assert word == "' named'"


def test_the_notebook_page_shows_the_example() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "kvcache.md").read_text(), re.DOTALL)
    body = code.partition("segment_from_cache\n")[2].strip("\n")
    assert (
        textwrap.indent(body, "    ", lambda line: bool(line.strip()))
        in (ROOT / "examples" / "notebook.py").read_text()
    )


def test_every_example_is_listed() -> None:
    page = (ROOT / "examples" / "README.md").read_text()
    scripts = sorted(path.name for path in (ROOT / "examples").glob("[a-z]*.py"))
    assert [name for name in scripts if f"({name})" not in page] == []
