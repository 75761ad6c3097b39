"""Each rule of the house finds a fault that was planted for it, and lets what is right pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools import house
from tools.house import RULES, Result


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def found(tmp_path: Path, rule: str, files: dict[str, str]) -> Result:
    return RULES[rule](written(tmp_path, files))


def methods(n: int, name: str = "method") -> str:
    return "".join(f"    def {name}{i}(self): ...\n" for i in range(n))


def test_a_long_readme(tmp_path: Path) -> None:
    assert found(tmp_path / "good", "readme lines", {"README.md": "line\n" * 150}).faults == ()
    assert found(tmp_path / "bad", "readme lines", {"README.md": "line\n" * 151}).faults == ("README.md: 151 lines",)


def test_long_sentences(tmp_path: Path) -> None:
    table, code = "| a | b |\n" * 30, "```sh\n" + "word " * 40 + "\n```\n"
    short = f"# Title\n\n{'Short words. ' * 3}\n\n- an item\n- another item\n\n{table}\n{code}\n[a link](x.md).\n"
    result = found(tmp_path / "good", "readme sentences", {"README.md": short})
    assert result == Result("median 2 words in 6 sentences, at most 16")
    result = found(tmp_path / "bad", "readme sentences", {"README.md": "word " * 17 + ".\n"})
    assert result.faults[0].startswith("17 words: word")


def test_sentences_span_lines() -> None:
    assert house.sentences("One that\nends here. **Bold.** Two!\n\nThree: with a colon\n") == [
        "One that ends here.",
        "**Bold.**",
        "Two!",
        "Three: with a colon",
    ]


def test_relative_openings(tmp_path: Path) -> None:
    good = "".join(f'def f{i}():\n    """Return {i}."""\n' for i in range(60))
    bad = 'def g():\n    """What it is."""\n'
    assert found(tmp_path / "good", "docstring openings", {"memory/a.py": good + bad}).faults == ()
    assert found(tmp_path / "bad", "docstring openings", {"memory/a.py": f"{good}{bad}{bad}"}).faults == (
        "memory/a.py:121 g: What it is.",
        "memory/a.py:123 g: What it is.",
    )
    others = 'def h():\n    """Whatever comes is taken."""\n'
    assert found(tmp_path / "others", "docstring openings", {"memory/a.py": others}).faults == ()


def test_a_long_module(tmp_path: Path) -> None:
    files = {"kvcache/a.py": "x = 1\n" * 500, "benchmarks/lab/b.py": "x = 1\n" * 501, "tests/c.py": "x = 1\n" * 900}
    assert found(tmp_path, "module lines", files).faults == ("benchmarks/lab/b.py: 501 lines",)


def test_a_wide_class(tmp_path: Path) -> None:
    """Inherited methods count, private ones and those that a foreign base dictates do not."""
    files = {
        "memory/a.py": f"class Base:\n{methods(20)}{methods(9, '_private')}",
        "memory/b.py": f"class Wide(Base):\n{methods(6, 'more')}",
        "memory/d.py": "class Wide:\n    def one(self): ...\n",
        "engine/c.py": f"class RecallKVConnector:\n{methods(40)}class _Own:\n{methods(40)}",
    }
    assert found(tmp_path, "class methods", files).faults == ("memory/b.py:1 Wide: 26",)
    assert found(tmp_path, "class methods, private too", files).faults == (
        "memory/a.py:1 Base: 29",
        "memory/b.py:1 Wide: 35",
    )


def test_a_wide_engine(tmp_path: Path) -> None:
    good = f"class Engine:\n    prompts: object\n{methods(12)}"
    assert found(tmp_path / "good", "engine members", {"engine/base.py": good}).faults == ()
    assert len(found(tmp_path / "bad", "engine members", {"engine/base.py": good + methods(1, "more")}).faults) == 1


@pytest.mark.parametrize(
    "line",
    [
        "import sqlite3",
        "from sqlite3 import Connection",
        'f"SELECT {x} FROM memories"',
        '"INSERT OR IGNORE INTO names VALUES (?)"',
        '"UPDATE memories SET text = ?"',
        '"""\n    DELETE FROM names\n    """',
        '"CREATE VIRTUAL TABLE t USING fts5(text)"',
        '"PRAGMA synchronous = FULL"',
        '"WITH found AS (SELECT 1) SELECT * FROM found"',
    ],
)
def test_sql_away_from_home(tmp_path: Path, line: str) -> None:
    code = "\n".join(('"""SELECT a FROM b is only told of."""', "x = 1", line, ""))
    assert len(found(tmp_path / "bad", "sql at home", {"server/a.py": code}).faults) == 1
    assert found(tmp_path / "good", "sql at home", {"memory/storage/sqlite/a.py": code}).faults == ()


@pytest.mark.parametrize(
    "text", ["Update your settings", "select a model from these", "delete from all tiers", "with care"]
)
def test_prose_is_no_sql(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, "sql at home", {"server/a.py": f"x = {text!r}\n"}).faults == ()


@pytest.mark.parametrize(
    "line",
    [
        "from memory import MemoryStore",
        "from memory.store import anything",
        "from memory.storage.base import Transaction",
        "services.memories.add('x')",
        "request.app.state.services.memories",
        "services.door.store",
        "services.door._store",
    ],
)
def test_a_route_that_reaches_the_raw_store(tmp_path: Path, line: str) -> None:
    wiring = "class Services:\n    memories: MemoryStore\n    door: MemoryService\n"
    files = {"server/wiring.py": wiring, "server/http/routes/a.py": f"{line}\n"}
    assert len(found(tmp_path / "route", "routes and store", files).faults) == 1
    files = {"server/wiring.py": wiring, "server/dialects/a.py": f"{line}\n"}
    assert len(found(tmp_path / "dialect", "routes and store", files).faults) == 1
    files = {"server/wiring.py": wiring, "server/core/a.py": f"{line}\n"}
    assert found(tmp_path / "core", "routes and store", files).faults == ()


def test_a_route_through_the_door(tmp_path: Path) -> None:
    wiring = "class Services:\n    store: MemoryStore\n    memories: MemoryService\n"
    route = "from memory import Memory, MemoryNotFound\nservices.memories.add('x')\nbody.memories\nself.store\n"
    files = {"server/wiring.py": wiring, "server/http/routes/a.py": route}
    assert found(tmp_path, "routes and store", files).faults == ()


REPLY = {"$ref": "#/components/schemas/Reply"}
ANY_OBJECT = {"type": "object", "additionalProperties": True}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (REPLY, True),
        ({"type": "array", "items": REPLY}, True),
        ({"anyOf": [REPLY, {"type": "null"}]}, True),
        ({"type": "object", "properties": {"ok": {"type": "boolean"}}}, True),
        ({}, False),
        (ANY_OBJECT, False),
        ({"type": "array", "items": ANY_OBJECT}, False),
        ({"anyOf": [REPLY, ANY_OBJECT]}, False),
        ({"type": "object", "additionalProperties": {"type": "string"}}, False),
    ],
)
def test_reply_models(schema: dict[str, object], named: bool) -> None:
    paths = {"/a": {"get": {"responses": {"200": {"content": {"application/json": {"schema": schema}}}, "404": {}}}}}
    assert house.without_model({"paths": paths}) == ([] if named else ["GET /a"])


def test_streams_and_empty_replies_need_no_model() -> None:
    stream: dict[str, Any] = {"200": {"content": {"text/event-stream": {"schema": {}}}}}
    assert (
        house.without_model({"paths": {"/a": {"get": {"responses": stream}, "put": {"responses": {"204": {}}}}}}) == []
    )


def test_native_routes_are_found_by_looking() -> None:
    paths = house.native_openapi(house.ROOT)["paths"]
    assert {"/v1/memories", "/v1/chat/completions", "/health", "/v1/cubes/{cube_id}/dump"} <= set(paths)
    assert not [path for path in paths if path.startswith(("/product/", "/api/openmem/", "/v3/"))]


def test_enforced_rules_decide_the_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rules = {"one": lambda root: Result("fine"), "two": lambda root: Result("bad", ("a.py:1", "b.py:2"))}
    monkeypatch.setattr(house, "RULES", rules)
    monkeypatch.setattr(house, "ENFORCED", ("one",))
    assert house.main([]) == 0
    assert house.main(["--most", "1", "--all"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[:4] == ["ok   one: fine", "open two: bad", "       a.py:1", "       b.py:2"]
    assert told[4:] == ["ok   one: fine", "FAIL two: bad", "       a.py:1", "       ... and 1 more"]


@pytest.mark.slow
def test_this_house_keeps_its_rules() -> None:
    assert set(house.ENFORCED) <= set(RULES)
    assert {name: RULES[name](house.ROOT).faults for name in house.ENFORCED} == dict.fromkeys(house.ENFORCED, ())
