from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.base import Piece
from scheduler.pages import LEAD_TOKENS, PAGE_TOKENS, Together, plan_pages


def pieces_of(*lengths: int) -> list[Piece]:
    return [Piece("memory", tuple(range(n)), f"m{i}@1") for i, n in enumerate(lengths)]


def size(pieces: tuple[Piece, ...]) -> int:
    return sum(len(piece.token_ids) for piece in pieces)


def never(a: str, b: str) -> float:
    return 0.0


@given(st.lists(st.integers(1, 700), min_size=1, max_size=40), st.data())
def test_every_wanted_memory_gets_one_page_and_no_page_is_too_long(lengths: list[int], data: st.DataObject) -> None:
    pieces = pieces_of(*lengths)
    labels = [piece.label or "" for piece in pieces]
    wanted = set(data.draw(st.lists(st.sampled_from(labels), unique=True)))
    housed = set(data.draw(st.lists(st.sampled_from(labels), unique=True)))
    pages = plan_pages(pieces, wanted, housed, never)
    members = [piece.label for page in pages for piece in page.members]
    assert len(members) == len(set(members))
    assert set(members) >= wanted - housed
    assert not set(members) & housed
    for page in pages:
        assert size(page.members) <= PAGE_TOKENS or len(page.members) == 1
        assert size(page.lead) <= LEAD_TOKENS
        assert size(page.context) <= LEAD_TOKENS
        assert not set(page.lead) & set(page.members)
        assert not set(page.context) & set(page.members)
        order = [labels.index(piece.label or "") for piece in page.members]
        assert order == sorted(order)


def test_neighbours_share_a_page_and_the_lead_is_what_came_before() -> None:
    pieces = pieces_of(*[100] * 12)
    (page,) = plan_pages(pieces, {"m7@1"}, set(), never)
    assert [piece.label for piece in page.members] == ["m5@1", "m6@1", "m7@1", "m8@1", "m9@1"]
    assert [piece.label for piece in page.lead] == ["m0@1", "m1@1", "m2@1", "m3@1", "m4@1"]
    assert [piece.label for piece in page.context] == ["m10@1", "m11@1"]


def test_the_first_page_stands_right_behind_the_header() -> None:
    (page,) = plan_pages(pieces_of(*[100] * 12), {"m0@1"}, set(), never)
    assert page.lead == ()
    assert [piece.label for piece in page.context] == ["m7@1", "m8@1", "m9@1", "m10@1", "m11@1"]


def test_what_is_retrieved_together_shares_a_page() -> None:
    together = Together()
    for _ in range(3):
        together.observe(["m0@1", "m11@1", "m6@1"])
    pieces = pieces_of(*[100] * 12)
    (page,) = plan_pages(pieces, {"m0@1"}, set(), together.affinity)
    assert {"m0@1", "m11@1", "m6@1"} <= {piece.label for piece in page.members}


def test_a_memory_alone_in_its_cube_is_a_page_without_a_lead() -> None:
    (page,) = plan_pages(pieces_of(30), {"m0@1"}, set(), never)
    assert (len(page.members), page.lead, page.context) == (1, (), ())


def test_counts_fade_and_are_bounded() -> None:
    together = Together()
    for _ in range(200):
        together.observe(["a", "b"])
    assert 9.0 < together.affinity("b", "a") <= 10.0
    assert together.affinity("a", "c") == 0.0
