"""One door to memory: nothing that answers requests can reach the side store but through ``MemoryService``."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memory
from memory import MemoryStore
from server.core.cubes import CubeService
from server.core.documents import DocumentService
from server.core.feedback import FeedbackService
from server.core.jobs import JobService
from server.core.memories import MemoryService
from tests.server.running import Running

SERVER = Path(__file__).parent.parent.parent / "server"
ROUTES = sorted([*(SERVER / "http" / "routes").rglob("*.py"), *(SERVER / "dialects").rglob("*.py")])
# What has methods that read or write, or makes something that has.
STORES = {"MemoryStore", "JobQueue", "KeyStore", "KeyedRequests"}


def _names_of_memory(tree: ast.AST) -> Iterator[str]:
    """What a module imports of ``memory``: names of the package, and whole modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "memory":
            yield from (alias.name if node.module == "memory" else node.module for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "memory")


def _is_type_or_error(name: str) -> bool:
    found = getattr(memory, name, None)
    if isinstance(found, type):
        return dataclasses.is_dataclass(found) or issubclass(found, Exception) or name == "WholeEmbedder"
    return name in ("Access", "MemoryKind", "MemoryStatus", "KINDS")


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: str(path.relative_to(SERVER)))
def test_routes_know_of_memory_only_its_types(path: Path) -> None:
    names = set(_names_of_memory(ast.parse(path.read_text())))
    assert {name for name in names if name in STORES or not _is_type_or_error(name)} == set()


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: str(path.relative_to(SERVER)))
def test_routes_look_behind_no_door(path: Path) -> None:
    """Private attributes of others are where the side store lies."""
    private = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    assert private == []


def _public(thing: Any) -> Iterator[tuple[str, Any]]:
    for name in dir(thing):
        if not name.startswith("_"):
            yield name, getattr(thing, name, None)


def test_no_attribute_of_the_services_is_or_leads_to_the_store(server: Running) -> None:
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("services", server.services)]
    while todo:
        path, thing = todo.pop()
        assert not isinstance(thing, MemoryStore), path
        bound = getattr(thing, "__self__", None)
        assert not isinstance(bound, MemoryStore), path
        if id(thing) not in seen and type(thing).__module__.split(".")[0] in ("server", "scheduler"):
            seen.add(id(thing))
            todo += [(f"{path}.{name}", value) for name, value in _public(thing)]
    assert id(server.services.memories) in seen


@pytest.mark.parametrize("kind", [MemoryService, CubeService, DocumentService, FeedbackService, JobService])
def test_the_door_is_narrow(kind: type) -> None:
    assert len([name for name in vars(kind) if not name.startswith("_")]) <= 25
