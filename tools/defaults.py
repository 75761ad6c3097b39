"""Find settings whose default is written down twice: python -m tools.defaults prints them."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

from server.config.owned import links
from server.config.sections import Config

ROOT = Path(__file__).parent.parent
PRODUCT = ("server", "scheduler", "memory", "engine", "kvcache")

# Words of requests, too: how many hits a search has is not how many memories a prompt has.
OTHER_WORDS = frozenset({"top_k", "mode", "fidelity", "kind", "model"})
# Names of settings that stand for something else in a class or function.
OTHER_MEANINGS = {
    ("Fingerprint", "codec"): "part of a key: what a chained segment is written with, whatever is set",
    ("Entry", "disk_bytes"): "what a segment takes, not a budget",
    ("close", "drain_s"): "an engine that is closed waits for nobody, unless it is told to",
    ("hasher", "threads"): "of a checksum",
    ("_hasher", "threads"): "of a checksum",
    ("doctor", "port"): "help must not wait for the settings, and torch with them",
}


@dataclass(frozen=True)
class Default:
    """A literal that a field or parameter has by default."""

    name: str
    owner: str
    """The class or function that has it."""
    place: str


def settings() -> list[frozenset[str]]:
    """Return the names of each setting: its own, and that of the field it comes from."""
    found = []
    for section in get_type_hints(Config).values():
        if isinstance(section, type) and section.__name__.endswith("Settings"):
            tied = links(section)
            for item in fields(section):
                link = tied.get(item.name)
                names = {item.name} if link is None or "." in link.name else {item.name, link.name}
                if not names & OTHER_WORDS:
                    found.append(frozenset(names))
    return found


def written_twice(sources: Mapping[str, str]) -> list[str]:
    """Return the places of every setting's default that is written as a literal more than once, a line per setting.
    ``sources`` are texts of modules by path."""
    found = defaultdict(list)
    for path, text in sources.items():
        for default in literal_defaults(ast.parse(text), path):
            if (default.owner.rpartition(".")[2], default.name) not in OTHER_MEANINGS:
                found[default.name].append(default.place)
    each = {names: [place for name in sorted(names) for place in found[name]] for names in settings()}
    return [f"{' = '.join(sorted(names))}: {', '.join(where)}" for names, where in each.items() if len(where) > 1]


def product() -> dict[str, str]:
    """Return the product's modules."""
    paths = [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def literal_defaults(tree: ast.AST, path: str, inside: str = "") -> Iterator[Default]:
    """Yield the defaults of fields and parameters that are literals, None excepted."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{inside}.{node.name}".lstrip(".")
            for field_name, value in _fields(node) if isinstance(node, ast.ClassDef) else _parameters(node.args):
                if _is_literal(value):
                    yield Default(field_name, name, f"{path}:{value.lineno}")
            yield from literal_defaults(node, path, name)
        else:
            yield from literal_defaults(node, path, inside)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            yield item.target.id, item.value


def _parameters(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    for parameter, value in zip(
        positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True
    ):
        yield parameter.arg, value
    for parameter, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            yield parameter.arg, default


def _is_literal(node: ast.expr) -> bool:
    """Tell whether the value is written here: as itself, in arithmetic, or as the default of ``field(...)`` and its
    like."""
    if isinstance(node, ast.Constant):
        return node.value is not None
    if isinstance(node, ast.UnaryOp):
        return _is_literal(node.operand)
    if isinstance(node, ast.BinOp):
        return _is_literal(node.left) and _is_literal(node.right)
    if isinstance(node, ast.Call):
        given = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "default")]
        return any(_is_literal(value) for value in given)
    return False


if __name__ == "__main__":
    twice = written_twice(product())
    print("\n".join(twice) or "each default stands once")
    sys.exit(bool(twice))
