"""Filters against a plain evaluation of the same rule (see ``memory.search.filters``)."""

from __future__ import annotations

import json
import math
import operator
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import HashEmbedder, InvalidMemory, Memory, MemoryStore
from memory.search.filters import parse_filter
from memory.storage.sqlite.filters import compiled
from tests.raw import reading

T = "tenant"
KEYS = ["status", "n", "a.b", "a", "Größe", "it's", "back\\slash", "%_", "new\nline", "x"]
FIELDS = [
    *(f"metadata.{key}" for key in KEYS),
    *("status", "n", "a.b", "info.a.b", "metadata.a.b.c", "metadata.none", "owner", "user_id", "agent", "kind", "tags"),
    *("importance", "pinned", "event_at", "expires_at"),
]
SCALARS: list[Any] = [
    *("done", "Done", "DÖNE", "döne", "", "2", "5", "10", "true", "x", "it's", "%", "_", "\\", "2024-05-01"),
    *(0, 1, 2, 5, 10, -1, 0.5, 2.0, 1e300, 2**53 + 1, 2**63 - 1, 2**63, 2**70, 0.1, True, False),
]
TEXTS = [value for value in SCALARS if isinstance(value, str)]
TIMES = ["event_at", "expires_at"]


def values_of(memory: Memory, field: str) -> list[Any]:
    """The values that a field lists."""
    found = field_of(memory, field)
    listed = list(found) if isinstance(found, list | tuple) else [found]
    return [value for value in listed if value is not None]


def field_of(memory: Memory, field: str) -> Any:
    own = {"user_id": "owner", "agent_id": "agent", "run_id": "session"}.get(field, field)
    if own == "status":
        return memory.status
    if own in ("owner", "agent", "kind", "tags", "importance", "pinned", *TIMES):
        return getattr(memory, own)
    section, _, rest = field.partition(".")
    key = rest if section in ("metadata", "info") and rest else field
    if key in memory.metadata:
        return memory.metadata[key]
    at: Any = memory.metadata
    for part in key.split("."):
        if not isinstance(at, Mapping) or part not in at:
            return None
        at = at[part]
    return at


def type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else "other"


def number(value: Any) -> Any:
    return float(value) if type_of(value) == "number" and not -(2**63) <= value < 2**63 else value


def same(a: Any, b: Any) -> bool:
    return type_of(a) == type_of(b) != "other" and bool(number(a) == number(b))


def meets(memory: Memory, field: str, op: str, operand: Any) -> bool:
    values = values_of(memory, field)
    is_list = isinstance(field_of(memory, field), list | tuple)
    if op in ("ne", "nin"):
        return not meets(memory, field, {"ne": "eq", "nin": "in"}[op], operand)
    if op == "eq" and (operand is None or operand == "*"):
        return bool(values) == (operand == "*")
    wanted = operand if isinstance(operand, list) else [operand]
    if field in TIMES:
        wanted = [seconds(item) for item in wanted]
    if op in ("eq", "in"):
        return any(same(value, item) for value in values for item in wanted)
    if op == "all":
        return all(any(same(value, item) for value in values) for item in wanted)
    (item,) = wanted
    if op in ("gt", "gte", "lt", "lte"):
        compare = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}[op]
        return any(type_of(value) == type_of(item) and compare(number(value), number(item)) for value in values)
    fold = str.casefold if op == "icontains" else str
    if is_list:
        equal = [value for value in values if type_of(value) == type_of(item)]
        if op == "icontains":
            return any(isinstance(value, str) and value.casefold() == item.casefold() for value in equal)
        return any(same(value, item) for value in equal)
    return isinstance(item, str) and any(isinstance(value, str) and fold(item) in fold(value) for value in values)


def seconds(value: Any) -> float:
    return datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp() if isinstance(value, str) else value


