from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import HashEmbedder, InvalidMemory, MemoryStore
from memory.language.words import telling_words
from memory.search import vectors as vector_index
from memory.search.vectors import CubeIndex, ExactIndex, GraphIndex
from memory.storage.sqlite.fulltext import BUDGET
from tests.raw import writing

T = "tenant"


def test_stop_words_are_no_search_words() -> None:
    assert telling_words("What is the name of my dog?") == ["name", "dog"]
    assert telling_words("is it the") == []
    assert telling_words("dog DOG Dog") == ["dog"]


operations = st.lists(
    st.tuples(st.sampled_from(["put", "remove"]), st.integers(0, 12), st.integers(0, 2**31)), max_size=60
)


def unit(seed: int, dim: int = 6) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return vector / np.linalg.norm(vector)


@settings(deadline=None)
@given(operations, st.sampled_from([4, 1000]))
def test_the_vector_index_equals_a_plain_scan(steps: list[tuple[str, int, int]], limit: int) -> None:
    """Exact, and as a graph (which is exact for so few, up to its 8-bit numbers)."""
    index, oracle = CubeIndex(exact_limit=limit), {}
    for action, row, seed in steps:
        if action == "put":
            oracle[row] = unit(seed)
            index.put([(row, oracle[row])])
        else:
            index.remove(row)
            oracle.pop(row, None)
    query = unit(1)
    expected = sorted((float(v @ query) for v in oracle.values()), reverse=True)[:4]
    assert len(index) == len(oracle)
    found = index.nearest(query, 4, -1.0)
    assert [cosine for _, cosine in found] == pytest.approx(expected, abs=0.03)
    for row, cosine in found:
        assert float(oracle[row] @ query) == pytest.approx(cosine, abs=0.03)
    assert len({row for row, _ in found}) == len(found)
    assert set(index.cosines(query, list(range(13)))) == set(oracle)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.sampled_from([-1.0, 0.2, 0.6]), st.booleans())
def test_a_rough_scan_first_misses_nothing(seed: int, n: int, floor: float, removed: bool) -> None:
    """More vectors than are compared in full: the nearest are those of a plain scan, to the last."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, 48))
    vectors = (centres[rng.integers(0, 40, 4_500)] + rng.uniform(0.2, 2) * rng.standard_normal((4_500, 48))).astype(
        "f4"
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = ExactIndex()
    index.put(np.arange(4_500), vectors)
    gone = set(range(0, 300, 3)) if removed else set()
    for row in gone:
        index.remove(row)
    query = vectors[4_000] + np.float32(0.1) * rng.standard_normal(48).astype("f4")
    query /= np.linalg.norm(query)
    cosines = {row: float(vectors[row] @ query) for row in range(4_500) if row not in gone}
    expected = sorted((c for c in cosines.values() if c >= floor), reverse=True)[:n]
    found = [(row, cosine) for row, cosine in index.nearest(query, n, floor) if cosine >= floor]
    assert [cosine for _, cosine in found] == pytest.approx(expected, abs=1e-6)
    assert all(cosines[row] == pytest.approx(cosine, abs=1e-6) for row, cosine in found)


def test_products_that_are_not_exact_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CPUs that add up products of 8-bit numbers in 16 bits."""

    def saturated(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left.long() @ right.long()).clamp(-(2**15), 2**15 - 1).int()

    vector_index._counts_whole_numbers.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", saturated)
    try:
        assert not vector_index._counts_whole_numbers()
        rng = np.random.default_rng(0)
        units = rng.standard_normal((4_500, 48)).astype("f4")
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        index = ExactIndex()
        index.put(np.arange(4_500), units)
        assert [row for row, _ in index.nearest(units[7], 3, -1.0)] == np.argsort(-(units @ units[7]))[:3].tolist()
    finally:
        vector_index._counts_whole_numbers.cache_clear()


