"""The rules of this house, checked: ``python -m tools.house`` prints a line per rule, and fails with the places.

Each rule is a function from the repository's root to a ``Result``. Rules in ``ENFORCED`` decide the status; with
``--all`` every rule does. ``--most N`` shows at most N places per rule (default 5).
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
PRODUCT = ("server", "scheduler", "memory", "engine", "kvcache")
ENFORCED: tuple[str, ...] = (
    "readme lines",
    "readme sentences",
    "docstring openings",
    "module lines",
    "class methods",
    "class methods, private too",
    "engine members",
    "sql at home",
    "routes and store",
    "reply models",
    "each default once",
)
"""Rules that fail the run. Others are printed only; switch one on by adding its name here."""

MAX_README_LINES = 150
MAX_SENTENCE_WORDS = 16
MAX_RELATIVE_SHARE = 0.02
MAX_MODULE_LINES = 500
MAX_METHODS = 25
MAX_ENGINE_MEMBERS = 13

# Classes whose base, which is not ours, dictates the methods.
DICTATED = {"RecallKVConnector": "vLLM's KVConnectorBase_V1 asks for them"}
# Places of SQL, with the reason.
SQL_HOMES = {
    "memory/storage/": "the plaintext store",
    "kvcache/mirror.py": "the index of segment files, which is no memory and has no second backend",
    "kvcache/files/check.py": "reads that index while a server is at work",
}
ROUTES = ("server/http/routes", "server/dialects", "server/routes")
NATIVE_ROUTES = ("server/http/routes", "server/routes")
_FOREIGN = re.compile(r"^(?:mem0|memos|peers)")
_RELATIVE = re.compile(r"(?:What|Whether|How|Where|Which|Those)\b")
_STATEMENT = re.compile(
    r"^\s*(?:SELECT\s.+\sFROM\s|SELECT\s+\w+\(|INSERT\s+(?:OR\s+\w+\s+)?INTO\s|REPLACE\s+INTO\s|UPDATE\s+\w+\s+SET\s|"
    r"DELETE\s+FROM\s|CREATE\s+(?:UNIQUE\s+)?(?:TABLE|INDEX|VIRTUAL|TRIGGER|VIEW)\s|ALTER\s+TABLE\s|DROP\s+TABLE\s|"
    r"PRAGMA\s|BEGIN\s+IMMEDIATE|WITH\s+\w+\s.*\bAS\s*\()",
    re.DOTALL,
)


@dataclass(frozen=True)
class Result:
    """A rule's figure, in words, and the places where it is broken."""

    figure: str
    faults: tuple[str, ...] = ()


Rule = Callable[[Path], Result]


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text(), filename=str(path))


def modules(root: Path, packages: tuple[str, ...]) -> list[Path]:
    """Return the Python files of packages or folders, those that are missing left out."""
    return [path for package in packages for path in sorted((root / package).rglob("*.py"))]


def _place(root: Path, path: Path, line: int) -> str:
    return f"{path.relative_to(root)}:{line}"


# -- README


def prose(page: str) -> str:
    """Return a page's sentences: no code, tables, comments, pictures or headings, and links as their words."""
    page = re.sub(r"```.*?```|<!--.*?-->|!\[[^\]]*\]\([^)]*\)", "", page, flags=re.DOTALL)
    lines = [line for line in page.splitlines() if not re.match(r"\s*(?:\||#)", line)]
    text = "\n".join(re.sub(r"^\s*[-*] ", "\n", line) for line in lines)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


def sentences(page: str) -> list[str]:
    """Return the sentences of a page's prose."""
    paragraphs = re.split(r"\n\s*\n", prose(page))
    split = (re.split(r"(?<=[.!?])\s+|(?<=[.!?]\*\*)\s+", " ".join(paragraph.split())) for paragraph in paragraphs)
    return [sentence for found in split for sentence in found if re.search(r"\w", sentence)]


def readme_lines(root: Path) -> Result:
    """README.md has at most 150 lines."""
    n = len((root / "README.md").read_text().splitlines())
    return Result(f"{n} lines, at most {MAX_README_LINES}", () if n <= MAX_README_LINES else (f"README.md: {n} lines",))


def readme_sentences(root: Path) -> Result:
    """README's sentences have a median of at most 16 words."""
    found = sentences((root / "README.md").read_text())
    words = {sentence: len(re.findall(r"\S*\w\S*", sentence)) for sentence in found}
    middle = median(words.values()) if words else 0
    longest = sorted(found, key=lambda sentence: -words[sentence])[:5]
    faults = () if middle <= MAX_SENTENCE_WORDS else tuple(f"{words[s]} words: {s}" for s in longest)
    return Result(f"median {middle:g} words in {len(found)} sentences, at most {MAX_SENTENCE_WORDS}", faults)


# -- Words