def lets_through(node: Mapping[str, Any], memory: Memory) -> bool:
    for key, value in node.items():
        word = key.lower()
        if word in ("and", "or", "not"):
            parts = [lets_through(part, memory) for part in (value if isinstance(value, list) else [value])]
            held = all(parts) if word == "and" else any(parts) if word == "or" else not any(parts)
        elif key == "metadata":
            held = lets_through({f"metadata.{name}": wanted for name, wanted in value.items()}, memory)
        else:
            operators = value if isinstance(value, Mapping) else {"in" if isinstance(value, list) else "eq": value}
            held = all(meets(memory, key, op, operand) for op, operand in operators.items())
        if not held:
            return False
    return True


def conditions_on(field: str) -> st.SearchStrategy[Any]:
    scalars: list[Any] = SCALARS
    if field in TIMES:
        scalars = ["2024-05-01", 10, 20.5, -3]
    if field == "tags":
        scalars = TEXTS
    one = st.sampled_from(scalars)
    comparable = st.sampled_from([value for value in scalars if type_of(value) != "boolean"])
    several = st.lists(one, max_size=3) | st.lists(one, min_size=17, max_size=20)
    operators = st.one_of(
        *(st.fixed_dictionaries({op: one}) for op in ("eq", "ne", "in", "nin")),
        *(st.fixed_dictionaries({op: comparable}) for op in ("gt", "gte", "lt", "lte")),
        *(st.fixed_dictionaries({op: several}) for op in ("in", "nin", "eq")),
        st.fixed_dictionaries({"all": st.lists(one, min_size=1, max_size=3)}),
        *(st.fixed_dictionaries({op: st.sampled_from(["*", None])}) for op in ("eq", "ne")),
        *(
            []
            if field in TIMES
            else [
                st.fixed_dictionaries({"contains": one}),
                st.fixed_dictionaries({"icontains": st.sampled_from(TEXTS)}),
            ]
        ),
    )
    return st.one_of(operators, one, several, st.none(), st.just("*"))


CONDITIONS = st.sampled_from(FIELDS).flatmap(
    lambda field: conditions_on(field).map(lambda c: {field: c})
) | st.sampled_from(KEYS).flatmap(lambda key: conditions_on(key).map(lambda c: {"metadata": {key: c}}))
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"OR": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"NOT": st.lists(inner, min_size=1, max_size=3)}),
        st.tuples(inner, inner).map(lambda two: {**two[0], **two[1]}),
    ),
    max_leaves=4,
)


def _anything(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(7)
    if kind == 0 and depth < 2:
        return {rng.choice(["b", "b.c", "c", "x"]): _anything(rng, depth + 1) for _ in range(rng.randrange(3))}
    if kind == 1 and depth < 2:
        return [_anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return None if kind == 2 else rng.choice(SCALARS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryStore]:
    """Seeded memories whose metadata has values of every type under every key."""
    opened = MemoryStore(tmp_path_factory.mktemp("filters") / "m.sqlite", HashEmbedder(16))
    rng = random.Random(5)
    cube = opened.default_cube(T).id
    day = datetime(2024, 5, 1, tzinfo=UTC).timestamp()
    for i in range(60):
        opened.add(
            T,
            cube,
            f"memory {i}",
            kind=rng.choice(["fact", "event"]),
            owner=rng.choice([None, "done", "x"]),
            agent=rng.choice([None, "2", "Done"]),
            pinned=rng.random() < 0.3,
            importance=rng.choice([0.5, 0.1, 1]),
            event_at=rng.choice([None, 10.0, 20.5, day]),
            expires_at=rng.choice([None, time.time() + 9e5, day]),
            tags=sorted(set(rng.choices([tag for tag in TEXTS if tag], k=rng.randrange(3)))),
            metadata={key: _anything(rng) for key in rng.sample(KEYS, rng.randrange(1, 5))},
        )
    yield opened
    opened.close()


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(FILTERS)
def test_a_filter_lets_through_what_the_rule_says(store: MemoryStore, wanted: dict[str, Any]) -> None:
    every = [m for s in ("active", "archived") for m in store.list_memories(T, status=s, limit=500).items]
    assert len(every) == 60
    found = {
        m.id for s in ("active", "archived") for m in store.list_memories(T, status=s, limit=500, filter=wanted).items
    }
    assert found == {m.id for m in every if lets_through(wanted, m)}


@settings(max_examples=300, deadline=None)
@given(
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(), st.sampled_from(["eq", "gte", "lte", "gt", "lt"])
)
def test_numbers_equal_themselves(store: MemoryStore, value: float, op: str) -> None:
    """Whatever SQLite makes of a number in JSON, it makes of the operand."""
    condition, values = compiled(parse_filter({"metadata.v": {op: value}}))
    if isinstance(value, int) and not math.isfinite(number(value)):
        return
    with reading(store) as db:
        row = json.dumps({"v": value})
        (held,) = db.execute(f"SELECT {condition} FROM (SELECT ? AS metadata) m", (*values, row))  # noqa: S608
    assert bool(held[0]) == (op in ("eq", "gte", "lte"))


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["and", "or", "not", "n", "metadata", "eq", "in", "gt", "contains", "", "a..b", "\x00", '"']
                )
                | st.text(max_size=4),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
)
@settings(max_examples=400, deadline=None)
def test_anything_is_a_filter_or_is_refused(store: MemoryStore, wanted: Any) -> None:
    try:
        store.list_memories(T, filter={"x": wanted} if not isinstance(wanted, dict) else wanted)
    except InvalidMemory as error:
        assert error.param == "filter"  # noqa: PT017