def test_a_graph_finds_what_a_scan_finds() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 64))
    vectors = (centres[rng.integers(0, 200, 5000)] + rng.standard_normal((5000, 64))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, graph = ExactIndex(), GraphIndex(64)
    for index in (exact, graph):
        index.put(np.arange(5000), vectors)
    agreed = []
    for query in vectors[:100]:
        best = {row for row, _ in exact.nearest(query, 10, -1.0)}
        agreed.append(len(best & {row for row, _ in graph.nearest(query, 10, -1.0)}) / 10)
    assert np.mean(agreed) > 0.95


def test_common_words_do_not_make_a_search_slow_or_blind(tmp_path: Path) -> None:
    """Where the words match more rows than are scored, rows with the rare word, and with all words, are still found."""
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder(16))
    cube = store.default_cube(T).id
    store.add_many(T, cube, [_common(i) for i in range(1, 3 * BUDGET)])
    with store.storage.read() as tx:
        for query, best in (("red apple zebra", 17), ("red apple green", 33)):
            scores = tx.texts.scores(query, [cube], 50)
            assert max(scores, key=lambda row: scores[row]) == best
            assert len(scores) == 50
    store.close()


def _common(i: int) -> str:
    special = {17: "an apple zebra", 33: "red apple green"}
    return special.get(i, f"{'red' if i % 2 else 'green'} thing number {i} {'apple' if i % 3 == 0 and i % 2 else ''}")