def docstring_openings(root: Path) -> Result:
    """At most 2% of the docstrings of functions and classes open with a relative word."""
    total, faults = 0, []
    for path in modules(root, (*PRODUCT, "benchmarks")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = ast.get_docstring(node)
                total += text is not None
                if text is not None and _RELATIVE.match(text):
                    faults.append(f"{_place(root, path, node.lineno)} {node.name}: {text.splitlines()[0]}")
    share = len(faults) / max(1, total)
    figure = f"{len(faults)} of {total} ({share:.1%}), at most {MAX_RELATIVE_SHARE:.0%}"
    return Result(figure, tuple(faults) if share > MAX_RELATIVE_SHARE else ())


# -- Sizes


def module_lines(root: Path) -> Result:
    """No module of the product or the benchmarks has more than 500 lines."""
    sizes = {path: len(path.read_text().splitlines()) for path in modules(root, (*PRODUCT, "benchmarks"))}
    faults = tuple(f"{p.relative_to(root)}: {n} lines" for p, n in sizes.items() if n > MAX_MODULE_LINES)
    return Result(f"longest {max(sizes.values(), default=0)} lines, at most {MAX_MODULE_LINES}", faults)


@dataclass(frozen=True)
class _Class:
    name: str
    place: str
    methods: frozenset[str]
    bases: tuple[str, ...]

    def shares(self, other: _Class) -> int:
        """Count the leading parts of the path that both classes' places share."""
        parts = zip(re.split("[/:]", self.place), re.split("[/:]", other.place), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], parts))