@pytest.mark.parametrize("wanted", [{"not": []}, {"or": []}, {"or": [{}]}, {"not": {}}, {"x": {}}, {"x": {"all": []}}])
def test_a_filter_that_says_nothing_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidMemory):
        parse_filter(wanted)


NOTES = {
    "a": {"status": "done", "n": "2", "list": [1, "x"], "deep": {"k": 1}, "ü": True},
    "b": {"n": 9, "list": [], "flag": 1, "deep.k": 2},
    "c": {"status": None, "n": 5.0, "flag": True, "city": "Oslo"},
}
RULES: list[tuple[dict[str, Any], str]] = [
    ({"metadata.n": {"gte": 5}}, "bc"),  # a text is above no number
    ({"metadata.n": {"lt": "5"}}, "a"),
    ({"metadata.n": 2}, ""),
    ({"metadata.n": 5}, "c"),
    ({"not": {"metadata.status": "done"}}, "bc"),  # also those without a status
    ({"metadata.status": {"ne": "done"}}, "bc"),
    ({"metadata.status": {"nin": ["done", "open"]}}, "bc"),
    ({"metadata.status": None}, "bc"),
    ({"metadata.status": "*"}, "a"),
    ({"metadata.flag": 1}, "b"),  # true is no number
    ({"metadata.flag": True}, "c"),
    ({"metadata.list": "x"}, "a"),
    ({"metadata.list": {"contains": 1}}, "a"),
    ({"metadata.list": {"contains": ","}}, ""),  # an element of it, not a part of its JSON
    ({"metadata.list": None}, "bc"),
    ({"metadata.deep.k": {"gt": 0}}, "ab"),
    ({"metadata": {"deep.k": 1}}, "a"),
    ({"metadata.ü": True}, "a"),
    ({"metadata.n": {"contains": "5"}}, ""),
    ({"metadata.city": {"contains": "os"}}, ""),
    ({"metadata.city": {"icontains": "os"}}, "c"),
    ({"created_at": {"gte": "2001-01-01"}}, "abc"),
]


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryStore]:
    opened = MemoryStore(tmp_path_factory.mktemp("notes") / "m.sqlite", HashEmbedder(16))
    for name, metadata in NOTES.items():
        opened.add(T, opened.default_cube(T).id, f"note {name}", metadata=metadata)  # type: ignore[arg-type]
    yield opened
    opened.close()


@pytest.mark.parametrize(("wanted", "expected"), RULES)
def test_what_the_rule_says_of_cases_that_went_wrong(notes: MemoryStore, wanted: dict[str, Any], expected: str) -> None:
    cube = notes.default_cube(T).id
    assert "".join(memory.text[-1] for memory in notes.list_memories(T, cube, filter=wanted).items) == expected
    hits = notes.search(T, "note", cube_ids=[cube], filter=wanted)
    assert {hit.memory.text[-1] for hit in hits} == set(expected)
