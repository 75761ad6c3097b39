"""What a model finds in the catalogue, by tokens."""

from __future__ import annotations

from dataclasses import replace

from kvcache import Certificate, ModelView, Segment, TieredStore
from tests.kvcache.conftest import FINGERPRINT, make_segment

OTHER = replace(FINGERPRINT, config="another")
HEADER, FIRST, SECOND = [1, 2, 3], [4, 5], [6, 7, 8]


def chained(view: ModelView, tenant: str, *runs: list[int]) -> list[Segment]:
    """Segments of a prompt of these runs."""
    made: list[Segment] = []
    for run in runs:
        root = view.start(tenant).key
        made.append(make_segment(run, after=made[-1] if made else None, fingerprint=view.fingerprint, root=root))
    return made


def page_of(view: ModelView, tenant: str) -> Segment:
    plain = make_segment([*FIRST, *SECOND])
    header = view.behind(tenant, HEADER).key
    parts = [(FIRST, "a@1"), (SECOND, "b@1")]
    certificate = Certificate({"high": 0.1}, {"high": 1.0})
    return Segment.standalone(header, view.fingerprint, 3, parts, plain.keys, plain.values).certified(certificate)


def test_a_prefix_is_stored_where_a_chain_ends_with_it(store: TieredStore) -> None:
    view = ModelView(store.catalogue, FINGERPRINT)
    for segment in chained(view, "ann", HEADER, FIRST):
        store.put(segment)
    header = view.behind("ann", HEADER)
    assert header.is_stored
    assert header.then(FIRST).is_stored
    assert not header.then(SECOND).is_stored
    assert not view.behind("ben", HEADER).is_stored
    assert not ModelView(store.catalogue, OTHER).behind("ann", HEADER).is_stored
    assert [entry.n_tokens for entry in view.start("ann").match([*HEADER, *FIRST, 9])] == [3, 2]


def test_pages_are_found_behind_their_header_only(store: TieredStore) -> None:
    view = ModelView(store.catalogue, FINGERPRINT)
    page = page_of(view, "ann")
    store.put(page)
    behind = view.behind("ann", HEADER)
    assert behind.page_of(SECOND) == (page.key, 2)
    assert [(entry.key, part.label) for entry, part in behind.parts(FIRST)] == [(page.key, "a@1")]
    assert view.behind("ann", FIRST).page_of(SECOND) is None
    assert view.behind("ben", HEADER).page_of(SECOND) is None
    assert [entry.key for entry in behind.holding(["b@1", "nobody@1"])] == [page.key]


def test_whose_a_page_is_follows_from_the_headers_that_are_known(store: TieredStore) -> None:
    view = ModelView(store.catalogue, FINGERPRINT)
    page = page_of(view, "ann")
    store.put(page)
    assert view.pages("ann", None) == []
    assert [entry.key for entry in view.pages("ann", HEADER)] == [page.key]
    assert view.pages("ben", HEADER) == []
    for segment in chained(view, "ann", HEADER):
        store.put(segment)
    assert [entry.key for entry in view.pages("ann", None)] == [page.key]