def _classes(root: Path) -> list[_Class]:
    found = []
    for path in modules(root, (*PRODUCT, "benchmarks")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                methods = (n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
                bases = tuple(ast.unparse(base).rpartition(".")[2].partition("[")[0] for base in node.bases)
                found.append(_Class(node.name, _place(root, path, node.lineno), frozenset(methods), bases))
    return found


def _with_bases(one: _Class, classes: list[_Class], seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return a class's methods with those of its bases in this repository; of several with one name, the nearest."""
    methods = one.methods
    for base in set(one.bases) - seen:
        named = [other for other in classes if other.name == base and other is not one]
        nearest = max(named, key=lambda other: one.shares(other), default=None)
        methods |= _with_bases(nearest, classes, seen | {one.name}) if nearest else frozenset()
    return methods


def _too_many(root: Path, counted: Callable[[str], bool], what: str) -> Result:
    classes = _classes(root)
    public = [one for one in classes if not one.name.startswith("_") and one.name not in DICTATED]
    counts = [(one, sum(map(counted, _with_bases(one, classes)))) for one in public]
    faults = tuple(f"{one.place} {one.name}: {n}" for one, n in counts if n > MAX_METHODS)
    return Result(f"most {max((n for _, n in counts), default=0)} {what}, at most {MAX_METHODS}", faults)


def class_methods(root: Path) -> Result:
    """No public class has more than 25 public methods, inherited ones included."""
    return _too_many(root, lambda name: not name.startswith("_"), "public methods")


def class_all_methods(root: Path) -> Result:
    """No public class has more than 25 methods, private ones and inherited ones included."""
    return _too_many(root, lambda name: not name.startswith("__"), "methods")


def engine_members(root: Path) -> Result:
    """The protocol ``Engine`` has at most 13 members."""
    path = root / "engine" / "base.py"
    (engine,) = (n for n in ast.walk(parsed(path)) if isinstance(n, ast.ClassDef) and n.name == "Engine")
    members = [
        n.name if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) else ast.unparse(n.target)
        for n in engine.body
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign)
    ]
    fault = f"{_place(root, path, engine.lineno)} Engine: {', '.join(members)}"
    return Result(
        f"{len(members)} members, at most {MAX_ENGINE_MEMBERS}", (fault,) if len(members) > MAX_ENGINE_MEMBERS else ()
    )


# -- Walls


def _docstrings(tree: ast.Module) -> set[int]:
    """Return the identities of constants that are docstrings."""
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def imported(node: ast.AST) -> list[str]:
    """Return the dotted names that an import statement brings in, none for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give the strings of a module with their lines: no docstrings, and formatted ones with their fields as ``?``."""
    known = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            known |= {id(part) for part in node.values}
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "?" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in known:
            yield node.lineno, node.value


def _sql_in(path: Path) -> Iterator[tuple[int, str]]:
    tree = parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and "sqlite3" in {n.partition(".")[0] for n in imported(node)}:
            yield node.lineno, "import sqlite3"
    for line, text in _strings(tree):
        if _STATEMENT.match(text):
            yield line, " ".join(text.split())[:60]


def sql_at_home(root: Path) -> Result:
    """SQL stands in the storage of the plaintext store only, and in the listed places."""
    faults, places = [], set()
    for path in modules(root, (*PRODUCT, "benchmarks")):
        name = str(path.relative_to(root))
        if not name.startswith(tuple(SQL_HOMES)):
            found = [f"{name}:{line} {text}" for line, text in _sql_in(path)]
            faults += found
            places |= {name} if found else set()
    return Result(f"{len(faults)} in {len(places)} files outside {', '.join(SQL_HOMES)}", tuple(faults))


def _raw_attributes(root: Path) -> set[str]:
    """Return the attributes of ``Services`` that are the raw store."""
    paths = [root / "server" / name for name in ("wiring.py", "services.py")]
    classes = [node for path in paths if path.exists() for node in ast.walk(parsed(path))]
    services = [node for node in classes if isinstance(node, ast.ClassDef) and node.name == "Services"]
    return {
        ast.unparse(item.target)
        for node in services
        for item in node.body
        if isinstance(item, ast.AnnAssign) and "MemoryStore" in ast.unparse(item.annotation)
    }


def _reached(node: ast.AST, raw: set[str]) -> str | None:
    """Say how a node of a route's module reaches the raw store, or None."""
    for name in imported(node):
        if name.rpartition(".")[2] == "MemoryStore" or name.startswith(("memory.store", "memory.storage")):
            return name
    if not isinstance(node, ast.Attribute):
        return None
    owner = ast.unparse(node.value)
    if node.attr in raw and owner.rpartition(".")[2] == "services":
        return ast.unparse(node)
    return ast.unparse(node) if node.attr in ("store", "_store") and owner != "self" else None


def routes_and_store(root: Path) -> Result:
    """No module of routes or dialects can reach the raw store of memories."""
    raw = _raw_attributes(root)
    faults = [
        f"{_place(root, path, getattr(node, 'lineno', 0))} {reached}"
        for path in modules(root, ROUTES)
        for node in ast.walk(parsed(path))
        if (reached := _reached(node, raw)) is not None
    ]
    return Result(f"{len(faults)} times in {len({f.partition(':')[0] for f in faults})} modules", tuple(faults))


# -- Replies


def is_model(schema: dict[str, Any]) -> bool:
    """Say whether a JSON schema names the fields of a reply, or the items of a list that have such names."""
    choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if choices:
        return all(is_model(choice) or choice.get("type") == "null" for choice in choices)
    if schema.get("type") == "array":
        return is_model(schema.get("items", {}))
    return "$ref" in schema or bool(schema.get("properties"))


def without_model(openapi: dict[str, Any]) -> list[str]:
    """Return the operations whose success has neither a model, nor another media type than JSON, nor no body at all."""
    found = []
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            replies = [reply for status, reply in operation["responses"].items() if status.startswith("2")]
            contents = [content for reply in replies for content in reply.get("content", {}).items()]
            if not all(
                media != "application/json" or is_model(content.get("schema", {})) for media, content in contents
            ):
                found.append(f"{method.upper()} {path}")
    return found


def native_openapi(root: Path) -> dict[str, Any]:
    """Return the description of the routes that are no other product's dialect."""
    from fastapi import FastAPI

    app = FastAPI()
    for path in modules(root, NATIVE_ROUTES):
        module = importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
        if not _FOREIGN.match(path.stem) and hasattr(module, "router"):
            app.include_router(module.router)
    return app.openapi()


def reply_models(root: Path) -> Result:
    """Every native route has a model of its reply, unless it streams."""
    openapi = native_openapi(root)
    total = sum(len(operations) for operations in openapi["paths"].values())
    faults = without_model(openapi)
    return Result(f"{len(faults)} of {total} native routes without", tuple(faults))


def each_default_once(root: Path) -> Result:
    """Find settings whose default is written down twice."""
    from tools.defaults import product, written_twice

    twice = written_twice(product())
    return Result(f"{len(twice)} settings with a second default", tuple(twice))


RULES: dict[str, Rule] = {
    "readme lines": readme_lines,
    "readme sentences": readme_sentences,
    "docstring openings": docstring_openings,
    "module lines": module_lines,
    "class methods": class_methods,
    "class methods, private too": class_all_methods,
    "engine members": engine_members,
    "sql at home": sql_at_home,
    "routes and store": routes_and_store,
    "reply models": reply_models,
    "each default once": each_default_once,
}


def _say(name: str, result: Result, enforced: bool, most: int) -> None:
    state = "ok" if not result.faults else "FAIL" if enforced else "open"
    print(f"{state:5}{name}: {result.figure}")
    shown = result.faults[:most] if result.faults else ()
    for fault in shown:
        print(f"       {fault}")
    if len(result.faults) > len(shown):
        print(f"       ... and {len(result.faults) - len(shown)} more")


def main(argv: list[str] | None = None) -> int:
    """Check all rules; return 1 when one that is enforced is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="enforce every rule")
    parser.add_argument("--most", type=int, default=5, help="places to show per rule")
    options = parser.parse_args(argv)
    failed = False
    for name, rule in RULES.items():
        result, enforced = rule(ROOT), options.all or name in ENFORCED
        _say(name, result, enforced, options.most)
        failed |= enforced and bool(result.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