FILTERS = [
    ({"kind": "event"}, {"b"}),
    ({"importance": {"gte": 0.5, "lt": 0.9}}, {"a", "c"}),
    ({"and": [{"tags": "x"}, {"metadata.n": {"gt": 1}}]}, {"b"}),
    ({"or": [{"author": "Ada"}, {"metadata.n": 2}]}, {"a", "b"}),
    ({"not": {"tags": {"in": ["x"]}}}, {"c"}),
    ({"tags": {"all": ["x", "y"]}}, {"b"}),
    ({"event_at": {"lt": "1970-01-01T00:00:20Z"}}, {"a"}),
    ({"agent_id": "bot"}, {"c"}),
    ({"author": "*"}, {"a"}),
    ({"author": None}, {"b", "c"}),
    ({"metadata.city": {"contains": "sl"}}, {"a"}),
    ({"user_id": {"in": ["u1", "u2"]}, "kind": "fact"}, {"a"}),
]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    store = MemoryStore(tmp_path_factory.mktemp("filtered") / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    store.add(
        T, cube, "common a", author="Ada", owner="u1", event_at=10.0, tags=["x"], metadata={"n": 1, "city": "Oslo"}
    )
    store.add(T, cube, "common b", kind="event", event_at=30.0, tags=["x", "y"], metadata={"n": 2}, importance=0.9)
    store.add(T, cube, "common c", agent="bot", metadata={"n": "2"})
    return store


@pytest.mark.parametrize(("wanted", "expected"), FILTERS)
def test_filters(filtered: MemoryStore, wanted: dict[str, object], expected: set[str]) -> None:
    cube = filtered.default_cube(T).id
    hits = filtered.search(T, "common", cube_ids=[cube], filter=wanted)
    assert {hit.memory.text[-1] for hit in hits} == expected
    assert {memory.text[-1] for memory in filtered.list_memories(T, cube, filter=wanted).items} == expected


@pytest.mark.parametrize(
    "wanted",
    [
        {"and": []},
        {"and": {}},
        {"kind": {"like": "x"}},
        {"tags": {"gt": 1}},
        {"event_at": "no time"},
        {"event_at": {"gt": []}},
        {'metadata.a"b': 1},
        {"author": {"eq": {}}},
        {"or": [{"x": {"in": [None]}}]},
        {str(i): i for i in range(101)},
    ],
)
def test_bad_filters_are_refused(filtered: MemoryStore, wanted: dict[str, object]) -> None:
    with pytest.raises(InvalidMemory) as caught:
        filtered.search(T, "common", cube_ids=[filtered.default_cube(T).id], filter=wanted)
    assert caught.value.param == "filter"


def test_a_filter_nested_too_deeply_is_refused(filtered: MemoryStore) -> None:
    node: dict[str, object] = {"kind": "fact"}
    for _ in range(2000):
        node = {"not": node}
    with pytest.raises(InvalidMemory):
        filtered.list_memories(T, filter=node)


@given(st.text(max_size=40))
def test_filter_values_are_values(filtered: MemoryStore, text: str) -> None:
    if "\x00" in text:
        return
    page = filtered.list_memories(T, filter={"or": [{"author": text}, {"metadata.city": {"contains": text}}]})
    assert {memory.text[-1] for memory in page.items} <= {"a"}


def test_results_differ_from_each_other(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    for i in range(3):
        store.add(T, cube, "The red kite flies over the green hill" + "!" * i)
    other = store.add(T, cube, "A kite costs ten euros")
    found = [hit.memory.text for hit in store.search(T, "red kite hill", cube_ids=[cube], top_k=3)]
    assert len(found) == 2
    assert other.text in found
    hit = store.search(T, "red kite hill", cube_ids=[cube])[0]
    assert hit.score == pytest.approx(sum(hit.parts.values()))
    assert {"text", "vector", "weight"} <= set(hit.parts)
    store.close()


def test_names_link_memories(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    store.add(T, cube, "Biscuit was ill, so we saw Doctor Haldane")
    linked = store.add(T, cube, "Doctor Haldane has a clinic in Leith")
    for i in range(40):
        store.add(T, cube, f"ordinary note about Biscuit number {i}")
    one = store.search(T, "Which clinic does Doctor Haldane run?", cube_ids=[cube], top_k=3)
    assert one[0].memory.id == linked.id
    assert one[0].parts["graph"] > 0
    two = store.search(T, "Biscuit was ill", cube_ids=[cube], top_k=50, hops=2)
    assert linked.id in {hit.memory.id for hit in two}
    store.close()


def test_a_rebuild_finds_the_same(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder())
    cube = store.default_cube(T).id
    for i in range(30):
        store.add(T, cube, f"memory {i} about Topic{i % 7}")
    before = [hit.memory.id for hit in store.search(T, "about Topic3 memory", cube_ids=[cube], top_k=20)]
    with writing(store) as db:
        db.execute("DELETE FROM vectors")
        db.execute("DELETE FROM memory_text")
    assert store.index.rebuild(T, cube) == 30
    assert [hit.memory.id for hit in store.search(T, "about Topic3 memory", cube_ids=[cube], top_k=20)] == before
    store.close()


def test_a_removed_vector_is_nowhere_in_a_saved_graph(tmp_path: Path) -> None:
    graph = GraphIndex(64)
    vectors = np.stack([unit(seed, 64) for seed in range(300)])
    graph.put(np.arange(300), vectors)
    stored = [np.asarray(graph._index.get(row)).tobytes() for row in (7, 8, 9)]
    for row in (7, 8, 9):
        graph.remove(row)
    graph.put(np.array([500]), unit(500, 64)[None])
    graph.save(tmp_path / "graph")
    raw = (tmp_path / "graph").read_bytes()
    assert all(vector not in raw for vector in stored)
    loaded = GraphIndex.load(tmp_path / "graph", 64)
    assert len(loaded) == len(graph) == 298
    assert set(loaded.rows().tolist()) == {*range(300), 500} - {7, 8, 9}
    assert loaded.nearest(unit(500, 64), 1, -1.0)[0][0] == 500
    assert {row for row, _ in loaded.nearest(vectors[7], 300, -1.0)} <= set(loaded.rows().tolist())


@pytest.mark.parametrize("damage", [b"", b"no index at all", None])
def test_a_large_cube_is_searched_alike_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    """From the saved graph, brought up to what was written since; from the rows where the file is no good."""
    monkeypatch.setattr("memory.search.vectors.EXACT_LIMIT", 50)
    path = tmp_path / "m.sqlite"
    store = MemoryStore(path, HashEmbedder(64), undelete_s=0)
    cube = store.default_cube(T).id
    memories = store.add_many(T, cube, [f"note {i} about subject{i % 40}" for i in range(120)])
    store.search(T, "note", cube_ids=[cube])
    store.close()
    (saved,) = (tmp_path / "m.vectors").glob("*.usearch")
    copy = saved.read_bytes()
    store = MemoryStore(path, HashEmbedder(64))
    store.update(T, memories[0].id, text="a purple umbrella")
    store.delete(T, memories[1].id)
    late = store.add(T, cube, "an orange submarine")
    store.close()
    saved.write_bytes(copy if damage is None else damage)  # as after a crash
    store = MemoryStore(path, HashEmbedder(64))
    assert store.search(T, "purple umbrella", cube_ids=[cube])[0].memory.id == memories[0].id
    assert store.search(T, "orange submarine", cube_ids=[cube])[0].memory.id == late.id
    graph = store.index.cube(cube).graph
    assert graph is not None
    rows = graph.rows()
    assert len(rows) == 120
    store.close()
